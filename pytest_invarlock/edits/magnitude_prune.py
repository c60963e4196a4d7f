"""Unstructured magnitude pruning with an exact count of zeros."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from invarlock_guards.families import weight_matrices

if TYPE_CHECKING:
    from pytest_invarlock.bench.journal import EditJournal


def magnitude_prune(journal: EditJournal, *, sparsity: float, scope: str = "all") -> None:
    """Zero the smallest ``sparsity`` share of each block projection in ``scope``, by magnitude."""
    for matrix in weight_matrices(journal.model, scope):
        journal.write(matrix.name, pruned(matrix.weight, sparsity))


def pruned(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """``weight`` with its floor(n·sparsity) smallest magnitudes zeroed; ties go by lower index."""
    flat = weight.detach().reshape(-1).clone()
    n_zeros = math.floor(flat.numel() * sparsity)
    # Half types have too few kernels; float64 must keep its own order.
    magnitudes = flat.abs() if flat.dtype == torch.float64 else flat.abs().float()
    order = torch.argsort(magnitudes, stable=True)
    flat[order[:n_zeros]] = 0
    return flat.reshape(weight.shape)
