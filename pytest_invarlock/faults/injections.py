"""Faults of single tensors: each finds a target that exists, or says that there is none."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from invarlock_guards.families import weight_matrices

from pytest_invarlock.errors import EditError

if TYPE_CHECKING:
    from invarlock_guards.families import WeightMatrix

    from pytest_invarlock.bench.journal import EditJournal


def nan_injection(journal: EditJournal) -> None:
    """Set one element of the first block's first projection to NaN."""
    target = _first(journal, "all")
    value = target.weight.detach().clone()
    value[0, 0] = math.nan
    journal.write(target.name, value)


def scale_explosion(journal: EditJournal, *, factor: float = 100.0) -> None:
    """Multiply the first block's first feed-forward projection by ``factor``."""
    target = _first(journal, "ffn")
    journal.write(target.name, target.weight.detach() * factor)


def _first(journal: EditJournal, scope: str) -> WeightMatrix:
    for matrix in weight_matrices(journal.model, scope):
        return matrix
    raise EditError(
        f"the model has no {scope} projection to damage",
        remedy="choose a model whose blocks are known",
        code="EDIT_NO_TARGET",
    )
