"""The run's verdict: what was not recorded, or never planned, cannot pass."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema.validators import Draft202012Validator

from pytest_invarlock.decision import Decision, Outcome
from pytest_invarlock.plan import PlannedScenario
from pytest_invarlock.policy.decision_policy import (
    DecisionPolicy,
    Expectation,
    Floors,
    MetricLimits,
    Strictness,
)
from pytest_invarlock.policy.resources import schema
from pytest_invarlock.verdict import RunVerdict, decide_run

PROPERTY = settings(deadline=None, max_examples=60, database=None, derandomize=True)
DEMANDED = {
    "clean": Strictness.MUST_PASS,
    "cut": Strictness.MUST_FAIL,
    "fault": Strictness.MUST_DETECT,
    "look": Strictness.INFORMATIONAL,
}
POLICY = DecisionPolicy(
    tier="balanced", profile="dev", checks=("primary_metric",), modes={},
    primary_metric=MetricLimits(1.1, 2.0, 0.05, 0.04, 999), floors=Floors(20, 10.0, None),
    on_inconclusive="fail", provenance={},
    expectations={("m", name): Expectation("x", s) for name, s in DEMANDED.items()},
)  # fmt: skip


def decision(
    scenario: str, outcome: Outcome = Outcome.PASS, *, met: bool = True, draw: int = 0
) -> Decision:
    return Decision(
        model="m", scenario=scenario, draw=draw, category="clean",
        strictness=DEMANDED.get(scenario, Strictness.MUST_PASS).value, checks=(), fired=(),
        outcome=outcome, expectation_met=met, text="because",
    )  # fmt: skip


def run(
    decisions: list[Decision], scenarios: list[str] | None = None, draws: int = 1
) -> RunVerdict:
    names = list(DEMANDED) if scenarios is None else scenarios
    planned = [PlannedScenario("m", name, draws) for name in names]
    return decide_run(planned, decisions, {("m", name): POLICY for name in names})


ALL_MET = [
    decision("clean"),
    decision("cut", Outcome.FAIL),
    decision("fault", Outcome.FAIL),
    decision("look", Outcome.FAIL),
]


def broken(verdict: RunVerdict) -> list[str]:
    return [rule.name for rule in verdict.requirements if not rule.passed]


def test_a_run_without_records_fails() -> None:
    verdict = run([])
    assert verdict.verdict == "FAIL"
    assert broken(verdict)[:2] == ["evidence_present", "scenario_coverage"]


def test_a_run_without_plan_or_records_fails() -> None:
    assert run([], []).verdict == "FAIL"


@pytest.mark.parametrize("missing", range(4))
def test_a_missing_record_fails_naming_the_scenario(missing: int) -> None:
    verdict = run(ALL_MET[:missing] + ALL_MET[missing + 1 :])
    assert verdict.verdict == "FAIL"
    assert broken(verdict) == ["scenario_coverage"]
    assert verdict.broken is not None
    assert verdict.broken.failures == (
        {"model": "m", "scenario": list(DEMANDED)[missing], "reason": "no record of run 0"},
    )


def test_a_missing_draw_fails() -> None:
    verdict = run([decision("clean", draw=0), decision("clean", draw=2)], ["clean"], draws=3)
    assert verdict.verdict == "FAIL"
    assert verdict.broken is not None
    assert "no record of run 1" in verdict.broken.failures[0]["reason"]


@pytest.mark.parametrize("extra", [decision("other"), decision("clean", draw=1)])
def test_a_record_that_was_never_planned_fails(extra: Decision) -> None:
    verdict = run([*ALL_MET, extra])
    assert verdict.verdict == "FAIL"
    assert verdict.broken is not None
    assert verdict.broken.name == "scenario_coverage"
    assert "never planned" in verdict.broken.failures[0]["reason"]


def test_records_of_an_empty_plan_fail() -> None:
    assert decide_run([], [decision("clean")], {("m", "clean"): POLICY}).verdict == "FAIL"


@pytest.mark.parametrize(
    ("index", "requirement"),
    [
        (0, "clean_all_pass"),
        (1, "stress_required_fail"),
        (2, "error_injection_detected"),
        (3, "informational_measured"),
    ],
)
def test_an_unmet_expectation_breaks_its_requirement(index: int, requirement: str) -> None:
    decisions = list(ALL_MET)
    decisions[index] = decision(decisions[index].scenario, Outcome.FAIL, met=False)
    verdict = run(decisions)
    assert verdict.verdict == "FAIL"
    assert broken(verdict) == [requirement]
    assert verdict.broken is not None
    assert verdict.broken.failures[0]["reason"] == "run 0: because"


def test_only_inconclusive_clean_scenarios_are_inconclusive() -> None:
    verdict = run([decision("clean", Outcome.INCONCLUSIVE, met=False), *ALL_MET[1:]])
    assert verdict.verdict == "INCONCLUSIVE"
    assert broken(verdict) == ["clean_all_pass"]


@pytest.mark.parametrize("worse", [Outcome.FAIL, Outcome.ERROR])
def test_one_worse_outcome_beside_an_inconclusive_one_fails(worse: Outcome) -> None:
    decisions = [
        decision("clean", Outcome.INCONCLUSIVE, met=False, draw=0),
        decision("clean", worse, met=False, draw=1),
    ]
    assert run(decisions, ["clean"], draws=2).verdict == "FAIL"


def test_an_inconclusive_record_beside_a_missing_one_fails() -> None:
    verdict = run([decision("clean", Outcome.INCONCLUSIVE, met=False)], ["clean"], draws=2)
    assert verdict.verdict == "FAIL"


def test_a_detection_that_stayed_inconclusive_fails() -> None:
    decisions = list(ALL_MET)
    decisions[2] = decision("fault", Outcome.INCONCLUSIVE, met=False)
    assert run(decisions).verdict == "FAIL"


def test_a_whole_run_whose_expectations_are_met_passes() -> None:
    verdict = run(ALL_MET)
    assert verdict.verdict == "PASS"
    assert verdict.broken is None
    assert [rule.name for rule in verdict.requirements] == [
        "evidence_present", "scenario_coverage", "clean_all_pass", "stress_required_fail",
        "error_injection_detected", "informational_measured",
    ]  # fmt: skip
    assert verdict.counts["expectations_met"] == verdict.counts["records_total"] == 4
    assert verdict.counts["outcome_fail"] == 3


def test_a_warning_passes() -> None:
    assert run([decision("clean", Outcome.WARN)], ["clean"]).verdict == "PASS"


def test_only_demanded_requirements_are_listed() -> None:
    names = [rule.name for rule in run([decision("clean")], ["clean"]).requirements]
    assert names == ["evidence_present", "scenario_coverage", "clean_all_pass"]


@PROPERTY
@given(st.permutations(ALL_MET), st.lists(st.booleans(), min_size=4, max_size=4))
def test_order_leaves_no_trace_and_passing_needs_every_expectation(
    order: list[Decision], met: list[bool]
) -> None:
    flags: dict[str, Any] = dict(zip(DEMANDED, met, strict=True))
    decisions = [decision(d.scenario, d.outcome, met=flags[d.scenario]) for d in order]
    verdict = run(decisions)
    assert verdict == run(sorted(decisions, key=lambda d: d.scenario))
    assert (verdict.verdict == "PASS") is all(met)


@pytest.mark.parametrize("decisions", [[], ALL_MET, ALL_MET[1:]])
def test_the_parts_of_the_document_fit_the_schema(decisions: list[Decision]) -> None:
    document = run(decisions).document()
    rules = schema("verdict")["properties"]
    for key, value in document.items():
        if key in rules and key != "format":
            part = {"$defs": schema("verdict").get("$defs", {}), **rules[key]}
            assert list(Draft202012Validator(part).iter_errors(value)) == []
    assert set(document) == {"format", "verdict", "requirements", "counts"}
