"""Harm to a few windows or documents, which a mean cannot show: an exact binomial rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import special

from pytest_invarlock.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pytest_invarlock.stats.clusters import FloatArray, IntArray

TailClassification = Literal["fail", "inconclusive", "pass"]

# One unit in twenty, in integers: .05·n would round up at multiples of 20.
_WORST_ONE_IN = 20


@dataclass(frozen=True, slots=True)
class TailRule:
    """What counts as harm, how much of it is noise, and how much must be excluded.

    Attributes:
        threshold_nats: a unit is harmed above this difference; ln 2 is twice its perplexity.
        benign_rate: share of harmed units that a benign change may have.
        false_alarm: probability of "fail" at the benign rate, at most.
        harm_rate: share of harmed units that a "pass" excludes.
        alpha: one-sided level of that exclusion.

    Raises:
        ConfigError: ``THRESHOLD``, ``RATE`` or ``LEVEL`` for a value out of range.

    Source: rule 3 of the project's feasibility study, which chose the defaults.
    """

    threshold_nats: float = math.log(2)
    benign_rate: float = 0.001
    false_alarm: float = 0.02
    harm_rate: float = 0.05
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.threshold_nats < math.inf:
            raise ConfigError(
                f"tail threshold of {self.threshold_nats} nats per token",
                remedy="choose a positive number",
                code="THRESHOLD",
            )
        if not 0 < self.benign_rate < self.harm_rate < 1:
            raise ConfigError(
                f"benign rate {self.benign_rate}, harm rate {self.harm_rate}",
                remedy="choose 0 < benign rate < harm rate < 1",
                code="RATE",
            )
        for name, level in (("false_alarm", self.false_alarm), ("alpha", self.alpha)):
            if not 0 < level < 0.5:
                raise ConfigError(
                    f"{name}={level}", remedy="choose a level in (0, .5)", code="LEVEL"
                )

    def critical_count(self, n: int) -> int:
        """Give the smallest c with P(Bin(n, benign_rate) ≥ c) ≤ false_alarm, from 1 to n + 1."""

        # bdtrc(k, n, p) is P(Bin > k) = P(Bin ≥ k + 1), falls with k, and is 0 at k = n.
        def too_likely(count: int) -> bool:
            return count <= n and special.bdtrc(count - 1, n, self.benign_rate) > self.false_alarm

        low, high = 0, 1
        while too_likely(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if too_likely(middle) else (low, middle)
        return high

    def rate_upper(self, n_above: int, n: int) -> float:
        """Give the one-sided 1 − alpha Clopper-Pearson upper bound of the share of harmed units.

        Source: Clopper and Pearson, Biometrika 26 (1934), 404-413.
        """
        if n_above == n:
            return 1.0
        return float(special.betaincinv(n_above + 1, n - n_above, 1 - self.alpha))

    def p_value(self, n_above: int, n: int) -> float:
        """Give P(Bin(n, benign_rate) ≥ n_above); "fail" is p ≤ false_alarm."""
        return float(special.bdtrc(n_above - 1, n, self.benign_rate)) if n_above else 1.0

    def units_to_pass(self, n_above: int, n: int) -> int:
        """Give the least number of units, at least ``n``, that is "pass" with this count above."""
        # Both "fail" and "inconclusive" give way as n grows, so doubling and halving finds it.
        low, high = n, max(n, 1)
        while self.classify(n_above, high) != "pass":
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (
                (low, middle) if self.classify(n_above, middle) == "pass" else (middle, high)
            )
        return n if self.classify(n_above, n) == "pass" else high

    def classify(self, n_above: int, n: int) -> TailClassification:
        """Classify a count: three values, of which "pass" needs enough units to exclude harm."""
        if n_above >= self.critical_count(n):
            return "fail"
        return "inconclusive" if self.rate_upper(n_above, n) > self.harm_rate else "pass"


@dataclass(frozen=True, slots=True)
class TailStatistics:
    """The upper tail of the loss differences of ``n`` units (windows or document means).

    Attributes:
        n: units.
        n_above: units above the threshold.
        critical_count: smallest ``n_above`` that is "fail" among ``n``.
        rate_upper: one-sided Clopper-Pearson upper bound of the share above the threshold.
        classification: "fail" where ``n_above ≥ critical_count``, else "inconclusive" where
            ``rate_upper`` exceeds the harm rate, else "pass".
        threshold_nats: the threshold, nats per token; a unit exactly on it is not above it.
        p95_nats: 95 % quantile, linear interpolation at .95·(n − 1); printed, never gated on:
            it cannot see harm on 5 % of the units.
        p99_nats: 99 % quantile, likewise.
        worst_mean_nats: mean of the ``n_worst`` largest differences; printed.
        n_worst: ⌈.05·n⌉.
    """

    n: int
    n_above: int
    critical_count: int
    rate_upper: float
    classification: TailClassification
    threshold_nats: float
    p95_nats: float
    p99_nats: float
    worst_mean_nats: float
    n_worst: int


def tail(
    differences: FloatArray,
    *,
    threshold: float = math.log(2),
    benign_rate: float = 0.001,
    false_alarm: float = 0.02,
    harm_rate: float = 0.05,
    alpha: float = 0.05,
) -> TailStatistics:
    """Count units harmed beyond a threshold and say whether that is more than noise.

    Units are exchangeable and unweighted. Windows of one document are not independent, so the
    window rule is blind to harm confined to documents: apply it to document means as well.

    Args:
        differences: float64 (n,), subject − baseline, nats per token, one for each unit.
        threshold: a unit above it is harmed, nats per token; ln 2 doubles its perplexity.
        benign_rate: share of harmed units that a benign change may have.
        false_alarm: probability of "fail" at that share, at most.
        harm_rate: share of harmed units that a "pass" excludes.
        alpha: one-sided level of that exclusion.

    Returns:
        The counts, the classification, and three descriptions of the tail.

    Raises:
        DataError: ``NOT_ONE_DIMENSIONAL``, ``NO_UNITS`` or ``NON_FINITE``.
        ConfigError: as :class:`TailRule`.

    Source: rule 3 of the project's feasibility study; quantiles of type 7 in Hyndman and Fan,
    The American Statistician 50 (1996), 361-365, which is numpy's "linear".
    """
    rule = TailRule(threshold, benign_rate, false_alarm, harm_rate, alpha)
    _require_units(differences)
    n = int(differences.size)
    n_above = int(np.count_nonzero(differences > threshold))
    n_worst = math.ceil(n / _WORST_ONE_IN)
    p95, p99 = np.quantile(differences, [0.95, 0.99])
    worst = np.partition(differences, n - n_worst)[n - n_worst :]
    return TailStatistics(
        n=n,
        n_above=n_above,
        critical_count=rule.critical_count(n),
        rate_upper=rule.rate_upper(n_above, n),
        classification=rule.classify(n_above, n),
        threshold_nats=threshold,
        p95_nats=float(p95),
        p99_nats=float(p99),
        worst_mean_nats=math.fsum(worst) / n_worst,
        n_worst=n_worst,
    )


def document_means(window_differences: FloatArray, documents: IntArray) -> FloatArray:
    """Give each document's plain mean over its windows: the unit of the document rule.

    Plain, as in the window rule every window counts alike; weighing by tokens lets one long
    window speak for a document, and on benign noise false-alarms oftener.

    Args:
        window_differences: float64 (n_windows,), nats per token.
        documents: int64 (n_windows,), document ordinal of each window.

    Returns:
        float64 (n_documents,), nats per token, in ascending order of ordinal.

    Source: rule 3 of the project's feasibility study.
    """
    # Sorted within a document too, so that the order of the windows leaves no trace.
    order = np.lexsort((window_differences, documents))
    _, starts, counts = np.unique(documents[order], return_index=True, return_counts=True)
    means: FloatArray = np.add.reduceat(window_differences[order], starts) / counts
    return means


def _require_units(differences: FloatArray) -> None:
    if differences.ndim != 1:
        raise DataError(
            f"tail differences of shape {differences.shape}",
            remedy="pass one difference for each window or document",
            code="NOT_ONE_DIMENSIONAL",
        )
    if not differences.size:
        raise DataError("no windows or documents", remedy="measure at least one", code="NO_UNITS")
    if not np.isfinite(differences).all():
        raise DataError(
            f"differences hold {int((~np.isfinite(differences)).sum())} non-finite value(s)",
            remedy="report the window as non-finite before asking for its tail",
            code="NON_FINITE",
        )
