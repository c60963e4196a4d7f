"""Whether a record can be judged at all: whole, consistent, finite. Every check asks this first."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from pytest_invarlock.checks.consistency import contradiction
from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.plan import ARMS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_invarlock.records import ArmLosses, Facts

LARGEST_NATS_PER_TOKEN = 1e6
"""A loss beyond this is no number to reckon with: squared or summed it leaves what doubles hold."""


def unfit(check: str, facts: Facts, *, non_finite: Outcome = Outcome.FAIL) -> CheckDecision | None:
    """The decision of ``check`` on a record that holds nothing it could judge; None elsewhere.

    ``non_finite`` is the outcome where the subject's loss is NaN or infinite and the baseline's
    is not. It is FAIL for what judges the subject; drift judges the sampling, which such a loss
    leaves unknown, and says INCONCLUSIVE. The preview arm counts for every check. A loss beyond
    `LARGEST_NATS_PER_TOKEN` counts as not finite.
    """
    final = facts.arms.get("final")
    if final is None or len(final.tokens) == 0:
        return _without_final(check, facts)
    missing, against = _broken(facts)
    if missing is not None:
        return CheckDecision(check, Outcome.ERROR, "incomplete", missing)
    if against is not None:
        return CheckDecision(
            check, Outcome.ERROR, "contradictory", f"the record contradicts itself: {against}"
        )
    return _non_finite(check, facts, non_finite)


@lru_cache(maxsize=1)
def _broken(facts: Facts) -> tuple[str | None, str | None]:
    """What the record lacks, and else what contradicts it; every check on losses asks this."""
    missing = _incomplete(facts)
    return missing, None if missing is not None else contradiction(facts)


def _without_final(check: str, facts: Facts) -> CheckDecision:
    match = facts.data.get("match_fraction", 1.0)
    if match < 1:
        return CheckDecision(
            check, Outcome.ERROR, "not_paired",
            f"the subject's own tokenizer gives the same windows on {100 * match:.1f} % only: "
            "losses of other tokens cannot be compared",
            {"match_fraction": match},
        )  # fmt: skip
    why = facts.divergence.get("not_evaluated")
    text = "the record holds no final arm" + (f": {why}" if why else "")
    return CheckDecision(check, Outcome.ERROR, "not_evaluated", text)


def _incomplete(facts: Facts) -> str | None:
    """What of the planned measurement the record does not hold; None where it is whole."""
    seen: set[int] = set()
    for arm in ARMS:
        losses = facts.arms.get(arm)
        if losses is None:
            return f"the record holds no {arm} arm"
        short = _short_arm(facts, arm, losses)
        if short is not None:
            return short
        documents = {int(document) for document in losses.documents}
        if documents & seen:
            return "the arms share documents"
        planned = facts.data.get("n_documents_planned", {}).get(arm)
        if planned is not None and len(documents) > planned:
            return f"the {arm} arm has {len(documents)} documents, {planned} were planned"
        if len(documents) != facts.data.get("n_documents", {}).get(arm):
            return f"the {arm} arm has {len(documents)} documents, another number is stated"
        seen |= documents
    return None


def _short_arm(facts: Facts, arm: str, losses: ArmLosses) -> str | None:
    if len({len(array) for array in losses.arrays().values()}) != 1:
        return f"the arrays of the {arm} arm differ in length"
    planned, unit, found = facts.plan["windows"][f"{arm}_windows"], "windows", len(losses.tokens)
    if facts.plan["metric"] == "accuracy":
        if losses.examples is None or losses.labels is None:
            return f"the {arm} arm says of no choice which example it is of, or whether it is right"
        unit, found = "examples", len(np.unique(losses.examples))
    # Sequential mode stops early; whether it was allowed to is judged with its rule.
    stopped = facts.plan.get("sequential") is not None and 0 < found < planned
    if found != planned and not stopped:
        return f"the {arm} arm has {found} of {planned} {unit}"
    if int(losses.tokens.min(initial=1)) < 1:
        return f"a window of the {arm} arm has no predicted token"
    return None


def _non_finite(check: str, facts: Facts, outcome: Outcome) -> CheckDecision | None:
    baseline, subject = _unusable(facts)
    if not baseline and not subject:
        return None
    windows = sum(len(arm.tokens) for arm in facts.arms.values())
    if baseline:
        return CheckDecision(
            check, Outcome.ERROR, "baseline_non_finite",
            f"the baseline's loss is not finite on {baseline} of {windows} windows",
            {"n_baseline_non_finite": baseline, "n_windows": windows},
        )  # fmt: skip
    word = "INCONCLUSIVE: " if outcome is Outcome.INCONCLUSIVE else ""
    return CheckDecision(
        check, outcome, "non_finite",
        f"{word}the subject's loss is not finite on {subject} of {windows} windows",
        {"n_non_finite": subject, "n_windows": windows},
    )  # fmt: skip


@lru_cache(maxsize=1)
def _unusable(facts: Facts) -> tuple[int, int]:
    """Windows without a usable loss of the baseline, and of the subject."""
    arms = facts.arms.values()
    return (
        sum(_n_unusable(arm.baseline_nll, arm.tokens) for arm in arms),
        sum(_n_unusable(arm.subject_nll, arm.tokens) for arm in arms),
    )


def _n_unusable(nll: NDArray[np.float64], tokens: NDArray[np.int64]) -> int:
    # Not "greater than": of NaN nothing is true.
    return int((~(np.abs(nll) <= LARGEST_NATS_PER_TOKEN * tokens)).sum())
