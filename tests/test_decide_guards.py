"""What `decide` makes of guards beyond their judges: floors, remediation, and what they altered."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import pytest
from invarlock_guards.contract import Violation
from invarlock_guards.judge.proposals import propose
from invarlock_guards.judge.variance_policy import ProposalRules

from pytest_invarlock.decide import decide
from pytest_invarlock.decision import CheckDecision, Decision, Outcome
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.policy.metric_limits import Floors

from .checks.made import BASE, CLEAN, DAMAGED, OTHER, TOKENS, facts, policy

_RMT = runpy.run_path(str(Path(__file__).parent / "guards" / "test_judge_rmt.py"))
branch, evidence = _RMT["branch"], _RMT["evidence"]
OVERHEAD = "guard_overhead"
GUARDS = ("rmt", "variance")


def guarded(name: str, found: Any, mode: str = "gate", **change: Any) -> CheckDecision:
    """The check of one guard by its evidence, of facts that are changed so."""
    floors = Floors(20, 10.0, None, change.pop("share", 0.5))
    demanded = policy(checks=(name,), modes={name: mode}, floors=floors)
    return decide(facts(guards={name: found}, **change), demanded).check(name)


# Too few windows.


def of_windows(name: str, mode: str, share: float, *branches: Any, **change: Any) -> CheckDecision:
    """The check on evidence of 16 windows, where 32 were planned."""
    whole = facts()
    windows = {**whole.plan["windows"], "guard_windows": 32}
    found = evidence(list(branches) or None, proposals=None, **change)
    return guarded(
        name, found, mode, share=share, plan={**whole.plan, "windows": windows},
        data={**whole.data, "n_guard_windows": 16},
    )  # fmt: skip


@pytest.mark.parametrize("name", GUARDS)
@pytest.mark.parametrize(
    ("mode", "outcome", "prefix"),
    [("gate", Outcome.INCONCLUSIVE, "INCONCLUSIVE: "), ("monitor", Outcome.WARN, "")],
)
@pytest.mark.parametrize("row", [branch(), branch(e=0.9, l=0.9)])
def test_below_the_floor_a_guard_of_activations_judges_nothing(
    name: str, mode: str, outcome: Outcome, prefix: str, row: Any
) -> None:
    enough = of_windows(name, mode, 0.5, row)
    assert enough.reason in ("ok", "branch_error", "branch_variance")
    few = of_windows(name, mode, 0.51, row)
    assert (few.check, few.outcome, few.reason) == (name, outcome, "below_floor")
    assert few.text == f"{prefix}16 of 32 planned guard windows, 17 are needed"
    assert (few.numbers, few.violations) == (enough.numbers, enough.violations)


@pytest.mark.parametrize("name", GUARDS)
def test_what_no_window_is_needed_for_fails_below_the_floor_too(name: str) -> None:
    broken = branch(e=None, l=None, c=None, n_non_finite=3)
    few = of_windows(name, "gate", 1.0, broken)
    assert (few.outcome, few.reason) == (Outcome.FAIL, "non_finite_activation")
    assert few.text.endswith("is not judged: 16 of 32 planned guard windows, 32 are needed")
    violation = Violation("non_finite_activation", "layers.0.mlp", 3, 0, "ffn")
    assert few.violations == (violation.document(),)


@pytest.mark.parametrize("name", GUARDS)
def test_evidence_that_cannot_be_judged_stays_an_error_below_the_floor(name: str) -> None:
    few = of_windows(name, "gate", 1.0, n_branches=2)
    assert (few.outcome, few.reason) == (Outcome.ERROR, "branches_left_out")


def test_the_floor_of_windows_is_none_of_weights() -> None:
    check = of_windows("invariants", "gate", 1.0, **CLEAN)
    assert (check.outcome, check.reason) == (Outcome.PASS, "ok")


# Remediation.


def remedied(mode: str, **change: Any) -> CheckDecision:
    """The check of the variance guard on a branch that a scale of 0.97 was written for."""
    rules = ProposalRules()
    rows = [branch(e=0.05, l=0.05, log_rms=0.05)]
    n = 64
    gains = {"gains": [1.0] * n, "tokens": [TOKENS] * n}
    made = propose({"branches": rows}, rules) | {
        "ab": gains | {"documents": list(range(10_000, 10_000 + n))},
        "remediation": {
            "tensors": {"layers.0.mlp.down.weight": {"before": "a", "restored": "a"}},
            "ab": gains | {"documents": list(range(n))}, "reason": None,
        },
    }  # fmt: skip
    plan = {**facts().plan, "rescaling": rules.proposal_rules() | {"remediate": True}}
    return guarded("variance", evidence(rows, proposals=made, **change), mode, plan=plan)


def test_the_ratio_under_a_remediation_is_stated_where_one_is_asked_for() -> None:
    gated = remedied("gate")
    assert (gated.outcome, gated.reason) == (Outcome.PASS, "ok")
    assert gated.numbers["remediation_gain"] == pytest.approx(1 / TOKENS)
    assert "remediation_ratio" not in gated.numbers
    asked = remedied("remediate")
    assert asked.numbers == {
        **gated.numbers,
        # The differences of the final arm have a mean of .01.
        "remediation_ratio": pytest.approx(math.exp(0.01 - 1 / TOKENS)),
    }
    assert (asked.outcome, asked.reason, asked.text) == (gated.outcome, gated.reason, gated.text)
    assert remedied("monitor").numbers == gated.numbers


def test_a_remediation_that_was_not_made_is_not_measured() -> None:
    unplanned = guarded("variance", evidence(proposals=None), "remediate")
    assert (unplanned.outcome, unplanned.numbers["remediation"]) == (Outcome.PASS, "not_measured")
    assert "remediation" not in guarded("variance", evidence(proposals=None)).numbers


def test_of_evidence_that_cannot_be_judged_no_ratio_is_stated() -> None:
    lacking = remedied("remediate", n_branches=2)
    assert (lacking.outcome, lacking.reason) == (Outcome.ERROR, "branches_left_out")
    assert "remediation_ratio" not in lacking.numbers


# What guards altered.


def altered(tensors: str, strictness: Strictness, any_of: Any = (), **change: Any) -> Decision:
    """The decision on damaged weights, after a guard that left the subject as ``tensors``."""
    parts = dict.fromkeys(("function", "configuration", "outputs"), "sha256:" + "a" * 64)
    before = {name: {"tensors": of, **parts, "loss_nats": 2.5} for name, of in
              (("baseline", BASE), ("subject", OTHER))}  # fmt: skip
    after = before | {"subject": before["subject"] | {"tensors": tensors}}
    turns = [
        {"model": name, "guards": ["invariants"], "process": [], "before": before[name],
         "after": after[name]}
        for name in before
    ]  # fmt: skip
    found = {"repeatable": True, "prepare": turns[:1], "validate": turns[1:]}
    demanded = policy(
        Expectation("error", strictness, any_of), checks=("invariants", OVERHEAD),
        modes={"invariants": "gate", OVERHEAD: change.pop("mode", "gate")},
    )  # fmt: skip
    return decide(facts(guards={"invariants": DAMAGED, OVERHEAD: found}), demanded)


SAID = "validate of invariants changed the subject: its tensors"
DETECT = Strictness.MUST_DETECT


def test_what_a_guard_altered_fails_by_the_policys_mode() -> None:
    gated = altered(BASE, Strictness.MUST_PASS).check(OVERHEAD)
    assert (gated.outcome, gated.reason, gated.text) == (Outcome.FAIL, "altered_model", SAID)
    watched = altered(BASE, Strictness.MUST_PASS, mode="monitor").check(OVERHEAD)
    assert (watched.outcome, watched.text) == (Outcome.WARN, SAID)
    sound = altered(OTHER, Strictness.MUST_PASS).check(OVERHEAD)
    assert (sound.outcome, sound.reason) == (Outcome.PASS, "unaltered")


@pytest.mark.parametrize("any_of", [(), ("invariants",)])
def test_an_altered_subject_spoils_a_detection(any_of: Any) -> None:
    spoiled = altered(BASE, DETECT, any_of)
    assert (spoiled.outcome, spoiled.expectation_met, spoiled.text) == (
        Outcome.ERROR, False, f"ERROR: {SAID}",
    )  # fmt: skip
    sound = altered(OTHER, DETECT, any_of)
    assert (sound.outcome, sound.expectation_met) == (Outcome.FAIL, True)
    assert sound.text.startswith("detected by invariants: invariants FAIL: ")


def test_an_altered_subject_is_detected_where_that_is_asked_for() -> None:
    named = altered(BASE, DETECT, (OVERHEAD,))
    assert (named.outcome, named.expectation_met) == (Outcome.FAIL, True)
    assert named.text == f"detected by {OVERHEAD}: {OVERHEAD} FAIL: {SAID}"
    unaltered = altered(OTHER, DETECT, (OVERHEAD,))
    assert (unaltered.outcome, unaltered.expectation_met) == (Outcome.PASS, False)


def test_an_alteration_that_is_only_monitored_leaves_evidence_of_another_model() -> None:
    watched = altered(BASE, DETECT, mode="monitor")
    assert (watched.outcome, watched.expectation_met) == (Outcome.ERROR, False)
    assert watched.check("invariants").reason == "contradictory"


# Guards of other packages.


def test_where_no_guard_could_prepare_nothing_was_judged() -> None:
    who = {"distribution": "d", "version": "1", "entry_point": "e", "code": BASE, "parameters": {}}
    problem = {"code": "GUARD_RAISED", "text": "no accelerator", "step": "prepare"}
    plan = {**facts().plan, "foreign_guards": {"mine": who}}
    unprepared = facts(plan=plan, attested={"mine": {**who, "answer": None, "problem": problem}})
    lenient: Any = {
        "modes": {"invariants": "gate", "mine": "monitor"},
        "strict_guard_prepare": False,
    }
    alone = decide(unprepared, policy(checks=("mine",), **lenient)).check("mine")
    assert (alone.outcome, alone.reason, alone.text) == (
        Outcome.ERROR, "not_evaluated",
        "no check of the policy judged anything: not evaluated: no accelerator",
    )  # fmt: skip
    beside = decide(unprepared, policy(checks=("mine", "invariants"), **lenient))
    assert (beside.check("mine").reason, beside.outcome) == ("not_prepared", Outcome.WARN)


# What the plan did not ask for.

WHO = {"distribution": "d", "version": "1", "entry_point": "e", "code": BASE, "parameters": {}}


def of_plan(guards: list[str], /, **change: Any) -> Any:
    return facts(plan={**facts().plan, "guards": guards}, **change)


@pytest.mark.parametrize("name", ["spectral", "rmt", "variance", OVERHEAD, "mine"])
@pytest.mark.parametrize("mode", ["gate", "monitor"])
def test_what_the_plan_did_not_measure_is_inconclusive(name: str, mode: str) -> None:
    demanded = policy(checks=("invariants", name), modes={"invariants": "gate", name: mode})
    decided = decide(of_plan(["invariants"]), demanded)
    assert decided.check(name) == CheckDecision(
        name, Outcome.INCONCLUSIVE, "not_planned",
        f"INCONCLUSIVE: the policy demands {name}, and the plan did not measure it",
    )  # fmt: skip
    assert (decided.outcome, decided.expectation_met) == (Outcome.INCONCLUSIVE, False)


@pytest.mark.parametrize("name", ["spectral", "rmt", "variance", OVERHEAD])
def test_what_was_planned_and_is_not_there_is_an_error(name: str) -> None:
    demanded = policy(checks=("invariants", name), modes={"invariants": "gate", name: "gate"})
    found = decide(of_plan(["invariants", name]), demanded).check(name)
    assert (found.outcome, found.reason) == (Outcome.ERROR, "not_evaluated")


def test_another_packages_guard_that_was_planned_and_did_not_answer_is_an_error() -> None:
    asked = facts(plan={**facts().plan, "guards": ["invariants"], "foreign_guards": {"mine": WHO}})
    demanded = policy(checks=("invariants", "mine"), modes={"invariants": "gate", "mine": "gate"})
    found = decide(asked, demanded).check("mine")
    assert (found.outcome, found.reason) == (Outcome.ERROR, "not_evaluated")


def test_a_plan_that_disowns_its_evidence_hides_no_failure() -> None:
    found = decide(of_plan([], guards={"invariants": DAMAGED}), policy()).check("invariants")
    assert found.outcome is Outcome.FAIL


@pytest.mark.parametrize("strictness", list(Strictness))
def test_an_unmeasured_check_meets_no_expectation(strictness: Strictness) -> None:
    detectors = ("rmt",) if strictness.value in ("must_fail", "must_detect") else ()
    demanded = policy(
        Expectation("clean", strictness, detectors),
        checks=("invariants", "rmt"), modes={"invariants": "gate", "rmt": "gate"},
    )  # fmt: skip
    decided = decide(of_plan(["invariants"]), demanded)
    assert (decided.outcome, decided.expectation_met) == (Outcome.INCONCLUSIVE, False)
    assert "the plan did not measure it" in decided.text
