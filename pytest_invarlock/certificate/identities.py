"""What must hold between a certificate's numbers, whatever was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_invarlock.checks.ratio_numbers import LARGEST_EXPONENT
from pytest_invarlock.checks.sequential import decided_arm
from pytest_invarlock.errors import EvidenceError

if TYPE_CHECKING:
    from pytest_invarlock.records import Facts

TOLERANCE = 1e-9


def assert_identities(certificate: Mapping[str, Any], facts: Facts) -> None:
    """Raise EvidenceError where the metric's numbers contradict each other or the losses.

    Perplexities: ratio = exp(delta) = subject ÷ baseline perplexity, delta the mean difference of
    the losses. Accuracy: drop = baseline − subject = (harmful − beneficial) ÷ examples. Either
    interval encloses its point. To 1e-9 relative; a breach would be a defect of ours.
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
    delta = math.fsum(final.subject_nll - final.baseline_nll) / int(final.tokens.sum())
    ratio = metric["ratio"]
    if not _close(metric["delta_nats_per_token"], delta):
        return False
    if ratio is None:
        # Beyond what a double holds as a ratio; the difference itself is recorded.
        return abs(delta) >= LARGEST_EXPONENT * (1 - TOLERANCE)
    baseline, subject = metric["baseline_perplexity"], metric["subject_perplexity"]
    if None not in (baseline, subject) and not _close(
        math.log(subject) - math.log(baseline), delta
    ):
        return False
    # Logarithms: an absolute 1e-9 there is a relative 1e-9 of the ratio.
    return _close(math.log(ratio), delta) and _encloses(
        metric["ratio_lower"], ratio, metric["ratio_upper"]
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
