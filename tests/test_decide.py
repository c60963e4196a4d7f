"""The decision function: every outcome from synthetic facts, and nothing passes without evidence."""

from __future__ import annotations

import dataclasses
import json
import math
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_invarlock.decide import decide, token_floor
from pytest_invarlock.decision import CheckDecision, Decision, Outcome
from pytest_invarlock.errors import ConfigError
from pytest_invarlock.evidence.strict_json import canonical, loads
from pytest_invarlock.policy.decision_policy import (
    DecisionPolicy,
    Expectation,
    Floors,
    MetricLimits,
    Strictness,
)
from pytest_invarlock.records import ArmLosses, Facts

PROPERTY = settings(deadline=None, max_examples=20, database=None, derandomize=True)
TOKENS = 127
BASE, OTHER = "sha256:" + "0" * 64, "sha256:" + "1" * 64
CLEAN: dict[str, Any] = {
    "n_tensors": 10, "n_floating_tensors": 10, "n_parameters": 1000, "missing": [],
    "unexpected": [], "shape_changes": [], "dtype_changes": [], "non_finite": [],
    "baseline_non_finite": [], "ties_broken": [], "ties_added": [], "config_changes": [],
    "tokenizer_changes": [],
}  # fmt: skip
DAMAGED = CLEAN | {"non_finite": [{"name": "w", "baseline": "0", "subject": "1"}]}


def arm(
    differences: Any, *, tokens: int = TOKENS, documents: Any = None, seed: int = 0
) -> ArmLosses:
    """Windows whose loss changes by ``differences`` nats per token, one document each."""
    differences = np.asarray(differences, dtype=np.float64)
    n = len(differences)
    baseline = np.random.default_rng(seed).uniform(2.0, 4.0, n) * tokens
    return ArmLosses(
        documents=np.arange(n) if documents is None else np.asarray(documents),
        tokens=np.full(n, tokens, dtype=np.int64),
        baseline_nll=baseline,
        subject_nll=baseline + differences * tokens,
    )


def spread(mean: float, sd: float, n: int = 64, seed: int = 1) -> np.ndarray:
    """``n`` differences with exactly this mean and standard deviation."""
    draws = np.random.default_rng(seed).normal(size=n)
    draws = (draws - draws.mean()) / draws.std(ddof=1)
    return mean + sd * draws


def facts(differences: Any = None, **change: Any) -> Facts:
    if differences is None:
        differences = spread(0.01, 0.02)
    n = len(differences)
    stated: dict[str, Any] = {
        "model": "m", "scenario": "s", "draw": 0, "kind": "any",
        "plan": {"metric": "ppl_causal", "windows": {"preview_windows": n, "final_windows": n}},
        "baseline": {"tensors_digest": BASE}, "subject": {"tensors_digest": OTHER},
        "edit": None, "data": {"seq_len": TOKENS + 1},
        "arms": {"preview": arm(differences, seed=5), "final": arm(differences)},
        "guards": {"invariants": CLEAN}, "error": None,
    }  # fmt: skip
    return whole(Facts(**stated | change), stated_plan="plan" in change)


def whole(of: Facts, *, stated_plan: bool = False) -> Facts:
    """``of`` with arms that share no documents, and counts stated as its arms have them."""
    arms = dict(of.arms)
    if {"preview", "final"} <= set(arms):
        apart = dataclasses.replace(arms["preview"], documents=arms["preview"].documents + 10_000)
        arms["preview"] = apart
    counts = {name: len(set(losses.documents.tolist())) for name, losses in arms.items()}
    plan = dict(of.plan)
    if not stated_plan:
        sizes = {f"{name}_windows": len(losses.tokens) for name, losses in arms.items()}
        plan["windows"] = plan["windows"] | sizes
    data = dict(of.data) | {"n_documents": counts}
    return dataclasses.replace(of, arms=arms, plan=plan, data=data)


def policy(expectation: Expectation | None = None, **change: Any) -> DecisionPolicy:
    stated: dict[str, Any] = {
        "tier": "balanced", "profile": "dev", "checks": ("invariants", "primary_metric"),
        "modes": {"invariants": "gate"},
        "primary_metric": MetricLimits(1.10, 2.0, 0.05, 0.04, 999),
        "floors": Floors(20, 10.0, None), "on_inconclusive": "fail",
        "expectations": {("m", "s"): expectation or Expectation("clean", Strictness.MUST_PASS)},
        "provenance": {},
    }  # fmt: skip
    return DecisionPolicy(**stated | change)


def metric(the_facts: Facts, the_policy: DecisionPolicy | None = None) -> CheckDecision:
    return decide(the_facts, the_policy or policy()).check("primary_metric")


def must(strictness: Strictness, any_of: tuple[str, ...] = (), all_of: tuple[str, ...] = ()) -> DecisionPolicy:  # fmt: skip
    return policy(Expectation("error", strictness, any_of, all_of))


# The primary metric.


def test_a_ratio_certainly_beyond_the_limit_fails() -> None:
    check = metric(facts(spread(math.log(1.25), 0.05)))
    assert (check.outcome, check.reason) == (Outcome.FAIL, "beyond_limit")
    assert check.numbers["ratio"] == pytest.approx(1.25)
    assert check.numbers["ratio_lower"] > 1.10  # type: ignore[operator]
    assert "limit 1.1" in check.text


