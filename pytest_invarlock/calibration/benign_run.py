"""What one benign measurement showed: the numbers of a record that limits are derived from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from invarlock_guards.judge.kinds import group_of
from invarlock_guards.judge.rmt import RMTPolicy, edge_growth
from invarlock_guards.judge.spectral_policy import STATISTICS

if TYPE_CHECKING:
    from pytest_invarlock.decision import Decision
    from pytest_invarlock.records import Facts

NOOP = "noop"
"""The baseline against itself: it changes nothing, so no limit on changes is derived from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenignRun:
    """The numbers of one subject on one draw; None, or no entry, where nothing was measured.

    Attributes:
        draw: the number of the draw.
        subject: the scenario's name.
        group: of its declared kind of change: strict, compression or open.
        drift: ln(preview ratio) - ln(final ratio), in nats per token.
        spectral: by family and statistic, the largest absolute value over the family's matrices.
        growth: by family, the largest relative growth of an edge of activations; at least 0.
        error: the largest ‖y'-y‖/‖y‖ of a forced branch.
        angle: the largest 1 - cos of one.
        log_rms: the largest |ln(rms y'/rms y)| of one.
        gain: the lower bound of what proposed rescalings gain, in nats per token.
    """

    draw: int
    subject: str
    group: str
    drift: float | None = None
    spectral: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    growth: Mapping[str, float] = field(default_factory=dict)
    error: float | None = None
    angle: float | None = None
    log_rms: float | None = None
    gain: float | None = None

    def document(self) -> dict[str, Any]:
        """The numbers as plain JSON values."""
        return asdict(self)


def benign_run(facts: Facts, decision: Decision) -> BenignRun:
    """The numbers of a record: those of checks as ``decision`` states them, by family from facts.

    Args:
        facts: of a benign subject.
        decision: on them, under a policy with the checks drift, spectral, rmt and variance.
    """
    numbers = {check.check: check.numbers for check in decision.checks}
    rmt, variance = numbers.get("rmt", {}), numbers.get("variance", {})
    return BenignRun(
        draw=facts.draw,
        subject=facts.scenario,
        group=group_of(facts.kind),
        drift=_number(numbers.get("drift", {}).get("delta_nats_per_token")),
        spectral=_largest_by_family(facts.guards.get("spectral", {})),
        growth=_growth(facts.guards.get("rmt", {})),
        error=_size(rmt.get("largest_error")),
        angle=_size(rmt.get("largest_angle")),
        log_rms=_size(variance.get("largest_log_rms")),
        gain=_number(variance.get("gain_lower")),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _size(value: object) -> float | None:
    number = _number(value)
    return None if number is None else abs(number)


def _largest_by_family(evidence: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Of the changed matrices of each family; unchanged ones are 0 and never the largest."""
    found: dict[str, dict[str, float]] = {}
    for change in evidence.get("changes", ()):
        if change["type"] != "matrix":
            continue
        row = found.setdefault(change["family"], {})
        for statistic in STATISTICS:
            if change[statistic] is not None:
                row[statistic] = max(row.get(statistic, 0.0), abs(change[statistic]))
    return found


def _growth(evidence: Mapping[str, Any]) -> dict[str, float]:
    if not evidence.get("sites"):
        return {}
    # The epsilon of this policy marks rows, and no growth hangs on it.
    grown = edge_growth(evidence, RMTPolicy())
    return {row.family: max(0.0, row.growth) for row in grown if row.growth is not None}
