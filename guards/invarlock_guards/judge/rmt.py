"""Judge of the RMT guard: outputs of branches under the baseline's residual stream."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

from invarlock_guards.contract import GuardResult, Violation
from invarlock_guards.judge.branch_judging import (
    Finding,
    beyond,
    branch_counts,
    concluded,
    incomplete,
    largest,
    measured_nothing,
    not_finite,
    shown,
)
from invarlock_guards.judge.kinds import ELEMENTWISE, group_of
from invarlock_guards.judge.policy_values import (
    GroupLimits,
    flag,
    not_negative,
    positive,
    read_limits,
    share,
    unknown_keys,
)

if TYPE_CHECKING:
    from invarlock_guards.contract import GuardEvidence

FAMILIES = ("ffn", "attn", "embed", "other")
ERROR = GroupLimits(strict=0.083, compression=0.20, open=0.40)
ANGLE = GroupLimits(strict=0.003, compression=0.016, open=0.06)
FREE_BASIS = ("v", "qkv", "kv", "kv_b")
"""Roles of projections whose values may be turned within a head, what reads them turned back."""
LARGEST_FACTOR = 1e100
LARGEST_LOG = 200.0
"""Of a ratio that is written as a number."""
TURNED = ("reparametrized", "any")
"""Kinds under which they may be."""


def _epsilon() -> dict[str, float]:
    return {"ffn": 0.10, "attn": 0.08, "embed": 0.12, "other": 0.12}


@dataclass(frozen=True, slots=True, kw_only=True)
class RMTPolicy:
    """What the RMT guard demands.

    Attributes:
        error: greatest ‖y'-y‖/‖y‖ of a forced branch's output.
        angle: greatest 1 - cos between them.
        feature_edge_band: greatest |mean ln ratio| of feature-standardised edges.
        newly_dead_share: greatest share of a projection's features that newly do not vary.
        edge_of_change: greatest balanced edge of a weight's change under a kind that changes each
            weight by itself.
        edge_change_floor: ‖ΔW‖/‖W‖ below which a weight's change has no edge to speak of: a cast
            that is exact but for a few numbers is all structure, and harmless.
        edge_of_change_required: whether its absence under such a kind is an error.
        min_parameter_share: least share of the blocks' parameters in branches.
        epsilon_by_family: the seeds' band of outliers, relative; reported.
        epsilon_default: the band of a family that is not named; reported.
        margin: the seeds' multiple of the edge beyond which a singular value is an outlier.
        deadband: what the seeds add to it, relative.
    """

    error: GroupLimits = ERROR
    angle: GroupLimits = ANGLE
    feature_edge_band: float = 0.08
    newly_dead_share: float = 0.05
    edge_of_change: float = 1.20
    edge_change_floor: float = 0.001
    edge_of_change_required: bool = True
    min_parameter_share: float = 0.95
    epsilon_by_family: Mapping[str, float] = field(default_factory=_epsilon)
    epsilon_default: float = 0.10
    margin: float = 1.5
    deadband: float = 0.10

    def __post_init__(self) -> None:
        read_limits("error", self.error)
        read_limits("angle", self.angle)
        for key in ("feature_edge_band", "edge_of_change", "margin"):
            positive(key, getattr(self, key))
        for key in ("newly_dead_share", "min_parameter_share"):
            share(key, getattr(self, key))
        for key in ("edge_change_floor", "epsilon_default", "deadband"):
            not_negative(key, getattr(self, key))
        if not self.outlier_factor <= LARGEST_FACTOR:
            raise ValueError(f"margin: with deadband at most {LARGEST_FACTOR:g} edges")
        flag("edge_of_change_required", self.edge_of_change_required)
        if not isinstance(self.epsilon_by_family, Mapping):
            raise ValueError(f"epsilon_by_family: a number for each of {', '.join(FAMILIES)}")
        unknown_keys(dict.fromkeys(FAMILIES), self.epsilon_by_family)
        for family, epsilon in self.epsilon_by_family.items():
            not_negative(f"epsilon_by_family.{family}", epsilon)

    @property
    def outlier_factor(self) -> float:
        """The multiple of the edge beyond which the measure counts a singular value as outlier."""
        return self.margin * (1 + self.deadband)

    def epsilon_of(self, family: str) -> float:
        """The band of outliers of ``family``, relative."""
        return self.epsilon_by_family.get(family, self.epsilon_default)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """The policy of a file's block; ValueError names the key and what it may be."""
        unknown_keys(dict.fromkeys(each.name for each in fields(cls)), values)
        given = dict(values)
        for key in ("error", "angle"):
            if key in given:
                given[key] = read_limits(key, given[key])
        return cls(**given)


