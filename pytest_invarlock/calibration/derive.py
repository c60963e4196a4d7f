"""From what benign runs showed to limits: pure rules, each limit with its n, rule and margin.

A derived limit never loosens the tier's: where it is wider, the tier's is kept, and so it is where
there is too little to derive from. It never vanishes either: see `FLOOR_SHARE`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import Any, Literal

from invarlock_guards.judge.kinds import KindGroup
from invarlock_guards.judge.spectral_policy import STATISTICS
from scipy.special import stdtrit

from pytest_invarlock.calibration.benign_run import NOOP, BenignRun

ALPHA = 0.01
"""By convention: one-sided, of the bound on what a further draw will show."""
MARGIN = 0.5
"""By convention: what benign edits showed of weights, and half as much again."""
FLOOR_SHARE = 0.1
"""By convention: no derived limit is below a tenth of the tier's, however alike the runs were."""
LARGEST_LOG = 700.0
"""Of a ratio that is written as a number."""
LEAST_DRAWS = 2
"""Of fewer there is no spread."""
FAMILIES = ("attn", "ffn", "other")
WEIGHT_GROUPS: tuple[KindGroup, ...] = ("strict", "compression")
"""Under the open kinds a spectral limit only asks for the canonical comparison, which gates."""
GROUPS: tuple[KindGroup, ...] = ("strict", "compression", "open")
Rule = Literal["t_prediction_bound", "largest_and_margin"]
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DerivedLimit:
    """One limit: what the tier says, what was derived, and which of them the preset holds.

    Attributes:
        key: where it stands in a policy, as in ``("guards", "rmt", "error", "strict")``.
        tier: the tier's.
        derived: None where too little was measured; ``reason`` then says what is missing.
        rule: by which it was derived.
        n: draws of each subject for a bound, subjects for a largest value.
        subjects: how many subjects it rests on.
        margin: of the rule: α of a bound, or the share added to the largest.
        reason: why the tier's is kept, or that the floor is; empty otherwise.
    """

    key: Key
    tier: float
    derived: float | None
    rule: Rule
    n: int
    subjects: int
    margin: float
    reason: str = ""
    is_floor: bool = False

    @property
    def source(self) -> Literal["derived", "tier"]:
        """Whose value is used."""
        if self.derived is None:
            return "tier"
        wider = self.derived <= self.tier if self.is_floor else self.derived >= self.tier
        return "tier" if wider else "derived"

    @property
    def used(self) -> float:
        """The value that the preset holds."""
        if self.source == "tier" or self.derived is None:
            return self.tier
        return self.derived

    def document(self) -> dict[str, Any]:
        """The limit as plain JSON values."""
        wider = self.derived is not None and self.source == "tier"
        return {
            "key": ".".join(self.key),
            "tier": self.tier,
            "derived": self.derived,
            "used": self.used,
            "source": self.source,
            "rule": self.rule,
            "n": self.n,
            "subjects": self.subjects,
            "margin": self.margin,
            "reason": "derived is wider" if wider else self.reason,
        }


@dataclass(frozen=True, slots=True)
class TierLimits:
    """The limits that may be tightened, as a policy holds them.

    ``drift_band`` is a ratio; ``spectral`` gives the limit of (statistic, group, family);
    ``error``, ``angle`` and ``log_rms`` are by group; ``epsilon`` is by family.
    """

    drift_band: float
    spectral: Callable[[str, KindGroup, str], float]
    error: Mapping[str, float]
    angle: Mapping[str, float]
    epsilon: Mapping[str, float]
    log_rms: Mapping[str, float]
    min_effect: float


def prediction_bound(values: Sequence[float]) -> float | None:
    """What one further value will stay below: mean + t·s·√(1 + 1/n), never below the largest.

    t is Student's quantile at 1 - `ALPHA` with n - 1 degrees of freedom; None of fewer than
    `LEAST_DRAWS` values. The values are taken as normal, which five cannot show.

    Source: Whitmore, The American Statistician 40 (1986), 141-143.
    """
    n = len(values)
    if n < LEAST_DRAWS:
        return None
    mean = math.fsum(values) / n
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    reach = float(stdtrit(n - 1, 1 - ALPHA)) * spread * math.sqrt(1 + 1 / n)
    return max(mean + reach, *values)


def derive(runs: Iterable[BenignRun], tier: TierLimits) -> tuple[DerivedLimit, ...]:
    """Every limit that benign runs may tighten, in a fixed order.

    The baseline against itself changes nothing: from it alone no limit on changes follows, so that
    limits of a group of kinds, or a family, that no edit spoke of are the tier's.
    """
    edits = [run for run in runs if run.subject != NOOP]
    return (
        _drift(edits, tier.drift_band),
        *(
            _of_weights(edits, family, statistic, group, tier.spectral(statistic, group, family))
            for family in FAMILIES
            for statistic in STATISTICS
            for group in WEIGHT_GROUPS
        ),
        *_by_group(edits, ("guards", "rmt", "error"), lambda run: run.error, tier.error),
        *_by_group(edits, ("guards", "rmt", "angle"), lambda run: run.angle, tier.angle),
        *(
            _bounded(
                ("guards", "rmt", "epsilon_by_family", family),
                _by_subject(edits, partial(_growth_of, family)),
                limit,
            )
            for family, limit in sorted(tier.epsilon.items())
        ),
        *_by_group(edits, ("guards", "variance", "log_rms"), lambda run: run.log_rms, tier.log_rms),
        _least_effect(edits, tier.min_effect),
    )


