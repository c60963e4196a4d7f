"""What a subject's change touched, family by family, from the weights' own evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_STATISTICS = ("relative_change", "ln_sigma", "ln_stable_rank")


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """One family: its tensors' numbers, how many changed, and the largest change and its module."""

    family: str
    n_matrices: int
    n_changed: int
    n_parameters: int
    n_parameters_changed: int
    largest: Mapping[str, float | None]
    module: str | None


def changed_families(certificate: Mapping[str, Any]) -> list[FamilyRow]:
    """A row for each family that was compared; none where no weight was."""
    evidence = certificate["guards"].get("spectral", {})
    changes = evidence.get("changes", ())
    return [
        _row(family, covered, [row for row in changes if _counted_as(row) == family])
        for family, covered in sorted(evidence.get("covered", {}).items())
    ]


def _counted_as(change: Mapping[str, Any]) -> str:
    """The family that ``covered`` counts a change under."""
    return "vector" if change["type"] == "vector" else str(change["family"])


def _row(
    family: str, covered: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]
) -> FamilyRow:
    # What has no number comes first: it is the worst that can become of a weight.
    worst = max(
        changes,
        key=lambda row: (row["relative_change"] is None, abs(row["relative_change"] or 0.0)),
        default=None,
    )
    return FamilyRow(
        family=family,
        n_matrices=covered["matrices"],
        n_changed=covered["changed"],
        n_parameters=covered["parameters"],
        n_parameters_changed=sum(row["n_parameters"] for row in changes),
        largest={
            key: max((abs(row[key]) for row in changes if row[key] is not None), default=None)
            for key in _STATISTICS
        },
        module=None if worst is None else worst["name"],
    )
