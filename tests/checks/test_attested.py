"""Attested checks: only the mode is applied to what a guard says, and silence is an error."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_invarlock.checks.attested import attested_check
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import CheckDecision, Decision, Outcome
from tests.checks import made

WHO = {
    "distribution": "my-guards", "version": "1.2", "entry_point": "my_guards:Mine",
    "code": made.BASE, "parameters": {},
}  # fmt: skip
FINE = {"passed": True, "action": "continue", "message": "fine"}


def judged(
    entry: dict[str, Any] | None, mode: str = "gate", planned: dict[str, Any] | None = None
) -> CheckDecision:
    facts = made.facts()
    guards = {} if entry is None else {"mine": entry}
    plan = {**facts.plan, "foreign_guards": {"mine": WHO if planned is None else planned}}
    policy = made.policy(checks=(*made.ALL_CHECKS, "mine"))
    policy = made.policy(checks=policy.checks, modes={**policy.modes, "mine": mode})
    return made.check("mine", made.facts(attested=guards, plan=plan), policy)


def entry(**answer: Any) -> dict[str, Any]:
    return {**WHO, "answer": FINE | answer, "problem": None}


ABSENT = {**WHO, "answer": None, "problem": {"code": "GUARD_RAISED", "text": "it\nraised"}}


@pytest.mark.parametrize(
    ("given", "planned", "reason", "told"),
    [
        (None, WHO, "not_evaluated", "the record holds no answer of it"),
        (ABSENT, WHO, "guard_raised", "it raised"),
        (entry(), {**WHO, "version": "1.3"}, "contradictory", "another guard was planned"),
        (entry(), {}, "contradictory", "another guard was planned"),
        (entry(passed="yes"), WHO, "guard_answer", "passed is str"),
        (entry(action="abort"), WHO, "guard_answer", "passed is true, and action is abort"),
        ({**WHO, "answer": {}, "problem": None}, WHO, "guard_answer", "passed is missing"),
    ],
)
@pytest.mark.parametrize("mode", ["gate", "monitor"])
def test_what_is_no_answer_is_an_error_in_either_mode(
    given: Any, planned: Any, reason: str, told: str, mode: str
) -> None:
    check = judged(given, mode, planned)
    assert (check.outcome, check.reason) == (Outcome.ERROR, reason)
    assert told in check.text


@pytest.mark.parametrize(
    ("mode", "passed", "action", "outcome"),
    [
        ("gate", False, "abort", "FAIL"), ("gate", False, "rollback", "FAIL"),
        ("gate", False, "continue", "FAIL"), ("gate", False, "warn", "WARN"),
        ("gate", True, "warn", "WARN"), ("gate", True, "continue", "PASS"),
        ("monitor", False, "abort", "WARN"), ("monitor", False, "continue", "WARN"),
        ("monitor", True, "warn", "WARN"), ("monitor", True, "continue", "PASS"),
    ],
)  # fmt: skip
def test_the_mode_is_all_that_is_applied(
    mode: str, passed: bool, action: str, outcome: str
) -> None:
    check = judged(entry(passed=passed, action=action), mode)
    assert (check.outcome.value, check.reason) == (outcome, "attested")
    undone = f"{action}: " if outcome == "FAIL" and action != "continue" else ""
    assert check.text == f"{undone}fine (attested by my-guards 1.2)"
    assert check.numbers["action"] == action


def test_a_verdict_states_numbers_and_texts_and_leaves_lists_to_the_record() -> None:
    metrics = {"n": 2, "x": 0.5, "flag": True, "none": None, "names": ["a"], "by": {"a": 1}}
    check = judged(entry(metrics=metrics, message="a\n\tb" + "c" * 500))
    assert check.numbers == {"n": 2, "x": 0.5, "flag": 1, "none": None, "action": "continue"}
    assert check.text.startswith("a bccc")
    assert len(check.text) < 350


UNPREPARED = {**ABSENT, "problem": {**ABSENT["problem"], "step": "prepare"}}


@pytest.mark.parametrize(
    ("given", "mode", "strict", "outcome", "reason"),
    [
        (UNPREPARED, "monitor", True, "ERROR", "guard_raised"),
        (UNPREPARED, "gate", False, "ERROR", "guard_raised"),
        (ABSENT, "monitor", False, "ERROR", "guard_raised"),
        (UNPREPARED, "monitor", False, "WARN", "not_prepared"),
    ],
)
def test_only_a_monitor_that_could_not_be_prepared_may_warn(
    given: Any, mode: Any, strict: bool, outcome: str, reason: str
) -> None:
    facts = made.facts(attested={"mine": given}, plan={"foreign_guards": {"mine": WHO}})
    check = attested_check("mine", facts, mode, strict_prepare=strict)
    assert (check.outcome.value, check.reason) == (outcome, reason)


def decided(first: dict[str, Any], behind: dict[str, Any], mode: str = "gate") -> Decision:
    """The decision on guard ``first``, of ``mode``, and on one behind it, which gates."""
    facts = made.facts(attested={"first": first, "behind": behind})
    facts = replace(facts, plan={**facts.plan, "foreign_guards": {"first": WHO, "behind": WHO}})
    modes = {"invariants": "gate", "first": mode, "behind": "gate"}
    checks = (*made.ALL_CHECKS, "first", "behind")
    return decide(facts, made.policy(checks=checks, modes=modes))


SILENT = {**WHO, "answer": None, "problem": {"code": "ABORTED", "text": "not asked"}}


def test_an_abort_ends_the_scenario_as_failed_and_is_named() -> None:
    decision = decided(entry(passed=False, action="abort"), SILENT)
    assert (decision.outcome, decision.fired) == (Outcome.FAIL, ("first",))
    assert decision.text == "abort: fine (attested by my-guards 1.2)"
    assert decision.check("behind").outcome is Outcome.ERROR


def test_an_abort_hides_no_other_error_and_excuses_nothing_where_it_only_monitors() -> None:
    assert decided(entry(passed=False, action="abort"), ABSENT).outcome is Outcome.ERROR
    assert decided(entry(passed=False, action="rollback"), SILENT).outcome is Outcome.ERROR
    aborts = entry(passed=False, action="abort")
    assert decided(aborts, SILENT, "monitor").outcome is Outcome.ERROR


def test_a_rollback_is_named_and_the_others_are_judged() -> None:
    decision = decided(entry(passed=False, action="rollback"), entry())
    assert (decision.outcome, decision.fired) == (Outcome.FAIL, ("first",))
    assert decision.text == "rollback: fine (attested by my-guards 1.2)"
    assert decision.check("behind").outcome is Outcome.PASS
