"""Packs that the trusted key itself sealed, but whose parts contradict each other, are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

import pytest_invarlock.core.engine as engine
import pytest_invarlock.evidence.rederive as rederive
import pytest_invarlock.evidence.run_pack as run_pack
from pytest_invarlock.errors import MeasurementError
from pytest_invarlock.evidence.findings import Finding, Stage
from pytest_invarlock.evidence.keys import fingerprint
from pytest_invarlock.evidence.pack import seal_pack
from pytest_invarlock.evidence.pack_files import pack_files
from pytest_invarlock.evidence.pack_schemas import RECORD_NAME, check_schemas
from pytest_invarlock.evidence.rederive import combined_plan_digest, pack_metadata, rederive_pack
from pytest_invarlock.evidence.strict_json import pretty
from pytest_invarlock.evidence.verify import VerifyOptions, verify_pack
from pytest_invarlock.records import record_from_bytes

REPORT = "reports/builtin-llama/pruned/run_0/evaluation.report.json"
PAGE = "reports/builtin-llama/pruned/run_0/report.md"
RECORD = "records/builtin-llama/pruned/run_0.record.json"
VERDICT = "results/final_verdict.json"
SCENARIOS = "metadata/scenarios.json"
POLICY = "metadata/policy.json"
ENVIRONMENT = "metadata/environment.json"
SOURCE = "metadata/source_repo.json"
RUNTIME = "reports/builtin-llama/pruned/run_0/runtime.manifest.json"
ATTESTATION = "attestations/builtin-llama.pruned.intoto.json"
REPOSITORY = {
    "format": "invarlock-source-repo-v1",
    "origin": "git",
    "commit": "0" * 40,
    "branch": "main",
    "describe": None,
    "dirty": False,
}


def verified(tmp_path, files, header, key):
    seal_pack(tmp_path / "pack", files, header, key)
    pinned = (fingerprint(key.public_key()),)
    return verify_pack(
        tmp_path / "pack", VerifyOptions(expected_fingerprints=pinned), rederive_pack, check_schemas
    )


def edited(files, path, change):
    value = json.loads(files[path])
    change(value)
    return files | {path: json.dumps(value).encode()}


def look_passing(report):
    report["decision"]["outcome"] = "PASS"
    report["decision"]["expectation_met"] = True
    for check in report["decision"]["checks"]:
        check["outcome"] = "PASS"
    report["validation"]["primary_metric_acceptable"] = True


def pass_verdict(verdict):
    verdict["verdict"] = "PASS"
    for rule in verdict["requirements"]:
        rule["passed"] = True
        rule["failures"] = []


FORGERIES = {
    "certificate made to look passing": (lambda f: edited(f, REPORT, look_passing), 7),
    "verdict made to look passing": (lambda f: edited(f, VERDICT, pass_verdict), 7),
    "limit loosened in the policy": (
        lambda f: edited(
            f, POLICY, lambda v: v["policies"][0]["primary_metric"].update(ratio_limit=9.0)
        ),
        7,
    ),
    "page rewritten": (lambda f: f | {PAGE: b"# all is well\n"}, 7),
    "verdict text rewritten": (lambda f: f | {"results/final_verdict.txt": b"PASS\n"}, 7),
    "alarm taken out of a guard's error rates": (
        lambda f: edited(
            f,
            "results/guard_signal_summary.json",
            lambda v: [row["clean"].update(fired=0, quiet=2) for row in v["guards"]],
        ),
        7,
    ),
    "signal made up in a category": (
        lambda f: edited(
            f,
            "results/category_summary.json",
            lambda v: v["categories"]["clean"].update(any_flag=0),
        ),
        7,
    ),
    "scenario dropped from its summary": (
        lambda f: edited(f, "results/scenario_signal_summary.json", lambda v: v["scenarios"].pop()),
        7,
    ),
    "summary dropped": (
        lambda f: {k: v for k, v in f.items() if k != "results/category_summary.json"},
        4,
    ),
    "disagreement made up": (
        lambda f: edited(
            f,
            VERDICT,
            lambda v: v["flaky"].append(
                {
                    "model": "builtin:llama",
                    "scenario": "noop",
                    "runs": [{"draw": 0, "outcome": "PASS", "fired": []}] * 2,
                }
            ),
        ),
        7,
    ),
    "share of signals lowered in the policy": (
        lambda f: edited(
            f, POLICY, lambda v: v["policies"][0].update(minimum_signal_fraction={"stress": 0})
        ),
        7,
    ),
    "required guard of a scenario that must pass": (
        lambda f: edited(
            f,
            POLICY,
            lambda v: v["policies"][0]["expectations"][0].update(
                primary_guard="rmt", primary_guard_required=True
            ),
        ),
        7,
    ),
    "stray file": (lambda f: f | {"results/notes.md": b"trust me\n"}, 7),
    "stray arrays": (lambda f: f | {"records/x.npz": b""}, 7),
    "record and certificate dropped": (
        lambda f: {k: v for k, v in f.items() if "/pruned/" not in k},
        7,
    ),
    "scenario told otherwise": (
        lambda f: edited(f, SCENARIOS, lambda v: v["scenarios"][1].update(kind="cast")),
        7,
    ),
    "guard told otherwise": (
        lambda f: edited(f, SCENARIOS, lambda v: v["scenarios"][1].update(primary_guard="rmt")),
        7,
    ),
    "scenario dropped from the plan": (
        lambda f: edited(f, SCENARIOS, lambda v: v["planned"].pop()),
        7,
    ),
    "fact changed": (
        lambda f: edited(f, RECORD, lambda v: v["facts"].update(kind="cast")),
        7,
    ),
    "draws as a float": (
        lambda f: edited(f, SCENARIOS, lambda v: v["planned"][0].update(draws=1.5)),
        4,
    ),
    "identity without its digest": (
        lambda f: edited(f, RECORD, lambda v: v["facts"]["subject"].pop("tensors_digest")),
        4,
    ),
    "guard without a mode": (
        lambda f: edited(f, POLICY, lambda v: v["policies"][0].update(modes={})),
        7,
    ),
    "no primary metric demanded": (
        lambda f: edited(f, POLICY, lambda v: v["policies"][0].update(checks=["tail"])),
        4,
    ),
    "no invariants demanded": (
        lambda f: edited(f, POLICY, lambda v: v["policies"][0]["checks"].remove("invariants")),
        4,
    ),
    "floors of nothing": (
        lambda f: edited(f, POLICY, lambda v: v["policies"][0]["floors"].update(documents=0)),
        4,
    ),
    "a level of nothing": (
        lambda f: edited(
            f, POLICY, lambda v: v["policies"][0]["primary_metric"].update(alpha=1e-17)
        ),
        4,
    ),
    "too few replicates for the level": (
        lambda f: edited(
            f, POLICY, lambda v: v["policies"][0]["primary_metric"].update(bootstrap_alpha=1e-4)
        ),
        7,
    ),
    "a second policy for the same scenarios": (
        lambda f: edited(f, POLICY, lambda v: v["policies"].append(v["policies"][0])),
        7,
    ),
    "two expectations of a scenario": (
        lambda f: edited(
            f,
            POLICY,
            lambda v: v["policies"][0]["expectations"].append(v["policies"][0]["expectations"][0]),
        ),
        7,
    ),
    "no windows planned": (
        lambda f: edited(
            f, RECORD, lambda v: v["facts"]["plan"]["windows"].update(preview_windows=0)
        ),
        4,
    ),
    "pairing left out": (
        lambda f: edited(f, RECORD, lambda v: v["facts"]["data"].pop("match_fraction")),
        4,
    ),
    "certificate with a word of its own": (
        lambda f: edited(f, REPORT, lambda v: v.update(comment="trust me")),
        4,
    ),
    "certificate that says a thing twice": (
        lambda f: f | {REPORT: f[REPORT].replace(b"{", b'{"draw": 7, ', 1)},
        4,
    ),
    "record with a count that is no integer": (
        lambda f: edited(f, RECORD, lambda v: v["facts"]["arms"]["final"].update(n_windows=24.0)),
        4,
    ),
    "record that is no JSON": (lambda f: f | {RECORD: b"{broken"}, 4),
    "runtime manifest dropped": (
        lambda f: {k: v for k, v in f.items() if k != RUNTIME},
        7,
    ),
    "runtime manifest of another certificate": (
        lambda f: edited(f, RUNTIME, lambda v: v["report"].update(sha256="0" * 64)),
        7,
    ),
    "network denied in the runtime manifest alone": (
        lambda f: edited(f, ENVIRONMENT, lambda v: v["runtime"].update(allow_network=True)),
        7,
    ),
    "runtime manifest that says more": (
        lambda f: edited(f, RUNTIME, lambda v: v.update(comment="trust me")),
        4,
    ),
    "environment of another device": (
        lambda f: edited(f, ENVIRONMENT, lambda v: v["devices"].append({"device": "cuda:0"})),
        7,
    ),
    "attestation made to look passing": (
        lambda f: edited(f, ATTESTATION, lambda v: v["predicate"].update(result="PASSED")),
        7,
    ),
    "attestation dropped": (lambda f: {k: v for k, v in f.items() if k != ATTESTATION}, 7),
    "attestation of a model that was never tested": (
        lambda f: f | {"attestations/other.intoto.json": f[ATTESTATION]},
        7,
    ),
    "release review claimed afterwards": (
        lambda f: edited(f, SCENARIOS, lambda v: v.update(release_review=True)),
        7,
    ),
    "repository without a reference to it": (lambda f: f | {SOURCE: pretty(REPOSITORY)}, 7),
    "repository with a password": (
        lambda f: f | {SOURCE: pretty(REPOSITORY | {"uri": "git+https://me:secret@a.org/b"})},
        4,
    ),
    "made-up divergence": (
        lambda f: edited(
            f, RECORD, lambda v: v["facts"]["divergence"]["final"].update(made_up=1.0)
        ),
        4,
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_contradiction_is_found_whoever_signed(sealed, tmp_path, forgery):
    files, header, key = sealed
    forge, status = FORGERIES[forgery]
    report = verified(tmp_path, forge(files), header, key)
    assert int(report.exit_status) == status, report.findings
    assert not report.ok


def remade(files, header, change):
    """The files with every record's facts changed, and all that follows from them made again."""
    manifest = SimpleNamespace(signer="somebody")
    pack = SimpleNamespace(names=lambda: list(files), read=files.__getitem__, manifest=manifest)
    metadata = pack_metadata(pack, header.run_id)
    documents = json.loads(files[POLICY])["policies"]
    records = []
    for path in sorted(filter(RECORD_NAME.fullmatch, files)):
        arrays = files[path.replace(".record.json", ".npz")]
        record = record_from_bytes(json.loads(files[path]), arrays)
        records.append(replace(record, facts=change(record.facts)))
    made = pack_files(records, documents, metadata)
    digest = combined_plan_digest(records)
    verdict = json.loads(made[VERDICT])["verdict"]
    return made, replace(header, verdict=verdict, plan_digest=digest)


