"""What `decide` answers, to the word: each reason, sentence and number that a verdict prints."""

from __future__ import annotations

import math
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from invarlock_guards.contract import GuardResult, Violation

from pytest_invarlock import decide as module
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import CheckDecision, Decision, Outcome
from pytest_invarlock.policy.decision_policy import DecisionPolicy, Expectation, Strictness

from .checks.made import ALL_CHECKS, CLEAN, DAMAGED, accuracy_facts, facts, policy, spread

_GUARDS = Path(__file__).parent / "guards"
_RMT = runpy.run_path(str(_GUARDS / "test_judge_rmt.py"))
_SPECTRAL = runpy.run_path(str(_GUARDS / "test_judge_spectral.py"))
BAD = spread(math.log(1.5), 0.02)
WEIGHTS = _SPECTRAL["evidence"]()
BRANCHES = _RMT["evidence"]()
OUTPUTS = _RMT["evidence"](proposals=None)


def must(
    strictness: Strictness,
    any_of: tuple[str, ...] = (),
    all_of: tuple[str, ...] = (),
    **change: Any,
) -> DecisionPolicy:
    return policy(Expectation("error", strictness, any_of, all_of), **change)


def guarded(name: str, evidence: Any, mode: str = "gate", **change: Any) -> CheckDecision:
    """The check of one guard by its evidence alone."""
    demanded = {"checks": (name,), "modes": {name: mode}} | change
    return decide(facts(guards={name: evidence}), policy(**demanded)).check(name)


# Records that cannot be judged.


def test_a_measurement_that_ended_says_with_what() -> None:
    decision = decide(facts(error="OUT_OF_MEMORY"), policy())
    expected = [
        CheckDecision(
            name, Outcome.ERROR, "out_of_memory", "the measurement ended with OUT_OF_MEMORY"
        )
        for name in ALL_CHECKS
    ]
    assert list(decision.checks) == expected
    assert decision.text == "ERROR: the measurement ended with OUT_OF_MEMORY"
    assert (decision.metric, decision.convention) == (None, None)


@pytest.mark.parametrize(("measured", "asked"), [("tuning", "certification"), ("certification", "tuning")])  # fmt: skip
def test_a_record_of_another_pool_is_an_error_in_every_check(measured: Any, asked: Any) -> None:
    record = facts()
    windows = {**record.plan["windows"], "pool": measured}
    record = replace(record, plan={**record.plan, "windows": windows})
    decision = decide(record, policy(), pool=asked)
    said = f"the record was measured on the {measured} documents, and is judged as of {asked}"
    assert list(decision.checks) == [
        CheckDecision(name, Outcome.ERROR, "other_pool", said) for name in ALL_CHECKS
    ]
    assert decide(record, policy(), pool=measured).outcome is Outcome.PASS


def test_a_record_that_names_no_pool_is_of_certification() -> None:
    decision = decide(facts(), policy(), pool="tuning")
    assert {check.reason for check in decision.checks} == {"other_pool"}
    assert "on the certification documents" in decision.text
    bare = decide(facts(plan={"metric": "m"}, arms={}), policy())
    assert (bare.metric, bare.convention) == ("m", None)
    assert "other_pool" not in {check.reason for check in bare.checks}
    nameless = decide(facts(plan={}, arms={}), policy())
    assert (nameless.metric, nameless.convention) == (None, None)


def test_everything_that_stands_in_a_decision() -> None:
    decision = decide(facts(), policy(checks=("invariants",)))
    text = "10 tensors: finite, same names, shapes, dtypes and ties"
    numbers = dict.fromkeys(decision.checks[0].numbers, 0) | {"n_tensors": 10, "n_parameters": 1000}  # fmt: skip
    check = CheckDecision("invariants", Outcome.PASS, "ok", text, numbers)
    assert decision == Decision(
        model="m", scenario="s", draw=0, category="clean", strictness="must_pass",
        checks=(check,), fired=(), outcome=Outcome.PASS, expectation_met=True, text=text,
        metric="ppl_causal", convention="document",
    )  # fmt: skip


# Checks that say nothing, and those that must not speak.