def test_a_ratio_certainly_within_the_limit_passes() -> None:
    check = metric(facts(spread(math.log(1.02), 0.05)))
    assert (check.outcome, check.reason) == (Outcome.PASS, "within_limit")
    assert check.numbers["ratio_upper"] <= 1.10  # type: ignore[operator]


@pytest.mark.parametrize(("mean", "more"), [(1.09, True), (1.11, True), (1.10, False)])
def test_a_bound_that_straddles_the_limit_is_inconclusive(mean: float, more: bool) -> None:
    check = metric(facts(spread(math.log(mean), 0.3)))
    assert (check.outcome, check.reason) == (Outcome.INCONCLUSIVE, "bound_straddles_limit")
    assert check.text.startswith("INCONCLUSIVE")
    assert check.numbers["ratio_lower"] <= 1.10 < check.numbers["ratio_upper"]  # type: ignore[operator]
    assert ("documents more would decide it" in check.text) is more


def test_an_inconclusive_check_says_how_many_documents_more_would_decide() -> None:
    check = metric(facts(spread(math.log(1.05), 0.3)))
    needed = check.numbers["documents_needed"]
    assert isinstance(needed, int)
    assert needed > 64
    assert f"about {needed - 64} documents more would decide it" in check.text


def test_a_constant_change_at_the_limit_passes_and_beyond_it_fails() -> None:
    assert metric(facts(np.full(64, math.log(1.10) - 1e-9))).outcome is Outcome.PASS
    assert metric(facts(np.full(64, math.log(1.10) + 1e-9))).outcome is Outcome.FAIL


def test_a_ratio_beyond_two_is_catastrophic_above_the_floors() -> None:
    assert metric(facts(np.full(3, math.log(2.01)))).reason == "below_floor"
    check = metric(facts(np.full(64, math.log(2.01))))
    assert (check.outcome, check.reason) == (Outcome.FAIL, "catastrophic_spike")
    assert metric(facts(np.full(64, math.log(1.99)))).reason == "beyond_limit"


@pytest.mark.parametrize("damage", [0.01, 0.3])
@pytest.mark.parametrize(
    ("the_facts", "floors", "words"),
    [
        (lambda d: facts(np.full(18, d)), Floors(20, 2.0, None), "18 documents, 20 are needed"),
        (
            lambda d: facts(
                arms={"preview": arm(np.full(40, d)), "final": ArmLosses(
                    np.arange(40), np.array([10_000] + [127] * 39),
                    np.full(40, 300.0), np.full(40, 300.0) + d * np.array([10_000] + [127] * 39),
                )},
            ),
            Floors(20, 10.0, None), "effective documents, 10 are needed",
        ),
        (
            lambda d: facts(np.full(64, d)),
            Floors(20, 10.0, 64 * 2 * TOKENS + 1), "tokens",
        ),
    ],
    ids=["documents", "effective documents", "tokens"],
)  # fmt: skip
def test_below_a_floor_nothing_is_concluded(
    the_facts: Any, floors: Floors, words: str, damage: float
) -> None:
    if words == "tokens":
        # The floor is capped at .8 of what the windows can hold: theirs are far from full.
        measured = the_facts(damage)
        measured = replace(measured, data=dict(measured.data) | {"seq_len": 1024})
        words = f"{64 * 2 * TOKENS} tokens, {64 * 2 * TOKENS + 1} are needed"
    else:
        measured = the_facts(damage)
    check = metric(measured, policy(floors=floors))
    assert (check.outcome, check.reason) == (Outcome.INCONCLUSIVE, "below_floor")
    assert words in check.text


@pytest.mark.parametrize(
    ("the_facts", "floors"),
    [
        (facts(np.full(20, 0.01)), Floors(20, 19.0, None)),
        (facts(np.full(64, 0.01)), Floors(20, 10.0, 64 * 2 * TOKENS)),
    ],
)
def test_a_floor_that_is_just_met_is_met(the_facts: Facts, floors: Floors) -> None:
    assert metric(the_facts, policy(floors=floors)).outcome is Outcome.PASS


def test_the_token_floor_is_capped_at_four_fifths_of_what_was_planned() -> None:
    small = facts(np.full(64, 0.01))
    capped = policy(floors=Floors(20, 10.0, 50_000))
    assert token_floor(small, capped) == math.floor(0.8 * 128 * TOKENS)
    assert metric(small, capped).outcome is Outcome.PASS
    assert token_floor(small, policy()) is None
    assert token_floor(small, policy(floors=Floors(20, 10.0, 5))) == 5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["final", "preview"])
def test_a_subject_that_is_not_finite_fails(value: float, where: str) -> None:
    damaged = facts()
    damaged.arms[where].subject_nll[3] = value  # type: ignore[index]
    check = metric(damaged)
    assert (check.outcome, check.reason) == (Outcome.FAIL, "non_finite")
    assert check.numbers["n_non_finite"] == 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_baseline_that_is_not_finite_is_an_error(value: float) -> None:
    damaged = facts()
    damaged.arms["final"].baseline_nll[3] = value
    damaged.arms["final"].subject_nll[4] = value
    check = metric(damaged)
    assert (check.outcome, check.reason) == (Outcome.ERROR, "baseline_non_finite")


