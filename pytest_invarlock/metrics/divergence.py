"""How far two models' token distributions lie apart, in llama.cpp's definitions.

KL is of the baseline from the subject, KL(baseline ‖ subject), in nats per token. Δp is the
subject's probability of the right token less the baseline's. Standard errors take tokens as
independent, as llama.cpp's do; they are printed for comparison and never gated on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pytest_invarlock.stats.token_moments import token_moments

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

KL_PERCENTILES = (99.9, 99.0, 95.0, 90.0, 50.0, 10.0, 5.0, 1.0, 0.1)
DELTA_P_PERCENTILES = (99.9, 99.0, 95.0, 90.0, 75.0, 50.0, 25.0, 10.0, 5.0, 1.0, 0.1)
LEAST_TOKENS = 11
"""llama.cpp gives no standard error for ten tokens or fewer; neither do we."""


def divergence_statistics(
    kl: FloatArray | None,
    baseline_nll: FloatArray,
    subject_nll: FloatArray,
    top1_same: NDArray[np.bool_],
) -> dict[str, float | None]:
    """The statistics of one arm, by name.

    Args:
        kl: float64 (n_tokens,), nats; None where only losses could be compared.
        baseline_nll: float64 (n_tokens,), nats.
        subject_nll: float64 (n_tokens,), nats.
        top1_same: bool (n_tokens,), whether both models' first choices agree.

    Returns:
        Numbers by name, units in the names; None where a number is not finite or there are too
        few tokens for it.

    Source: llama.cpp, perplexity.cpp, the tables of ``--kl-divergence``; percentiles by linear
    interpolation at f·(n − 1).
    """
    numbers: dict[str, float] = {"n_tokens": float(len(baseline_nll))}
    # A destroyed model's infinities end as None below; numpy need not warn of each.
    with np.errstate(invalid="ignore", over="ignore"):
        delta_p = np.exp(-subject_nll) - np.exp(-baseline_nll)
        if kl is not None:
            numbers |= _described("kl_nats", kl, KL_PERCENTILES)
        numbers |= _described("delta_p", delta_p, DELTA_P_PERCENTILES)
        numbers |= _root_mean_square("delta_p", delta_p)
        numbers |= _share("top1_same", top1_same)
        numbers |= _log_ratio(baseline_nll, subject_nll)
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _described(name: str, values: FloatArray, percentiles: tuple[float, ...]) -> dict[str, float]:
    quantiles = np.percentile(values, percentiles)
    return {
        f"{name}_mean": float(values.mean()),
        f"{name}_standard_error": _standard_error(values),
        f"{name}_max": float(values.max()),
        **{
            f"{name}_p{percentile:g}": float(quantile)
            for percentile, quantile in zip(percentiles, quantiles, strict=True)
        },
        f"{name}_min": float(values.min()),
    }


def _standard_error(values: FloatArray) -> float:
    n = len(values)
    if n < LEAST_TOKENS:
        return math.nan
    spread = float((values**2).mean()) - float(values.mean()) ** 2
    return math.sqrt(max(spread, 0.0) / (n - 1)) if math.isfinite(spread) else math.nan


def _root_mean_square(name: str, values: FloatArray) -> dict[str, float]:
    root = math.sqrt(float((values**2).mean()))
    # Where every value is 0, so is the error.
    error = 0.0 if root == 0 else 0.5 / root * _standard_error(values**2)
    return {f"{name}_rms": root, f"{name}_rms_standard_error": error}


def _share(name: str, flags: NDArray[np.bool_]) -> dict[str, float]:
    share = float(flags.mean())
    n = len(flags)
    error = math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else math.nan
    return {f"{name}_share": share, f"{name}_standard_error": error}


def _log_ratio(baseline_nll: FloatArray, subject_nll: FloatArray) -> dict[str, float]:
    finite = np.isfinite(baseline_nll).all() and np.isfinite(subject_nll).all()
    if len(baseline_nll) < LEAST_TOKENS or not finite:
        return {}
    moments = token_moments(baseline_nll, subject_nll)
    correlation = moments.log_ppl_correlation
    return {
        "log_ratio": moments.log_ratio,
        "log_ratio_standard_error": moments.log_ratio_standard_error,
        "log_perplexity_correlation": math.nan if correlation is None else correlation,
    }
