"""What must hold between a certificate's numbers, whatever was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_invarlock.checks.ratio_numbers import LARGEST_EXPONENT
from pytest_invarlock.checks.sequential import decided_arm
from pytest_invarlock.errors import EvidenceError

if TYPE_CHECKING:
    from pytest_invarlock.records import ArmLosses, Facts

TOLERANCE = 1e-9


def assert_identities(certificate: Mapping[str, Any], facts: Facts) -> None:
    """Raise EvidenceError where the metric's numbers contradict each other or the losses.

    Perplexities: each is exp of its model's mean loss; ratio = exp(delta) = subject ÷ baseline
    perplexity, delta the mean difference of the losses; either end of ``display_ci`` is exp of its
    end of ``ci``. Accuracy: drop = baseline − subject = (harmful − beneficial) ÷ examples. Either
    interval encloses its point. What was covered is what the arrays hold. To 1e-9 relative; a
    breach would be a defect of ours.
    """
    metric = certificate["primary_metric"]
    if metric is None:
        return
    if "ratio" in metric:
        holds = _ratio_follows(metric, facts)
    elif "drop_pp" in metric:
        holds = _drop_follows(metric)
    else:
        return
    if not holds:
        raise EvidenceError(
            f"{facts.model}::{facts.scenario}: metric and interval do not follow from the losses",
            remedy="report this",
            code="CERTIFICATE_IDENTITY",
        )


def _ratio_follows(metric: Mapping[str, Any], facts: Facts) -> bool:
    final = facts.arms["final"]
    if metric.get("rule") == "sequential":
        final = decided_arm(final, metric["n_documents"])
    tokens = int(final.tokens.sum())
    delta = math.fsum(final.subject_nll - final.baseline_nll) / tokens
    return (
        _close(metric["delta_nats_per_token"], delta)
        and _exponential(metric["ratio"], delta)
        and all(
            _exponential(metric[f"{side}_perplexity"], math.fsum(losses) / tokens)
            for side, losses in (("baseline", final.baseline_nll), ("subject", final.subject_nll))
        )
        and metric["final"] == metric["subject_perplexity"]
        and _interval_follows(metric, delta)
        and _covered(metric, final)
    )


def _interval_follows(metric: Mapping[str, Any], delta: float) -> bool:
    """Whether both ends are exp of the difference's, and both intervals hold their points."""
    shown, differences = metric["display_ci"], metric["ci"]
    if shown is None or differences is None:
        return shown is None and differences is None
    lower, upper = differences
    if not _encloses(lower, delta, upper):
        return False
    # An infinite end has no number: as a ratio it is 0 below and has none above.
    ends = shown[0] in (None, 0.0) if lower is None else _exponential(shown[0], lower)
    return ends and (shown[1] is None if upper is None else _exponential(shown[1], upper))


def _exponential(value: float | None, exponent: float) -> bool:
    """Whether ``value`` is exp(``exponent``); None, and 0, stand for what a double cannot hold."""
    if value is None or value == 0.0:
        return abs(exponent) >= LARGEST_EXPONENT * (1 - TOLERANCE)
    # Logarithms: an absolute 1e-9 there is a relative 1e-9 of the value.
    return value > 0 and _close(math.log(value), exponent)


def _covered(metric: Mapping[str, Any], arm: ArmLosses) -> bool:
    """Whether the counts are those of the arm that the decision rests on."""
    return (metric["n_windows"], metric["n_tokens"], metric["n_documents"]) == (
        len(arm.tokens),
        int(arm.tokens.sum()),
        len(set(arm.documents.tolist())),
    )


def _drop_follows(metric: Mapping[str, Any]) -> bool:
    drop = metric["drop_pp"]
    shares = 100 * (metric["accuracy_baseline"] - metric["accuracy_subject"])
    counts = 100 * (metric["harmful"] - metric["beneficial"]) / metric["n_examples"]
    return (
        _close(drop, shares)
        and _close(drop, counts)
        and _encloses(metric["drop_lower_pp"], drop, metric["drop_upper_pp"])
    )


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _encloses(lower: float | None, point: float, upper: float | None) -> bool:
    """Whether the bounds hold the point; None is an infinite one, and rounding is forgiven."""
    slack = TOLERANCE * max(abs(point), 1.0)
    return (lower is None or lower <= point + slack) and (upper is None or point <= upper + slack)