def test_a_policy_none_of_whose_checks_judges_anything_is_an_error() -> None:
    few = facts(spread(0.001, 0.02, n=40))
    monitored = decide(few, policy(checks=("tail",))).check("tail")
    assert (monitored.outcome, monitored.reason) == (Outcome.ERROR, "not_evaluated")
    assert monitored.text.startswith("no check of the policy judged anything: 0 of 40 windows")
    assert monitored.numbers["n_windows"] == 40
    sampled = accuracy_facts()
    silent = decide(sampled, policy(checks=("tail",))).check("tail")
    assert (silent.outcome, silent.reason) == (Outcome.ERROR, "not_evaluated")
    both = decide(few, policy(checks=("tail", "invariants")))
    assert both.check("tail").reason == "monitored"
    assert both.outcome is Outcome.PASS


def test_a_contradictory_record_is_an_error_before_any_check_is_not_applicable() -> None:
    sampled = accuracy_facts()
    other = replace(sampled, plan={**sampled.plan, "draw": 3})
    for name in ("drift", "tail", "primary_metric"):
        check = decide(other, policy(checks=(name,))).check(name)
        assert (check.outcome, check.reason) == (Outcome.ERROR, "contradictory")
        assert check.check == name


# Guards.


def test_a_guard_without_evidence_says_so() -> None:
    assert decide(facts(guards={}), policy()).check("invariants") == CheckDecision(
        "invariants", Outcome.ERROR, "not_evaluated",
        "the policy demands invariants, and the record holds no evidence of it",
    )  # fmt: skip
    assert guarded("invariants", {"not_evaluated": "no weights"}) == CheckDecision(
        "invariants", Outcome.ERROR, "not_evaluated", "not evaluated: no weights"
    )
    assert guarded("invariants", DAMAGED | {"baseline_non_finite": ["w"]}) == CheckDecision(
        "invariants", Outcome.ERROR, "baseline_non_finite",
        "the baseline itself holds NaN or infinity",
    )  # fmt: skip


def test_a_guard_whose_record_contradicts_itself_says_so() -> None:
    record = facts()
    record = replace(record, plan={**record.plan, "draw": 3})
    assert decide(record, policy(checks=("invariants",))).check("invariants") == CheckDecision(
        "invariants", Outcome.ERROR, "contradictory",
        "the record contradicts itself: the plan names another draw than what was measured",
    )  # fmt: skip


def test_evidence_of_one_guard_is_held_against_its_own_rules() -> None:
    hidden = _SPECTRAL["evidence"](_SPECTRAL["change"]())
    hidden["changes"] = []
    check = guarded("spectral", hidden)
    assert (check.outcome, check.reason) == (Outcome.ERROR, "contradictory")


@pytest.mark.parametrize(
    ("name", "evidence", "start"),
    [
        ("spectral", WEIGHTS, "20 matrices: none beyond the limits of the declared kind"),
        ("rmt", BRANCHES, "1 branches over 16 windows: error at most 0, allowed 0.4"),
        ("variance", OUTPUTS, "1 branches over 16 windows: |ln rms| at most 0, allowed 0.06"),
    ],
)
def test_each_guard_is_judged_by_its_judge(name: str, evidence: Any, start: str) -> None:
    check = guarded(name, evidence)
    assert (check.check, check.outcome, check.reason, check.text) == (
        name, Outcome.PASS, "ok", start,
    )  # fmt: skip


def test_a_guards_limits_and_the_kind_reach_its_judge() -> None:
    moved = _RMT["evidence"]([_RMT["branch"](e=0.3)])
    assert guarded("rmt", moved).outcome is Outcome.PASS
    narrow = guarded("rmt", moved, guards={"rmt": {"error": 0.2}})
    assert (narrow.outcome, narrow.reason) == (Outcome.FAIL, "branch_error")
    record = facts(guards={"rmt": moved}, kind="quantize8")
    demanded = policy(checks=("rmt",), modes={"rmt": "gate"})
    assert decide(record, demanded).check("rmt").outcome is Outcome.FAIL
    assert guarded("rmt", moved, "monitor", guards={"rmt": {"error": 0.2}}).outcome is Outcome.WARN


def test_a_guards_numbers_are_stated_as_strict_json_has_them() -> None:
    check = guarded("rmt", BRANCHES)
    assert type(check.numbers["stable"]) is int
    assert check.numbers["stable"] == 1
    assert check.numbers["largest_error_module"] == "layers.0.mlp"
    infinite = _RMT["evidence"]([_RMT["branch"](e=math.inf)])
    failed = guarded("rmt", infinite)
    assert failed.numbers["largest_error"] is None
    assert failed.numbers["largest_angle"] == 0.0
    assert failed.violations == (
        Violation("branch_error", "layers.0.mlp", math.inf, 0.4, "ffn").document(),
    )


