"""Round-to-nearest weight quantisation, stored dequantised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from invarlock_guards.families import weight_matrices

if TYPE_CHECKING:
    from pytest_invarlock.bench.journal import EditJournal


def quant_rtn(
    journal: EditJournal, *, bitwidth: int, group_size: int | None = None, scope: str = "all"
) -> None:
    """Quantise every block projection in ``scope`` to ``bitwidth`` bits, symmetric, nearest.

    Args:
        journal: of the model to change.
        bitwidth: 2 to 8.
        group_size: weights along the input axis that share a scale; None: one scale a channel.
        scope: ``ffn``, ``attn`` or ``all``.
    """
    for matrix in weight_matrices(journal.model, scope):
        rows = matrix.weight if matrix.input_axis == 1 else matrix.weight.T
        quantised = round_to_nearest(rows, bitwidth, group_size)
        journal.write(matrix.name, quantised if matrix.input_axis == 1 else quantised.T)


def round_to_nearest(
    rows: torch.Tensor, bitwidth: int, group_size: int | None = None
) -> torch.Tensor:
    """Dequantised symmetric round-to-nearest of ``rows`` (outputs, inputs), in its own dtype.

    scale = max|w| / (2^(bits-1) - 1) per group of ``group_size`` inputs (the last may be shorter);
    arithmetic in float32; an all-zero group stays zero.
    """
    largest = 2 ** (bitwidth - 1) - 1
    values = rows.detach().float()
    pieces = torch.split(values, group_size or values.shape[1], dim=1)
    done = []
    for piece in pieces:
        scale = piece.abs().amax(dim=1, keepdim=True) / largest
        safe = torch.where(scale > 0, scale, torch.ones_like(scale))
        done.append((piece / safe).round().clamp(-largest - 1, largest) * scale)
    return torch.cat(done, dim=1).to(rows.dtype)
