"""The numbers behind a perplexity ratio: what a reader needs to judge it. All finite or None."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pytest_invarlock.checks.divergence import Numbers, divergence_numbers
from pytest_invarlock.checks.noise import noise_floor
from pytest_invarlock.stats import documents_needed, minimum_detectable_ratio
from pytest_invarlock.stats.clusters import DocumentSums, document_sums
from pytest_invarlock.stats.design_effect import design_effect, intraclass_correlation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_invarlock.policy.metric_limits import MetricLimits
    from pytest_invarlock.records import ArmLosses, Facts

LARGEST_EXPONENT = 700.0
# More documents than anyone can draw: the ratio stands at the limit.
MOST_DOCUMENTS = 10_000_000


def point_numbers(facts: Facts, final: ArmLosses, limits: MetricLimits) -> Numbers:
    """What needs no interval: ratio, perplexities, counts, divergence, the other arm's ratio.

    ``final`` is the arm the decision rests on, which sequential mode may have cut short.
    """
    preview = facts.arms.get("preview")
    delta = _delta(final)
    words = facts.plan["windows"]["convention"] == "lm-eval-word"
    return {
        "ratio": exp(delta),
        "limit": limits.ratio_limit,
        "direction": limits.direction,
        "preview_ratio": None if preview is None else exp(_delta(preview)),
        "delta_nats_per_token": delta,
        "baseline_perplexity": perplexity(final.baseline_nll, final),
        "subject_perplexity": perplexity(final.subject_nll, final),
        "noise_floor_nats_per_token": noise_floor(facts),
        "n_windows": len(final.tokens),
        "n_tokens": int(final.tokens.sum()),
        "n_documents": len(np.unique(final.documents)),
        **divergence_numbers(final, facts.divergence.get("final", {}) if words else None),
    }


def spread_numbers(final: ArmLosses, sums: DocumentSums, limits: MetricLimits) -> Numbers:
    """How the documents vary, how alike their windows are, and what that can detect."""
    windows = document_sums(
        final.baseline_nll, final.subject_nll, final.tokens, np.arange(len(final.tokens))
    )
    # Rounding can put Kish's number a hair off the count of equal documents.
    effective = min(max(sums.effective_documents, 1.0), float(sums.n_documents))
    detectable = minimum_detectable_ratio(
        document_sd=sums.document_sd,
        effective_documents=effective,
        alpha=limits.alpha,
        power=1 - limits.alpha,
    ) if _detectable(sums.document_sd, effective) else None  # fmt: skip
    return {
        "effective_documents": sums.effective_documents,
        "document_sd": sums.document_sd,
        "icc": intraclass_correlation(windows.mean_difference, final.documents),
        "design_effect": design_effect(sums, windows),
        "minimum_detectable_ratio": detectable,
        "documents_needed": _needed(sums, effective, limits),
    }


def _detectable(document_sd: float, effective: float) -> bool:
    # Quantiles and widening add up to less than 10 for any level that a policy may have.
    return 10 * document_sd / math.sqrt(effective) < LARGEST_EXPONENT


def _needed(sums: DocumentSums, effective: float, limits: MetricLimits) -> int | None:
    limit_delta = math.log(limits.ratio_limit)
    # Deciding for FAIL needs as many documents as deciding for PASS at the mirrored distance.
    margin = abs(limit_delta - sums.delta)
    if limits.direction == "equivalence":
        margin = min(margin, abs(limit_delta + sums.delta))
    needed = documents_needed(
        document_sd=sums.document_sd,
        effective_share=effective / sums.n_documents,
        true_delta=limit_delta - margin,
        limit_delta=limit_delta,
        alpha=limits.alpha,
        power=1 - limits.alpha,
    )
    return needed if needed is not None and needed <= MOST_DOCUMENTS else None


def more_documents(numbers: Mapping[str, float | int | str | None]) -> str:
    """How many documents more would decide, as words."""
    needed = numbers["documents_needed"]
    if not isinstance(needed, int):
        return "the measured ratio stands at the limit: no number of documents would decide it"
    more = max(needed - int(numbers["n_documents"] or 0), 1)
    return f"about {more} documents more would decide it"


def finite(numbers: Numbers) -> Numbers:
    """``numbers`` with None for infinities, which have no number in JSON."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in numbers.items()
    }


def exp(value: float) -> float | None:
    """exp, or None where a destroyed model's loss exceeds what a double holds as a perplexity."""
    return math.exp(value) if abs(value) < LARGEST_EXPONENT else None


def _delta(arm: ArmLosses) -> float:
    return math.fsum(arm.subject_nll - arm.baseline_nll) / int(arm.tokens.sum())


def perplexity(nll: NDArray[np.float64], arm: ArmLosses) -> float | None:
    """exp of the mean of ``nll``, (n_windows,) summed nats, per token; None beyond what exp has."""
    return exp(math.fsum(nll) / int(arm.tokens.sum()))
