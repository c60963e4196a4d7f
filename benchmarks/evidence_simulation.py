"""Samples and vectorised rules for evidence_statistics.py, each rule equal to the shipped one.

tests/stats/test_evidence_simulation.py compares them with pytest_invarlock.stats to 1e-12.
Arrays are (repetitions, documents) unless said otherwise; differences in nats per token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import integrate, special

from pytest_invarlock.stats.resampling import counts_in_chunks
from pytest_invarlock.stats.sequential import half_width_factors, running_mean_and_sd

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_invarlock.stats.sequential import SequentialRule

    FloatArray = NDArray[np.float64]

Law = Literal["normal", "t3", "skew 1.75", "skew 6", "rare windows", "rare documents"]

HARM_NATS, HARM_SHARE = 1.7, 0.05
_WINDOW_CHANCE, _WINDOW_LIMIT = 0.25, 20
_LOG_SD = {"skew 1.75": 0.5, "skew 6": 1.0}


@dataclass(frozen=True)
class Sums:
    """S = Σ w·d and W = Σ w by document, both (repetitions, documents)."""

    weighted_difference: FloatArray
    weight: FloatArray


def noise(rng: np.random.Generator, law: str, size: tuple[int, ...]) -> FloatArray:
    """Mean 0, variance 1; the rare-harm laws take a normal one and add harm elsewhere."""
    if law == "t3":
        return rng.standard_t(3, size) / math.sqrt(3)
    if law in _LOG_SD:
        log_sd = _LOG_SD[law]
        variance = math.expm1(log_sd**2) * math.exp(log_sd**2)
        return (rng.lognormal(0.0, log_sd, size) - math.exp(log_sd**2 / 2)) / math.sqrt(variance)
    return rng.standard_normal(size)


def windows_per_document(
    rng: np.random.Generator, size: tuple[int, ...], cap: int
) -> NDArray[np.int64]:
    """Geometric with mean 4, redrawn above 20, then at most ``cap`` of a document's windows."""
    drawn = rng.geometric(_WINDOW_CHANCE, size)
    while (beyond := drawn > _WINDOW_LIMIT).any():
        drawn[beyond] = rng.geometric(_WINDOW_CHANCE, int(beyond.sum()))
    return np.minimum(drawn, cap)


def sample_documents(
    rng: np.random.Generator,
    shape: tuple[int, int],
    law: str,
    *,
    icc: float,
    cap: int,
    sd: float = 0.1,
) -> Sums:
    """Documents of 1 to ``cap`` windows with lognormal(.5) token weights; true difference 0."""
    windows = windows_per_document(rng, shape, cap)
    full = (*shape, int(windows.max()))
    present = np.arange(full[2]) < windows[..., None]
    weight = np.exp(0.5 * rng.standard_normal(full)) * present
    shared = noise(rng, law, (*shape, 1))
    difference = sd * (math.sqrt(icc) * shared + math.sqrt(1 - icc) * noise(rng, law, full))
    if law.startswith("rare"):
        unit = full if law == "rare windows" else (*shape, 1)
        difference += HARM_NATS * ((rng.random(unit) < HARM_SHARE) - HARM_SHARE)
    return Sums((weight * difference).sum(2), weight.sum(2))


@dataclass(frozen=True)
class Linear:
    """θ, residuals S − θ·W, and both standard errors of θ, by repetition."""

    delta: FloatArray
    residual: FloatArray
    linear_error: FloatArray
    cr2_error: FloatArray


def linear(sums: Sums) -> Linear:
    """As DocumentSums: Cochran's linearised and Bell and McCaffrey's CR2 standard error."""
    total = sums.weight.sum(1)
    delta = sums.weighted_difference.sum(1) / total
    residual = sums.weighted_difference - delta[:, None] * sums.weight
    n = residual.shape[1]
    square = residual**2
    cr2 = (square / (1 - sums.weight / total[:, None])).sum(1)
    return Linear(
        delta,
        residual,
        np.sqrt(n / (n - 1) * square.sum(1)) / total,
        np.sqrt(cr2) / total,
    )


@dataclass(frozen=True)
class Bounds:
    """One-sided bounds of θ: the larger and the smaller of CR2 t and bootstrap-t."""

    upper: FloatArray
    lower: FloatArray
    cr2_upper: FloatArray


def bounds(
    sums: Sums, *, seed: bytes, replicates: int, alpha: float = 0.05, bootstrap_alpha: float = 0.04
) -> Bounds:
    """As ratio_bounds for samples with spread; all repetitions share the resampling counts."""
    point = linear(sums)
    repetitions, n = sums.weight.shape
    rank = math.floor((replicates + 1) * bootstrap_alpha + 1e-9)
    c, w = point.residual, sums.weight
    stacked = np.concatenate((c, w, c * c, c * w, w * w))
    t = np.empty((repetitions, replicates))
    start = 0
    for counts in counts_in_chunks(seed, replicates, n):
        product = stacked @ counts.astype(np.float64).T
        top, bottom, cc, cw, ww = np.split(product, 5)
        deviation = top / bottom
        # Σ(c − θ*·w)² expanded, about residuals, so little cancels.
        ww *= deviation
        cw *= 2
        ww -= cw
        ww *= deviation
        cc += ww
        cc *= n / (n - 1)
        np.sqrt(cc, out=cc)
        top /= cc
        t[:, start : start + counts.shape[0]] = top
        start += counts.shape[0]
    t.partition((rank - 1, replicates - rank), axis=1)
    half = float(special.stdtrit(n - 1, 1 - alpha)) * point.cr2_error
    upper_t, lower_t = point.delta + half, point.delta - half
    return Bounds(
        np.maximum(upper_t, point.delta - t[:, rank - 1] * point.linear_error),
        np.minimum(lower_t, point.delta - t[:, replicates - rank] * point.linear_error),
        upper_t,
    )