BASIS = _SPECTRAL["evidence"](_SPECTRAL["change"](relative_change=0.3), available=False)


@pytest.mark.parametrize("others", [(), ("rmt",), ("variance",)])
def test_an_unknown_basis_needs_both_guards_of_activations(others: tuple[str, ...]) -> None:
    check = guarded(
        "spectral", BASIS, checks=("spectral", *others),
        modes=dict.fromkeys(("spectral", "rmt", "variance"), "gate"),
    )  # fmt: skip
    assert check == CheckDecision(
        "spectral", Outcome.ERROR, "canon_unavailable",
        "a (ffn): relative change 0.3, limit 0.2. Damage or another basis, that is open (unknown "
        "architecture x): rmt and variance must be measured, and the policy asks for neither",
    )  # fmt: skip


def test_an_unknown_basis_beside_both_is_a_warning_with_its_findings() -> None:
    names = ("spectral", "rmt", "variance")
    check = guarded("spectral", BASIS, checks=names, modes=dict.fromkeys(names, "gate"))
    assert (check.outcome, check.reason) == (Outcome.WARN, "canon_unavailable")
    assert check.violations == (Violation("relative_change", "a", 0.3, 0.2, "ffn").document(),)
    known = _SPECTRAL["evidence"](_SPECTRAL["change"](relative_change=0.3))
    assert guarded("spectral", known).reason == "basis_changed"
    assert guarded("spectral", known).outcome is Outcome.WARN


@pytest.mark.parametrize(
    ("passed", "action", "mode", "outcome"),
    [
        (None, "abort", "gate", Outcome.ERROR),
        (None, "abort", "monitor", Outcome.ERROR),
        (False, "abort", "gate", Outcome.FAIL),
        (False, "abort", "monitor", Outcome.WARN),
        (True, "warn", "gate", Outcome.WARN),
        (True, "continue", "gate", Outcome.PASS),
        (True, "continue", "monitor", Outcome.PASS),
    ],
)
def test_a_result_and_a_mode_make_an_outcome(
    monkeypatch: pytest.MonkeyPatch, passed: Any, action: Any, mode: str, outcome: Outcome
) -> None:
    violation, warning = Violation("k", "a", 1, 0, "f"), Violation("k", "b")
    result = GuardResult(
        "invariants", passed, action, "r", "t", {"x": False, "y": math.nan, "z": "w", "n": None},
        (violation,), (Violation("k", "c"),), (warning,),
    )  # fmt: skip
    monkeypatch.setattr(module, "judge_invariants", lambda evidence, kind: result)
    assert guarded("invariants", CLEAN, mode) == CheckDecision(
        "invariants", outcome, "r", "t", {"x": 0, "y": None, "z": "w", "n": None},
        (violation.document(), warning.document()),
    )  # fmt: skip


def test_another_packages_guard_gates_unless_it_is_monitored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def attested(name: str, of: Any, mode: str, *, strict_prepare: bool) -> CheckDecision:
        asked.append((name, of.model, mode, strict_prepare))
        return CheckDecision(name, Outcome.PASS, "attested", "fine")

    monkeypatch.setattr(module, "attested_check", attested)
    decide(facts(), policy(checks=("mine",), modes={}))
    decide(facts(), policy(checks=("mine",), modes={"mine": "monitor"}))
    assert asked == [("mine", "m", "gate", True), ("mine", "m", "monitor", True)]


# Expectations.


def made_checks(monkeypatch: pytest.MonkeyPatch, **outcomes: Outcome) -> tuple[str, ...]:
    """Checks of these outcomes, whatever the record is."""
    monkeypatch.setattr(
        module, "_check",
        lambda name, of, by: CheckDecision(name, outcomes[name], "r", f"text of {name}"),
    )  # fmt: skip
    return tuple(outcomes)