def judge_rmt(evidence: GuardEvidence, *, kind: str, policy: RMTPolicy) -> GuardResult:
    """Judge forced branches, feature-standardised edges and the edge of the weights' change.

    Args:
        evidence: of `invarlock_guards.measure.rmt.measure_rmt`; ``edge_of_change`` in it, by
            module, is the largest singular value of each weight's change over that of a random
            change of its size, ``change_size`` that change's ‖ΔW‖/‖W‖.
        kind: the declared kind of change; it chooses the limits.
        policy: the limits.
    """
    group_of(kind)
    nothing = measured_nothing("rmt", evidence)
    if nothing is not None:
        return nothing
    sites = [row | {"band": abs(row["fedge"])} for row in evidence["sites"] if _known(row)]
    judged = [row for row in sites if not (kind in TURNED and row["role"] in FREE_BASIS)]
    findings = not_finite(evidence)
    findings += beyond("branch_error", evidence["branches"], "e", policy.error.of(kind))
    findings += beyond("branch_angle", evidence["branches"], "c", policy.angle.of(kind))
    findings += beyond("feature_edge", judged, "band", policy.feature_edge_band)
    findings += _newly_dead(evidence, policy)
    findings += _contradictions(evidence, kind, policy)
    lacking = (
        incomplete(evidence, policy.min_parameter_share)
        or _without_edge(evidence, kind)
        or _unproved(evidence, kind, policy)
    )
    metrics = {
        **branch_counts(evidence),
        **largest("error", evidence["branches"], "e"),
        **largest("angle", evidence["branches"], "c"),
        **largest("feature_edge", judged, "fedge"),
        "n_newly_dead": sum(row["n_newly_dead"] for row in evidence["sites"]),
        **outlier_metrics(evidence, policy),
    }
    sound = (
        f"{evidence['n_branches']} branches over {evidence['n_windows']} windows: error at most "
        f"{shown(metrics['largest_error'])}, allowed {policy.error.of(kind):g}"
    )
    return concluded("rmt", findings, lacking, metrics, sound)


def _known(row: Mapping[str, Any]) -> bool:
    return row["fedge"] is not None


def _newly_dead(evidence: GuardEvidence, policy: RMTPolicy) -> list[Finding]:
    rows = [
        row | {"dead": row["n_newly_dead"] / row["n_features"]}
        for row in evidence["sites"]
        if row["n_features"]
    ]
    limit = policy.newly_dead_share
    return [
        Finding(
            Violation("dead_features", row["module"], row["dead"], limit, row["family"]),
            row["dead"] / limit if limit else float("inf"),
        )
        for row in rows
        if row["dead"] > limit
    ]


def _contradictions(evidence: GuardEvidence, kind: str, policy: RMTPolicy) -> list[Finding]:
    """Changes too structured for the declared kind."""
    if kind not in ELEMENTWISE:
        return []
    limit = policy.edge_of_change
    sizes = evidence.get("change_size") or {}
    return [
        Finding(Violation("change_contradicts_kind", module, value, limit), value / limit)
        for module, value in (evidence.get("edge_of_change") or {}).items()
        if value is not None
        and value > limit
        and not _is_smaller(sizes.get(module), policy.edge_change_floor)
    ]


def _is_smaller(size: float | None, floor: float) -> bool:
    """Whether ``size`` is known, and below ``floor``."""
    return size is not None and size < floor