def _growth_of(family: str, run: BenignRun) -> float | None:
    return run.growth.get(family)


def _drift(edits: Sequence[BenignRun], band: float) -> DerivedLimit:
    """The band in logs, either way: of |drift|, whose bound is no narrower than that of drift."""
    sizes = _by_subject(edits, lambda run: None if run.drift is None else abs(run.drift))
    found = _bounded(("drift", "band"), sizes, math.log(band))
    derived = None if found.derived is None else math.exp(min(found.derived, LARGEST_LOG))
    return replace(found, tier=band, derived=derived)


def _by_group(
    edits: Sequence[BenignRun],
    key: Key,
    value: Callable[[BenignRun], float | None],
    tier: Mapping[str, float],
) -> list[DerivedLimit]:
    return [
        _bounded(
            (*key, group),
            _by_subject([run for run in edits if run.group == group], value),
            tier[group],
        )
        for group in GROUPS
    ]


def _by_subject(
    edits: Iterable[BenignRun], value: Callable[[BenignRun], float | None]
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for run in edits:
        number = value(run)
        if number is not None:
            found.setdefault(run.subject, []).append(number)
    return found


def _bounded(key: Key, values: Mapping[str, Sequence[float]], tier: float) -> DerivedLimit:
    """The largest bound over subjects; the draws of one are alike, those of two need not be."""
    n = min(map(len, values.values()), default=0)
    bounds = [prediction_bound(of_subject) for of_subject in values.values()]
    known = [bound for bound in bounds if bound is not None]
    if not known or len(known) < len(bounds):
        reason = f"{n} draws, {LEAST_DRAWS} are needed" if values else "no benign edit measured it"
        return DerivedLimit(key, tier, None, "t_prediction_bound", n, len(values), ALPHA, reason)
    derived, reason = _above_floor(max(known), tier)
    return DerivedLimit(key, tier, derived, "t_prediction_bound", n, len(values), ALPHA, reason)


def _of_weights(
    edits: Iterable[BenignRun], family: str, statistic: str, group: KindGroup, tier: float
) -> DerivedLimit:
    """Weights are the same in every draw: the largest over subjects, and a margin."""
    key = ("guards", "spectral", "family_limits", family, statistic, group)
    largest: dict[str, float] = {}
    for run in edits:
        value = run.spectral.get(family, {}).get(statistic)
        if run.group == group and value is not None:
            largest[run.subject] = max(value, largest.get(run.subject, 0.0))
    n = len(largest)
    if not n:
        reason = "no benign edit changed such a matrix"
        return DerivedLimit(key, tier, None, "largest_and_margin", 0, 0, MARGIN, reason)
    derived, reason = _above_floor((1 + MARGIN) * max(largest.values()), tier)
    return DerivedLimit(key, tier, derived, "largest_and_margin", n, n, MARGIN, reason)


def _least_effect(edits: Sequence[BenignRun], tier: float) -> DerivedLimit:
    """What benign edits seem to gain by rescaling is no effect: a floor, so the higher is used."""
    key = ("guards", "variance", "min_effect_lognll")
    values = [run.gain for run in edits if run.gain is not None]
    subjects = len({run.subject for run in edits if run.gain is not None})
    derived = (1 + MARGIN) * max(0.0, *values) if values else None
    reason = "" if values else "no rescaling of a benign edit was tried"
    return DerivedLimit(
        key, tier, derived, "largest_and_margin", len(values), subjects, MARGIN, reason, True
    )


def _above_floor(value: float, tier: float) -> tuple[float, str]:
    floor = FLOOR_SHARE * tier
    return (floor, "floor: a tenth of the tier's") if value < floor else (value, "")


def derived_again(runs: Iterable[BenignRun], stated: Sequence[Mapping[str, Any]]) -> str | None:
    """The key of the first stated limit that does not follow from ``runs``; None where all do."""
    tier = {str(limit["key"]): float(limit["tier"]) for limit in stated}
    spectral = "guards.spectral.family_limits"

    def group(key: str) -> dict[str, float]:
        return {name: tier[f"{key}.{name}"] for name in GROUPS}

    epsilon = "guards.rmt.epsilon_by_family."
    try:
        limits = TierLimits(
            drift_band=tier["drift.band"],
            spectral=lambda statistic, of, family: tier[f"{spectral}.{family}.{statistic}.{of}"],
            error=group("guards.rmt.error"),
            angle=group("guards.rmt.angle"),
            epsilon={k.removeprefix(epsilon): v for k, v in tier.items() if k.startswith(epsilon)},
            log_rms=group("guards.variance.log_rms"),
            min_effect=tier["guards.variance.min_effect_lognll"],
        )
        found = [limit.document() for limit in derive(runs, limits)]
    except KeyError as error:
        return str(error.args[0])
    for mine, theirs in zip_longest(found, stated):
        if mine != theirs:
            return str((mine or theirs or {}).get("key"))
    return None