@dataclass(frozen=True)
class Drifts:
    """By repetition: beyond the band at the fail and at the warn level, equivalence shown."""

    delta: FloatArray
    fail: NDArray[np.bool_]
    warn_or_fail: NDArray[np.bool_]
    equivalent: NDArray[np.bool_]


def drifts(
    preview: Sums,
    final: Sums,
    *,
    band_delta: float = math.log(1.05),
    fail_alpha: float = 0.01,
    warn_alpha: float = 0.05,
) -> Drifts:
    """As drift for samples with spread."""
    one, other = linear(preview), linear(final)
    first, second = one.cr2_error**2, other.cr2_error**2
    degrees = (first + second) ** 2 / (
        first**2 / (preview.weight.shape[1] - 1) + second**2 / (final.weight.shape[1] - 1)
    )
    error = np.sqrt(first + second)
    delta = one.delta - other.delta
    warn_width = special.stdtrit(degrees, 1 - warn_alpha) * error
    fail_width = special.stdtrit(degrees, 1 - fail_alpha) * error
    return Drifts(
        delta,
        np.abs(delta) - fail_width > band_delta,
        np.abs(delta) - warn_width > band_delta,
        np.abs(delta) + warn_width <= band_delta,
    )


@dataclass(frozen=True)
class Walks:
    """By repetition: the decision, neither of them where inconclusive, and documents used."""

    passed: NDArray[np.bool_]
    failed: NDArray[np.bool_]
    n_documents: NDArray[np.int64]


def walks(sums: Sums, *, limit_delta: float, rule: SequentialRule) -> Walks:
    """As sequential at D_max, over the columns in their order."""
    n = sums.weight.shape[1]
    mean, sd = running_mean_and_sd(sums.weighted_difference - limit_delta * sums.weight)
    half = sd * half_width_factors(n, rho=rule.rho, alpha=rule.alpha)
    harmed = sums.weighted_difference / sums.weight > rule.tail.threshold_nats
    above = np.cumsum(harmed, axis=1)
    acceptable = above == 0
    passing = np.array([rule.tail.classify(count, n) == "pass" for count in range(n + 1)])
    acceptable[:, -1] = passing[above[:, -1]]
    looks = slice(rule.first_look - 1, None)
    passes = ((mean + half <= 0) & acceptable)[:, looks]
    fails = (mean - half > 0)[:, looks]
    decided = passes | fails
    index = np.where(decided.any(1), decided.argmax(1), decided.shape[1] - 1)
    row = np.arange(decided.shape[0])
    return Walks(passes[row, index], fails[row, index], index + rule.first_look)


def token_weights(rng: np.random.Generator, shape: tuple[int, int], cap: int | None) -> FloatArray:
    """Σ of 1 to ``cap`` lognormal(.5) window weights by document; 1 where cap is None."""
    if cap is None:
        return np.ones(shape)
    windows = windows_per_document(rng, shape, cap)
    full = (*shape, int(windows.max()))
    return (
        np.exp(0.5 * rng.standard_normal(full)) * (np.arange(full[2]) < windows[..., None])
    ).sum(2)


def share_of_windows_per_document(cap: int) -> FloatArray:
    """Chances of 1 to ``cap`` windows in a document, as windows_per_document draws them."""
    drawn = (1 - _WINDOW_CHANCE) ** np.arange(_WINDOW_LIMIT) * _WINDOW_CHANCE
    drawn /= drawn.sum()
    return np.concatenate((drawn[: cap - 1], [drawn[cap - 1 :].sum()]))


def t3_mean_above(threshold: float, sd: float, windows: int) -> float:
    """P(mean of ``windows`` draws of sd·t3/√3 > threshold), exact.

    Inverts the characteristic function of t3, e^(−√3|u|)·(1 + √3|u|), to the power of ``windows``.

    Source: Gil-Pelaez, Biometrika 38 (1951), 481-482.
    """
    if threshold < 0:
        return 1 - t3_mean_above(-threshold, sd, windows)
    level = threshold * windows * math.sqrt(3) / sd
    root = math.sqrt(3)

    def integrand(u: float) -> float:
        return math.exp(-windows * root * u) * (1 + root * u) ** windows / u

    # Split off 1/u, whose sine integral is π/2: what is left is smooth at 0.
    def rest(u: float) -> float:
        return integrand(u) - math.exp(-u) / u if u > 0 else 1.0

    smooth, _ = integrate.quad(rest, 0, 60, weight="sin", wvar=level, limit=2000, epsabs=1e-13)
    return 0.5 - (smooth + math.atan(level)) / math.pi


def harmed_share(*, cap: int, sd: float, harm: float) -> float:
    """Share of documents whose mean of t3 windows, all moved by ``harm`` nats, is above ln 2."""
    means = [t3_mean_above(math.log(2) - harm, sd, windows) for windows in range(1, cap + 1)]
    return float(share_of_windows_per_document(cap) @ means)


def even_documents(
    rng: np.random.Generator,
    shape: tuple[int, int],
    law: str,
    *,
    windows: int,
    icc: float,
    sd: float,
    shift: float,
) -> Sums:
    """Documents of just ``windows`` windows each, token weights lognormal(.5), mean ``shift``."""
    full = (*shape, windows)
    weight = np.exp(0.5 * rng.standard_normal(full))
    shared = math.sqrt(icc) * noise(rng, law, (*shape, 1))
    difference = shift + sd * (shared + math.sqrt(1 - icc) * noise(rng, law, full))
    return Sums((weight * difference).sum(2), weight.sum(2))
