"""Unstructured magnitude pruning with an exact count of zeros."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from pytest_invarlock.edits.error_figures import SquaredError
from pytest_invarlock.edits.targets import edit_targets

if TYPE_CHECKING:
    from pytest_invarlock.edits.writer import TensorWriter


def magnitude_prune(
    journal: TensorWriter,
    *,
    sparsity: float,
    scope: str = "all",
    layers: str | Sequence[int] | None = None,
    include: Sequence[str] = (),
) -> Mapping[str, float]:
    """Zero the smallest ``sparsity`` share of each matrix in scope, by magnitude.

    Args:
        journal: of the model to change.
        sparsity: above 0, at most 1; each expert of a stack loses its own share.
        scope: ``ffn``, ``attn`` or ``all``, with ``@layers=`` to limit the blocks.
        layers: the blocks, where the scope does not name them.
        include: ``embed`` and ``head``, which no scope holds.

    Returns:
        ``zero_share`` of the matrices afterwards and ``relative_error`` (Frobenius).
    """
    error, n_zeros, n_weights = SquaredError(), 0, 0
    for matrix in edit_targets(journal.model, scope, layers, include):
        done = torch.stack([pruned(w, sparsity) for w in _each_matrix(matrix.weight)])
        done = done.reshape(matrix.weight.shape)
        error.add(matrix.weight, done)
        n_zeros += int((done == 0).sum().item())
        n_weights += done.numel()
        journal.write(matrix.name, done)
    return {"zero_share": n_zeros / max(n_weights, 1), "relative_error": error.relative}


def _each_matrix(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().reshape(-1, *weight.shape[-2:])


def pruned(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """``weight`` with its floor(n·sparsity) smallest magnitudes zeroed; ties go by lower index.

    The product is that of the decimal number: .29 of 100 are 29, where binary floats give 28.
    """
    flat = weight.detach().reshape(-1).clone()
    n_zeros = math.floor(flat.numel() * Fraction(str(sparsity)))
    if n_zeros == 0:
        return flat.reshape(weight.shape)
    # Half types have too few kernels; float64 must keep its own order.
    magnitudes = flat.abs() if flat.dtype == torch.float64 else flat.abs().float()
    threshold = magnitudes.kthvalue(n_zeros).values
    below, at = magnitudes < threshold, magnitudes == threshold
    from_ties = n_zeros - below.sum()
    flat[below | (at & (at.cumsum(0) <= from_ties))] = 0
    return flat.reshape(weight.shape)
