"""Limits of the checks on losses and answers, and the floors of evidence under all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pytest_invarlock.errors import ConfigError

LEAST_LEVEL = 1e-6
"""No sample of a size that anyone measures says anything at a smaller level."""
GUARD_WINDOW_SHARE = 0.5
"""By convention: of less than half of what was planned, what the statistics show is not known."""
Mode = Literal["gate", "monitor"]
Direction = Literal["non_inferiority", "equivalence"]


@dataclass(frozen=True, slots=True)
class MetricLimits:
    """Limits of the primary metric; ratios are of perplexities, levels one-sided.

    ``direction`` holds for accuracy too: "equivalence" demands of a PASS that the subject is not
    better either, by more than the same limit.
    """

    ratio_limit: float
    catastrophic_ratio: float
    alpha: float
    bootstrap_alpha: float
    bootstrap_replicates: int
    direction: Direction = "non_inferiority"

    def __post_init__(self) -> None:
        """Raise ConfigError for a level that no interval, or not so few replicates, can hold."""
        for name in ("alpha", "bootstrap_alpha"):
            level = getattr(self, name)
            if not LEAST_LEVEL <= level < 0.5:
                raise ConfigError(
                    f"primary_metric.{name} is {level:g}",
                    remedy=f"choose a level from {LEAST_LEVEL:g} to .2",
                    code="METRIC_LEVEL",
                )
        # Fewer leave no replicate beyond the quantile that is asked for.
        if (self.bootstrap_replicates + 1) * self.bootstrap_alpha < 1:
            raise ConfigError(
                f"{self.bootstrap_replicates} bootstrap replicates cannot show a level of "
                f"{self.bootstrap_alpha:g}",
                remedy=f"take at least {math.ceil(1 / self.bootstrap_alpha) - 1} of them",
                code="BOOTSTRAP_REPLICATES",
            )


@dataclass(frozen=True, slots=True)
class AccuracyLimits:
    """Limits of metric ``accuracy``: the largest drop, in percentage points, and its floor."""

    drop_limit_pp: float
    min_examples: int


@dataclass(frozen=True, slots=True)
class TailLimits:
    """Limits of the tail: the terms of `stats.tail.TailRule`, and from where on its rules gate.

    With fewer windows than ``min_windows`` (documents than ``min_documents``) that rule only
    monitors. ``quantile_max`` is of the windows' 95 % quantile, in nats, and only ever warns.
    """

    threshold_nats: float
    benign_rate: float
    false_alarm: float
    harm_rate: float
    alpha: float
    min_windows: int
    min_documents: int
    quantile_max: float
    mode: Mode

    def __post_init__(self) -> None:
        """Raise ConfigError where the benign rate is not below the rate that is harm."""
        if self.benign_rate >= self.harm_rate:
            raise ConfigError(
                f"tail.benign_rate {self.benign_rate:g} is not below tail.harm_rate "
                f"{self.harm_rate:g}",
                remedy="choose a smaller benign_rate",
                code="TAIL_RATES",
            )


@dataclass(frozen=True, slots=True)
class DriftLimits:
    """Limits of the drift: ``band`` is the ratio of the arms' ratios, either way."""

    band: float
    fail_alpha: float
    warn_alpha: float
    mode: Mode

    def __post_init__(self) -> None:
        """Raise ConfigError where FAIL would come more easily than WARN."""
        if self.fail_alpha > self.warn_alpha:
            raise ConfigError(
                f"drift.fail_alpha {self.fail_alpha:g} is above drift.warn_alpha "
                f"{self.warn_alpha:g}",
                remedy="choose fail_alpha at most warn_alpha",
                code="DRIFT_LEVELS",
            )


@dataclass(frozen=True, slots=True)
class Floors:
    """The least evidence on which PASS or FAIL may rest, in the final arm (tokens: both arms).

    ``guard_window_share`` is the least share of the planned guard windows that statistics of
    activations may rest on.
    """

    documents: int
    effective_documents: float
    tokens: int | None
    guard_window_share: float = GUARD_WINDOW_SHARE

    def __post_init__(self) -> None:
        """Raise ConfigError for floors below which nothing can be estimated."""
        if self.documents < 2 or not self.effective_documents >= 1 or (self.tokens or 0) < 0:
            raise ConfigError(
                f"floors of {self.documents} documents, {self.effective_documents:g} effective "
                f"ones and {self.tokens} tokens",
                remedy="demand at least 2 documents, 1 effective one and 0 tokens",
                code="FLOORS",
            )
        if not 0 < self.guard_window_share <= 1:
            raise ConfigError(
                f"floors.guard_window_share is {self.guard_window_share:g}",
                remedy="choose a share above 0, at most 1",
                code="FLOORS",
            )