@pytest.mark.parametrize("n", [1, 2, 64])
def test_bitwise_identical_passes_whatever_the_floors(n: int) -> None:
    same = facts(np.zeros(n), subject={"tensors_digest": BASE})
    check = metric(same, policy(floors=Floors(1000, 1000.0, 10**9)))
    assert (check.outcome, check.reason) == (Outcome.PASS, "bitwise_identical")
    assert "bitwise identical" in check.text


@pytest.mark.parametrize("where", ["final", "preview"])
def test_the_same_tensors_with_other_losses_are_an_error(where: str) -> None:
    arms = {"preview": arm(np.zeros(64), seed=5), "final": arm(np.zeros(64))}
    arms[where].subject_nll[0] += 1e-6
    check = metric(facts(subject={"tensors_digest": BASE}, arms=arms))
    assert (check.outcome, check.reason) == (Outcome.ERROR, "not_reproducible")


def test_the_same_tensors_under_another_configuration_are_no_error_of_measurement() -> None:
    changed = CLEAN | {
        "config_changes": [{"name": "rms_norm_eps", "baseline": "1e-06", "subject": "0.1"}]
    }
    decision = decide(
        facts(spread(0.5, 0.05), subject={"tensors_digest": BASE}, guards={"invariants": changed}),
        policy(),
    )
    assert decision.check("invariants").outcome is Outcome.FAIL
    assert decision.check("primary_metric").outcome is Outcome.FAIL


def test_other_tensors_with_the_same_losses_pass_only_above_the_floors() -> None:
    assert metric(facts(np.zeros(64))).reason == "within_limit"
    assert metric(facts(np.zeros(5))).reason == "below_floor"


def test_a_single_document_decides_nothing() -> None:
    check = metric(
        facts(
            np.full(6, 0.01),
            arms={
                "preview": arm(np.full(6, 0.01)),
                "final": arm(np.full(6, 0.01), documents=[0] * 6),
            },
        )
    )
    assert check.outcome is Outcome.INCONCLUSIVE
    assert check.text.startswith("INCONCLUSIVE")


@pytest.mark.parametrize("arms", [{}, {"preview": arm(np.zeros(64))}])
def test_without_a_final_arm_the_metric_is_an_error(arms: Any) -> None:
    check = metric(facts(arms=arms))
    assert (check.outcome, check.reason) == (Outcome.ERROR, "not_evaluated")


def test_a_sparse_difference_is_inconclusive_and_holds_no_infinity() -> None:
    rare = np.zeros(64)
    rare[7] = 2.0
    decision = decide(facts(rare), policy())
    check = decision.check("primary_metric")
    assert check.outcome is Outcome.INCONCLUSIVE
    assert check.numbers["degenerate"] == "sparse"
    assert check.numbers["ratio_upper"] is None
    assert b"nfinity" not in canonical(decision.document())


@pytest.mark.parametrize("n", [19, 42, 49, 64, 70, 76])
def test_documents_of_equal_length_are_decided_whatever_their_number(n: int) -> None:
    decided = metric(facts(spread(0.01, 0.02, n)), policy(floors=Floors(10, 5.0, None)))
    assert decided.outcome is Outcome.PASS
    assert decided.numbers["effective_documents"] == pytest.approx(n)


@pytest.mark.parametrize("change", [5.0, 300.0, 705.0, 900.0])
def test_a_destroyed_model_fails_in_finite_numbers(change: float) -> None:
    decision = decide(facts(spread(change, change / 10)), policy())
    assert decision.check("primary_metric").reason == "catastrophic_spike"
    assert canonical(decision.document())


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


def test_a_check_without_a_judge_is_an_error() -> None:
    decision = decide(
        facts(guards={"invariants": CLEAN, "spectral": {}}),
        policy(checks=("invariants", "spectral")),
    )
    assert decision.check("spectral").outcome is Outcome.ERROR


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
    assert [check.outcome for check in decision.checks] == [Outcome.ERROR] * 2
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
    [(FINE, Outcome.PASS), (BAD, Outcome.FAIL), (spread(math.log(1.1), 0.3), Outcome.INCONCLUSIVE)],
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


@PROPERTY
@given(mean=st.floats(0.0, 0.2), sd=st.floats(0.001, 0.3), looser=st.floats(1.0, 1.5))
def test_what_passes_one_limit_passes_a_looser_one(mean: float, sd: float, looser: float) -> None:
    measured = facts(spread(mean, sd))
    limits = MetricLimits(1.10 * looser, 9.0, 0.05, 0.04, 999)
    if metric(measured).outcome is Outcome.PASS:
        assert metric(measured, policy(primary_metric=limits)).outcome is Outcome.PASS
    if metric(measured, policy(primary_metric=limits)).outcome is Outcome.FAIL:
        assert metric(measured).outcome is Outcome.FAIL
