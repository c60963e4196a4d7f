"""Check deployable: every limit with its bound, contradictions, and what a missing backend does."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from pytest_invarlock.certificate.verdict_text import verdict_file_text
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import PlannedScenario
from pytest_invarlock.policy.decision_policy import (
    DecisionPolicy,
    Expectation,
    Strictness,
    policy_from_document,
)
from pytest_invarlock.policy.deploy_limits import DeployLimits
from pytest_invarlock.records import Facts
from pytest_invarlock.run_text import _mark
from pytest_invarlock.verdict import RunVerdict, decide_run

from .made import BASE, OTHER, facts, policy, spread

LIMITS = DeployLimits(1.75, 0.95, 0.95, 0.0, 4)
DEMANDED = Expectation("deployable", Strictness.MUST_PASS, deployable=True)
SPEC = {"name": "deploy", "parameters": {"backend": "b", "scheme": "s8"}}
EDIT = SPEC | {
    "n_tensors_touched": 2, "n_tensors_changed": 2,
    "n_parameters_touched": 2000, "n_parameters_changed": 1990,
}  # fmt: skip
EVIDENCE: dict[str, Any] = {
    "backend": "b", "scheme": "s8", "bits": 8,
    "weights": [
        {"name": name, "n_parameters": 1000, "stored_bytes": 1040, "dtypes": ["F32", "I8"]}
        for name in ("q.weight", "up.weight")
    ],
    "storage": {"bytes": 3200, "plain_bytes": 1000, "unexplained": []},
    "baseline_storage_bytes": 5000,
    "memory": {"bytes": 3080, "baseline_bytes": 9000},
    "reload": {
        "tensors_before": OTHER, "tensors_after": OTHER,
        "n_logits": 64, "n_different": 0, "largest_difference": 0.0,
    },
    "smoke": {
        "shape": [1, 4, 16], "expected_shape": [1, 4, 16], "non_finite": 0,
        "generated_tokens": 8, "error": None,
    },
}  # fmt: skip
REASON = "torchao is not installed (pip install 'pytest-invarlock[torchao]')"


def deployed(**change: Any) -> Facts:
    made = facts(edit=EDIT, guards={"deployable": EVIDENCE}, **change)
    return replace(made, plan=dict(made.plan) | {"subject": SPEC})


def with_(path: str, value: Any) -> Facts:
    """Facts with the value at ``path`` of the evidence, such as ``smoke.error``."""
    evidence = copy.deepcopy(EVIDENCE)
    *outer, last = path.split(".")
    place: Any = evidence
    for key in outer:
        place = place[int(key) if key.isdigit() else key]
    place[last] = value
    return replace(deployed(), guards={"deployable": evidence})


def judged_by(limits: DeployLimits | None = LIMITS, **change: Any) -> DecisionPolicy:
    return policy(DEMANDED, checks=("primary_metric",), deployable=limits, **change)


def judged(of: Facts, **limits: Any) -> CheckDecision:
    return decide(of, judged_by(replace(LIMITS, **limits))).check("deployable")


def test_what_keeps_the_contract_passes_with_its_numbers() -> None:
    check = judged(deployed())
    assert (check.outcome, check.reason) == (Outcome.PASS, "deployable"), check.text
    assert check.numbers == {
        "n_weights": 2, "bits_per_weight": 8.32, "stored_bytes": 3200, "storage_ratio": 0.64,
        "loaded_bytes": 3080, "memory_ratio": 3080 / 9000, "largest_logit_difference": 0.0,
        "generated_tokens": 8,
    }  # fmt: skip
    assert decide(deployed(), judged_by()).expectation_met


@pytest.mark.parametrize(
    ("path", "at", "beyond", "reason"),
    [
        ("weights.1.stored_bytes", 1750, 1751, "not_packed"),
        ("weights.0.stored_bytes", 1, 0, "not_packed"),
        ("storage.unexplained", [], ["q.copy"], "unexplained_storage"),
        ("storage.bytes", 4750, 4751, "storage_ratio"),
        ("memory.bytes", 8550, 8551, "memory_ratio"),
        ("reload.tensors_before", OTHER, BASE, "reload_differs"),
        ("smoke.shape", [1, 4, 16], [1, 4, 15], "smoke_shape"),
        ("smoke.non_finite", 0, 1, "smoke_non_finite"),
        ("smoke.generated_tokens", 4, 3, "smoke_generation"),
        ("smoke.generated_tokens", None, 0, "smoke_generation"),
        ("smoke.error", None, "ValueError", "smoke_generation"),
    ],
)
def test_each_limit_holds_at_its_bound_and_fails_beyond(
    path: str, at: Any, beyond: Any, reason: str
) -> None:
    roomy = with_("storage.bytes", 4000) if path.startswith("weights") else None
    for value, outcome in ((at, Outcome.PASS), (beyond, Outcome.FAIL)):
        made = with_(path, value)
        if roomy is not None:
            evidence = dict(made.guards["deployable"])
            made = replace(
                made,
                guards={
                    "deployable": evidence | {"storage": roomy.guards["deployable"]["storage"]}
                },
            )
        check = judged(made)
        assert check.outcome is outcome, (path, value, check.text)
        if outcome is Outcome.FAIL:
            assert check.reason == reason
            assert reason in {one["kind"] for one in check.violations}


def test_logits_after_reloading_differ_by_no_more_than_the_policy_allows() -> None:
    evidence = copy.deepcopy(EVIDENCE)
    evidence["reload"] |= {"n_different": 3, "largest_difference": 1e-6}
    made = replace(deployed(), guards={"deployable": evidence})
    assert judged(made).reason == "reload_differs"
    assert judged(made, logit_difference=1e-6).outcome is Outcome.PASS
    evidence["reload"] |= {"n_different": None, "largest_difference": None}
    assert judged(made, logit_difference=1e6).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("backend", "other"),
        ("scheme", "s4"),
        ("weights", []),
        ("weights.1.name", "q.weight"),
        ("weights.1.n_parameters", 999),
        ("storage.plain_bytes", 1121),
        ("reload.tensors_after", "sha256:" + "2" * 64),
        ("reload.n_different", 65),
        ("reload.n_different", 1),
        ("reload.largest_difference", 0.5),
    ],
)
def test_evidence_that_contradicts_the_record_is_an_error(path: str, value: Any) -> None:
    check = judged(with_(path, value))
    assert (check.outcome, check.reason) == (Outcome.ERROR, "contradictory"), check.text


@pytest.mark.parametrize("of", ["identities", "edit"])
def test_of_a_record_that_contradicts_itself_elsewhere_nothing_is_deployable(of: str) -> None:
    whole = deployed()
    assert judged(whole).outcome is Outcome.PASS
    broken = {
        "identities": replace(whole, plan=dict(whole.plan) | {"draw": 7}),
        "edit": replace(whole, edit=EDIT | {"n_tensors_changed": 3}),
    }
    check = judged(broken[of])
    assert (check.outcome, check.reason) == (Outcome.ERROR, "contradictory"), check.text


def test_absent_evidence_never_passes() -> None:
    for guards in ({}, {"deployable": {"not_evaluated": "why"}}):
        decision = decide(replace(deployed(), guards=guards), judged_by())
        check = decision.check("deployable")
        assert (check.outcome, check.reason) == (Outcome.ERROR, "not_evaluated")
        assert not decision.expectation_met


def test_limits_are_demanded_checked_and_read_again() -> None:
    with pytest.raises(ConfigError, match="has no block deployable, which scenario 's' needs"):
        judged_by(None)
    demanded = judged_by()
    assert policy_from_document(demanded.document()) == demanded
    assert "deployable" not in policy().document()
    for key, value in (
        ("storage_ratio", 1.01), ("memory_ratio", 0.0), ("bits_overhead", 2.0),
        ("logit_difference", -1.0), ("generated_tokens", 0),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"deployable.{key} is"):
            replace(LIMITS, **{key: value})


def skipped(scenario: str = "s") -> Facts:
    return replace(
        deployed(),
        scenario=scenario,
        edit=None,
        arms={},
        guards={"deployable": {"not_evaluated": REASON}},
        error="BACKEND_UNAVAILABLE",
    )


def verdict_of(*of: Facts, expected: Expectation = DEMANDED, profile: str = "dev") -> RunVerdict:
    clean = Expectation("clean", Strictness.MUST_PASS)
    by = judged_by(expectations={("m", "s"): expected, ("m", "noop"): clean}, profile=profile)
    planned = [PlannedScenario("m", one.scenario, 1) for one in of]
    keys = {("m", one.scenario): by for one in of}
    return decide_run(planned, [decide(one, by) for one in of], keys)


def test_without_its_backend_a_scenario_is_skipped_and_the_verdict_says_so() -> None:
    decision = decide(skipped(), judged_by())
    assert (decision.outcome, decision.expectation_met) == (Outcome.SKIPPED, False)
    assert {c.outcome for c in decision.checks} == {Outcome.SKIPPED}
    assert [c.check for c in decision.checks] == [*judged_by().checks, "deployable"]
    assert {(c.reason, c.text) for c in decision.checks} == {("skipped", REASON)}
    assert not Outcome.SKIPPED.acceptable
    assert _mark(decision) == "--"
    found = verdict_of(replace(facts(), scenario="noop"), skipped())
    assert found.verdict == "PASS"
    told = f"deployable_skipped: 1 records without their backend: m s: skipped: {REASON}"
    assert f"holds  {told}" in verdict_file_text(found)
    assert (found.counts["outcome_skipped"], found.counts["deployable_total"]) == (1, 1)


@pytest.mark.parametrize("profile", ["ci_cpu", "ci", "release"])
@pytest.mark.parametrize("strictness", list(Strictness))
def test_where_a_release_may_hang_on_it_a_skip_fails(strictness: Strictness, profile: str) -> None:
    expected = replace(DEMANDED, strictness=strictness)
    found = verdict_of(
        replace(facts(), scenario="noop"), skipped(), expected=expected, profile=profile
    )
    assert (found.verdict, found.broken and found.broken.name) == ("FAIL", "deployable_skipped")
    told = f"run 0: skipped: {REASON}; profile {profile} demands it"
    assert f"  m s: {told}" in verdict_file_text(found)


def test_beside_a_skip_at_the_desk_what_is_inconclusive_stays_so() -> None:
    found = verdict_of(replace(facts(spread(0.01, 0.02, 5)), scenario="noop"), skipped())
    assert found.verdict == "INCONCLUSIVE"


@pytest.mark.parametrize("strictness", list(Strictness))
def test_a_run_of_nothing_but_skips_fails(strictness: Strictness) -> None:
    found = verdict_of(skipped(), expected=replace(DEMANDED, strictness=strictness))
    assert found.verdict == "FAIL"
    assert [rule.name for rule in found.requirements if not rule.passed] == ["evidence_present"]


def test_only_a_missing_backend_of_a_deployment_is_skipped() -> None:
    whole = skipped()
    for of in (
        replace(whole, error="CRASH"),
        replace(whole, guards={}),
        replace(whole, plan=dict(whole.plan) | {"subject": {"checkpoint": None}}),
        replace(whole, arms=deployed().arms),
    ):
        assert decide(of, judged_by()).outcome is Outcome.ERROR
    other = judged_by(expectations={("m", "s"): Expectation("clean", Strictness.MUST_PASS)})
    assert decide(whole, other).outcome is Outcome.ERROR


def test_another_failure_beside_a_skip_still_fails() -> None:
    bad = replace(facts(arms={}), scenario="noop", error="CRASH")
    assert verdict_of(bad, skipped()).verdict == "FAIL"
