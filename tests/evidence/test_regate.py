"""``invarlock regate``: the records of a verified pack under another policy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema.validators import Draft202012Validator

from pytest_invarlock.cli import main
from pytest_invarlock.evidence.keys import fingerprint
from pytest_invarlock.policy.decision_policy import Strictness
from pytest_invarlock.policy.metric_limits import Floors, MetricLimits
from pytest_invarlock.policy.regate_policy import dropped, under_tier
from pytest_invarlock.policy.resources import read_text, schema
from pytest_invarlock.policy.tiers import load_tier
from pytest_invarlock.regate import _decided

from ..checks.made import BASE, facts, policy
from .made_runs import METRIC, made_run, sealed_run

if TYPE_CHECKING:
    from pathlib import Path

LEAN = (
    read_text("tiers", "conservative.yaml")
    .replace(" spectral, rmt, variance,", "", 1)
    .replace(", guard_overhead]", "]", 1)
    .replace("name: conservative", "name: lean", 1)
)
"""Tier conservative without the guards that the made-up runs did not measure."""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, key: Any) -> Path:
    """A pack of two clean scenarios, one of them 7 % worse: PASS at 1.10."""
    folder = tmp_path_factory.mktemp("runs") / "small-20261120T120000Z"
    return sealed_run(
        made_run(
            folder, {"noop": 0.0, "worse": 0.07}, provenance={"tail.benign_rate": "suite file"}
        ),
        key,
    )


@pytest.fixture
def lean(tmp_path: Path) -> Path:
    file = tmp_path / "lean.yaml"
    file.write_text(LEAN)
    return file


@pytest.fixture
def regate(packed: Path, key: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str, pinned: bool = True) -> tuple[int, str]:
        signer = ["--expected-fingerprint", fingerprint(key.public_key())] if pinned else []
        status = main(["regate", str(packed), *arguments, *signer])
        return status, capsys.readouterr().out

    return run


def by_scenario(out: str) -> dict[str, dict[str, Any]]:
    return {row["scenario"]: row for row in json.loads(out)["decisions"]}


def test_a_tighter_tier_fails_what_the_run_passed(regate: Any, lean: Path) -> None:
    status, out = regate(f"--tier={lean}")
    assert status == 1
    lines = out.splitlines()
    assert any(
        line.split()[:7] == ["m", "noop", "run", "0", "PASS", "->", "PASS"] for line in lines
    )
    assert any("m worse run 0  PASS -> FAIL  ratio 1.07" in line for line in lines)
    assert "broken: clean_all_pass: 1 of 2 that must pass do" in lines
    assert "no longer counts, set by the suite file or a preset: tail.benign_rate" in lines
    assert lines[-2] == "verdict PASS -> FAIL"
    assert lines[-1].startswith("UNSEALED: nobody signed this verdict")


def test_what_the_plan_did_not_measure_is_inconclusive(regate: Any) -> None:
    status, out = regate("--tier=aggressive", "--json")
    found = json.loads(out)
    assert (status, found["verdict"], found["sealed"]) == (1, "INCONCLUSIVE", False)
    checks = {c["check"]: c for c in by_scenario(out)["noop"]["checks"]}
    assert {name for name, c in checks.items() if c["reason"] == "not_planned"} == {
        "spectral", "rmt", "variance", "guard_overhead",
    }  # fmt: skip
    assert checks["primary_metric"]["outcome"] == "PASS"


def test_the_document_names_its_source_and_fits_its_schema(
    regate: Any, lean: Path, packed: Path, tmp_path: Path
) -> None:
    target = tmp_path / "new.json"
    _, out = regate(f"--tier={lean}", "--json", "-o", str(target))
    found = json.loads(out)
    assert json.loads(target.read_text()) == found
    Draft202012Validator(schema("regate")).validate(found)
    verdict = json.loads((packed / "results/final_verdict.json").read_text())
    assert found["source"]["verdict"] == verdict["verdict"] == "PASS"
    assert found["source"]["run_id"] == verdict["run_id"]
    assert found["policies"][0]["tier"] == "lean"
    assert found["policy_digest"] != found["source"]["policy_digest"]
    assert str(tmp_path) not in out


def test_the_same_policy_gives_the_same_verdict(regate: Any, packed: Path, tmp_path: Path) -> None:
    status, out = regate("--policy", str(packed / "metadata/policy.json"), "--json")
    found = json.loads(out)
    verdict = json.loads((packed / "results/final_verdict.json").read_text())
    assert status == 0
    for key in ("verdict", "requirements", "counts", "alarms", "flaky"):
        assert found[key] == verdict[key]
    assert found["policy_digest"] == found["source"]["policy_digest"]
    assert not found["dropped"]


def test_a_policy_without_expectations_takes_the_packs(
    regate: Any, packed: Path, tmp_path: Path
) -> None:
    document = json.loads((packed / "metadata/policy.json").read_text())["policies"][0]
    document["primary_metric"]["ratio_limit"] = 1.01
    document["expectations"] = []
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(document))
    status, out = regate("--policy", str(file), "--json")
    assert status == 1
    rows = by_scenario(out)
    assert (rows["noop"]["outcome"], rows["worse"]["outcome"]) == ("PASS", "FAIL")


def test_a_policy_of_another_suite_is_refused(
    packed: Path, key: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((packed / "metadata/policy.json").read_text())["policies"][0]
    del document["expectations"][0]
    file = tmp_path / "other.json"
    file.write_text(json.dumps(document))
    assert main(["regate", str(packed), "--policy", str(file), "--allow-unsigned"]) == 5
    capsys.readouterr()
    pinned = fingerprint(key.public_key())
    arguments = ["regate", str(packed), "--policy", str(file), "--expected-fingerprint", pinned]
    assert main(arguments) == 2
    assert "UNKNOWN_SCENARIO: other.json: says nothing about" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--tier=lenient"], 2),
        (["--tier=absent.yaml"], 3),
        (["--policy=absent.json"], 3),
        (["--tier=balanced", "--not-before=2030-01-01"], 5),
        (["--tier=balanced", "--expect-run=x"], 5),
    ],
)
def test_exit_statuses_are_those_of_verify(regate: Any, arguments: list[str], status: int) -> None:
    assert regate(*arguments)[0] == status


def test_a_file_that_is_no_policy_is_refused(
    regate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("a.json", "{"), ("b.json", "{}"), ("c.yaml", "a: 1"),
                       ("d.json", '{"format": "invarlock-policies-v1", "policies": []}')):  # fmt: skip
        (tmp_path / name).write_text(text)
        assert regate("--policy", str(tmp_path / name))[0] == 2


def test_a_pack_of_a_stranger_is_not_judged_again(regate: Any) -> None:
    status, out = regate("--tier=balanced", pinned=False)
    assert status == 5
    assert "NO_TRUSTED_KEY" in out
    assert "->" not in out


def test_a_tampered_pack_is_not_judged_again(
    packed: Path, tmp_path: Path, key: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = shutil.copytree(packed, tmp_path / "copy")
    (copy / "results/final_verdict.txt").write_text("PASS\n")
    pinned = fingerprint(key.public_key())
    assert main(["regate", str(copy), "--tier=balanced", "--expected-fingerprint", pinned]) == 6
    assert "->" not in capsys.readouterr().out


def test_nothing_is_written_into_a_pack(regate: Any, packed: Path) -> None:
    assert regate("--tier=balanced", "-o", str(packed / "results/new.json"))[0] == 2
    assert not (packed / "results/new.json").exists()


def test_a_tier_replaces_limits_and_keeps_what_is_demanded() -> None:
    tier = load_tier("conservative")
    old = policy(
        checks=("mine", "invariants", "primary_metric"),
        modes={"mine": "monitor", "invariants": "gate"},
        primary_metric=MetricLimits(3.0, 9.0, 0.2, 0.2, 333),
        floors=Floors(7, 5.0, 11),
        profile="ci",
        on_inconclusive="xfail",
        minimum_signal_fraction={"stress": 0.5},
        provenance={
            "primary_metric.ratio_limit": "suite file", "floors.documents": "suite file",
            "drift.band": "preset",
        },
    )  # fmt: skip
    new = under_tier(old, tier)
    assert new.checks[:3] == old.checks
    assert set(new.checks) == {"mine", *tier.checks}
    assert new.modes["mine"] == "monitor"
    assert (new.primary_metric.ratio_limit, new.primary_metric.bootstrap_replicates) == (1.05, 333)
    assert (new.floors.documents, new.floors.tokens) == (7, tier.token_floor)
    assert (new.profile, new.on_inconclusive) == ("ci", "xfail")
    assert new.expectations == old.expectations
    assert new.minimum_signal_fraction == {"stress": 0.5}
    assert dropped({("m", "s"): old}, {("m", "s"): new}) == (
        "drift.band", "primary_metric.ratio_limit",
    )  # fmt: skip
    assert under_tier(policy(), tier).floors.tokens is None


def test_a_floor_of_the_suite_file_stays() -> None:
    old = policy(
        profile="ci", floors=Floors(7, 5.0, 11), provenance={"floors.tokens": "suite file"}
    )
    assert under_tier(old, load_tier("conservative")).floors.tokens == 11


def test_a_run_that_planned_less_than_its_policy_demands_is_not_sealed(
    tmp_path: Path, key: Any
) -> None:
    """The forgery: the guard is taken out of the plan, so that it would count as not asked for."""
    from pytest_invarlock.errors import EvidenceError

    run = made_run(
        tmp_path / "run", {"noop": 0.0}, strictness={"noop": Strictness.INFORMATIONAL},
        checks=("invariants", "primary_metric", "rmt"), modes={"invariants": "gate", "rmt": "gate"},
        primary_metric=METRIC,
    )  # fmt: skip
    with pytest.raises(
        EvidenceError, match="does not ask for what its policy demands: rmt"
    ) as found:
        sealed_run(run, key)
    assert found.value.code == "PACK_SELF_CHECK"


@pytest.mark.parametrize(("asked", "reason"), [({"a": 1}, "attested"), ({"a": 2}, "not_planned")])
def test_a_guard_that_answered_with_other_arguments_was_not_asked(asked: Any, reason: str) -> None:
    who = {"distribution": "d", "version": "1", "entry_point": "e", "code": BASE}
    who["parameters"] = {"a": 1}
    answer = {"passed": True, "action": "continue", "metrics": {}, "violations": [], "warnings": []}
    entry = {**who, "answer": answer, "problem": None}
    plan = {**facts().plan, "guards": ["invariants"], "foreign_guards": {"mine": who}}
    of = facts(plan=plan, attested={"mine": entry})
    rules = policy(checks=("invariants", "mine"), modes={"invariants": "gate", "mine": "gate"})
    decided = _decided(of, {("m", "s"): rules}, {"mine": asked})
    assert decided.check("mine").reason == reason
