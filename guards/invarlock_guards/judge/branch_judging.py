"""What the judges of branch comparisons share: completeness, order and sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from invarlock_guards.contract import GuardResult, Violation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from invarlock_guards.contract import GuardEvidence


@dataclass(frozen=True, slots=True)
class Finding:
    """A violation and how far it is beyond its limit, as a multiple of it."""

    violation: Violation
    excess: float


def measured_nothing(guard: str, evidence: GuardEvidence) -> GuardResult | None:
    """The result where ``evidence`` holds no compared branch or no window, else None."""
    if all(evidence.get(key) for key in ("n_branches_compared", "n_windows", "n_tokens")):
        return None
    reason = evidence.get("reason") or "no branch was compared"
    text = f"not evaluated: {reason}"
    return GuardResult(guard, None, "abort", "not_evaluated", text, branch_counts(evidence))


def not_finite(evidence: GuardEvidence) -> list[Finding]:
    """Branches and sites whose outputs hold NaN or infinities in the subject alone."""
    found = [
        Finding(
            Violation(
                "non_finite_activation", row["module"], row["n_non_finite"], 0, row["family"]
            ),
            float("inf"),
        )
        for row in evidence["branches"]
        if row["n_non_finite"] and not row["n_baseline_non_finite"]
    ]
    named = {finding.violation.module for finding in found}
    broken = {row["module"] for row in evidence["branches"] if row["n_baseline_non_finite"]}
    for site in evidence["sites"]:
        if not site["finite"] and site["branch"] not in named | broken:
            named.add(site["branch"])
            violation = Violation("non_finite_activation", site["branch"], None, 0, site["family"])
            found.append(Finding(violation, float("inf")))
    return found


def beyond(kind: str, rows: Sequence[Mapping[str, Any]], key: str, limit: float) -> list[Finding]:
    """A finding for each row whose ``key`` is above ``limit``."""
    return [
        Finding(Violation(kind, row["module"], row[key], limit, row["family"]), row[key] / limit)
        for row in rows
        if row[key] is not None and row[key] > limit
    ]


def incomplete(evidence: GuardEvidence, min_parameter_share: float) -> tuple[str, str] | None:
    """Reason and sentence where ``evidence`` leaves out too much to pass, else None."""
    left = evidence["n_branches"] - evidence["n_branches_compared"]
    if left:
        return "branches_left_out", f"{left} of {evidence['n_branches']} branches were not compared"
    rows = len(evidence["branches"])
    if rows != evidence["n_branches"]:
        return "branches_left_out", f"{rows} of {evidence['n_branches']} branches are stated"
    if evidence["parameter_share"] < min_parameter_share:
        first = ", ".join(evidence["left_out"][:3])
        return (
            "coverage",
            f"branches hold {evidence['parameter_share']:.1%} of the blocks' parameters, "
            f"{min_parameter_share:.1%} are demanded; left out: {first}",
        )
    ragged = [
        row["module"]
        for row in evidence["branches"]
        if len({row[key] is None for key in ("e", "l", "c", "log_rms")}) > 1
    ]
    if ragged:
        return "branches_left_out", f"of the outputs of {ragged[0]} some numbers are missing"
    broken = [row["module"] for row in evidence["branches"] if row["n_baseline_non_finite"]]
    unknown = [
        row["module"]
        for row in evidence["branches"]
        if row["e"] is None and not row["n_non_finite"] and not row["n_baseline_non_finite"]
    ]
    if unknown:
        return "branches_left_out", f"nothing could be computed of the outputs of {unknown[0]}"
    if broken:
        return (
            "baseline_non_finite",
            f"the baseline itself gives NaN or infinities in {broken[0]}: nothing can be compared",
        )
    return None


def concluded(
    guard: str,
    findings: Sequence[Finding],
    lacking: tuple[str, str] | None,
    metrics: Mapping[str, float | int | str | None],
    sound: str,
) -> GuardResult:
    """The result of ``findings``, worst first; without any, of what is ``lacking``, if anything."""
    if findings:
        ordered = sorted(findings, key=lambda finding: -finding.excess)
        violations = tuple(finding.violation for finding in ordered)
        text = sentence(violations)
        return GuardResult(guard, False, "abort", violations[0].kind, text, metrics, violations)
    if lacking is not None:
        return GuardResult(guard, None, "abort", lacking[0], lacking[1], metrics)
    return GuardResult(guard, True, "continue", "ok", sound, metrics)


def sentence(violations: Sequence[Violation]) -> str:
    """The first violation in words, and how many more modules there are."""
    first = violations[0]
    others = len({violation.module for violation in violations} - {first.module})
    rest = f"; {others} more modules" if others else ""
    found = (
        "" if first.value is None else f": {shown(first.value)}, allowed {shown(first.threshold)}"
    )
    return f"{first.kind.replace('_', ' ')} in {first.module}{found}{rest}"


def shown(value: Any) -> str:
    """A number as a sentence has it; anything else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def branch_counts(evidence: GuardEvidence) -> dict[str, float | int | str | None]:
    """How much was compared."""
    return {
        key: evidence.get(key, 0)
        for key in ("n_branches", "n_branches_compared", "n_windows", "n_tokens", "parameter_share")
    }


def largest(
    name: str, rows: Sequence[Mapping[str, Any]], key: str
) -> dict[str, float | int | str | None]:
    """The largest ``key`` of ``rows`` and its module, under ``largest_<name>`` and ``…_module``."""
    known = [row for row in rows if row[key] is not None]
    worst = max(known, key=lambda row: abs(row[key]), default=None)
    return {
        f"largest_{name}": None if worst is None else worst[key],
        f"largest_{name}_module": None if worst is None else worst["module"],
    }
