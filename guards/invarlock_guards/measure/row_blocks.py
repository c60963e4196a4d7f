"""Matrices read a block of rows at a time in float64, so that no whole copy of one is made."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_ELEMENTS = 1 << 22
"""Numbers in one block: 32 MiB of float64."""


def row_blocks(*matrices: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Consecutive rows of ``matrices`` (n, m), all of one shape, as float64 blocks."""
    rows, columns = matrices[0].shape
    step = max(1, BLOCK_ELEMENTS // max(1, columns))
    for start in range(0, rows, step):
        yield tuple(as_float64(matrix[start : start + step]) for matrix in matrices)


def as_float64(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` in float64, which holds every floating dtype exactly; on the CPU where it must."""
    found = tensor.detach()
    if found.device.type == "mps":
        # Apple's device has no float64.
        found = found.cpu()
    return found.to(torch.float64)


def bitwise_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether both have one dtype, one shape and the same bits; ``0.0`` and ``-0.0`` differ."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.device != other.device:
        other = other.to(one.device)
    if one.data_ptr() == other.data_ptr() and one.stride() == other.stride() and not one.is_meta:
        return True
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(
        one.element_size(), torch.uint8
    )
    return torch.equal(one.detach().view(integer), other.detach().view(integer))


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no element of ``tensor`` is NaN or infinite."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    values = tensor.detach().flatten() if tensor.is_contiguous() else tensor.detach()
    if values.element_size() == 1:
        # float8 has no reductions.
        return all(is_finite(b.float()) for b in torch.split(values.flatten(), BLOCK_ELEMENTS))
    # Both carry a NaN through, and neither makes a mask as large as the tensor.
    return math.isfinite(float(values.amin())) and math.isfinite(float(values.amax()))
