"""Accuracy: every outcome, in percentage points, from who got which example right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pytest_invarlock.decide import decide
from pytest_invarlock.decision import Outcome
from pytest_invarlock.evidence.strict_json import canonical
from pytest_invarlock.policy.metric_limits import Floors

from .made import ACCURACY, BASE, METRIC, QUIET, accuracy_facts, choices, metric, policy

EQUIVALENCE = policy(primary_metric=replace(METRIC, direction="equivalence"))


@pytest.mark.parametrize(
    ("n", "harmful", "beneficial", "outcome", "reason"),
    [
        (400, 0, 0, Outcome.PASS, "within_limit"),
        (268, 0, 0, Outcome.PASS, "within_limit"),
        # z²/(n + z²) exceeds 1 % up to 267 examples.
        (267, 0, 0, Outcome.INCONCLUSIVE, "bound_straddles_limit"),
        (400, 3, 0, Outcome.INCONCLUSIVE, "bound_straddles_limit"),
        (2000, 5, 5, Outcome.PASS, "within_limit"),
        (400, 40, 0, Outcome.FAIL, "beyond_limit"),
        (400, 60, 20, Outcome.FAIL, "beyond_limit"),
        (400, 0, 60, Outcome.PASS, "within_limit"),
        (199, 0, 0, Outcome.INCONCLUSIVE, "below_floor"),
        (199, 99, 0, Outcome.INCONCLUSIVE, "below_floor"),
    ],
)
def test_a_drop_is_judged_in_percentage_points(
    n: int, harmful: int, beneficial: int, outcome: Outcome, reason: str
) -> None:
    decided = metric(accuracy_facts(n, harmful, beneficial))
    assert (decided.outcome, decided.reason) == (outcome, reason)
    assert decided.text.startswith("INCONCLUSIVE") is (outcome is Outcome.INCONCLUSIVE)
    if reason != "below_floor":
        assert "limit 1 pp" in decided.text


@pytest.mark.parametrize(
    ("n", "harmful", "beneficial", "outcome", "reason"),
    [
        (400, 0, 0, Outcome.PASS, "within_limit"),
        (400, 0, 60, Outcome.FAIL, "too_much_better"),
        (400, 60, 0, Outcome.FAIL, "beyond_limit"),
        (400, 0, 4, Outcome.INCONCLUSIVE, "bound_straddles_limit"),
    ],
)
def test_equivalence_is_two_sided(
    n: int, harmful: int, beneficial: int, outcome: Outcome, reason: str
) -> None:
    decided = metric(accuracy_facts(n, harmful, beneficial), EQUIVALENCE)
    assert (decided.outcome, decided.reason) == (outcome, reason)


def test_the_numbers_say_who_flipped() -> None:
    numbers = metric(accuracy_facts(400, 12, 5)).numbers
    assert (numbers["harmful"], numbers["beneficial"], numbers["flips"]) == (12, 5, 17)
    assert numbers["drop_pp"] == pytest.approx(100 * 7 / 400)
    assert numbers["mcnemar_p"] == pytest.approx(stats.binomtest(5, 17).pvalue)
    assert numbers["p_value"] == numbers["mcnemar_p"]
    assert numbers["accuracy_baseline"] - numbers["accuracy_subject"] == pytest.approx(7 / 400)  # type: ignore[operator]
    assert numbers["limit_pp"] == 1.0


def test_an_undecided_drop_says_how_many_examples_more_would_decide() -> None:
    decided = metric(accuracy_facts(400, 3, 0))
    needed = decided.numbers["examples_needed"]
    assert isinstance(needed, int)
    assert f"about {needed - 400} examples more would decide it" in decided.text
    share = round(needed * 3 / 400)
    assert metric(accuracy_facts(needed + 400, share, 0)).outcome is Outcome.PASS


def test_a_drop_at_the_limit_is_decided_by_no_number() -> None:
    decided = metric(accuracy_facts(400, 4, 0))
    assert "no number would decide it" in decided.text


def test_examples_of_few_documents_decide_nothing() -> None:
    few = accuracy_facts(400, documents=np.arange(400) // 40)
    decided = metric(few, policy(floors=Floors(20, 10.0, None)))
    assert decided.reason == "below_floor"
    assert "10 documents, 20 are needed" in decided.text


def test_harm_that_clusters_in_documents_widens_the_bound() -> None:
    together = metric(accuracy_facts(400, 20, documents=np.arange(400) // 10)).numbers
    apart = metric(accuracy_facts(400, 20)).numbers
    assert together["design_effect"] > 3  # type: ignore[operator]
    assert together["drop_upper_pp"] > apart["drop_upper_pp"]  # type: ignore[operator]


def tied(n: int, n_tied: int, model: str) -> Any:
    """All of ``n`` examples right in both arms, but for ties of ``model`` on the first ones."""
    one = choices([True] * n, [True] * n)
    nll = getattr(one, f"{model}_nll").copy()
    nll[: 2 * n_tied] = 5.0
    one = replace(one, **{f"{model}_nll": nll})
    return accuracy_facts(arms={"preview": one, "final": one})


def test_a_tie_is_a_wrong_answer() -> None:
    numbers = metric(tied(400, 19, "subject")).numbers
    assert (numbers["ties_baseline"], numbers["ties_subject"]) == (0, 19)
    assert (numbers["accuracy_subject"], numbers["harmful"]) == (381 / 400, 19)


@pytest.mark.parametrize("model", ["baseline", "subject"])
@pytest.mark.parametrize("n_tied", [20, 400])
def test_a_model_that_ties_often_has_no_answers(model: str, n_tied: int) -> None:
    decided = metric(tied(400, n_tied, model))
    assert (decided.outcome, decided.reason) == (Outcome.ERROR, "tied_choices")
    assert decided.numbers[f"ties_{model}"] == n_tied
    assert f"the {model}'s least loss is tied in {n_tied} of 400" in decided.text


def test_examples_of_one_document_count_as_one() -> None:
    """Nothing changed in 400 examples of 40 documents: that excludes 6 points, not 1."""
    decided = metric(accuracy_facts(400, documents=np.arange(400) // 10))
    assert decided.reason == "bound_straddles_limit"
    assert decided.numbers["score_units"] == pytest.approx(40)
    assert decided.numbers["drop_upper_pp"] == pytest.approx(100 * 1.645**2 / (40 + 1.645**2), abs=0.01)  # fmt: skip


def test_predictions_by_token_are_printed_beside() -> None:
    one = choices([True] * 300, [True] * 300)
    # The wrong choice is long: more loss in sum, less for each token.
    longer = replace(one, tokens=np.tile([3, 30], 300))
    numbers = metric(accuracy_facts(arms={"preview": longer, "final": longer})).numbers
    assert numbers["accuracy_subject"] == 1.0
    assert numbers["accuracy_subject_by_token"] == 0.0


def test_the_same_model_passes_with_its_numbers() -> None:
    decided = metric(accuracy_facts(subject={"tensors_digest": BASE}, noise_floor={}))
    assert (decided.outcome, decided.reason) == (Outcome.PASS, "bitwise_identical")
    assert decided.numbers["drop_upper_pp"] == 0.0


def test_the_same_tensors_with_other_losses_are_an_error() -> None:
    decided = metric(accuracy_facts(400, 3, subject={"tensors_digest": BASE}))
    assert (decided.outcome, decided.reason) == (Outcome.ERROR, "not_reproducible")


@pytest.mark.parametrize(
    ("floor", "reason"),
    [
        (QUIET | {"changed_predictions": 0.011}, "margin_below_noise_floor"),
        (QUIET | {"changed_predictions": 0.01}, "within_limit"),
        (QUIET, "not_evaluated"),
        ({}, "not_evaluated"),
    ],
)
def test_the_noise_floor_is_of_predictions(floor: Any, reason: str) -> None:
    decided = metric(accuracy_facts(noise_floor=floor))
    assert decided.reason == reason
    assert (decided.outcome is Outcome.ERROR) is (reason != "within_limit")


def test_accuracy_is_not_stopped_early() -> None:
    made = accuracy_facts()
    plan = dict(made.plan) | {"sequential": {"ratio_limit": 1.1, "first_look": 64, "rho": 0.3, "alpha": 0.05}}  # fmt: skip
    assert metric(replace(made, plan=plan)).reason == "sequential_accuracy"


def test_the_limit_is_the_policys() -> None:
    loose = policy(accuracy=replace(ACCURACY, drop_limit_pp=20.0))
    assert metric(accuracy_facts(400, 40), loose).outcome is Outcome.PASS


def test_the_other_checks_change_nothing() -> None:
    decided = decide(accuracy_facts(), policy())
    assert decided.outcome is Outcome.PASS
    assert decided.expectation_met
    assert canonical(decided.document())


def test_exchanging_the_models_negates_the_drop_and_its_bounds() -> None:
    here, there = (metric(accuracy_facts(400, *flips)).numbers for flips in ((12, 5), (5, 12)))
    for one, other in (("drop_pp", "drop_pp"), ("drop_upper_pp", "drop_lower_pp")):
        assert here[one] == pytest.approx(-there[other], abs=1e-9)  # type: ignore[operator]
    assert here["mcnemar_p"] == there["mcnemar_p"]
