"""Published numbers that evidence_statistics.py must reproduce: llama.cpp's and the seeds' own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from pytest_invarlock.stats import ratio_bounds
from pytest_invarlock.stats.tail import tail
from pytest_invarlock.stats.token_moments import TokenMoments

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

# 564 chunks of 512 tokens, 255 scored in each; cancels from ratios and their errors.
_TOKENS = 564 * 255


@dataclass(frozen=True)
class PublishedRow:
    """One column of llama.cpp's table; perplexities with their printed standard errors."""

    name: str
    ppl: float
    ppl_error: float
    difference: float
    ratio: float
    ratio_error: float
    correlation: float


# llama.cpp, examples/perplexity/README.md, revision f364eb6f, wikitext-2 test.
LLAMA_3 = (
    PublishedRow("q2_K", 9.751568, 0.063312, 3.519934, 1.564849, 0.004525, 0.8962),
    PublishedRow("q4_K_M", 6.407115, 0.039119, 0.175482, 1.028160, 0.000723, 0.9934),
    PublishedRow("q6_K", 6.253382, 0.038078, 0.021748, 1.003490, 0.000296, 0.9988),
    PublishedRow("q8_0", 6.234284, 0.037878, 0.002650, 1.000425, 0.000161, 0.9996),
)
# The scoreboard's f16 row: the only published error of an unchanged model in this table.
_BASELINE_LOG_ERROR = 0.037828 / 6.233160


def moments(row: PublishedRow, correlation: float) -> TokenMoments:
    """Token sums that have the row's perplexities, errors and correlation."""
    baseline, subject = math.log(row.ppl - row.difference), math.log(row.ppl)
    subject_error = row.ppl_error / row.ppl

    def product(one: float, other: float, covariance: float) -> float:
        return _TOKENS * ((_TOKENS - 1) * covariance + one * other)

    return TokenMoments(
        n_tokens=_TOKENS,
        baseline_sum=_TOKENS * baseline,
        subject_sum=_TOKENS * subject,
        baseline_square_sum=product(baseline, baseline, _BASELINE_LOG_ERROR**2),
        subject_square_sum=product(subject, subject, subject_error**2),
        product_sum=product(baseline, subject, correlation * _BASELINE_LOG_ERROR * subject_error),
    )


def llama_cpp() -> tuple[list[str], float, float]:
    """Table lines, the largest deviation of a ratio, and of a standard error from its range."""
    lines = [
        "| Llama-3-8B | ΔlnPPL | ratio, ours | published | deviation "
        "| s.e. at the rounded correlation ± .005 % | published s.e. |",
        "|---|---|---|---|---|---|---|",
    ]
    worst, beyond = 0.0, 0.0
    for row in LLAMA_3:
        ours = moments(row, row.correlation)
        deviation = ours.ratio - row.ratio
        worst = max(worst, abs(deviation))
        low, high = (
            moments(row, row.correlation + step).ratio_standard_error for step in (5e-5, -5e-5)
        )
        beyond = max(beyond, low - row.ratio_error, row.ratio_error - high)
        lines.append(
            f"| {row.name} | {ours.log_ratio:.7f} | {ours.ratio:.7f} | {row.ratio:.6f} "
            f"| {deviation:+.1e} | {low:.6f} – {high:.6f} | {row.ratio_error:.6f} |"
        )
    return lines, worst, beyond


def seeds_sample() -> tuple[FloatArray, FloatArray, FloatArray]:
    """Baseline losses, differences and weights of section 10.1; all (12,)."""
    i = np.arange(12)
    return 3.0 + 0.05 * i, 0.02 * (-1.0) ** i * (i % 4) + 0.01, 100.0 + 20.0 * i


def seeds_bootstrap(
    values: FloatArray, weights: FloatArray | None = None
) -> tuple[tuple[float, float], tuple[float, float]]:
    """BCa and percentile interval as the seeds compute them, 500 replicates, seed 7.

    With weights the seeds draw an index in proportion to its weight and take the plain mean of
    the draw: another resampling than ours, kept here only to show that the numbers are theirs.
    """
    rng, n = np.random.default_rng(7), values.size
    share = np.full(n, 1 / n) if weights is None else weights / weights.sum()
    # Replicates tie with the estimate: it must be summed as they are.
    estimate = values.mean() if weights is None else share @ values

    def draw() -> NDArray[np.int64]:
        return rng.integers(0, n, n) if weights is None else rng.choice(n, n, p=share)

    means = np.array([values[draw()].mean() for _ in range(500)])
    below = np.clip((means < estimate).mean(), 1e-6, 1 - 1e-6)
    bias = float(special.ndtri(below))
    left_out = (estimate - share * values) / (1 - share)
    influence = left_out.mean() - left_out
    acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)

    def level(z: float) -> float:
        return float(special.ndtr(bias + (bias + z) / max(1 - acceleration * (bias + z), 1e-12)))

    edge = float(special.ndtri(0.975))
    bca = np.quantile(means, [level(-edge), level(edge)])
    percentile = np.quantile(means, [0.025, 0.975])
    return (float(bca[0]), float(bca[1])), (float(percentile[0]), float(percentile[1]))


def seeds_figures() -> tuple[list[str], float, float]:
    """Table lines, the largest deviation from the seeds' figures, and of the shared ones."""
    base, d, w = seeds_sample()
    plain, percentile = seeds_bootstrap(d)
    weighted, _ = seeds_bootstrap(d, w)
    level, _ = seeds_bootstrap(base)
    rows = [
        ("BCa of d, no weights, lower", plain[0], -0.02),
        ("BCa of d, no weights, upper", plain[1], 0.02),
        ("percentile of d, no weights, lower", percentile[0], -0.02),
        ("percentile of d, no weights, upper", percentile[1], 0.02),
        ("BCa of d, weights, lower", weighted[0], -0.0210310),
        ("BCa of d, weights, upper", weighted[1], 0.02),
        ("BCa of the baseline's mean, lower", level[0], 3.1704353),
        ("BCa of the baseline's mean, upper", level[1], 3.3625),
    ]
    tokens = w.astype(np.int64)
    ours = ratio_bounds(base * w, (base + d) * w, tokens, np.arange(12), seed=b"section 10.1")
    figures = tail(d)
    above_zero = d > 1e-4
    shared = [
        ("weighted mean of d (ours: `ratio_bounds(...).delta`)", ours.delta, -0.00142857),
        ("P95 of d (ours: `tail(...).p95_nats`)", figures.p95_nats, 0.05),
        ("P99 of d (ours: `tail(...).p99_nats`)", figures.p99_nats, 0.05),
        ("median of d (by numpy: the product has none)", float(np.median(d)), 0.0),
        ("share of d above 1e-4 (by numpy: the product has none)", float(above_zero.mean()), 0.5),
        ("the same by weight (by numpy)", float(w[above_zero].sum() / w.sum()), 0.476190),
    ]
    lines = ["| figure | reproduced | sheet 10.1 |", "|---|---|---|"]
    lines += [f"| {name} | {value:.7f} | {sheet:.7f} |" for name, value, sheet in rows + shared]
    lines += [
        "",
        "Ours on the same windows, each its own document: two-sided BCa "
        f"{ours.bca_lower:.7f} … {ours.bca_upper:.7f} (printed), one-sided 95 % gate bounds "
        f"{ours.delta_lower:.7f} … {ours.delta_upper:.7f}.",
    ]
    differ, same = (max(abs(v - s) for _, v, s in part) for part in (rows, shared))
    return lines, differ, same
