"""What the spectral guard demands: limits by kind of change, and the seeds' own keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from invarlock_guards.judge.kinds import KindGroup, group_of
from invarlock_guards.judge.policy_values import (
    GroupLimits,
    positive,
    read_limits,
    share,
    unknown_keys,
    whole,
)

SpectralScope = Literal["all", "ffn", "attn"]
FAMILIES = ("ffn", "attn", "embed", "other")
LN_SIGMA = GroupLimits(0.01, 0.03, 0.10)
LN_STABLE_RANK = GroupLimits(0.015, 0.05, 0.20)
LN_FROBENIUS = GroupLimits(0.006, 0.02, 0.05)
RELATIVE_CHANGE = GroupLimits(0.08, 0.20, 0.20)
STATISTICS = ("relative_change", "ln_sigma", "ln_stable_rank", "ln_frobenius")


@dataclass(frozen=True, slots=True)
class SpectralPolicy:
    """Limits and the seeds' keys; every value is checked on construction (ValueError).

    Attributes:
        ln_sigma: |ln ratio of the largest singular values|, by group of kinds.
        ln_stable_rank: |ln ratio of the stable ranks|.
        ln_frobenius: |ln ratio of the Frobenius norms|.
        relative_change: ‖W' - W‖ / ‖W‖.
        outer_change: the same of vectors, embeddings and heads under the strict kinds, under
            which nothing but a cast should have touched them; otherwise it is only reported.
        canon_limit: largest relative change after the free choices of parametrisation are
            removed; under the open kinds only what exceeds it too fails.
        scope: families whose matrices are judged; ``all`` adds those outside the blocks.
        family_caps: κ by family: |z| above it means outside the deadband.
        deadband: by family; an |ln σ| that may not be exceeded, where it is below the kind's limit.
        max_caps: matrices that may be beyond before the guard fails.
        sigma_quantile: the quantile of |z| over matrices that is reported.
        max_spectral_norm: a changed matrix's largest singular value may not exceed it; None: any.
        min_coverage: share of the parameters in scope that must have been compared.
        family_limits: by family, statistic and group of kinds, a limit that holds where it is below
            the one above; it never widens one.
    """

    ln_sigma: GroupLimits = LN_SIGMA
    ln_stable_rank: GroupLimits = LN_STABLE_RANK
    ln_frobenius: GroupLimits = LN_FROBENIUS
    relative_change: GroupLimits = RELATIVE_CHANGE
    outer_change: float = 0.005
    canon_limit: float = 0.22
    scope: SpectralScope = "all"
    family_caps: Mapping[str, float] = field(
        default_factory=lambda: {"ffn": 2.5, "attn": 2.8, "embed": 3.0, "other": 3.0}
    )
    deadband: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(FAMILIES, 0.10))
    max_caps: int = 0
    sigma_quantile: float = 0.95
    max_spectral_norm: float | None = None
    min_coverage: float = 0.95
    family_limits: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in STATISTICS:
            read_limits(key, getattr(self, key))
        for key in ("outer_change", "canon_limit"):
            positive(key, getattr(self, key))
        if self.scope not in get_args(SpectralScope):
            raise ValueError(f"scope: {', '.join(get_args(SpectralScope))}, not {self.scope!r}")
        for key in ("family_caps", "deadband"):
            table = getattr(self, key)
            if set(table) != set(FAMILIES):
                raise ValueError(f"{key}: {', '.join(FAMILIES)} and nothing else")
            for family, value in table.items():
                positive(f"{key}.{family}", value)
        whole("max_caps", self.max_caps)
        for key in ("sigma_quantile", "min_coverage"):
            # A share of nothing would let a guard pass that compared nothing.
            positive(key, share(key, getattr(self, key)))
        if self.max_spectral_norm is not None:
            positive("max_spectral_norm", self.max_spectral_norm)
        _check_family_limits(self.family_limits)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> SpectralPolicy:
        """The policy of a file's block: only the keys that are there differ from the defaults.

        ``family_caps`` takes numbers or the seeds' ``{kappa: number}``; ``deadband`` a number or
        one by family. ``multiple_testing`` is accepted and not used: weights have no sampling
        distribution.

        Raises:
            ValueError: an unknown key or a value out of range, named.
        """
        default = cls()
        known = {item.name: getattr(default, item.name) for item in fields(cls)}
        unknown_keys(known | {"multiple_testing": None}, values)
        given = {key: value for key, value in values.items() if key in known}
        for key in STATISTICS:
            if key in given:
                given[key] = read_limits(key, given[key])
        if "family_caps" in given:
            caps = _table("family_caps", given["family_caps"])
            given["family_caps"] = dict(default.family_caps) | {
                family: cap.get("kappa") if isinstance(cap, Mapping) else cap
                for family, cap in caps.items()
            }
        if "deadband" in given:
            band = given["deadband"]
            if not isinstance(band, Mapping):
                band = dict.fromkeys(FAMILIES, band)
            given["deadband"] = dict(default.deadband) | dict(band)
        return cls(**given)

    def limit(self, statistic: str, kind: str, family: str) -> float:
        """The limit of ``statistic`` (of `STATISTICS`) for a matrix of ``family``."""
        limits: GroupLimits = getattr(self, statistic)
        found = limits.of(kind)
        own = self.family_limits.get(family, {}).get(statistic, {}).get(group_of(kind), found)
        found = min(found, own)
        return min(found, self.deadband[family]) if statistic == "ln_sigma" else found

    def outer_limit(self, kind: str) -> float | None:
        """The limit of ``outer_change``; None where it is only reported."""
        return self.outer_change if group_of(kind) == "strict" else None

    def families(self) -> list[str]:
        """The families whose matrices are judged."""
        return [f for f in FAMILIES if f != "embed" and self.scope in ("all", f)]


def _check_family_limits(limits: object) -> None:
    """Raise ValueError, naming the key, for an unknown name or what is no limit."""
    for family, by_statistic in _table("family_limits", limits).items():
        unknown_keys(dict.fromkeys(FAMILIES), {family: None})
        place = f"family_limits.{family}"
        for statistic, by_group in _table(place, by_statistic).items():
            unknown_keys(dict.fromkeys(STATISTICS), {statistic: None})
            for group, value in _table(f"{place}.{statistic}", by_group).items():
                unknown_keys(dict.fromkeys(get_args(KindGroup)), {group: None})
                positive(f"{place}.{statistic}.{group}", value)


def _table(key: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{key}: a mapping, not {value!r}")
    return value
