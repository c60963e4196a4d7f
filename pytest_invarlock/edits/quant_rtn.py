"""Round-to-nearest weight quantisation, stored dequantised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from pytest_invarlock.edits.error_figures import SquaredError
from pytest_invarlock.edits.targets import as_rows, as_stored, finite_targets

if TYPE_CHECKING:
    from pytest_invarlock.edits.writer import TensorWriter


def quant_rtn(
    journal: TensorWriter,
    *,
    bitwidth: int | None = None,
    bits: int | None = None,
    group_size: int | None = None,
    group: int | None = None,
    per_channel: bool = True,
    clamp_ratio: float = 0.0,
    scope: str = "all",
    layers: str | Sequence[int] | None = None,
    include: Sequence[str] = (),
) -> Mapping[str, float]:
    """Quantise every matrix in scope to ``bitwidth`` bits, symmetric, nearest, ties to even.

    Args:
        journal: of the model to change.
        bitwidth: 2 to 8; ``bits`` is another name for it.
        group_size: weights along the input axis that share a scale (``group`` is another name);
            None: one scale for each output channel.
        per_channel: False: one scale for a whole matrix (for each expert, where stacked).
        clamp_ratio: share of each channel's weights, half at either end, clipped beforehand.
        scope: ``ffn``, ``attn`` or ``all``, with ``@layers=`` to limit the blocks.
        layers: the blocks, where the scope does not name them.
        include: ``embed`` and ``head``, which no scope holds.

    Returns:
        ``relative_error`` (Frobenius, over all matrices) and ``clipped_share``.

    Raises:
        EditError: a matrix holds non-finite weights (EDIT_NO_TARGET).
    """
    width = bitwidth if bitwidth is not None else bits
    if width is None:
        raise TypeError("quant_rtn needs bitwidth")
    size = group_size if group_size is not None else group
    error, n_clipped, n_weights = SquaredError(), 0, 0
    for matrix in finite_targets(journal.model, scope, layers, include):
        rows = as_rows(matrix).float()
        clipped = clip_quantiles(rows, clamp_ratio)
        n_clipped += int((clipped != rows).sum().item())
        n_weights += rows.numel()
        quantised = as_stored(matrix, round_to_nearest(clipped, width, size, per_channel))
        error.add(matrix.weight, quantised)
        journal.write(matrix.name, quantised)
    return {
        "relative_error": error.relative,
        "clipped_share": n_clipped / n_weights if n_weights else 0.0,
    }


def round_to_nearest(
    rows: torch.Tensor, bitwidth: int, group_size: int | None = None, per_channel: bool = True
) -> torch.Tensor:
    """Dequantised symmetric round-to-nearest of ``rows`` (…, outputs, inputs), in its own dtype.

    scale = max|w| / (2^(bits-1) - 1) per group of ``group_size`` inputs (the last may be shorter),
    so that codes reach ±(2^(bits-1) - 1); arithmetic in float32; an all-zero group stays zero.
    """
    largest = 2 ** (bitwidth - 1) - 1
    values = rows.detach().float()
    if not per_channel:
        return _rounded(values, values.abs().amax(dim=(-2, -1), keepdim=True), largest).to(
            rows.dtype
        )
    pieces = torch.split(values, group_size or values.shape[-1], dim=-1)
    done = [_rounded(piece, piece.abs().amax(dim=-1, keepdim=True), largest) for piece in pieces]
    return torch.cat(done, dim=-1).to(rows.dtype)


def _rounded(values: torch.Tensor, magnitude: torch.Tensor, largest: int) -> torch.Tensor:
    scale = magnitude / largest
    # A group too small for float32 to divide by its scale is quantised to zero, as zeros are.
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (values / safe).round().clamp(-largest, largest) * scale


def clip_quantiles(rows: torch.Tensor, clamp_ratio: float) -> torch.Tensor:
    """``rows`` (…, outputs, inputs) clipped, row by row, to quantiles c/2 and 1 - c/2.

    Quantiles are interpolated linearly between order statistics, as `numpy.quantile` does.
    """
    if clamp_ratio == 0:
        return rows
    # torch.quantile refuses tensors above 16 million elements.
    ordered = rows.sort(dim=-1).values
    low = _order_statistic(ordered, clamp_ratio / 2)
    high = _order_statistic(ordered, 1 - clamp_ratio / 2)
    return torch.maximum(torch.minimum(rows, high), low)


def _order_statistic(ordered: torch.Tensor, share: float) -> torch.Tensor:
    position = share * (ordered.shape[-1] - 1)
    below = int(position)
    above = min(below + 1, ordered.shape[-1] - 1)
    start = ordered[..., below : below + 1]
    return start + (ordered[..., above : above + 1] - start) * (position - below)
