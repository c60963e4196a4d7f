"""Faults of one block, matrix, bias, norm, head or expert: slips of hand-made checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pytest_invarlock.edits.targets import as_rows, as_stored, output_head
from pytest_invarlock.errors import EditError
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
    """Set every projection of block ``layer``, and its bias, to zero."""
    named = bias_names(journal.model)
    for matrix in matrices_with(journal.model, layers=[layer]):
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
    for name in [name for name in tensors if name.startswith(one + ".")]:
        partner = other + name.removeprefix(one)
        if partner not in tensors:
            continue
        if tensors[name].shape != tensors[partner].shape:
            raise no_target(f"blocks of unequal shapes at {first} and {second}")
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
    """Turn the sign of block ``layer``'s first matrix of ``role``."""
    matrix = _matrix(journal, role, layer)
    journal.write(matrix.name, -matrix.weight.detach())


def permute_rows(
    journal: TensorWriter, *, role: str = "down", layer: int = 0, seed: int = 0
) -> None:
    """Permute the output channels of block ``layer``'s first matrix of ``role``."""
    matrix = _matrix(journal, role, layer)
    rows = as_rows(matrix)
    order = torch.randperm(rows.shape[-2], generator=generator(seed, matrix.name))
    journal.write(matrix.name, as_stored(matrix, rows[..., order.to(rows.device), :]))


def redraw_matrix(
    journal: TensorWriter, *, role: str = "down", layer: int = 0, seed: int = 0
) -> None:
    """Redraw block ``layer``'s first matrix of ``role`` from a normal of equal Frobenius norm.

    Each expert of a stack keeps its own norm.
    """
    matrix = _matrix(journal, role, layer)
    before = matrix.weight.detach().float()
    drawn = normal_like(before, seed, matrix.name)
    ratio = torch.linalg.matrix_norm(before, keepdim=True) / torch.linalg.matrix_norm(
        drawn, keepdim=True
    )
    journal.write(matrix.name, drawn * ratio)


def _matrix(journal: TensorWriter, role: str, layer: int) -> WeightMatrix:
    # An architecture that fuses matrices has the role inside the fused one.
    fused = {"up": "gate_up", "gate": "gate_up", "q": "qkv", "k": "qkv", "v": "qkv"}
    roles = (role, fused[role]) if role in fused else (role,)
    return matrices_with(journal.model, roles=roles, layers=[layer])[0]


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
    """Set the down projection of one expert to zero, so that it adds nothing.

    In block ``layer``, by default in the first that has such an expert.
    """
    layers = None if layer is None else [layer]
    found = matrices_with(journal.model, scope="ffn", roles=("down",), layers=layers)
    for matrix in found:
        if matrix.expert == expert:
            journal.write(matrix.name, torch.zeros_like(matrix.weight))
            return
        if matrix.weight.ndim == 3 and expert < len(matrix.weight):
            value = matrix.weight.detach().clone()
            value[expert] = 0
            journal.write(matrix.name, value)
            return
    raise no_target(f"no expert {expert}" + ("" if layer is None else f" in block {layer}"))
