"""The decision function: checks, expectations and form, from synthetic facts."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_invarlock.decide import decide
from pytest_invarlock.decision import Decision, Outcome
from pytest_invarlock.errors import ConfigError
from pytest_invarlock.evidence.strict_json import canonical, loads
from pytest_invarlock.policy.decision_policy import DecisionPolicy, Expectation, Strictness
from pytest_invarlock.records import Facts

from .checks.made import ALL_CHECKS, CLEAN, DAMAGED, arm, facts, policy, spread

PROPERTY = settings(deadline=None, max_examples=20, database=None, derandomize=True)


def must(strictness: Strictness, any_of: tuple[str, ...] = (), all_of: tuple[str, ...] = ()) -> DecisionPolicy:  # fmt: skip
    return policy(Expectation("error", strictness, any_of, all_of))


# Guards.


def test_a_broken_invariant_fails_under_gate_and_warns_under_monitor() -> None:
    damaged = facts(guards={"invariants": DAMAGED})
    gated = decide(damaged, policy())
    assert gated.check("invariants").outcome is Outcome.FAIL
    assert gated.fired == ("invariants",)
    assert not gated.expectation_met
    watched = decide(damaged, policy(modes={"invariants": "monitor"}))
    assert watched.check("invariants").outcome is Outcome.WARN
    assert watched.check("invariants").violations[0]["kind"] == "non_finite"
    assert (watched.outcome, watched.fired) == (Outcome.WARN, ())
    assert watched.expectation_met


@pytest.mark.parametrize("profile", ["dev", "ci_cpu", "ci", "release"])
@pytest.mark.parametrize("mode", ["gate", "monitor"])
@pytest.mark.parametrize("guards", [{}, {"invariants": CLEAN | {"n_tensors": 0}}])
def test_missing_evidence_is_an_error_in_every_profile(
    profile: str, mode: str, guards: Any
) -> None:
    decision = decide(facts(guards=guards), policy(profile=profile, modes={"invariants": mode}))
    assert decision.check("invariants").outcome is Outcome.ERROR
    assert decision.outcome is Outcome.ERROR
    assert not decision.expectation_met


def test_a_baseline_that_is_itself_damaged_is_an_error() -> None:
    damaged = DAMAGED | {"baseline_non_finite": ["w"]}
    check = decide(facts(guards={"invariants": damaged}), policy()).check("invariants")
    assert (check.outcome, check.reason) == (Outcome.ERROR, "baseline_non_finite")


def test_a_check_without_a_judge_or_an_answer_is_an_error() -> None:
    decision = decide(
        facts(guards={"invariants": CLEAN, "entropy": {}}),
        policy(checks=("invariants", "entropy")),
    )
    assert decision.check("entropy").reason == "not_evaluated"
    assert decision.check("entropy").outcome is Outcome.ERROR


def test_the_declared_kind_reaches_the_judge() -> None:
    casts = [{"name": f"w{n}", "baseline": "float32", "subject": "bfloat16"} for n in range(10)]
    cast = {"invariants": CLEAN | {"dtype_changes": casts}}
    assert decide(facts(guards=cast), policy()).outcome is Outcome.PASS
    assert decide(facts(guards=cast, kind="prune"), policy()).outcome is Outcome.FAIL


# Expectations.


@pytest.mark.parametrize("strictness", [*Strictness])
def test_an_error_record_is_an_error_for_every_check_and_never_a_detection(
    strictness: Strictness,
) -> None:
    broken = facts(arms={}, guards={}, baseline={}, subject={}, data={}, error="OUT_OF_MEMORY")
    decision = decide(broken, must(strictness))
    assert [check.outcome for check in decision.checks] == [Outcome.ERROR] * len(ALL_CHECKS)
    assert {check.reason for check in decision.checks} == {"out_of_memory"}
    assert decision.outcome is Outcome.ERROR
    assert decision.fired == ()
    assert not decision.expectation_met


BAD, FINE = spread(math.log(1.5), 0.02), spread(0.001, 0.02)


@pytest.mark.parametrize("strictness", [Strictness.MUST_FAIL, Strictness.MUST_DETECT])
@pytest.mark.parametrize(
    ("any_of", "all_of", "differences", "evidence", "met"),
    [
        ((), (), FINE, CLEAN, False),
        ((), (), BAD, CLEAN, True),
        ((), (), FINE, DAMAGED, True),
        (("primary_metric",), (), FINE, DAMAGED, False),
        (("primary_metric",), (), BAD, CLEAN, True),
        (("primary_metric", "invariants"), (), FINE, DAMAGED, True),
        ((), ("primary_metric", "invariants"), BAD, CLEAN, False),
        ((), ("primary_metric", "invariants"), FINE, DAMAGED, False),
        ((), ("primary_metric", "invariants"), BAD, DAMAGED, True),
        (("invariants",), ("primary_metric",), BAD, CLEAN, False),
        (("invariants",), ("primary_metric",), BAD, DAMAGED, True),
        (("spectral",), (), BAD, DAMAGED, False),
    ],
)
def test_declared_detectors_count_any_and_all(
    strictness: Strictness, any_of: Any, all_of: Any, differences: Any, evidence: Any, met: bool
) -> None:
    measured = facts(differences, guards={"invariants": evidence})
    decision = decide(measured, must(strictness, any_of, all_of))
    assert decision.expectation_met is met
    if met:
        assert decision.outcome is Outcome.FAIL
        assert decision.text.startswith("detected by ")


@pytest.mark.parametrize(
    ("measured", "word"),
    [
        (facts(spread(math.log(1.1), 0.3)), "INCONCLUSIVE"),
        (facts(arms={}), "ERROR"),
        (facts(FINE), "PASS"),
    ],
)
def test_what_was_not_a_detection_says_which_it_was(measured: Facts, word: str) -> None:
    decision = decide(measured, must(Strictness.MUST_DETECT, ("primary_metric",)))
    assert not decision.expectation_met
    assert decision.outcome.value == word
    assert word in decision.text


def test_a_warning_is_no_detection() -> None:
    demanded = replace(
        must(Strictness.MUST_DETECT, ("invariants",)), modes={"invariants": "monitor"}
    )
    assert not decide(facts(guards={"invariants": DAMAGED}), demanded).expectation_met


@pytest.mark.parametrize("differences", [BAD, FINE, spread(math.log(1.1), 0.3)])
def test_informational_is_met_by_being_measured(differences: Any) -> None:
    decision = decide(facts(differences), must(Strictness.INFORMATIONAL))
    assert decision.expectation_met
    assert ("primary_metric fired" in decision.text) == (differences is BAD)


def test_informational_is_not_met_by_an_error() -> None:
    decision = decide(facts(arms={}), must(Strictness.INFORMATIONAL))
    assert not decision.expectation_met
    assert decision.outcome is Outcome.ERROR


@pytest.mark.parametrize(
    ("differences", "outcome"),
    [(FINE, Outcome.PASS), (BAD, Outcome.FAIL), (spread(math.log(1.1), 0.2), Outcome.INCONCLUSIVE)],
)
def test_what_must_pass_takes_the_worst_of_its_checks(differences: Any, outcome: Outcome) -> None:
    decision = decide(facts(differences), policy())
    assert decision.outcome is outcome
    assert decision.expectation_met is (outcome is Outcome.PASS)


def test_a_policy_that_demands_no_check_passes_nothing() -> None:
    for strictness in Strictness:
        demanded = replace(must(strictness), checks=())
        assert not decide(facts(), demanded).expectation_met or (
            strictness is Strictness.INFORMATIONAL
        )


def test_a_scenario_the_policy_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError):
        decide(facts(scenario="other"), policy())


def test_a_check_the_policy_does_not_demand_is_not_decided() -> None:
    decision = decide(facts(), policy(checks=("primary_metric",)))
    assert [check.check for check in decision.checks] == ["primary_metric"]
    with pytest.raises(KeyError):
        decision.check("invariants")


# Purity and form.


@PROPERTY
@given(
    mean=st.floats(-0.5, 1.5),
    sd=st.floats(0, 0.5),
    n=st.integers(2, 70),
    strictness=st.sampled_from(list(Strictness)),
    evidence=st.sampled_from([CLEAN, DAMAGED]),
)
def test_the_same_facts_give_the_same_decision_in_strict_json(
    mean: float, sd: float, n: int, strictness: Strictness, evidence: Any
) -> None:
    measured = facts(spread(mean, sd, n), guards={"invariants": evidence})
    before = deepcopy(measured.document())
    first: Decision = decide(measured, must(strictness))
    second = decide(deepcopy(measured), deepcopy(must(strictness)))
    assert first == second
    document = first.document()
    assert loads(canonical(document), max_bytes=100_000) == json.loads(json.dumps(document))
    assert measured.document() == before
    assert (
        first.expectation_met
        or first.outcome is not Outcome.PASS
        or (strictness in (Strictness.MUST_FAIL, Strictness.MUST_DETECT))
    )


def test_a_decision_says_what_it_measured_and_by_which_convention() -> None:
    decided = decide(facts(), policy())
    assert (decided.metric, decided.convention) == ("ppl_causal", "document")
    assert decided.document()["convention"] == "document"


@pytest.mark.parametrize("name", ["primary_metric", "drift", "tail"])
@pytest.mark.parametrize("change", [{"arms": {}}, {"guards": {}, "arms": {}}])
def test_no_check_on_losses_passes_without_losses(name: str, change: Any) -> None:
    decided = decide(facts(**change), policy(checks=(name,)))
    assert decided.check(name).outcome is Outcome.ERROR
    assert not decided.expectation_met


def drifting() -> Facts:
    """Only drift fires: the arms differ, and the final one is as good as the baseline."""
    return facts(arms={"preview": arm(spread(0.2, 0.01), seed=5), "final": arm(spread(0.0, 0.01))})


@pytest.mark.parametrize("strictness", [Strictness.MUST_DETECT, Strictness.MUST_FAIL])
def test_drift_detects_only_where_it_is_named(strictness: Strictness) -> None:
    unnamed = decide(drifting(), must(strictness))
    assert unnamed.fired == ("drift",)
    assert not unnamed.expectation_met
    assert decide(drifting(), must(strictness, ("drift",))).expectation_met


def test_an_error_record_has_no_metric_and_no_convention() -> None:
    decision = decide(replace(facts(), error="OUT_OF_MEMORY", arms={}), policy())
    assert (decision.metric, decision.convention) == (None, None)
