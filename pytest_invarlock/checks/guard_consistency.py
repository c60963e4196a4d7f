"""What one guard's evidence contradicts of the rest of a record: such evidence supports no pass."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_invarlock.checks.consistency import SAME_NUMBERS, applied_edit, identities
from pytest_invarlock.checks.guard_overhead import after_alteration
from pytest_invarlock.checks.stated_rescaling import rescaling_contradiction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.records import Facts

COMPARED = (None, "zero_baseline", "zero_subject", "non_finite_subject")
"""Reasons of changes that were compared all the same; under the others a tensor was not."""
_OF_WEIGHTS = {"edge_of_change": "balanced_edge", "change_size": "relative_change"}


def guard_contradiction(name: str, facts: Facts) -> str | None:
    """What the evidence of guard ``name`` contradicts; None where nothing, or there is none."""
    found = identities(facts) or applied_edit(facts)
    if found is not None:
        return found
    evidence = facts.guards.get(name)
    if evidence is None or not _measured(evidence):
        return None
    altered = after_alteration(name, facts)
    if altered is not None:
        return altered
    if name == "spectral":
        return _changes(evidence, facts)
    if name in ("rmt", "variance"):
        found = _branches(name, evidence, facts)
        if found is None and name == "variance":
            found = rescaling_contradiction(evidence, facts)
        return found
    return None


def _measured(evidence: Mapping[str, Any]) -> bool:
    return "not_evaluated" not in evidence


def _changes(evidence: Mapping[str, Any], facts: Facts) -> str | None:
    """The listed changes are those that are counted, and there are some where weights changed."""
    changes, covered = evidence["changes"], evidence["covered"]
    rows = Counter("vector" if c["type"] == "vector" else c["family"] for c in changes)
    for family, row in covered.items():
        if rows.get(family, 0) != row["changed"]:
            return f"{row['changed']} changes of {family} are counted, {rows[family]} are listed"
        matrices = sum(c["type"] == "matrix" and c["family"] == family for c in changes)
        if matrices > row["matrices"]:
            return f"{matrices} matrices of {family} changed, and there are {row['matrices']}"
        missed = sum(
            c["n_parameters"]
            for c in changes
            if _family(c) == family and c["reason"] not in COMPARED
        )
        if row["compared"] > row["parameters"] - missed:
            return f"more parameters of {family} are said to be compared than could be"
    if set(rows) - set(covered):
        return f"changes of {sorted(set(rows) - set(covered))[0]} are listed and not counted"
    edit = facts.edit
    if edit and edit["n_parameters_changed"] and edit["name"] not in SAME_NUMBERS and not changes:
        return f"{edit['name']} changed {edit['n_parameters_changed']} parameters, none is listed"
    return None


def _family(change: Mapping[str, Any]) -> str:
    return "vector" if change["type"] == "vector" else str(change["family"])


def _branches(name: str, evidence: Mapping[str, Any], facts: Facts) -> str | None:
    """Both guards of activations saw the same pass, and edges are those of the weights."""
    if evidence["left_out"] and evidence["parameter_share"] >= 1:
        return f"{evidence['left_out'][0]} was left out, and nothing was"
    other = facts.guards.get("variance" if name == "rmt" else "rmt")
    if other is not None and _measured(other):
        for key in ("n_windows", "n_tokens", "n_branches", "parameter_share", "branches"):
            if evidence[key] != other[key]:
                return f"rmt and variance state different {key.replace('_', ' ')}"
    factor = facts.plan.get("outlier_factor", evidence["outlier_factor"])
    if evidence["outlier_factor"] != factor:
        return f"outliers beyond {evidence['outlier_factor']:g} of an edge, planned were {factor:g}"
    counted = _windows(evidence, facts)
    if counted is not None:
        return counted
    weights = facts.guards.get("spectral")
    if name != "rmt" or weights is None or not _measured(weights):
        return None
    for key, statistic in _OF_WEIGHTS.items():
        of_weights = {c["name"]: c[statistic] for c in weights["changes"] if c["type"] == "matrix"}
        if evidence[key] is not None and evidence[key] != of_weights:
            return f"its {key} is another than that of the weights"
    return None


def _windows(evidence: Mapping[str, Any], facts: Facts) -> str | None:
    """The windows are those that were drawn for guards, at most as many as were planned."""
    drawn, used = facts.data.get("n_guard_windows"), evidence["n_windows"]
    planned = facts.plan.get("windows", {}).get("guard_windows")
    if drawn is None or not used:
        return None
    if planned is not None and drawn > planned:
        return f"{drawn} guard windows are said to be drawn, {planned} were planned"
    # Of an example every choice is a window.
    if used < drawn or (used > drawn and facts.plan["metric"] != "accuracy"):
        return f"{drawn} guard windows are said to be drawn, {used} were measured"
    return None
