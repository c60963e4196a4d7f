"""One-sided bounds of the perplexity ratio between two models on the same windows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.stats.clusters import DocumentSums, FloatArray, IntArray, document_sums
from pytest_invarlock.stats.resampling import counts_in_chunks

Degenerate = Literal["identical", "constant", "sparse"]

_BCA_TAIL = 0.025
_ROUNDING_UNITS = 16


@dataclass(frozen=True, slots=True)
class RatioBounds:
    """The ratio exp(θ) of per-token perplexities with its bounds; differences in nats per token.

    Attributes:
        delta: θ = Σ w·d / Σ w, positive where the subject is worse.
        ratio: exp(delta).
        ratio_upper: exp(max(upper_t, upper_bootstrap_t)), the one-sided bound a PASS needs.
        ratio_lower: exp(min(lower_t, lower_bootstrap_t)), the one-sided bound a FAIL needs.
        standard_error: CR2 standard error of delta.
        upper_t: CR2 t bound with D − 1 degrees of freedom.
        upper_bootstrap_t: cluster bootstrap-t bound; +inf where ``degenerate`` is "sparse".
        lower_t: mirror of upper_t.
        lower_bootstrap_t: mirror of upper_bootstrap_t; -inf where ``degenerate`` is "sparse".
        bca_lower: two-sided 95 % BCa, printed, never gated on.
        bca_upper: two-sided 95 % BCa, printed, never gated on.
        n_windows: paired windows.
        n_tokens: predicted tokens over all windows.
        n_documents: documents D.
        effective_documents: Kish's (Σ W)² / Σ W².
        document_sd: standard deviation of document means (unweighted).
        skewness: of the linearised document contributions; coverage is not promised near 6.
        degenerate: None, or why the bounds are not those of a sample with spread.
            "identical": every window's difference is exactly 0; all bounds equal the point.
            "constant": documents differ by rounding only; all bounds equal the point.
            "sparse": so few documents differ from the rest that too many resamples miss them;
            the bootstrap-t bounds are infinite, so neither PASS nor FAIL follows from them.
    """

    delta: float
    ratio: float
    ratio_upper: float
    ratio_lower: float
    standard_error: float
    upper_t: float
    upper_bootstrap_t: float
    lower_t: float
    lower_bootstrap_t: float
    bca_lower: float
    bca_upper: float
    n_windows: int
    n_tokens: int
    n_documents: int
    effective_documents: float
    document_sd: float
    skewness: float
    degenerate: Degenerate | None

    @property
    def delta_upper(self) -> float:
        """The larger upper bound, nats per token."""
        return max(self.upper_t, self.upper_bootstrap_t)

    @property
    def delta_lower(self) -> float:
        """The smaller lower bound, nats per token."""
        return min(self.lower_t, self.lower_bootstrap_t)


@dataclass(frozen=True, slots=True)
class _Resamples:
    """θ* − θ and the linearised se* of each replicate, (replicates,); se* is 0 without spread."""

    deviation: FloatArray
    standard_error: FloatArray


@dataclass(frozen=True, slots=True)
class _Interval:
    lower: float
    upper: float


def ratio_bounds(
    baseline_nll: FloatArray,
    subject_nll: FloatArray,
    tokens: IntArray,
    documents: IntArray,
    *,
    seed: bytes,
    replicates: int = 1999,
    alpha: float = 0.05,
    bootstrap_alpha: float = 0.04,
) -> RatioBounds:
    """Bound the perplexity ratio of subject to baseline from paired windows, document by document.

    The upper bound is the larger of the CR2 t bound at 1 − alpha with D − 1 degrees of freedom
    and the cluster bootstrap-t bound θ − t*₍ₖ₎·se, k = ⌊(B + 1)·bootstrap_alpha⌋ of B sorted
    t* = (θ* − θ)/se*; where (B + 1)·bootstrap_alpha is no integer, the floor takes the more
    extreme t*. The lower bound mirrors it with t*₍B+1−k₎: exchanging the arms under one seed
    negates delta and exchanges the bounds exactly. Renumbering documents draws other resamples.

    A resample whose documents all have one mean has no se*. It is counted as -inf for the upper
    and +inf for the lower bound, never dropped: dropping would forget just those resamples that
    missed the rare differing documents. Where they fill the quantile the bound is infinite.

    Args:
        baseline_nll: float64 (n_windows,), nats summed over the window's predicted tokens.
        subject_nll: float64 (n_windows,), the same windows under the changed model.
        tokens: int64 (n_windows,), predicted tokens of each window.
        documents: int64 (n_windows,), document ordinal of each window.
        seed: digest that fixes the resamples.
        replicates: bootstrap replicates B.
        alpha: one-sided level of the t bounds.
        bootstrap_alpha: one-sided level of the bootstrap-t bounds; below alpha by simulation.

    Returns:
        The bounds with everything a reader needs to judge them.

    Raises:
        DataError: as :func:`~pytest_invarlock.stats.clusters.document_sums`.
        ConfigError: ``LEVEL`` for a level outside (0, .5), ``TOO_FEW_REPLICATES`` where B has no
            such quantile, ``EMPTY_SEED``.

    Source: CR2: Bell and McCaffrey, Survey Methodology 28 (2002). Bootstrap-t: Efron and
    Tibshirani, An Introduction to the Bootstrap (1993), section 12.5, on clusters as in Davison
    and Hinkley (1997), section 3.8. The maximum and the level .04: simulation, rule 1 of the
    project's feasibility study.
    """
    rank = _tail_rank(replicates, alpha, bootstrap_alpha)
    sums = document_sums(baseline_nll, subject_nll, tokens, documents)
    resolution = _loss_resolution(baseline_nll, subject_nll, tokens, documents)
    degenerate: Degenerate | None = None
    if (np.abs(sums.residual) <= resolution * sums.weight).all():
        degenerate = "identical" if bool((baseline_nll == subject_nll).all()) else "constant"
        by_t = by_bootstrap = by_bca = _Interval(sums.delta, sums.delta)
        standard_error = 0.0
    else:
        standard_error = sums.cr2_standard_error
        half_width = float(special.stdtrit(sums.n_documents - 1, 1 - alpha)) * standard_error
        by_t = _Interval(sums.delta - half_width, sums.delta + half_width)
        resamples = _resample(sums, seed, replicates, resolution)
        by_bootstrap = _bootstrap_t(sums, resamples, rank)
        by_bca = _bca(sums, resamples)
        if not math.isfinite(by_bootstrap.upper) or not math.isfinite(by_bootstrap.lower):
            degenerate = "sparse"
    return RatioBounds(
        delta=sums.delta,
        ratio=_exp(sums.delta),
        ratio_upper=_exp(max(by_t.upper, by_bootstrap.upper)),
        ratio_lower=_exp(min(by_t.lower, by_bootstrap.lower)),
        standard_error=standard_error,
        upper_t=by_t.upper,
        upper_bootstrap_t=by_bootstrap.upper,
        lower_t=by_t.lower,
        lower_bootstrap_t=by_bootstrap.lower,
        bca_lower=by_bca.lower,
        bca_upper=by_bca.upper,
        n_windows=int(tokens.size),
        n_tokens=int(tokens.sum()),
        n_documents=sums.n_documents,
        effective_documents=sums.effective_documents,
        document_sd=sums.document_sd,
        skewness=sums.skewness if standard_error else 0.0,
        degenerate=degenerate,
    )


def _tail_rank(replicates: int, alpha: float, bootstrap_alpha: float) -> int:
    for name, level in (("alpha", alpha), ("bootstrap_alpha", bootstrap_alpha)):
        if not 0 < level < 0.5:
            raise ConfigError(f"{name}={level}", remedy="choose a level in (0, .5)", code="LEVEL")
    # The small addition keeps 2000 × .04 at 80 whatever the last bit of .04 does.
    rank = math.floor((replicates + 1) * bootstrap_alpha + 1e-9)
    if rank < 1:
        raise ConfigError(
            f"{replicates} replicates have no {bootstrap_alpha} quantile",
            remedy=f"ask for at least {math.ceil(1 / bootstrap_alpha) - 1} replicates",
            code="TOO_FEW_REPLICATES",
        )
    return rank


def _loss_resolution(
    baseline: FloatArray, subject: FloatArray, tokens: IntArray, documents: IntArray
) -> FloatArray:
    """Difference of a document's mean, nats per token, that rounding of its losses alone can make.

    Of each document by its own largest loss, (n_documents,) in ascending order of ordinal: one
    huge window must not pass the spread of all others off as rounding.
    """
    names, group = np.unique(documents, return_inverse=True)
    largest = np.zeros(len(names))
    np.maximum.at(largest, group, np.maximum(np.abs(baseline), np.abs(subject)) / tokens)
    return np.asarray(_ROUNDING_UNITS * float(np.finfo(np.float64).eps) * largest)


def _resample(
    sums: DocumentSums, seed: bytes, replicates: int, resolution: FloatArray
) -> _Resamples:
    n, centred = sums.n_documents, sums.residual
    rounding = resolution * sums.weight
    deviations, errors = [], []
    for counts in counts_in_chunks(seed, replicates, n):
        drawn = counts.astype(np.float64)
        weight = drawn @ sums.weight
        deviation = (drawn @ centred) / weight
        # Residuals about the resample's own mean, not expanded squares: those cancel near zero.
        residual = centred - deviation[:, None] * sums.weight
        square = np.einsum("bd,bd->b", drawn, residual**2)
        square[square <= drawn @ rounding**2] = 0.0
        # A tie with the estimate must not depend on the last bit: BCa counts ties as half.
        deviation[np.abs(deviation) <= drawn @ rounding / weight] = 0.0
        deviations.append(deviation)
        errors.append(np.sqrt(n / (n - 1) * square) / weight)
    return _Resamples(np.concatenate(deviations), np.concatenate(errors))


def _bootstrap_t(sums: DocumentSums, resamples: _Resamples, rank: int) -> _Interval:
    spread = resamples.standard_error > 0
    t = resamples.deviation[spread] / resamples.standard_error[spread]
    missing = int((~spread).sum())
    standard_error = sums.linear_standard_error
    return _Interval(
        lower=sums.delta + _from_below(-t, missing, rank) * standard_error,
        upper=sums.delta - _from_below(t, missing, rank) * standard_error,
    )


def _from_below(t: FloatArray, missing: int, rank: int) -> float:
    """Return the rank-th smallest of t after ``missing`` values of -inf, rank counted from 1."""
    if rank <= missing:
        return -math.inf
    return float(np.partition(t, rank - missing - 1)[rank - missing - 1])


def _bca(sums: DocumentSums, resamples: _Resamples) -> _Interval:
    """Two-sided 95 % bias-corrected and accelerated interval from the same resamples.

    Quantiles sit at (B + 1)·p with linear interpolation, which mirrors under exchange of arms.

    Source: Efron, JASA 82 (1987), 171-185; as in Efron and Tibshirani (1993), section 14.3, with
    the acceleration by the jackknife over documents.
    """
    deviation = resamples.deviation
    below = np.count_nonzero(deviation < 0) + 0.5 * np.count_nonzero(deviation == 0)
    replicates = deviation.size
    tied_off = min(max(below / replicates, 1 / (replicates + 1)), replicates / (replicates + 1))
    bias = float(special.ndtri(tied_off))
    influence = sums.residual / (sums.total_weight - sums.weight)
    influence = influence - influence.mean()
    square = float((influence**2).sum())
    acceleration = float((influence**3).sum()) / (6 * square**1.5) if square > 0 else 0.0

    def level(z: float) -> float:
        shifted = bias + z
        shrink = 1 - acceleration * shifted
        adjusted = bias + shifted / shrink if shrink > 0 else math.copysign(math.inf, shifted)
        return float(special.ndtr(adjusted))

    edge = float(special.ndtri(1 - _BCA_TAIL))
    lower, upper = np.quantile(deviation, [level(-edge), level(edge)], method="weibull")
    return _Interval(sums.delta + float(lower), sums.delta + float(upper))


def _exp(delta: float) -> float:
    try:
        return math.exp(delta)
    except OverflowError:
        return math.inf
