"""A verdict after any number of documents: an asymptotic confidence sequence of the mean excess."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import special

from pytest_invarlock.errors import ConfigError, DataError
from pytest_invarlock.stats.tail import TailRule

if TYPE_CHECKING:
    from pytest_invarlock.stats.clusters import DocumentSums, FloatArray

SequentialClassification = Literal["pass", "fail", "inconclusive", "continue"]

FIRST_LOOK = 64
RHO = 0.334
_LEAST_MAXIMUM = 128
# Beyond it the sequence excludes nothing, and its square would leave the range of doubles.
_LARGEST_FACTOR = 1e100


@dataclass(frozen=True, slots=True)
class SequentialRule:
    """Where looking starts and ends, and how wide the confidence sequence is.

    Attributes:
        maximum_documents: D_max, at least 128: with fewer the start is no saving.
        first_look: documents before the first decision; below 64 skewed laws were not honest.
        rho: tuning of the mixture, narrowest near 64 documents at .334.
        alpha: one-sided error over all looks together.
        tail: threshold that forbids an early "pass", and the document rule at D_max.

    Raises:
        ConfigError: ``MAXIMUM_DOCUMENTS``, ``FIRST_LOOK``, ``RHO`` or ``LEVEL`` out of range.

    Source: rule 4 of the project's feasibility study, which chose the defaults.
    """

    maximum_documents: int
    first_look: int = FIRST_LOOK
    rho: float = RHO
    alpha: float = 0.05
    tail: TailRule = TailRule()  # noqa: RUF009 - frozen and valid

    def __post_init__(self) -> None:
        if self.maximum_documents < _LEAST_MAXIMUM:
            raise ConfigError(
                f"sequential mode over {self.maximum_documents} documents",
                remedy=f"allow at least {_LEAST_MAXIMUM}, or decide at a fixed number",
                code="MAXIMUM_DOCUMENTS",
            )
        if not 2 <= self.first_look <= self.maximum_documents:
            raise ConfigError(
                f"first look after {self.first_look} documents",
                remedy="choose 2 to maximum_documents",
                code="FIRST_LOOK",
            )
        if not 0 < self.rho < math.inf:
            raise ConfigError(f"rho={self.rho}", remedy="choose a positive number", code="RHO")
        if not 0 < self.alpha < 0.5:
            raise ConfigError(
                f"alpha={self.alpha}", remedy="choose a level in (0, .5)", code="LEVEL"
            )


@dataclass(frozen=True, slots=True)
class SequentialStatistics:
    """Where the confidence sequence stands at its decision, or at the last document seen.

    Attributes:
        classification: "pass", "fail", "inconclusive" (D_max reached without a verdict), or
            "continue" (more documents are allowed and needed).
        n_documents: documents the classification rests on; later ones are not looked at.
        maximum_documents: D_max.
        limit_delta: log of the limit, nats per token.
        mean_excess: mean of x_j = Σ w·d − limit·Σ w, nats per document; its sign is that of
            the log ratio against the limit.
        half_width: of the confidence sequence around ``mean_excess``, nats per document.
        n_above: documents so far whose mean difference is above the tail's threshold.
    """

    classification: SequentialClassification
    n_documents: int
    maximum_documents: int
    limit_delta: float
    mean_excess: float
    half_width: float
    n_above: int


def sequential(
    documents: DocumentSums,
    *,
    document_means: FloatArray,
    limit_delta: float,
    rule: SequentialRule,
) -> SequentialStatistics:
    """Walk through documents in the order drawn and stop at the first decision.

    "pass" from ``first_look`` on where mean + half width ≤ 0 and no document so far is above
    the tail's threshold; at D_max the second condition is instead that the tail's rule on
    document means classifies "pass". "fail" where mean − half width > 0. The answer for the
    first t documents never depends on later ones, so it may be asked after every document.

    The sequence is asymptotic: its error rates are simulated, not proven. ``mean_excess`` and
    ``half_width`` decide one limit; they are no interval for the ratio, which would need the
    linearised contributions.

    Args:
        documents: sums in the seeded random order of drawing, which is the caller's to make
            (``document_sums`` sorts by ordinal: number the documents as drawn).
        document_means: float64 (n_documents,), nats per token in the same order: the means that
            the tail's rule counts (`pytest_invarlock.stats.tail.document_means`).
        limit_delta: log of the ratio limit, nats per token.
        rule: where looking starts and ends.

    Returns:
        The classification and what it rests on.

    Raises:
        DataError: ``TOO_MANY_DOCUMENTS`` beyond D_max, ``UNPAIRED_DOCUMENTS`` for means of other
            documents, ``NON_FINITE`` means.
        ConfigError: ``LIMIT`` unless the limit is finite.

    Source: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Annals of Statistics 52 (2024),
    asymptotic confidence sequences (one-sided mixture); t inflation, start and the clauses on
    harmed documents: rule 4 of the project's feasibility study.
    """
    n = documents.n_documents
    if n > rule.maximum_documents:
        raise DataError(
            f"{n} documents where at most {rule.maximum_documents} were planned",
            remedy="stop drawing at maximum_documents",
            code="TOO_MANY_DOCUMENTS",
        )
    if document_means.shape != (n,):
        raise DataError(
            f"{n} documents with means of shape {document_means.shape}",
            remedy="pass one mean for each document",
            code="UNPAIRED_DOCUMENTS",
        )
    if not np.isfinite(document_means).all():
        # NaN is above no threshold: it would pass as unharmed.
        raise DataError(
            "document means hold non-finite values",
            remedy="report the window as non-finite before asking for a verdict",
            code="NON_FINITE",
        )
    if not math.isfinite(limit_delta):
        raise ConfigError(
            f"limit of {limit_delta} nats per token", remedy="pass its logarithm", code="LIMIT"
        )
    excess = documents.weighted_difference - limit_delta * documents.weight
    mean, sd = running_mean_and_sd(excess)
    factors = half_width_factors(n, rho=rule.rho, alpha=rule.alpha)
    # An infinite factor says nothing of spread: not even 0 · inf may narrow it.
    half_width = np.full(n, math.inf)
    np.multiply(sd, factors, out=half_width, where=np.isfinite(factors))
    above = np.cumsum(document_means > rule.tail.threshold_nats)
    acceptable = above == 0
    if n == rule.maximum_documents:
        acceptable[-1] = rule.tail.classify(int(above[-1]), n) == "pass"
    passes = (mean + half_width <= 0) & acceptable
    fails = mean - half_width > 0
    decided = np.flatnonzero((passes | fails)[rule.first_look - 1 :]) + rule.first_look
    stop = int(decided[0]) if decided.size else n
    classification: SequentialClassification
    if decided.size:
        classification = "pass" if passes[stop - 1] else "fail"
    else:
        classification = "inconclusive" if n == rule.maximum_documents else "continue"
    return SequentialStatistics(
        classification=classification,
        n_documents=stop,
        maximum_documents=rule.maximum_documents,
        limit_delta=limit_delta,
        mean_excess=float(mean[stop - 1]),
        half_width=float(half_width[stop - 1]),
        n_above=int(above[stop - 1]),
    )


def running_bounds(documents: DocumentSums, rule: SequentialRule) -> tuple[float, float]:
    """Give the log ratios that the confidence sequence at the last document does not exclude.

    The bounds invert the test of `sequential`: its mean + half width ≤ 0 exactly where the upper
    bound is ≤ the limit, and its mean − half width > 0 exactly where the lower bound is above it.
    With h the half-width factor, they are the two θ at which |S̄ − θ·W̄| = h·sd(S − θ·W).

    Args:
        documents: sums of all documents looked at.
        rule: tuning and level of the sequence.

    Returns:
        Lower and upper bound, nats per token; infinite where the spread excludes nothing.

    Source: Fieller, Journal of the Royal Statistical Society B 16 (1954), 175-185, with the
    sequence's factor in place of a quantile.
    """
    n = documents.n_documents
    factor = float(half_width_factors(n, rho=rule.rho, alpha=rule.alpha)[-1])
    if factor > _LARGEST_FACTOR:
        return -math.inf, math.inf
    # About the estimate, so that the quadratic's terms do not cancel.
    residual, weight = documents.residual, documents.weight
    covariance = np.cov(residual, weight, ddof=1)
    mean_weight = documents.total_weight / n
    square = mean_weight**2 - factor**2 * float(covariance[1, 1])
    if square <= 0:
        return -math.inf, math.inf
    middle = -(factor**2) * float(covariance[0, 1]) / square
    reach = math.sqrt(middle**2 + factor**2 * float(covariance[0, 0]) / square)
    return documents.delta + middle - reach, documents.delta + middle + reach


def half_width_factors(n: int, *, rho: float, alpha: float) -> FloatArray:
    """Give half width over running sd for each number of documents from 1 to n.

    h_t = √(2(tρ² + 1)/(t²ρ²) · ln(1 + √(tρ² + 1)/(2α))), then the normal quantile h_t·√t is
    replaced by Student's of the same tail probability with t − 1 degrees of freedom.

    Args:
        n: number of documents.
        rho: tuning of the mixture.
        alpha: one-sided error over all looks.

    Returns:
        float64 (n,), dimensionless, above 0; infinite for one document, and wherever the tail
        probability is below what a double holds.

    Source: as :func:`sequential`.
    """
    t = np.arange(1, n + 1, dtype=np.float64)
    # (tρ² + 1)/(t²ρ²) = 1/t + (1/(tρ))², so that no ρ overflows but into a factor of infinity.
    with np.errstate(over="ignore", divide="ignore"):
        spread = np.hypot(np.sqrt(t) * rho, 1.0)
        shrink = 1 / t + (1 / (t * rho)) ** 2
        normal = np.sqrt(2 * shrink * np.log1p(spread / (2 * np.float64(alpha))))
        normal[0] = math.inf
        tail_probability = special.ndtr(-normal[1:] * np.sqrt(t[1:]))
        factor = normal.copy()
        factor[1:] = -special.stdtrit(t[1:] - 1, tail_probability) / np.sqrt(t[1:])
    # Student's quantile at a probability of 0 comes back with the wrong sign.
    factor[1:][~(tail_probability > 0) | ~(factor[1:] > 0)] = math.inf
    # Student's tail is the heavier one: whatever rounding says, no narrower than the normal.
    return np.maximum(factor, normal)


def running_mean_and_sd(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Give mean and standard deviation (t − 1) of the first t values, along the last axis.

    Args:
        values: float64 (..., n).

    Returns:
        Two float64 (..., n) arrays in the unit of ``values``; the first sd is unknown: infinite.
    """
    t = np.arange(1, values.shape[-1] + 1, dtype=np.float64)
    # Shifted by the first value: squares of a large common part would cancel the spread.
    shifted = values - values[..., :1]
    total = np.cumsum(shifted, axis=-1)
    square = np.cumsum(shifted**2, axis=-1) - total**2 / t
    sd = np.sqrt(np.maximum(square, 0.0) / np.maximum(t - 1, 1.0))
    sd[..., 0] = math.inf
    return values[..., :1] + total / t, sd