def test_what_was_detected_is_said_by_every_named_check(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = made_checks(monkeypatch, one=Outcome.FAIL, two=Outcome.FAIL, three=Outcome.PASS)
    detect = Strictness.MUST_DETECT
    found = decide(facts(), must(detect, ("one", "three"), checks=checks))
    assert (found.outcome, found.expectation_met, found.fired) == (
        Outcome.FAIL, True, ("one", "two"),
    )  # fmt: skip
    assert found.text == ("detected by one, two: one FAIL: text of one; three PASS: text of three")
    everything = decide(facts(), must(detect, checks=checks))
    assert everything.text.endswith("two FAIL: text of two; three PASS: text of three")
    both = decide(facts(), must(detect, (), ("one", "two"), checks=checks))
    assert both.text == "detected by one, two: one FAIL: text of one; two FAIL: text of two"
    missed = decide(facts(), must(detect, (), ("one", "three"), checks=checks))
    assert (missed.outcome, missed.expectation_met) == (Outcome.FAIL, False)
    assert missed.text == "one FAIL: text of one; three PASS: text of three"
    mixed = decide(facts(), must(detect, ("three",), ("one",), checks=checks))
    assert mixed.expectation_met is False
    assert decide(facts(), must(detect, ("two", "three"), ("one",), checks=checks)).expectation_met


def test_detectors_that_no_check_is_of_detect_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = made_checks(monkeypatch, one=Outcome.FAIL)
    absent = decide(facts(), must(Strictness.MUST_DETECT, ("two",), checks=checks))
    assert (absent.outcome, absent.expectation_met, absent.text) == (
        Outcome.ERROR, False, "no declared detector was evaluated",
    )  # fmt: skip
    drift = made_checks(monkeypatch, drift=Outcome.FAIL)
    alone = decide(facts(), must(Strictness.MUST_DETECT, checks=drift))
    assert (alone.outcome, alone.expectation_met, alone.fired) == (
        Outcome.ERROR, False, ("drift",),
    )  # fmt: skip


def test_an_error_in_a_named_check_is_the_outcome_of_a_missed_detection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checks = made_checks(monkeypatch, one=Outcome.ERROR, two=Outcome.INCONCLUSIVE)
    assert decide(facts(), must(Strictness.MUST_FAIL, checks=checks)).outcome is Outcome.ERROR
    named = decide(facts(), must(Strictness.MUST_FAIL, ("two",), checks=checks))
    assert named.outcome is Outcome.INCONCLUSIVE


ORDER = (Outcome.PASS, Outcome.WARN, Outcome.INCONCLUSIVE, Outcome.FAIL, Outcome.ERROR)


@pytest.mark.parametrize("worst", range(1, len(ORDER)))
def test_the_worst_outcome_of_several_is_the_scenarios(
    monkeypatch: pytest.MonkeyPatch, worst: int
) -> None:
    outcomes = {f"c{n}": ORDER[n] for n in range(worst + 1)}
    for names in (list(outcomes), list(outcomes)[::-1]):
        checks = made_checks(monkeypatch, **{name: outcomes[name] for name in names})
        decision = decide(facts(), policy(checks=checks))
        assert decision.outcome is ORDER[worst]
        assert decision.expectation_met is (ORDER[worst] is Outcome.WARN)
        prefix = "ERROR: " if ORDER[worst] is Outcome.ERROR else ""
        assert decision.text == f"{prefix}text of c{worst}"


def test_the_first_error_is_the_one_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = made_checks(monkeypatch, one=Outcome.PASS, two=Outcome.ERROR, three=Outcome.ERROR)
    decision = decide(facts(), policy(checks=checks))
    assert (decision.outcome, decision.text) == (Outcome.ERROR, "ERROR: text of two")


def test_what_is_informational_says_what_fired(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = made_checks(monkeypatch, one=Outcome.FAIL, two=Outcome.FAIL, three=Outcome.WARN)
    told = decide(facts(), must(Strictness.INFORMATIONAL, checks=checks))
    assert (told.outcome, told.expectation_met) == (Outcome.FAIL, True)
    assert told.text == "informational: one, two fired"
    quiet = made_checks(monkeypatch, one=Outcome.WARN)
    silent = decide(facts(), must(Strictness.INFORMATIONAL, checks=quiet))
    assert (silent.outcome, silent.text) == (Outcome.WARN, "informational: nothing fired")


def test_no_check_at_all_is_an_error() -> None:
    decision = decide(facts(), policy(checks=()))
    assert (decision.outcome, decision.expectation_met, decision.text) == (
        Outcome.ERROR, False, "the policy demands no check",
    )  # fmt: skip
    informed = decide(facts(), must(Strictness.INFORMATIONAL, checks=()))
    assert informed.outcome is Outcome.ERROR