def _without_edge(evidence: GuardEvidence, kind: str) -> tuple[str, str] | None:
    """The first sub-layer no edge of which is judged, unless it was dead in the baseline."""
    known = {
        row["branch"]
        for row in evidence["sites"]
        if (_known(row) and not (kind in TURNED and row["role"] in FREE_BASIS))
        or (row["n_features"] and row["n_dead_baseline"] == row["n_features"])
    }
    for row in evidence["branches"]:
        if row["kind"] != "norm" and row["module"] not in known:
            return "edges_left_out", f"no edge was measured of the outputs of {row['module']}"
    return None


def _unproved(evidence: GuardEvidence, kind: str, policy: RMTPolicy) -> tuple[str, str] | None:
    if kind not in ELEMENTWISE or not policy.edge_of_change_required:
        return None
    if evidence.get("edge_of_change") is not None:
        return None
    return (
        "edge_of_change_missing",
        f"whether the change is a {kind} was not measured: give edge_of_change, or declare any",
    )


def outlier_metrics(
    evidence: GuardEvidence, policy: RMTPolicy
) -> dict[str, float | int | str | None]:
    """The seeds' numbers: outliers of each family bare and guarded, and whether within the band.

    They are reported and decide nothing: ``stable`` is information, None where nothing was counted,
    or not beyond this policy's margin and deadband: counts beyond another edge say nothing of it.
    """
    measured, asked = evidence["outlier_factor"], policy.outlier_factor
    if not math.isclose(measured, asked, rel_tol=1e-9):
        reason = f"counted beyond {measured:g} of the edge, this policy asks for {asked:g}"
        return {"outliers": "not_measured", "outliers_reason": reason, "stable": None}
    metrics: dict[str, float | int | str | None] = {}
    stable = True
    for family in FAMILIES:
        rows = [row for row in evidence["sites"] if row["family"] == family]
        if not rows:
            continue
        bare = sum(row["n_outliers_baseline"] for row in rows)
        guarded = sum(row["n_outliers_subject"] for row in rows)
        epsilon = policy.epsilon_of(family)
        stable = stable and guarded <= (1 + epsilon) * bare
        metrics |= {
            f"outliers_bare_{family}": bare,
            f"outliers_guarded_{family}": guarded,
            f"outliers_delta_{family}": guarded - bare,
            f"epsilon_{family}": epsilon,
        }
    if not metrics:
        return {"outliers": "not_measured", "outliers_reason": "no edge", "stable": None}
    return {"outliers": "measured", "outlier_factor": asked, **metrics, "stable": stable}


@dataclass(frozen=True, slots=True)
class FamilyGrowth:
    """How much the edges of one family grew, at the module where they grew most.

    ``growth`` is relative, (subject - baseline) / baseline; None where it is not known: then
    ``reason`` says why. ``unstable`` is whether it is above ``epsilon``, None where that is not
    known; a subject whose outputs are not finite is.
    """

    family: str
    module: str
    n_modules: int
    growth: float | None
    epsilon: float
    unstable: bool | None
    reason: str | None = None


def edge_growth(evidence: GuardEvidence, policy: RMTPolicy) -> list[FamilyGrowth]:
    """The largest relative growth of a feature-standardised edge in each family, by name.

    It is reported and decides nothing: the judge bands each module by itself, on both sides.
    """
    families = sorted({row["family"] for row in evidence["sites"]})
    return [
        _growth(family, [row for row in evidence["sites"] if row["family"] == family], policy)
        for family in families
    ]


def _growth(family: str, rows: list[Mapping[str, Any]], policy: RMTPolicy) -> FamilyGrowth:
    epsilon = policy.epsilon_of(family)
    broken = [row for row in rows if not row["finite"]]
    if broken:
        module = broken[0]["module"]
        return FamilyGrowth(family, module, len(rows), None, epsilon, True, "non_finite")
    unknown = [row for row in rows if not _known(row)]
    known = [row for row in rows if _known(row)]
    if not known:
        return FamilyGrowth(family, rows[0]["module"], len(rows), None, epsilon, None, "no_edge")
    worst = max(known, key=lambda row: row["fedge"])
    growth = math.expm1(min(worst["fedge"], LARGEST_LOG))
    unstable = growth > epsilon
    # A module without an edge may have grown more.
    reason = "no_edge_of_some" if unknown else None
    told = None if unknown and not unstable else unstable
    return FamilyGrowth(family, worst["module"], len(rows), growth, epsilon, told, reason)
