"""``invarlock evidence-pack merge``: packs of parts of one suite, put together and judged whole."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.cli import main
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.keys import fingerprint, generate_key, load_private_key
from pytest_invarlock.evidence.merge_packs import Source, merge
from pytest_invarlock.plan import PlannedScenario
from pytest_invarlock.policy.decision_policy import Expectation, Strictness

from ..checks.made import DRIFT, policy
from .conftest import HEADER
from .made_runs import METRIC, OTHER, made_record, made_run, sealed_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Two packs of scenarios of one suite, signed with the key in the third file."""
    folder = tmp_path_factory.mktemp("parts")
    generate_key(folder / "k.pem")
    key = load_private_key(folder / "k.pem")
    one = made_run(folder / "small-20261120T120000Z", {"noop": 0.0})
    faults = {"fault": Strictness.MUST_DETECT}
    other = made_run(folder / "small-20261120T130000Z", {"fault": 0.5, "b": 0.0}, strictness=faults)
    return sealed_run(one, key), sealed_run(other, key), folder / "k.pem"


def signer_of(file: Path) -> str:
    return fingerprint(load_private_key(file).public_key())


def test_the_merged_pack_verifies_and_says_what_it_was_made_of(
    parts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other, key = parts
    out = tmp_path / "merged"
    signer = signer_of(key)
    status = main(
        ["evidence-pack", "merge", str(other), str(one), "-o", str(out),
         "--expected-fingerprint", signer, f"--signing-key={key}"]
    )  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    assert "verdict PASS" in lines
    assert lines[-1] == f"signed by {signer}"
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    assert main(["verify", str(out), "--expected-fingerprint", signer, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    told = next(f for f in found["findings"] if f["code"] == "MERGED")["message"]
    sources = json.loads((out / "metadata/merged.json").read_text())["packs"]
    assert [s["run_id"] for s in sources] == ["small-20261120T120000Z", "small-20261120T130000Z"]
    assert all(s["pack_digest"] in told and s["signer"] == signer for s in sources)
    verdict = json.loads((out / "results/final_verdict.json").read_text())
    assert [d["scenario"] for d in verdict["decisions"]] == ["b", "fault", "noop"]
    names = {rule["requirement"] for rule in verdict["requirements"]}
    assert {"clean_all_pass", "error_injection_detected"} <= names
    report = json.loads((out / "reports/m/noop/run_0/evaluation.report.json").read_text())
    assert report["run_id"] == verdict["run_id"] != sources[0]["run_id"]


def test_a_pack_that_does_not_verify_is_not_merged(
    parts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other, key = parts
    out = tmp_path / "merged"
    base = ["evidence-pack", "merge", str(one), str(other), "-o", str(out), "--signing-key=none"]
    assert main(base) == 5
    assert main([*base, "--expected-fingerprint", "sha256:" + "0" * 64]) == 5
    pinned = ["--expected-fingerprint", signer_of(key)]
    assert main([*base[:2], str(tmp_path / "absent"), *base[3:], *pinned]) == 3
    assert not out.exists()
    assert main([*base, "-o", str(one / "results" / "out"), *pinned]) == 2
    assert main([*base[:2], str(one), *base[2:], *pinned]) == 2
    assert "MERGE_OVERLAP: m::noop run 0 stands in two packs" in capsys.readouterr().err
    out.mkdir()
    (out / "mine").write_text("")
    assert main([*base, *pinned]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


# What may not be put together, of made-up sources.


def source(name: str, scenarios: Sequence[str], **change: Any) -> Source:
    """A source of model ``m`` with a record of run 0 of each of ``scenarios``."""
    told = {
        "planned": tuple(PlannedScenario("m", s, 1) for s in scenarios), "limits": {},
        "records": tuple(made_record(s) for s in scenarios), "suite": "small",
        "code_digest": HEADER.tool.code_digest, "expected": Expectation("c", Strictness.MUST_PASS),
    } | change  # fmt: skip
    rules = policy(
        **{"primary_metric": METRIC, **told["limits"]},
        expectations={("m", s): told["expected"] for s in scenarios},
    )
    header = replace(
        HEADER, run_id=name, planned=told["planned"], suite=told["suite"],
        tool=replace(HEADER.tool, code_digest=told["code_digest"]),
    )  # fmt: skip
    return Source(
        digest=f"sha256:{name}", signer=None, header=header, policies=[rules.document()],
        scenarios=[{"scenario": s, "kind": told.get("kind", "any"), "edit": None} for s in scenarios],
        records=told["records"], presets=told.get("presets", {}),
        source_repo=told.get("source_repo"), model_revisions=told.get("model_revisions"),
        release_review=told.get("release_review", False),
    )  # fmt: skip


def measured(scenario: str, **plan: Any) -> Callable[[], tuple[Any, ...]]:
    made = made_record(scenario)
    return lambda: (replace(made, facts=replace(made.facts, plan={**made.facts.plan, **plan})),)


def repository(commit: str, **change: Any) -> dict[str, Any]:
    return {
        "source_repo": {"commit": commit * 40, "dirty": False, "branch": "main"} | change,
        "model_revisions": {"models": {commit: {"revision": "r"}}, "datasets": {}, "generated_at": commit},
    }  # fmt: skip


def runs(*numbers: int) -> tuple[PlannedScenario, ...]:
    return (PlannedScenario.of_runs("m", "a", numbers),)


def test_the_order_of_packs_does_not_matter() -> None:
    one, other = source("1", ["a"]), source("2", ["b"])
    assert merge([one, other]) == merge([other, one])
    found = merge([one, other])
    assert [entry["scenario"] for entry in found.plan["planned"]] == ["a", "b"]
    assert [e["scenario"] for e in found.plan["policies"][0]["expectations"]] == ["a", "b"]


def test_draws_of_one_scenario_are_put_together() -> None:
    found = merge([source("1", ["a"], planned=runs(0, 2)), source("2", ["a"], planned=runs(1))])
    assert found.plan["planned"] == [{"model": "m", "scenario": "a", "draws": 3}]


REFUSED = {
    "one pack": ("MERGE_FEW", lambda: [source("1", ["a"])]),
    "another suite": ("MERGE_SUITE", lambda: [source("1", ["a"]), source("2", ["b"], suite="x")]),
    "one record twice": ("MERGE_OVERLAP", lambda: [source("1", ["a"]), source("2", ["a", "b"])]),
    "a draw that is missing": (
        "MERGE_HOLES",
        lambda: [source("1", ["a"], planned=runs(0)), source("2", ["a"], planned=runs(2))],
    ),
    "a scenario that a model lacks": (
        "MERGE_HOLES",
        lambda: [source("1", ["a"]), source("2", ["b"], planned=(PlannedScenario("n", "b", 1),))],
    ),
    "a scenario that the policy speaks of": (
        "MERGE_HOLES",
        lambda: [source("1", ["a"]), source("2", ["b", "c"], planned=(PlannedScenario("m", "b", 1),))],
    ),
    "other limits": (
        "MERGE_POLICY",
        lambda: [source("1", ["a"]), source("2", ["b"], limits={"primary_metric": replace(METRIC, ratio_limit=1.9)})],
    ),
    "another profile": (
        "MERGE_POLICY",
        lambda: [source("1", ["a"]), source("2", ["b"], limits={"profile": "ci"})],
    ),
    "softened": (
        "MERGE_POLICY",
        lambda: [source("1", ["a"]), source("2", ["b"], limits={"on_inconclusive": "xfail"})],
    ),
    "another expectation of one scenario": (
        "MERGE_POLICY",
        lambda: [
            source("1", ["a"], planned=runs(0)),
            source("2", ["a"], planned=runs(1), expected=Expectation("c", Strictness.INFORMATIONAL)),
        ],
    ),
    "a program of another version": (
        "MERGE_CODE",
        lambda: [source("1", ["a"]), source("2", ["b"], code_digest=OTHER)],
    ),
    "measured by another version": (
        "MERGE_CODE",
        lambda: [source("1", ["a"]), source("2", ["b"], records=measured("b", code=OTHER)())],
    ),
    "a scenario told otherwise": (
        "MERGE_SCENARIOS",
        lambda: [
            source("1", ["a"], planned=runs(0)),
            source("2", ["a"], planned=runs(1), kind="cast"),
        ],
    ),
    "other data": (
        "MERGE_PLAN",
        lambda: [source("1", ["a"]), source("2", ["b"], records=measured("b", data_digest=OTHER)())],
    ),
    "fewer windows": (
        "MERGE_PLAN",
        lambda: [source("1", ["a"]), source("2", ["b"], records=measured("b", windows={})())],
    ),
    "another baseline of that name": (
        "MERGE_PLAN",
        lambda: [source("1", ["a"]), source("2", ["b"], records=measured("b", baseline_tensors=OTHER)())],
    ),
    "made in another commit": (
        "MERGE_CODE",
        lambda: [source("1", ["a"], **repository("a")), source("2", ["b"], **repository("b"))],
    ),
    "made in a dirty repository": (
        "MERGE_CODE",
        lambda: [source("1", ["a"], **repository("a")), source("2", ["b"], **repository("a", dirty=True))],
    ),
    "a release review of some": (
        "MERGE_POLICY",
        lambda: [source("1", ["a"]), source("2", ["b"], release_review=True)],
    ),
    "another revision of a model": (
        "MERGE_PLAN",
        lambda: [
            source("1", ["a"], model_revisions={"models": {"m": {"revision": "r"}}, "datasets": {}, "generated_at": ""}),
            source("2", ["b"], model_revisions={"models": {"m": {"revision": "s"}}, "datasets": {}, "generated_at": ""}),
        ],
    ),
    "two calibrations of a model": (
        "MERGE_OVERLAP",
        lambda: [source("1", ["a"], presets={"m": {"x": 1}}), source("2", ["b"], presets={"m": None})],
    ),
}  # fmt: skip


def test_what_the_packs_say_of_their_making_is_kept_where_all_say_it() -> None:
    one = source("1", ["a"], release_review=True, **repository("a"))
    same = source("2", ["b"], release_review=True, **repository("a", branch="part"))
    found = merge([one, same])
    assert found.release_review
    assert found.source_repo == one.source_repo
    silent = replace(same, source_repo=None, model_revisions=repository("b")["model_revisions"])
    found = merge([one, silent])
    assert found.source_repo is None
    assert found.model_revisions is not None
    assert sorted(found.model_revisions["models"]) == ["a", "b"]
    assert found.model_revisions["generated_at"] == "b"


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_belong_together_is_refused(name: str) -> None:
    code, sources = REFUSED[name]
    with pytest.raises(EvidenceError) as found:
        merge(sources())
    assert found.value.code == code


def of_model(found: Source, model: str, **limits: Any) -> Source:
    """``found`` under another model's name, with limits of its own."""
    document = json.loads(json.dumps(found.policies[0]).replace('"m"', f'"{model}"')) | limits
    planned = tuple(replace(entry, model=model) for entry in found.header.planned)
    records = tuple(replace(r, facts=replace(r.facts, model=model)) for r in found.records)
    return replace(
        found, policies=[document], header=replace(found.header, planned=planned), records=records
    )


def test_models_may_differ_in_what_their_presets_set_and_in_nothing_else() -> None:
    one = source("1", ["a"])
    drift = {**one.policies[0]["drift"], "band": 1.02}
    preset = {"drift.band": "preset"}
    other = of_model(replace(one, digest="sha256:2"), "n", drift=drift, provenance=preset)
    found = merge([one, other])
    assert len(found.plan["policies"]) == 2
    assert DRIFT.band == 1.05
    with pytest.raises(EvidenceError, match="different policies"):
        merge([one, of_model(replace(one, digest="sha256:2"), "n", drift=drift)])
    with pytest.raises(EvidenceError, match="different policies"):
        merge([one, replace(source("2", ["b"]), policies=[
            {**source("2", ["b"]).policies[0], "drift": drift, "provenance": preset}])])  # fmt: skip
