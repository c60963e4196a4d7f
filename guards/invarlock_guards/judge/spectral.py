"""Judge of the spectral guard: the size, shape and direction of every changed weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from invarlock_guards.contract import Action, GuardResult, Violation
from invarlock_guards.judge.kinds import group_of
from invarlock_guards.judge.spectral_policy import STATISTICS, SpectralPolicy

if TYPE_CHECKING:
    from invarlock_guards.contract import GuardEvidence

UNTESTED = "not applicable: two runs give the same weights, so there is no sampling distribution"


@dataclass(frozen=True, slots=True)
class _Finding:
    """What one tensor broke.

    ``severity`` is its largest value over limit; ``fatal`` findings fail whatever ``max_caps`` is;
    those that do not ``gate`` are warnings.
    """

    module: str
    severity: float
    violations: tuple[Violation, ...]
    fatal: bool = False
    gates: bool = True


def judge_spectral(
    evidence: GuardEvidence, *, kind: str, policy: SpectralPolicy | None = None
) -> GuardResult:
    """Whether every matrix stayed within the limits of its declared kind of change.

    Under the open kinds (`judge.kinds`) a matrix beyond them fails only where its change exceeds
    ``canon_limit`` too after the free choices of parametrisation are removed; without that it is
    ``basis_changed``, a warning, or an expected change where ``reparametrized`` is declared; where
    the architecture is unknown it is ``canon_unavailable``, a warning that asks for the guards that
    look at activations. NaN or infinite numbers of the subject fail under every kind.

    Args:
        evidence: what `invarlock_guards.measure.spectral.measure_spectral` returned.
        kind: the declared kind of change.
        policy: None: the defaults.

    Raises:
        ValueError: an unknown kind.
    """
    group = group_of(kind)
    policy = policy or SpectralPolicy()
    unjudged = _unjudged(evidence, policy, kind)
    if unjudged is not None:
        return GuardResult("spectral", None, "abort", *unjudged, _seeds(policy))
    canonical = _Canonical(group == "open", evidence["canon"]["available"], policy.canon_limit)
    findings = [
        found
        for change in evidence["changes"]
        if (found := _finding(change, kind, policy, canonical)) is not None
    ]
    findings.sort(key=lambda found: (-found.severity, found.module))
    n_gating = sum(found.gates and not found.fatal for found in findings)
    exceeded = n_gating > policy.max_caps
    metrics = _metrics(evidence, policy, kind) | {
        "candidates": len(findings),
        "caps_applied": n_gating,
        "caps_exceeded": int(exceeded),
        "kind_group": group,
    }
    failing = [f for f in findings if f.fatal or (exceeded and f.gates)]
    rest = tuple(
        v for f in findings if not (f.fatal or (exceeded and f.gates)) for v in f.violations
    )
    if failing:
        violations = tuple(v for f in failing for v in f.violations)
        text = _sentence(violations, len(failing))
        return GuardResult(
            "spectral", False, "abort", violations[0].kind, text, metrics, violations, (), rest
        )
    reason, text = _passing(evidence, n_gating, findings)
    if kind == "reparametrized" and reason == "basis_changed":
        return GuardResult("spectral", True, "continue", reason, text, metrics, (), rest)
    action: Action = "warn" if findings else "continue"
    return GuardResult("spectral", True, action, reason, text, metrics, (), (), rest)


@dataclass(frozen=True, slots=True)
class _Canonical:
    """Whether a change must exceed the canonical limit too, and whether that can be told."""

    asked: bool
    available: bool
    limit: float

    def gates(self, change: Mapping[str, Any]) -> bool:
        """Whether the canonical change lets ``change`` fail; one without a number always does."""
        if not self.asked:
            return True
        return self.available and self._value(change) > self.limit

    def violations(self, change: Mapping[str, Any]) -> list[Violation]:
        """The canonical change of one that gates, as it is listed."""
        if not self.asked or not self.gates(change):
            return []
        value = self._value(change)
        shown = value if math.isfinite(value) else None
        return [Violation("canon", change["name"], shown, self.limit, change["family"])]

    @staticmethod
    def _value(change: Mapping[str, Any]) -> float:
        canon = change["canon"]
        return math.inf if canon is None or canon["value"] is None else float(canon["value"])


def _unjudged(evidence: GuardEvidence, policy: SpectralPolicy, kind: str) -> tuple[str, str] | None:
    """Reason and sentence where the evidence supports no judgement, or None."""
    covered = evidence.get("covered") or {}
    families = policy.families()
    if not any(covered.get(family, {}).get("matrices") for family in families):
        return "nothing_measured", f"no matrix in scope {policy.scope} was compared"
    n_changed = sum(row["changed"] for row in covered.values())
    if n_changed != len(evidence["changes"]):
        return "coverage", (
            f"{n_changed} tensors changed, and {len(evidence['changes'])} changes are stated"
        )
    broken = [c["name"] for c in evidence["changes"] if c["reason"] == "non_finite_baseline"]
    if broken:
        return "baseline_non_finite", f"the baseline's {broken[0]} holds NaN or infinite numbers"
    if policy.outer_limit(kind) is not None and policy.scope == "all":
        families += ["embed", "vector"]
    share = _coverage(evidence, families)
    if share < policy.min_coverage:
        return "coverage", (
            f"{share:.1%} of the parameters in scope {policy.scope} were compared, "
            f"{policy.min_coverage:.1%} are demanded"
        )
    return None


def _coverage(evidence: GuardEvidence, families: list[str]) -> float:
    rows = [evidence["covered"][f] for f in families if f in evidence["covered"]]
    total = sum(row["parameters"] for row in rows)
    return float(sum(row["compared"] for row in rows) / total) if total else 0.0


def _finding(
    change: Mapping[str, Any],
    kind: str,
    policy: SpectralPolicy,
    canonical: _Canonical,
) -> _Finding | None:
    """What ``change`` broke, or None."""
    name, family = change["name"], change["family"]
    if change["reason"] == "non_finite_subject":
        # Broken numbers are outside every scope.
        violation = Violation("non_finite", name, None, None, family)
        return _Finding(name, math.inf, (violation,), fatal=True)
    if change["type"] != "matrix":
        return _outer(change, policy.outer_limit(kind), policy)
    if policy.scope not in ("all", family):
        return None
    pairs = _beyond(change, kind, policy)
    gates = bool(pairs) and canonical.gates(change)
    cap, norm = policy.max_spectral_norm, change["sigma"]
    fatal = cap is not None and norm is not None and norm > cap
    if cap is not None and fatal:
        pairs.append(("max_spectral_norm", norm, cap))
    if not pairs:
        return None
    pairs.sort(key=lambda pair: -_severity(pair[1], pair[2]))
    violations = [Violation(k, name, value, limit, family) for k, value, limit in pairs]
    listed = (*violations, *(canonical.violations(change) if gates else ()))
    return _Finding(name, _severity(*pairs[0][1:]), listed, fatal, gates)


def _beyond(
    change: Mapping[str, Any], kind: str, policy: SpectralPolicy
) -> list[tuple[str, float | None, float]]:
    """Statistic, value and limit of each that is beyond its limit or has no value."""
    if not _was_compared(change):
        # Not compared: the coverage counts it.
        return []
    found = []
    for statistic in STATISTICS:
        value, limit = change[statistic], policy.limit(statistic, kind, change["family"])
        if value is None or not abs(value) <= limit:
            found.append((statistic, value, limit))
    return found


def _outer(
    change: Mapping[str, Any], limit: float | None, policy: SpectralPolicy
) -> _Finding | None:
    """Of a vector or table of rows: beyond where it moved more than a cast moves it."""
    if limit is None or policy.scope != "all" or not _was_compared(change):
        return None
    value = change["relative_change"]
    if value is not None and value <= limit:
        return None
    violation = Violation("outer_change", change["name"], value, limit, change["family"])
    return _Finding(change["name"], _severity(value, limit), (violation,))


def _was_compared(change: Mapping[str, Any]) -> bool:
    return change["reason"] in (None, "zero_baseline", "zero_subject")


def _severity(value: float | None, limit: float) -> float:
    return math.inf if value is None else abs(value) / limit


def _metrics(
    evidence: GuardEvidence, policy: SpectralPolicy, kind: str
) -> dict[str, float | int | str | None]:
    scope = policy.families()
    covered = evidence["covered"]
    matrices = [c for c in evidence["changes"] if c["type"] == "matrix" and c["family"] in scope]
    count = sum(covered[f]["matrices"] for f in scope if f in covered)
    found: dict[str, float | int | str | None] = {
        "modules_checked": count,
        "modules_changed": sum(covered[f]["changed"] for f in scope if f in covered),
        "coverage": _coverage(evidence, scope),
        **{s: _largest(matrices, s) for s in STATISTICS},
        "edge_of_change": _largest(matrices, "edge_of_change"),
        "canon": max(
            (c["canon"]["value"] for c in matrices if c["canon"] and c["canon"]["value"]),
            default=0.0 if evidence["canon"]["available"] else None,
        ),
        "outer_change": _largest(
            [c for c in evidence["changes"] if c["type"] != "matrix"], "relative_change"
        ),
    }
    scores = {c["name"]: _z(c, kind, policy) for c in matrices if c["ln_sigma"] is not None}
    for family in scope:
        own = [scores[c["name"]] for c in matrices if c["family"] == family and c["name"] in scores]
        found[f"z_max.{family}"] = max(own, default=0.0)
    # Unchanged matrices count: their z is 0.
    n_unchanged = max(0, count - len(matrices))
    found["z_quantile"] = _quantile(list(scores.values()), n_unchanged, policy.sigma_quantile)
    return found | _seeds(policy)


def _quantile(scores: list[float], n_zeros: int, share: float) -> float | None:
    """The quantile of ``scores``, none negative, and as many zeros; None where there is none."""
    if not scores and not n_zeros:
        return None
    ordered = sorted(scores)
    place = share * (n_zeros + len(ordered) - 1)
    below = math.floor(place)
    low, high = (
        ordered[min(index - n_zeros, len(ordered) - 1)] if index >= n_zeros and ordered else 0.0
        for index in (below, below + 1)
    )
    return low + (place - below) * (high - low)


def _largest(changes: list[Mapping[str, Any]], statistic: str) -> float:
    values = [abs(c[statistic]) for c in changes if c[statistic] is not None]
    return max(values, default=0.0)


def _z(change: Mapping[str, Any], kind: str, policy: SpectralPolicy) -> float:
    """κ |ln σ ratio| / deadband, so that a z above κ is outside the deadband."""
    family = change["family"]
    deadband = policy.limit("ln_sigma", kind, family)
    return float(policy.family_caps[family] * abs(change["ln_sigma"]) / deadband)


def _seeds(policy: SpectralPolicy) -> dict[str, float | int | str | None]:
    return {
        **{f"family_caps.{family}": cap for family, cap in policy.family_caps.items()},
        **{f"deadband.{family}": band for family, band in policy.deadband.items()},
        "sigma_quantile": policy.sigma_quantile,
        "max_caps": policy.max_caps,
        "max_spectral_norm": policy.max_spectral_norm,
        "scope": policy.scope,
        "multiple_testing": UNTESTED,
    }


def _passing(evidence: GuardEvidence, n_gating: int, findings: list[_Finding]) -> tuple[str, str]:
    """Reason and sentence of a result that passes."""
    if not findings:
        n = sum(row["matrices"] for row in evidence["covered"].values())
        return "ok", f"{n} matrices: none beyond the limits of the declared kind"
    rest = f"; and {len(findings) - 1} more" if len(findings) > 1 else ""
    where = _named(findings[0].violations[0]) + rest
    if n_gating:
        return "within_max_caps", f"{where}: as many as max_caps allows"
    if not evidence["canon"]["available"]:
        why = evidence["canon"]["reason"]
        return "canon_unavailable", (
            f"{where}. Damage or another basis, that is open ({why}): rmt and variance must be "
            "measured"
        )
    return "basis_changed", f"{where}. The basis changed, and the function by less"


def _sentence(violations: tuple[Violation, ...], n_modules: int) -> str:
    rest = f"; and {n_modules - 1} more" if n_modules > 1 else ""
    return _named(violations[0]) + rest


def _named(violation: Violation) -> str:
    value = "not a finite number" if violation.value is None else f"{violation.value:.3g}"
    limit = "" if violation.threshold is None else f", limit {violation.threshold:g}"
    what = violation.kind.replace("_", " ")
    return f"{violation.module} ({violation.family}): {what} {value}{limit}"
