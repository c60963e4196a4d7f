"""The primary metric on perplexities: every outcome, from synthetic facts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_invarlock.checks.floors import token_floor
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import Outcome
from pytest_invarlock.evidence.strict_json import canonical
from pytest_invarlock.policy.metric_limits import Floors, MetricLimits
from pytest_invarlock.records import ArmLosses, Facts

from .made import BASE, CLEAN, METRIC, QUIET, TOKENS, arm, facts, metric, policy, spread

PROPERTY = settings(deadline=None, max_examples=20, database=None, derandomize=True)


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
        measured = replace(measured, data=dict(measured.data) | {"seq_len": 10_001})
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


@pytest.mark.parametrize(
    ("metric", "convention", "share"),
    [
        ("ppl_causal", "document", 1.0), ("ppl_causal", "llama.cpp-512", 0.5),
        ("ppl_causal", "lm-eval-word", 0.5), ("ppl_mlm", "document", 0.15),
        ("ppl_seq2seq", "document", None), ("accuracy", "document", None),
    ],
)  # fmt: skip
def test_the_token_floor_asks_for_what_the_windows_can_score(
    metric: str, convention: str, share: float | None
) -> None:
    made = facts(np.full(64, 0.01))
    plan = {**made.plan, "metric": metric, "mask_probability": 0.15}
    plan["windows"] = {**plan["windows"], "convention": convention}
    floor = token_floor(replace(made, plan=plan), policy(floors=Floors(20, 10.0, 10**9)))
    planned = plan["windows"]["preview_windows"] + plan["windows"]["final_windows"]
    whole = 0.8 * planned * (made.data["seq_len"] - 1)
    assert floor == (None if share is None else math.floor(share * whole))


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


@PROPERTY
@given(mean=st.floats(0.0, 0.2), sd=st.floats(0.001, 0.3), looser=st.floats(1.0, 1.5))
def test_what_passes_one_limit_passes_a_looser_one(mean: float, sd: float, looser: float) -> None:
    measured = facts(spread(mean, sd))
    limits = MetricLimits(1.10 * looser, 9.0, 0.05, 0.04, 999)
    if metric(measured).outcome is Outcome.PASS:
        assert metric(measured, policy(primary_metric=limits)).outcome is Outcome.PASS
    if metric(measured, policy(primary_metric=limits)).outcome is Outcome.FAIL:
        assert metric(measured).outcome is Outcome.FAIL


# Equivalence on request.

EQUIVALENCE = policy(primary_metric=replace(METRIC, direction="equivalence"))


@pytest.mark.parametrize(
    ("differences", "outcome", "reason"),
    [
        (spread(math.log(1.25), 0.05), Outcome.FAIL, "beyond_limit"),
        (spread(math.log(1.01), 0.05), Outcome.PASS, "within_limit"),
        (spread(math.log(0.80), 0.05), Outcome.FAIL, "too_much_better"),
        (spread(math.log(1 / 1.10), 0.05), Outcome.INCONCLUSIVE, "bound_straddles_limit"),
        (spread(math.log(1.10), 0.05), Outcome.INCONCLUSIVE, "bound_straddles_limit"),
        (spread(0.0, 0.5), Outcome.INCONCLUSIVE, "bound_straddles_limit"),
    ],
)
def test_equivalence_is_two_sided(differences: Any, outcome: Outcome, reason: str) -> None:
    decided = metric(facts(differences), EQUIVALENCE)
    assert (decided.outcome, decided.reason) == (outcome, reason)
    assert decided.text.startswith("INCONCLUSIVE") is (outcome is Outcome.INCONCLUSIVE)


def test_without_equivalence_better_passes() -> None:
    assert metric(facts(spread(math.log(0.80), 0.05))).outcome is Outcome.PASS


def test_an_undecided_equivalence_counts_documents_to_the_nearer_limit() -> None:
    near = metric(facts(spread(math.log(1 / 1.09), 0.1)), EQUIVALENCE)
    assert near.outcome is Outcome.INCONCLUSIVE
    assert isinstance(near.numbers["documents_needed"], int)
    assert near.numbers["documents_needed"] > 64


# The noise floor.


@pytest.mark.parametrize("which", ["same_batch_nats_per_token", "second_batch_nats_per_token"])
@pytest.mark.parametrize("differences", [spread(0.0, 0.001), spread(0.5, 0.001)])
def test_a_limit_below_the_noise_floor_is_an_error_of_configuration(
    which: str, differences: Any
) -> None:
    floor = QUIET | {which: 0.02, "largest_window_nats_per_token": 0.03}
    noisy = facts(differences, noise_floor=floor)
    tight = policy(primary_metric=replace(METRIC, ratio_limit=1.01))
    decided = metric(noisy, tight)
    assert (decided.outcome, decided.reason) == (Outcome.ERROR, "margin_below_noise_floor")
    for word in ("configuration error", "ratio_limit 1.01", "0.02", "float32", "strict"):
        assert word in decided.text
    assert metric(noisy).reason in ("within_limit", "beyond_limit")


@pytest.mark.parametrize(
    "floor", [{}, {"same_batch_nats_per_token": 0.0}, {"second_batch_nats_per_token": 0.0}]
)
def test_without_a_noise_floor_nothing_passes(floor: dict[str, float]) -> None:
    decided = metric(facts(noise_floor=floor))
    assert (decided.outcome, decided.reason) == (Outcome.ERROR, "not_evaluated")


# Numbers.


def test_the_numbers_say_how_much_the_documents_can_tell() -> None:
    n = 200
    documents = np.repeat(np.arange(50), 4)
    shared = np.repeat(spread(0.01, 0.05, 50), 4) + spread(0.0, 0.02, n, seed=3)
    one = arm(shared, documents=documents)
    numbers = metric(facts(shared, arms={"preview": one, "final": one})).numbers
    assert 0.6 < numbers["icc"] < 1  # type: ignore[operator]
    assert numbers["design_effect"] > 2  # type: ignore[operator]
    assert numbers["effective_documents"] == pytest.approx(50)
    assert numbers["minimum_detectable_ratio"] > 1  # type: ignore[operator]
    assert numbers["kl_mean_nats"] is numbers["flips"] is None


def test_divergence_and_flips_come_from_the_arrays() -> None:
    one = replace(
        arm(spread(0.01, 0.02)),
        kl_nats=np.full(64, 1.27), top1_same=np.full(64, 120), top1_harmful=np.full(64, 2),
        top1_beneficial=np.full(64, 1),
    )  # fmt: skip
    stated = {"n_tokens": 64 * 127.0, "kl_nats_mean": 0.01, "top1_same_share": 120 / 127}
    divergence = {"method": "cached_states", "preview": stated, "final": stated}
    made = facts(arms={"preview": one, "final": one}, divergence=divergence)
    numbers = metric(made).numbers
    assert numbers["kl_mean_nats"] == pytest.approx(0.01)
    assert numbers["top1_agreement"] == pytest.approx(120 / 127)
    assert (numbers["flips_harmful"], numbers["flips_beneficial"], numbers["flips"]) == (
        128,
        64,
        192,
    )


@pytest.mark.parametrize("change", [0.01, 1.0, 300.0, 705.0, -705.0])
def test_every_number_is_finite_or_none(change: float) -> None:
    for value in metric(facts(spread(change, abs(change) / 2))).numbers.values():
        assert not isinstance(value, float) or math.isfinite(value)


def test_documents_that_differ_by_rounding_only_have_no_correlation() -> None:
    documents = np.repeat(np.arange(32), 2)
    one = arm(np.full(64, 0.01), documents=documents)
    numbers = metric(facts(np.full(64, 0.01), arms={"preview": one, "final": one})).numbers
    assert numbers["degenerate"] == "constant"
    assert numbers["icc"] is numbers["design_effect"] is None


def test_a_metric_without_a_judge_is_an_error() -> None:
    made = facts(np.full(64, 0.01))
    decided = metric(replace(made, plan=dict(made.plan) | {"metric": "bleu"}))
    assert (decided.outcome, decided.reason) == (Outcome.ERROR, "unknown_metric")


def test_losses_of_other_tokens_are_not_compared() -> None:
    decided = metric(facts(arms={}, data={"seq_len": 128, "match_fraction": 0.25}))
    assert (decided.outcome, decided.reason) == (Outcome.ERROR, "not_paired")
    assert "25.0 %" in decided.text


# Symmetries.


def shuffled(of: ArmLosses, seed: int) -> ArmLosses:
    order = np.random.default_rng(seed).permutation(len(of.tokens))
    return replace(of, **{name: array[order] for name, array in of.arrays().items()})


@PROPERTY
@given(st.integers(0, 10_000), st.floats(-0.1, 0.2), st.floats(0.01, 0.4))
def test_the_order_of_windows_decides_nothing(seed: int, mean: float, sd: float) -> None:
    documents = np.repeat(np.arange(32), 2)
    arms = {
        "preview": arm(spread(mean, sd, seed=2), documents=documents, seed=5),
        "final": arm(spread(mean, sd), documents=documents),
    }
    made = facts(spread(mean, sd), arms=arms)
    moved = replace(made, arms={name: shuffled(one, seed) for name, one in made.arms.items()})
    # The resamples are seeded by the facts' digest, which the order changes: numbers of the
    # bootstrap may move, what does not rest on them may not.
    for name in ("drift", "tail"):
        assert decide(moved, policy()).check(name) == decide(made, policy()).check(name)
    for key in ("ratio", "delta_nats_per_token", "effective_documents", "icc", "document_sd"):
        assert metric(moved).numbers[key] == pytest.approx(metric(made).numbers[key], rel=1e-9)


@pytest.mark.parametrize("mean", [-0.2, 0.0, 0.05, 0.3])
def test_the_order_of_windows_leaves_the_outcome(mean: float) -> None:
    made = facts(spread(mean, 0.05))
    outcomes = {
        metric(replace(made, arms={n: shuffled(a, seed) for n, a in made.arms.items()})).outcome
        for seed in range(10)
    }
    assert len(outcomes) == 1


@PROPERTY
@given(st.floats(-0.2, 0.2), st.floats(0.0, 0.3), st.integers(0, 99))
def test_exchanging_the_models_inverts_the_ratio(mean: float, sd: float, seed: int) -> None:
    made = facts(spread(mean, sd, seed=seed))
    turned = replace(
        made,
        arms={
            name: replace(one, baseline_nll=one.subject_nll, subject_nll=one.baseline_nll)
            for name, one in made.arms.items()
        },
    )
    here, there = metric(made).numbers, metric(turned).numbers
    assert here["ratio"] * there["ratio"] == pytest.approx(1, rel=1e-9)  # type: ignore[operator]
    assert there["delta_nats_per_token"] == pytest.approx(-here["delta_nats_per_token"], abs=1e-12)  # type: ignore[operator]
    assert there["standard_error_nats_per_token"] == pytest.approx(
        here["standard_error_nats_per_token"], abs=1e-12
    )


@PROPERTY
@given(st.integers(2, 9), st.floats(-0.1, 0.1), st.floats(0.0, 0.3))
def test_scaling_tokens_and_losses_together_leaves_the_ratio(
    scale: int, mean: float, sd: float
) -> None:
    made = facts(spread(mean, sd))
    larger = replace(
        made,
        data=dict(made.data) | {"seq_len": TOKENS * scale + 1},
        arms={
            name: replace(
                one, tokens=one.tokens * scale, baseline_nll=one.baseline_nll * scale,
                subject_nll=one.subject_nll * scale,
            )
            for name, one in made.arms.items()
        },
    )  # fmt: skip
    assert metric(larger).numbers["ratio"] == pytest.approx(metric(made).numbers["ratio"], rel=1e-9)


@PROPERTY
@given(st.integers(0, 63), st.floats(-0.1, 0.1), st.floats(0.01, 0.3))
def test_a_document_met_again_adds_a_document_and_draws_the_mean_to_it(
    which: int, mean: float, sd: float
) -> None:
    differences = spread(mean, sd)
    again = np.append(differences, differences[which])
    before, after = metric(facts(differences)).numbers, metric(facts(again)).numbers
    assert after["n_documents"] == before["n_documents"] + 1  # type: ignore[operator]
    moved = after["delta_nats_per_token"] - before["delta_nats_per_token"]  # type: ignore[operator]
    assert moved * (differences[which] - mean) >= -1e-12