def with_arms(**change):
    return lambda facts: replace(
        facts,
        arms={
            name: replace(one, **{field: make(one) for field, make in change.items()})
            for name, one in facts.arms.items()
        },
    )


def test_the_same_records_make_the_same_files_and_verify(sealed, tmp_path):
    files, header, key = sealed
    made, again = remade(files, header, lambda facts: facts)
    assert made == files
    report = verified(tmp_path, made, again, key)
    assert report.ok, report.findings


SELF_CONTRADICTIONS = {
    "tokens times 1000": with_arms(tokens=lambda one: one.tokens * 1000),
    "losses below zero": with_arms(
        baseline_nll=lambda one: -one.baseline_nll, subject_nll=lambda one: -one.subject_nll
    ),
    "subject's losses beyond doubles": with_arms(subject_nll=lambda one: one.subject_nll * 1e300),
    "windows that do not match": lambda facts: replace(
        facts, data=dict(facts.data) | {"match_fraction": 0.3}
    ),
    "short windows": lambda facts: replace(facts, data=dict(facts.data) | {"seq_len": 2}),
    "no arms": lambda facts: replace(facts, arms={}, divergence={}),
}


@pytest.mark.parametrize("name", SELF_CONTRADICTIONS)
def test_a_consistently_forged_record_gets_no_pass(sealed, tmp_path, name):
    """All digests follow and the trusted key signs: the record itself has to give it away."""
    files, header, key = sealed
    files, header = remade(files, header, SELF_CONTRADICTIONS[name])
    assert header.verdict == "FAIL"
    decisions = json.loads(files[VERDICT])["decisions"]
    assert not any(each["expectation_met"] for each in decisions)
    assert verified(tmp_path, files, header, key).verdict == "FAIL"


