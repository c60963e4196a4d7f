"""One part of a fused projection: where queries, keys, values, gates or ups lie in it.

Nothing in a checkpoint says so. A rewrite that leaves the function only where a layout is the right
one tells which it is: values are rotated, ups rescaled; queries and keys lie beside the values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pytest_invarlock.faults.function_probe import LIMIT, rewrite_changes
from pytest_invarlock.faults.fused_layout import (
    HEAD_LAYOUTS,
    PAIR_LAYOUTS,
    gate_and_up_positions,
    head_positions,
)
from pytest_invarlock.faults.projections import attention_pairs, mlp_pairs
from pytest_invarlock.faults.reparametrization import heads_of, pair_rescaling, value_rotation
from pytest_invarlock.faults.targets import no_target

if TYPE_CHECKING:
    from invarlock_guards.families import WeightMatrix

    from pytest_invarlock.faults.projections import Pair
    from pytest_invarlock.faults.rewrite import Rewrite

PARTS = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}
"""The roles that may be part of a fused matrix, and its role."""


def part_positions(model: torch.nn.Module, matrix: WeightMatrix, role: str) -> torch.Tensor:
    """Which outputs of the fused ``matrix`` are of ``role``, one of `PARTS`: their indices.

    Raises:
        EditError: no known layout fits, or several that differ do (EDIT_NO_TARGET).
    """
    layers = None if matrix.block is None else [matrix.block]
    rewrites: list[Rewrite] = []
    found: list[torch.Tensor] = []
    if matrix.role == "qkv":
        pair = _own(attention_pairs(model, layers), matrix)
        heads = None if pair is None else heads_of(model, pair)
        if heads is not None:
            rewrites = [value_rotation(model, [heads], name, 0) for name in HEAD_LAYOUTS]
            sizes = (heads.n_heads, heads.n_kv_heads, heads.width)
            found = [head_positions(role, name, *sizes) for name in HEAD_LAYOUTS]
    else:
        pair = _own(mlp_pairs(model, layers), matrix)
        if pair is not None:
            rewrites = [pair_rescaling(model, [pair], name, 2.0) for name in PAIR_LAYOUTS]
            n_outputs = matrix.weight.shape[-2 if matrix.input_axis == -1 else -1]
            which = ("gate", "up").index(role)
            found = [gate_and_up_positions(name, n_outputs)[which] for name in PAIR_LAYOUTS]
    changes = rewrite_changes(model, rewrites) if rewrites else []
    fitting = [at for at, change in zip(found, changes, strict=True) if change <= LIMIT]
    if not fitting or any(not torch.equal(fitting[0], other) for other in fitting[1:]):
        raise no_target(
            f"its {role} inside {matrix.name}, and the layout of that cannot be told",
            f"use role: {matrix.role}, which strikes all of it",
        )
    return fitting[0]


def _own(pairs: list[Pair], matrix: WeightMatrix) -> Pair | None:
    return next((pair for pair in pairs if pair.first.name == matrix.name), None)
