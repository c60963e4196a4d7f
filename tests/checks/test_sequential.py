"""Sequential mode: decided on what was measured before stopping, at the policy's limit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.policy.decision_policy import DecisionPolicy
from pytest_invarlock.policy.metric_limits import Floors
from pytest_invarlock.records import Facts

from .made import METRIC, TAIL, arm, metric, policy, sequential_facts, spread

LAX = Floors(20, 10.0, 10**9)


def limit(ratio: float, **change: Any) -> DecisionPolicy:
    return policy(primary_metric=replace(METRIC, ratio_limit=ratio), **change)


def outlier(n: int, at: int, harm: float = 1.0) -> np.ndarray:
    differences = spread(0.0, 0.02, n)
    differences[at] += harm
    return differences


@pytest.mark.parametrize(
    ("made", "outcome", "reason"),
    [
        (sequential_facts(spread(0.0, 0.05, 64)), Outcome.PASS, "within_limit"),
        (sequential_facts(spread(0.3, 0.05, 64)), Outcome.FAIL, "beyond_limit"),
        (sequential_facts(spread(1.5, 0.05, 64)), Outcome.FAIL, "catastrophic_spike"),
        (sequential_facts(spread(0.095, 0.3, 200)), Outcome.INCONCLUSIVE, "sequence_exhausted"),
        # Stopped where nothing was decided: the record is not whole.
        (sequential_facts(spread(0.095, 0.3, 100)), Outcome.ERROR, "incomplete"),
        (sequential_facts(spread(0.0, 0.05, 63)), Outcome.ERROR, "incomplete"),
        (sequential_facts(outlier(100, 5)), Outcome.ERROR, "incomplete"),
        # At the last document the document rule of the tail takes over: 1 of 200 may be harmed.
        (sequential_facts(outlier(200, 5)), Outcome.PASS, "within_limit"),
        (
            sequential_facts(spread(0.0, 0.05, 100), maximum=100),
            Outcome.INCONCLUSIVE, "sequential_too_few_documents",
        ),
    ],
)  # fmt: skip
def test_outcomes(made: Facts, outcome: Outcome, reason: str) -> None:
    decided = metric(made)
    assert (decided.outcome, decided.reason) == (outcome, reason)


def test_the_numbers_say_that_the_rule_was_sequential() -> None:
    decided = metric(sequential_facts(spread(0.0, 0.05, 70)))
    numbers = decided.numbers
    assert numbers["rule"] == "sequential"
    assert (numbers["n_documents"], numbers["n_documents_maximum"]) == (64, 200)
    assert numbers["n_windows"] == 64
    assert numbers["ratio_lower"] < numbers["ratio"] < numbers["ratio_upper"] <= 1.10  # type: ignore[operator]
    assert "decided after 64 of 200 documents" in decided.text


def test_floors_of_windows_and_tokens_are_replaced() -> None:
    assert metric(sequential_facts(spread(0.0, 0.05, 64)), policy(floors=LAX)).outcome is Outcome.PASS  # fmt: skip


@pytest.mark.parametrize("floors", [Floors(65, 10.0, None), Floors(20, 65.0, None)])
def test_floors_of_documents_hold(floors: Floors) -> None:
    decided = metric(sequential_facts(spread(0.0, 0.05, 64)), policy(floors=floors))
    assert (decided.outcome, decided.reason) == (Outcome.INCONCLUSIVE, "below_floor")


@pytest.mark.parametrize(
    ("ratio", "outcome", "reason"),
    [
        (1.20, Outcome.PASS, "within_limit"),
        (1.001, Outcome.INCONCLUSIVE, "measured_for_another_limit"),
    ],
)
def test_another_limit_is_judged_on_what_was_measured(
    ratio: float, outcome: Outcome, reason: str
) -> None:
    decided = metric(sequential_facts(spread(0.0, 0.05, 64)), limit(ratio))
    assert (decided.outcome, decided.reason) == (outcome, reason)
    if outcome is Outcome.INCONCLUSIVE:
        assert "measured only until limit 1.1 decided" in decided.text


def planned_as(made: Facts, **change: Any) -> Facts:
    plan = dict(made.plan) | {"sequential": dict(made.plan["sequential"]) | change}
    return replace(made, plan=plan)


def test_a_plan_cannot_make_the_verdict_less_sure() -> None:
    made = sequential_facts(spread(0.0, 0.05, 40))
    lax = dict(made.plan["sequential"]) | {"alpha": 0.4, "first_look": 2}
    decided = metric(replace(made, plan=dict(made.plan) | {"sequential": lax}))
    # By its own first look it should have stopped at two.
    assert (decided.outcome, decided.reason) == (Outcome.ERROR, "contradictory")
    lax["first_look"] = 40
    decided = metric(replace(made, plan=dict(made.plan) | {"sequential": lax}))
    assert (decided.outcome, decided.reason) == (
        Outcome.INCONCLUSIVE,
        "measured_for_another_limit",
    )


def test_a_stricter_tail_of_the_policy_holds_a_pass_back() -> None:
    made = sequential_facts(spread(0.0, 0.05, 64))
    strict = policy(tail=replace(TAIL, threshold_nats=0.01))
    assert metric(made, strict).reason == "measured_for_another_limit"


def test_equivalence_needs_a_fixed_number() -> None:
    both = policy(primary_metric=replace(METRIC, direction="equivalence"))
    decided = metric(sequential_facts(spread(0.0, 0.05, 64)), both)
    assert (decided.outcome, decided.reason) == (Outcome.INCONCLUSIVE, "sequential_one_sided")


def test_documents_are_taken_in_the_order_drawn() -> None:
    """The worse documents come last: a verdict at 64 rests on those before them."""
    differences = np.concatenate([spread(0.0, 0.02, 64), np.full(7, 0.6)])
    made = sequential_facts(differences)
    decided: CheckDecision = metric(made)
    assert (decided.outcome, decided.numbers["n_documents"]) == (Outcome.PASS, 64)
    final = made.arms["final"]
    turned = replace(final, documents=final.documents[::-1].copy())
    again = metric(replace(made, arms={**made.arms, "final": turned}))
    # Drawn first, they leave nothing decided after 71.
    assert (again.outcome, again.reason) == (Outcome.ERROR, "incomplete")


@pytest.mark.parametrize("rho", [0.007, 1e-200, 1e-5, 10.0, 1e200])
@pytest.mark.parametrize(("mean", "sd"), [(0.12, 0.1), (0.18, 0.6), (0.4, 0.9)])
def test_the_plans_tuning_decides_nothing(rho: float, mean: float, sd: float) -> None:
    made = sequential_facts(spread(mean, sd, 64))
    decided = metric(planned_as(made, rho=rho))
    assert decided.outcome is not Outcome.PASS


@pytest.mark.parametrize(("n_after", "harm"), [(136, 3.0), (8, 5.0), (64, 0.6), (8, 0.0)])
def test_more_than_one_block_after_the_decision_is_an_error(n_after: int, harm: float) -> None:
    differences = np.concatenate([spread(0.01, 0.02, 64), np.full(n_after, harm)])
    decided = metric(sequential_facts(differences))
    assert (decided.outcome, decided.reason) == (Outcome.ERROR, "contradictory")


def test_a_ruined_document_after_the_decision_forbids_the_pass() -> None:
    differences = np.concatenate([spread(0.01, 0.02, 64), [0.0, 0.0, 0.7]])
    decided = metric(sequential_facts(differences))
    assert (decided.outcome, decided.reason) == (Outcome.INCONCLUSIVE, "contradicted_later")
    assert "1 of the 3 documents measured after that" in decided.text


def test_a_plan_that_measures_on_cannot_hide_what_came_later() -> None:
    """Under a tuning that never decides all is measured: the whole must not contradict."""
    differences = np.concatenate([spread(0.0, 0.02, 64), np.full(136, 0.5)])
    decided = metric(planned_as(sequential_facts(differences), rho=1e-200))
    assert (decided.outcome, decided.reason) == (Outcome.INCONCLUSIVE, "contradicted_later")
    assert "the ratio is 1.4" in decided.text


def test_more_documents_than_windows_cannot_be_planned() -> None:
    made = sequential_facts(spread(0.0, 0.05, 64))
    data = dict(made.data) | {"n_documents_planned": {"preview": 201, "final": 201}}
    decided = metric(replace(made, data=data))
    assert (decided.outcome, decided.reason) == (Outcome.ERROR, "contradictory")


@pytest.mark.parametrize("planned", [{}, {"n_documents_planned": {"preview": 200, "final": 63}}])
def test_more_documents_than_planned_are_an_error(planned: Any) -> None:
    made = sequential_facts(spread(0.0, 0.05, 64))
    data = {key: value for key, value in made.data.items() if key != "n_documents_planned"}
    decided = metric(replace(made, data=data | planned))
    assert (decided.outcome, decided.reason) == (Outcome.ERROR, "incomplete")


@pytest.mark.parametrize("at", [3, 66])
def test_a_harmed_document_is_told_by_the_plain_mean_of_its_windows(at: int) -> None:
    """Document ``at``: a window of 3 tokens at 1.6 nats beside one of 127 at 0, .04 by tokens."""
    differences = spread(0.0, 0.05, 141)
    differences[0], differences[1] = 1.6, 0.0
    documents = np.concatenate(([at, at], np.delete(np.arange(140), at)))
    final = arm(differences, documents=documents)
    tokens = np.array([3, *final.tokens[1:]])
    baseline = final.baseline_nll / final.tokens * tokens
    final = replace(
        final, tokens=tokens, baseline_nll=baseline, subject_nll=baseline + differences * tokens
    )
    kept = np.flatnonzero(documents < 70)
    final = replace(final, **{name: array[kept] for name, array in final.arrays().items()})
    decided = metric(sequential_facts(differences, arms={"preview": final, "final": final}))
    expected = {3: (Outcome.ERROR, "incomplete"), 66: (Outcome.INCONCLUSIVE, "contradicted_later")}
    assert (decided.outcome, decided.reason) == expected[at]
