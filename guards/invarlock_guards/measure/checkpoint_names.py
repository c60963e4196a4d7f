"""Roles of a checkpoint's tensors by their names alone, where no architecture explains them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from invarlock_guards.role_names import (
    ATTENTION_INPUTS,
    ATTENTION_OUTPUTS,
    DOWN,
    FAMILY_OF,
    GATE_AND_UP,
    HEADS,
    POSITIONS,
    SEGMENTS,
    TOKEN_EMBEDDINGS,
    UP_AND_DOWN,
)

if TYPE_CHECKING:
    from invarlock_guards.role_names import Role


def roles_by_name(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, str]]:
    """Role and family of every tensor: the names of a matrix and of its neighbours decide.

    What they leave open is ``unknown`` in the family ``other``, and compared like any matrix; a
    tensor of one axis is a ``bias`` or a ``vector``.

    Args:
        shapes: by the name a tensor is stored under.
    """
    matrices = [name for name, shape in shapes.items() if len(shape) > 1]
    beside: dict[str, set[str]] = {}
    for name in matrices:
        beside.setdefault(_place(name)[0], set()).add(_place(name)[1])
    found: dict[str, tuple[str, str]] = {}
    for name, shape in shapes.items():
        if len(shape) < 2:
            found[name] = ("bias" if name.endswith("bias") else "vector", "other")
        else:
            around, own = _place(name)
            role = _role(own, beside[around])
            found[name] = (role, FAMILY_OF[role])
    return found


def _place(name: str) -> tuple[str, str]:
    """The module around a projection and the projection's own name."""
    around, _, own = f".{name.removesuffix('.weight')}".rpartition(".")
    return around, own


def _role(own: str, beside: Iterable[str]) -> Role:
    tables: tuple[tuple[frozenset[str], Role], ...] = (
        (TOKEN_EMBEDDINGS, "embedding"), (POSITIONS, "position"), (SEGMENTS, "segment"),
        (HEADS, "head"),
    )  # fmt: skip
    for table, role in tables:
        if own in table:
            return role
    if own in ATTENTION_INPUTS:
        return ATTENTION_INPUTS[own]
    names = set(beside)
    if own in ATTENTION_OUTPUTS and names & ATTENTION_INPUTS.keys():
        return "o"
    for gate, up in GATE_AND_UP:
        if {gate, up} <= names and own in (gate, up):
            return "gate" if own == gate else "up"
    for up, down in UP_AND_DOWN:
        if {up, down} <= names and own in (up, down):
            return "up" if own == up else "down"
    return "down" if own in DOWN else "unknown"
