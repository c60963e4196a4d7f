"""Coarse faults of resident weights: broken numbers, exploded scales, lost rank and precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from invarlock_guards.families import all_weight_matrices, weight_matrices

from pytest_invarlock.edits.fp8_quant import fp8_round_trip
from pytest_invarlock.edits.targets import as_rows, as_stored
from pytest_invarlock.faults.targets import matrices_with, no_target

if TYPE_CHECKING:
    from invarlock_guards.families import WeightMatrix

    from pytest_invarlock.edits.writer import TensorWriter

CAST_TO = {"float16": torch.float16, "bfloat16": torch.bfloat16}
FLOAT8 = {"float8_e4m3": "e4m3", "float8_e5m2": "e5m2"}


def nan_injection(journal: TensorWriter, *, layer: int = 0) -> None:
    """Set one element of block ``layer``'s first projection to NaN.

    Where no role in the block is known (state-space models), its first matrix is struck.
    """
    model = journal.model
    if any(True for _ in weight_matrices(model)):
        target = matrices_with(model, layers=[layer])[0]
    else:
        found = [matrix for matrix in all_weight_matrices(model) if matrix.block == layer]
        if not found:
            raise no_target(f"no matrix in block {layer}")
        target = found[0]
    _set_first_element(journal, target, math.nan)


def inf_injection(journal: TensorWriter, *, layer: int = 0) -> None:
    """Set one element of block ``layer``'s first attention projection to +infinity."""
    target = matrices_with(journal.model, scope="attn", layers=[layer])[0]
    _set_first_element(journal, target, math.inf)


def _set_first_element(journal: TensorWriter, target: WeightMatrix, number: float) -> None:
    value = target.weight.detach().clone(memory_format=torch.contiguous_format)
    value.view(-1)[0] = number
    journal.write(target.name, value)


def scale_explosion(journal: TensorWriter, *, factor: float = 100.0, layer: int = 0) -> None:
    """Multiply block ``layer``'s first feed-forward projection by ``factor``."""
    target = matrices_with(journal.model, scope="ffn", layers=[layer])[0]
    journal.write(target.name, target.weight.detach() * factor)


def extreme_quant(
    journal: TensorWriter, *, include: Sequence[str] = ("embed", "head")
) -> dict[str, float]:
    """Round every matrix to four codes, -2 to 1, of a step of half its largest magnitude.

    One scale for a whole tensor and two's-complement codes, as a naive 2-bit cast makes them: the
    largest positive weights lose half. Embeddings and head are included unless ``include`` says
    otherwise. Returns ``zero_share`` of the weights afterwards.
    """
    left_out = {"embedding", "position", "segment"} if "embed" not in include else set()
    left_out |= {"head"} if "head" not in include else set()
    seen: set[int] = set()
    n_zeros = n_weights = 0
    for matrix in list(all_weight_matrices(journal.model)):
        if matrix.role in left_out or matrix.weight.data_ptr() in seen:
            continue
        seen.add(matrix.weight.data_ptr())
        values = matrix.weight.detach().float()
        scale = (values.abs().max() / 2).clamp_min(1e-10)
        done = (values / scale).round().clamp(-2, 1) * scale
        n_zeros += int((done == 0).sum().item())
        n_weights += done.numel()
        journal.write(matrix.name, done)
    return {"zero_share": n_zeros / max(n_weights, 1)}


def rank_collapse(journal: TensorWriter, *, max_params: int = 8, scope: str = "attn") -> None:
    """Leave the first ``max_params`` matrices in ``scope`` with rank one and their Frobenius norm.

    The rank-one matrix is the outer product of the column and the row of largest norm, so that it
    is not degenerate unless the matrix is zero.
    """
    for matrix in matrices_with(journal.model, scope=scope)[:max_params]:
        rows = as_rows(matrix).float()
        column = _largest(rows.transpose(-1, -2)).unsqueeze(-1)
        row = _largest(rows).unsqueeze(-2)
        outer = (column / _norm(column)) @ (row / _norm(row))
        journal.write(matrix.name, as_stored(matrix, outer * _norm(rows)))


def _largest(rows: torch.Tensor) -> torch.Tensor:
    """The row of largest norm of each matrix: (…, outputs, inputs) to (…, inputs)."""
    at = torch.linalg.vector_norm(rows, dim=-1).argmax(dim=-1)
    found: torch.Tensor = torch.take_along_dim(rows, at[..., None, None], dim=-2).squeeze(-2)
    return found


def _norm(values: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.matrix_norm(values, keepdim=True)
    return norm.clamp_min(1e-30)


def norm_collapse(journal: TensorWriter, *, max_params: int = 32, scope: str = "attn") -> None:
    """Set the first ``max_params`` matrices in ``scope`` to zero."""
    for matrix in matrices_with(journal.model, scope=scope)[:max_params]:
        journal.write(matrix.name, torch.zeros_like(matrix.weight))


def dtype_round_trip(journal: TensorWriter, *, dtype: str = "float16") -> None:
    """Cast every parameter to ``dtype`` and back, as a checkpoint saved in the wrong dtype is.

    ``float16`` and ``bfloat16`` cast as torch does, overflow to infinity included; ``float8_e4m3``
    and ``float8_e5m2`` saturate, unscaled.
    """
    for name, parameter in journal.model.named_parameters():
        if not parameter.is_floating_point():
            continue
        value = parameter.detach()
        done = (
            fp8_round_trip(value.reshape(1, -1), FLOAT8[dtype]).reshape(value.shape)
            if dtype in FLOAT8
            else value.to(CAST_TO[dtype])
        )
        journal.write(name, done)
