"""The run's verdict: what was not recorded, or never planned, cannot pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema.validators import Draft202012Validator

from pytest_invarlock.certificate.verdict_text import verdict_file_text
from pytest_invarlock.decision import CheckDecision, Decision, Outcome
from pytest_invarlock.plan import PlannedScenario
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.policy.resources import schema
from pytest_invarlock.verdict import RunVerdict, decide_run

from .checks.made import policy

PROPERTY = settings(deadline=None, max_examples=60, database=None, derandomize=True)
DEMANDED = {
    "clean": Strictness.MUST_PASS,
    "cut": Strictness.MUST_FAIL,
    "fault": Strictness.MUST_DETECT,
    "look": Strictness.INFORMATIONAL,
}
POLICY = policy(
    checks=("primary_metric",),
    expectations={("m", name): Expectation("x", s) for name, s in DEMANDED.items()},
)


def decision(
    scenario: str,
    outcome: Outcome = Outcome.PASS,
    *,
    met: bool = True,
    draw: int = 0,
    **change: Any,
) -> Decision:
    return Decision(
        model="m", scenario=scenario, draw=draw, category="clean",
        strictness=DEMANDED.get(scenario, Strictness.MUST_PASS).value,
        outcome=outcome, expectation_met=met, text="because",
        **{"checks": (), "fired": (), "metric": "ppl_causal", "convention": "document"} | change,
    )  # fmt: skip


def run(
    decisions: list[Decision], scenarios: list[str] | None = None, draws: int = 1
) -> RunVerdict:
    names = list(DEMANDED) if scenarios is None else scenarios
    planned = [PlannedScenario("m", name, draws) for name in names]
    return decide_run(planned, decisions, {("m", name): POLICY for name in names})


ALL_MET = [
    decision("clean"),
    decision("cut", Outcome.FAIL, fired=("primary_metric",)),
    decision("fault", Outcome.FAIL, fired=("primary_metric",)),
    decision("look", Outcome.FAIL, fired=("primary_metric",)),
]


def broken(verdict: RunVerdict) -> list[str]:
    return [rule.name for rule in verdict.requirements if not rule.passed]


def test_the_draws_that_were_named_are_the_ones_wanted() -> None:
    planned = [PlannedScenario.of_runs("m", "clean", (3, 5))]
    assert planned[0].document() == {"model": "m", "scenario": "clean", "draws": 2, "seeds": [3, 5]}
    assert PlannedScenario.read(planned[0].document()) == planned[0]
    for draws, held in (((3, 5), True), ((0, 1), False), ((3,), False), ((3, 5, 6), False)):
        decisions = [decision("clean", draw=draw) for draw in draws]
        verdict = decide_run(planned, decisions, {("m", "clean"): POLICY})
        assert ("scenario_coverage" not in broken(verdict)) is held, draws


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
    decisions = [replace(d, expectation_met=flags[d.scenario]) for d in order]
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
    assert set(document) == {"format", "verdict", "requirements", "counts", "alarms", "flaky"}


def with_p_values(scenario: str, *p_values: float | None) -> Decision:
    checks = tuple(
        CheckDecision(name, Outcome.PASS, "r", "t", {} if p is None else {"p_value": p})
        for name, p in zip(("tail", "drift", "primary_metric"), p_values, strict=False)
    )
    return decision(scenario, checks=checks)


def test_every_test_of_the_run_is_one_family() -> None:
    decisions = [
        with_p_values("look", 0.01, 0.04, None),
        with_p_values("clean", 0.5),
        decision("cut"),
    ]
    alarms = run(decisions, ["look", "clean", "cut"]).alarms
    assert [(a.scenario, a.check, a.p_value) for a in alarms] == [
        ("clean", "tail", 0.5), ("look", "tail", 0.01), ("look", "drift", 0.04),
    ]  # fmt: skip
    assert [a.p_holm for a in alarms] == pytest.approx([0.5, 0.03, 0.08])


def test_alarms_never_gate() -> None:
    verdict = run([with_p_values("clean", 1e-30, 1e-30)], ["clean"])
    assert verdict.alarms[0].p_holm < 1e-20
    assert verdict.verdict == "PASS"


def test_what_another_packages_guard_calls_a_p_value_is_no_alarm() -> None:
    theirs = CheckDecision("theirs", Outcome.PASS, "attested", "fine", {"p_value": "small"})
    assert run([decision("clean", checks=(theirs,))], ["clean"]).alarms == ()


def test_a_run_without_tests_has_no_alarms() -> None:
    assert run(ALL_MET).alarms == ()


def test_the_verdicts_text_tells_the_smallest_alarm() -> None:
    text = verdict_file_text(run([with_p_values("clean", 0.004, 0.5)], ["clean"]))
    assert "alarms (decide nothing): 2 tests, smallest p 0.004, Holm-adjusted 0.008, tail" in text
    assert "alarms" not in verdict_file_text(run(ALL_MET))


@pytest.mark.parametrize(
    "other", [{"convention": "llama.cpp-512"}, {"metric": "ppl_mlm"}, {"metric": "accuracy"}]
)
@pytest.mark.parametrize("outcome", [Outcome.PASS, Outcome.FAIL, Outcome.ERROR])
def test_draws_of_other_conventions_are_never_put_side_by_side(
    other: dict[str, str], outcome: Outcome
) -> None:
    draws = [decision("clean"), decision("clean", outcome, draw=1, **other)]
    verdict = run(draws, ["clean"], draws=2)
    assert verdict.verdict == "FAIL"
    assert broken(verdict) == ["one_convention"]
    assert verdict.broken is not None
    assert next(iter(other.values())) in verdict.broken.failures[0]["reason"]
    assert "one_convention" in verdict_file_text(verdict)


def test_an_inconclusive_draw_of_another_convention_is_no_mere_inconclusive() -> None:
    draws = [
        decision("clean"),
        decision("clean", Outcome.INCONCLUSIVE, met=False, draw=1, convention="row"),
    ]
    assert run(draws, ["clean"], draws=2).verdict == "FAIL"


@pytest.mark.parametrize("metric", [None, "auto"])
def test_a_draw_that_ended_with_an_error_leaves_the_run_its_verdict(metric: str | None) -> None:
    draws = [decision("clean"), decision("clean", Outcome.ERROR, met=False, draw=1, metric=metric)]
    verdict = run(draws, ["clean"], draws=2)
    assert (verdict.verdict, broken(verdict)) == ("FAIL", ["clean_all_pass"])


def test_scenarios_may_differ_in_convention_and_errors_have_none() -> None:
    decisions = [
        decision("clean"),
        decision("clean", Outcome.ERROR, met=False, draw=1, metric=None, convention=None),
        decision("look", convention="row"),
        decision("look", convention="row", draw=1),
    ]
    assert run(decisions, ["clean", "look"], draws=2).verdict == "FAIL"


def test_what_nobody_planned_to_measure_leaves_a_verdict_open() -> None:
    names = ("clean", "look")
    open_ones = [decision(name, Outcome.INCONCLUSIVE, met=False) for name in names]
    planned = [PlannedScenario("m", name, 1) for name in names]
    policies = {("m", name): POLICY for name in names}
    assert decide_run(planned, open_ones, policies).verdict == "INCONCLUSIVE"
    broken = [open_ones[0], decision("look", Outcome.ERROR, met=False)]
    assert decide_run(planned, broken, policies).verdict == "FAIL"


@pytest.mark.parametrize("name", ["cut", "fault"])
def test_a_fault_that_might_have_been_detected_was_not(name: str) -> None:
    decided = decide_run(
        [PlannedScenario("m", name, 1)],
        [decision(name, Outcome.INCONCLUSIVE, met=False)],
        {("m", name): POLICY},
    )
    assert decided.verdict == "FAIL"
