"""Projections with their biases, paired as they compute: value with output, up with down."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pytest_invarlock.edits.targets import as_rows, as_stored
from pytest_invarlock.faults.targets import matrices_with

if TYPE_CHECKING:
    from invarlock_guards.families import WeightMatrix

    from pytest_invarlock.faults.rewrite import Rewrite

OnLastAxis = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Matrices whose outputs meet, element by element or head by head, the inputs of ``second``.

    ``first`` is a value or up projection, perhaps fused with others; ``gate`` the gate beside it,
    where it is a matrix of its own.
    """

    first: WeightMatrix
    second: WeightMatrix
    gate: WeightMatrix | None = None

    @property
    def fused(self) -> bool:
        """Whether ``first`` holds other outputs than those that ``second`` reads."""
        return self.first.role in ("qkv", "gate_up")


def attention_pairs(model: torch.nn.Module, layers: str | list[int] | None) -> list[Pair]:
    """Value (or fused query-key-value) and output projections of each attention."""
    found = matrices_with(model, scope="attn", layers=layers)
    pairs = []
    for unit in _units(found, "o", ("v", "qkv")):
        values = [m for m in unit if m.role in ("v", "qkv")]
        if len(values) == 1:
            pairs.append(Pair(values[0], unit[-1]))
    return pairs


def mlp_pairs(model: torch.nn.Module, layers: str | list[int] | None) -> list[Pair]:
    """Up (or fused gate and up) and down projections of each feed-forward network or expert."""
    found = matrices_with(model, scope="ffn", layers=layers)
    pairs = []
    for unit in _units(found, "down", ("up", "gate_up")):
        ups = [m for m in unit if m.role in ("up", "gate_up")]
        gates = [m for m in unit if m.role == "gate"]
        if len(ups) == 1 and len(gates) <= 1:
            pairs.append(Pair(ups[0], unit[-1], gates[0] if gates else None))
    return pairs


def _units(
    matrices: Iterable[WeightMatrix], last: str, first: tuple[str, ...]
) -> list[list[WeightMatrix]]:
    """Matrices that belong together, the one of role ``last`` at the end of each unit.

    Those below one module belong together; where a module holds no complete unit (BERT spreads
    one over several), those of a block do, up to the next ``last`` in model order.
    """
    units, scattered = [], []
    for group in _grouped(matrices, _module).values():
        roles: list[str] = [m.role for m in group]
        if roles.count(last) == 1 and any(role in first for role in roles):
            units.append(sorted(group, key=lambda m: m.role == last))
        else:
            scattered += group
    for group in _grouped(scattered, _block).values():
        unit: list[WeightMatrix] = []
        for matrix in group:
            unit.append(matrix)
            if matrix.role == last:
                units.append(unit)
                unit = []
    return units


def _grouped(
    matrices: Iterable[WeightMatrix], key: Callable[[WeightMatrix], str]
) -> dict[str, list[WeightMatrix]]:
    groups: dict[str, list[WeightMatrix]] = {}
    for matrix in matrices:
        groups.setdefault(key(matrix), []).append(matrix)
    return groups


def _module(matrix: WeightMatrix) -> str:
    return matrix.name.removesuffix(".weight").rpartition(".")[0]


def _block(matrix: WeightMatrix) -> str:
    return str(matrix.block)


def map_outputs(
    rewrite: Rewrite, matrix: WeightMatrix, bias: str | None, change: OnLastAxis
) -> None:
    """Have ``change`` applied along the outputs of ``matrix``, and to its ``bias`` by name."""

    def changed(value: torch.Tensor) -> torch.Tensor:
        outputs_last = as_rows(matrix, value).transpose(-1, -2)
        return as_stored(matrix, change(outputs_last).transpose(-1, -2))

    rewrite.change(matrix.name, changed)
    if bias is not None:
        rewrite.change(bias, change)


def map_inputs(rewrite: Rewrite, matrix: WeightMatrix, change: OnLastAxis) -> None:
    """Have ``change`` applied along the input axis of ``matrix``."""
    rewrite.change(matrix.name, lambda value: as_stored(matrix, change(as_rows(matrix, value))))


def on_positions(positions: torch.Tensor, change: OnLastAxis) -> OnLastAxis:
    """``change`` of only those elements of the last axis that ``positions`` (n,) index."""

    def changed(values: torch.Tensor) -> torch.Tensor:
        at = positions.to(values.device)
        done = values.clone()
        done[..., at] = change(values[..., at])
        return done

    return changed
