"""Packs that the trusted key itself sealed, but whose parts contradict each other, are refused."""

from __future__ import annotations

import json

import pytest

import pytest_invarlock.evidence.run_pack as run_pack
from pytest_invarlock.evidence.findings import Finding, Stage
from pytest_invarlock.evidence.keys import fingerprint, load_private_key, user_signing_key_path
from pytest_invarlock.evidence.layout import CONTROL_FILES, SIGNER_KEY
from pytest_invarlock.evidence.manifest import parse_manifest
from pytest_invarlock.evidence.pack import seal_pack
from pytest_invarlock.evidence.rederive import check_schemas, rederive_pack
from pytest_invarlock.evidence.verify import VerifyOptions, verify_pack

REPORT = "reports/builtin-llama/pruned/run_0/evaluation.report.json"
PAGE = "reports/builtin-llama/pruned/run_0/report.md"
RECORD = "records/builtin-llama/pruned/run_0.record.json"
VERDICT = "results/final_verdict.json"
SCENARIOS = "metadata/scenarios.json"
POLICY = "metadata/policy.json"


@pytest.fixture(scope="module")
def kept_packs():
    return []


@pytest.fixture
def sealed(repository, kept_packs):
    """A run's pack with its key, as values: made once, as nobody changes them in place."""
    if not kept_packs:
        kept_packs.append(made_pack(repository))
    return kept_packs[0]


def made_pack(repository):
    repository.run(repository.suite("noop", "pruned"))
    pack = repository.latest / "evidence_pack"
    files = {
        path.relative_to(pack).as_posix(): path.read_bytes()
        for path in pack.rglob("*")
        if path.is_file()
    }
    header = parse_manifest(files["manifest.json"]).header
    kept = {k: v for k, v in files.items() if k not in CONTROL_FILES and k != SIGNER_KEY}
    return kept, header, load_private_key(user_signing_key_path())


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
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_contradiction_is_found_whoever_signed(sealed, tmp_path, forgery):
    files, header, key = sealed
    forge, status = FORGERIES[forgery]
    report = verified(tmp_path, forge(files), header, key)
    assert int(report.exit_status) == status, report.findings
    assert not report.ok


def test_the_same_files_sealed_again_are_valid_and_say_fail(sealed, tmp_path):
    files, header, key = sealed
    report = verified(tmp_path, files, header, key)
    assert report.ok
    assert int(report.exit_status) == 1
    notes = [finding.message for finding in report.findings if finding.code == "POLICY"]
    assert notes
    assert "limit 1.1" in notes[0]
    assert "floors.documents" in notes[0]


def test_a_pack_that_our_own_verifier_refuses_is_never_left_behind(repository, monkeypatch):
    refusal = Finding("SEMANTIC_MISMATCH", Stage.SEMANTICS, "x", "made up for this test")
    monkeypatch.setattr(run_pack, "rederive_pack", lambda _: [refusal])
    result = repository.run(repository.suite("noop"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["ERROR: the pack that was made does not verify: x: made up*"])
    assert not (repository.latest / "evidence_pack").exists()
    assert repository.digests()