@pytest.mark.parametrize("error", [OverflowError, TypeError, KeyError, ValueError])
def test_what_cannot_be_judged_is_a_finding(sealed, tmp_path, monkeypatch, error):
    def hostile(*_):
        raise error("made up for this test")

    files, header, key = sealed
    monkeypatch.setattr(rederive, "decide", hostile)
    report = verified(tmp_path, files, header, key)
    assert int(report.exit_status) == 7
    assert {f.path for f in report.findings if f.code == "UNDECIDABLE"} == {
        path for path in files if RECORD_NAME.fullmatch(path)
    }


def test_a_draw_that_ends_with_an_error_leaves_the_run_its_verdict(repository, monkeypatch):
    take = engine._take

    def failing(bench, scenario, draw):
        if draw == 1:
            raise MeasurementError("made up", remedy="none", code="MADE_UP")
        return take(bench, scenario, draw)

    monkeypatch.setattr(engine, "_take", failing)
    repository.run(repository.suite("noop"), "--invarlock-repeats=2")
    verdict = repository.verdict()
    assert verdict["verdict"] == "FAIL"
    broken = [rule["requirement"] for rule in verdict["requirements"] if not rule["passed"]]
    assert broken == ["clean_all_pass"]
    assert [each["outcome"] for each in verdict["decisions"]] == ["PASS", "ERROR"]
    assert (repository.latest / "evidence_pack" / "manifest.json").exists()


def test_the_same_files_sealed_again_are_valid_and_say_fail(sealed, tmp_path):
    files, header, key = sealed
    report = verified(tmp_path, files, header, key)
    assert report.ok
    assert int(report.exit_status) == 1
    notes = [finding.message for finding in report.findings if finding.code == "POLICY"]
    assert notes
    assert "limit 1.1" in notes[0]
    assert "floors.documents" in notes[0]
    assert "differs from the shipped tier balanced in: bootstrap_replicates 499" in notes[0]


def test_a_pack_that_our_own_verifier_refuses_is_never_left_behind(repository, monkeypatch):
    refusal = Finding("SEMANTIC_MISMATCH", Stage.SEMANTICS, "x", "made up for this test")
    monkeypatch.setattr(run_pack, "rederive_pack", lambda _: [refusal])
    result = repository.run(repository.suite("noop"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["ERROR: the pack that was made does not verify: x: made up*"])
    assert not (repository.latest / "evidence_pack").exists()
    assert repository.digests()
