"""Faults of one block, matrix, bias, norm, head or expert: slips of hand-made checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from invarlock_guards.families import all_weight_matrices

from pytest_invarlock.edits.targets import as_rows, as_stored, output_head
from pytest_invarlock.errors import EditError
from pytest_invarlock.faults.fused_part import PARTS, part_positions
from pytest_invarlock.faults.targets import (
    bias_names,
    block_prefixes,
    generator,
    matrices_with,
    no_target,
    normal_like,
    norms,
)

if TYPE_CHECKING:
    from invarlock_guards.families import WeightMatrix

    from pytest_invarlock.edits.writer import TensorWriter


def zero_layer(journal: TensorWriter, *, layer: int = 0) -> None:
    """Set every projection of block ``layer``, and its bias, to zero.

    Matrices of unknown role are among them (linear attention, convolutions): one of them may be
    what the block adds to the residual stream.
    """
    named = bias_names(journal.model)
    known = matrices_with(journal.model, layers=[layer])
    unknown = [
        matrix
        for matrix in all_weight_matrices(journal.model)
        if matrix.block == layer and matrix.role == "unknown"
    ]
    for matrix in (*known, *unknown):
        journal.write(matrix.name, torch.zeros_like(matrix.weight))
        if matrix.name in named:
            _zero(journal, named[matrix.name])


def swap_layers(journal: TensorWriter, *, first: int = 0, second: int | None = None) -> None:
    """Exchange the tensors of two blocks of one stack, by default with the stack's last block.

    Tensors that only one of the blocks has (T5's relative positions) stay where they are.
    """
    prefixes = block_prefixes(journal.model)
    one = _block(prefixes, first)
    stack = [prefix for prefix in prefixes if _stack(prefix) == _stack(one)]
    other = stack[-1] if second is None else _block(prefixes, second)
    if other == one or other not in stack:
        raise no_target(
            f"no two blocks of one stack at {first} and {second}", "name two blocks that it has"
        )
    tensors = dict(journal.model.named_parameters(remove_duplicate=False))
    swapped: dict[int, int] = {}
    for name in [name for name in tensors if name.startswith(one + ".")]:
        partner = other + name.removeprefix(one)
        if partner not in tensors:
            continue
        if tensors[name].shape != tensors[partner].shape:
            raise no_target(f"blocks of unequal shapes at {first} and {second}")
        # A tensor with two names in its block must not be swapped back under the second.
        here, there = tensors[name].data_ptr(), tensors[partner].data_ptr()
        if here == there or swapped.get(here) == there:
            continue
        if here in swapped or there in swapped.values():
            raise no_target(f"blocks that tie other tensors at {first} than at {second}")
        swapped[here] = there
        saved = tensors[name].detach().clone()
        journal.write(name, tensors[partner].detach())
        journal.write(partner, saved)


def _stack(prefix: str) -> str:
    return prefix.rpartition(".")[0]


def _block(prefixes: list[str], index: int) -> str:
    if not 0 <= index < len(prefixes):
        raise EditError(
            f"the model has {len(prefixes)} blocks, none numbered {index}",
            remedy="name a block that it has",
            code="EDIT_PARAMETERS",
        )
    return prefixes[index]


def sign_flip(journal: TensorWriter, *, role: str = "down", layer: int = 0) -> None:
    """Turn the sign of block ``layer``'s first matrix of ``role``.

    Here, in `permute_rows` and in `redraw_matrix`, a role that is part of a fused matrix strikes
    that part of it: ``v`` the values of a query-key-value. Where its layout cannot be told, that is
    an error (EDIT_NO_TARGET).
    """
    part = _part(journal, role, layer)
    _write_part(journal, part, -part.rows)


def permute_rows(
    journal: TensorWriter, *, role: str = "down", layer: int = 0, seed: int = 0
) -> None:
    """Permute the output channels of block ``layer``'s first matrix of ``role``."""
    part = _part(journal, role, layer)
    order = torch.randperm(part.rows.shape[-2], generator=generator(seed, part.matrix.name))
    _write_part(journal, part, part.rows[..., order.to(part.rows.device), :])


def redraw_matrix(
    journal: TensorWriter, *, role: str = "down", layer: int = 0, seed: int = 0
) -> None:
    """Redraw block ``layer``'s first matrix of ``role`` from a normal of equal Frobenius norm.

    Each expert of a stack keeps its own norm.
    """
    part = _part(journal, role, layer)
    before = part.rows.float()
    drawn = normal_like(before, seed, part.matrix.name)
    ratio = torch.linalg.matrix_norm(before, keepdim=True) / torch.linalg.matrix_norm(
        drawn, keepdim=True
    )
    _write_part(journal, part, (drawn * ratio).to(part.rows.dtype))


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Outputs ``at`` (None: all) of ``matrix``; ``rows`` are (…, outputs of the part, inputs)."""

    matrix: WeightMatrix
    at: torch.Tensor | None
    rows: torch.Tensor


def _part(journal: TensorWriter, role: str, layer: int) -> _Part:
    roles = (role, PARTS[role]) if role in PARTS else (role,)
    matrix = matrices_with(journal.model, roles=roles, layers=[layer])[0]
    rows = as_rows(matrix)
    if matrix.role == role:
        return _Part(matrix, None, rows)
    at = part_positions(journal.model, matrix, role).to(rows.device)
    return _Part(matrix, at, rows[..., at, :])


def _write_part(journal: TensorWriter, part: _Part, rows: torch.Tensor) -> None:
    whole = rows
    if part.at is not None:
        whole = as_rows(part.matrix).clone()
        whole[..., part.at, :] = rows
    journal.write(part.matrix.name, as_stored(part.matrix, whole))


def drop_bias(journal: TensorWriter, *, layer: int | None = None, scope: str = "all") -> None:
    """Set the biases of the projections in ``scope`` to zero, in block ``layer`` or in all."""
    layers = None if layer is None else [layer]
    named = bias_names(journal.model)
    matrices = matrices_with(journal.model, scope=scope, layers=layers)
    found = [named[matrix.name] for matrix in matrices if matrix.name in named]
    if not found:
        raise no_target("no bias on these projections")
    for name in found:
        _zero(journal, name)


def _zero(journal: TensorWriter, name: str) -> None:
    journal.write(name, torch.zeros_like(journal.model.get_parameter(name)))


def scale_norm_gain(
    journal: TensorWriter, *, factor: float = 1.5, layer: int | None = None
) -> None:
    """Multiply the gains of the norms of block ``layer``, or of every norm, by ``factor``.

    The gain is what activations meet: where a model stores gain - 1, as Gemma does, the stored
    weight is made to fit.
    """
    found = norms(journal.model)
    if layer is not None:
        prefix = _block(block_prefixes(journal.model), layer) + "."
        found = [norm for norm in found if norm.name.startswith(prefix)]
    if not found:
        raise no_target(f"no normalisation layer in block {layer}")
    for norm in found:
        journal.write(norm.name, norm.gain * factor - norm.offset)


def zero_head(journal: TensorWriter) -> None:
    """Set the output head, and with it an embedding that is tied to it, to zero."""
    matrix = output_head(journal.model)
    journal.write(matrix.name, torch.zeros_like(matrix.weight))


def kill_expert(journal: TensorWriter, *, expert: int = 0, layer: int | None = None) -> None:
    """Set the down projection of one expert, and its bias, to zero, so that it adds nothing.

    In block ``layer``, by default in the first that has such an expert.
    """
    layers = None if layer is None else [layer]
    named = bias_names(journal.model)
    for matrix in matrices_with(journal.model, scope="ffn", roles=("down",), layers=layers):
        stacked = matrix.weight.ndim == 3 and expert < len(matrix.weight)
        if not stacked and matrix.expert != expert:
            continue
        bias = named.get(matrix.name)
        for name in (matrix.name, *(() if bias is None else (bias,))):
            value = journal.model.get_parameter(name).detach().clone()
            value[expert if stacked else ...] = 0
            journal.write(name, value)
        return
    raise no_target(f"no expert {expert}" + ("" if layer is None else f" in block {layer}"))
