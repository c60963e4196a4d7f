"""Round trip of weights through an 8-bit floating-point format, stored dequantised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from pytest_invarlock.edits.error_figures import SquaredError
from pytest_invarlock.edits.targets import as_rows, as_stored, finite_targets

if TYPE_CHECKING:
    from pytest_invarlock.edits.writer import TensorWriter

FORMATS = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
LARGEST = {"e4m3": 448.0, "e5m2": 57344.0}
"""Largest finite value of each format (OCP 8-bit floating point specification, table 2)."""


def fp8_quant(
    journal: TensorWriter,
    *,
    format: str = "e4m3",  # noqa: A002 - the seeds' name for it
    scaled: bool = False,
    scope: str = "all",
    layers: str | Sequence[int] | None = None,
    include: Sequence[str] = (),
) -> Mapping[str, float]:
    """Cast every matrix in scope to ``format`` (``e4m3`` or ``e5m2``) and back.

    Args:
        journal: of the model to change.
        format: ``e4m3`` (no infinity, largest 448) or ``e5m2`` (largest 57344).
        scaled: True: each output channel is first scaled so that its largest weight meets the
            format's largest; False: weights are cast as they are, saturating.
        scope: ``ffn``, ``attn`` or ``all``, with ``@layers=`` to limit the blocks.
        layers: the blocks, where the scope does not name them.
        include: ``embed`` and ``head``, which no scope holds.

    Returns:
        ``relative_error`` (Frobenius), ``mean_relative_error`` (mean over matrices of mean |Δw|
        over mean |w|), ``saturated_share`` and ``flushed_to_zero_share`` of the weights.

    Raises:
        EditError: a matrix holds non-finite weights (EDIT_NO_TARGET).
    """
    error, ratios, n_weights, n_saturated, n_flushed = SquaredError(), [], 0, 0, 0
    for matrix in finite_targets(journal.model, scope, layers, include):
        rows = as_rows(matrix).float()
        done = fp8_round_trip(rows, format, scaled)
        error.add(as_rows(matrix), done)
        ratios.append(float((done - rows).abs().mean() / rows.abs().mean().clamp_min(1e-30)))
        n_weights += rows.numel()
        n_saturated += 0 if scaled else int((rows.abs() > LARGEST[format]).sum().item())
        n_flushed += int(((done == 0) & (rows != 0)).sum().item())
        journal.write(matrix.name, as_stored(matrix, done))
    return {
        "relative_error": error.relative,
        "mean_relative_error": sum(ratios) / max(len(ratios), 1),
        "saturated_share": n_saturated / max(n_weights, 1),
        "flushed_to_zero_share": n_flushed / max(n_weights, 1),
    }


def fp8_round_trip(rows: torch.Tensor, format: str, scaled: bool = False) -> torch.Tensor:  # noqa: A002
    """``rows`` (…, outputs, inputs) through ``format``, to nearest even, in their own dtype.

    What is too large saturates in both formats, infinity included; subnormals and NaN are kept.
    ``scaled`` needs finite rows: an infinity has no scale and would make its whole row NaN.
    Arithmetic in float32.
    """
    values = rows.detach().float()
    scale = torch.ones_like(values[..., :1])
    if scaled:
        largest = values.abs().amax(dim=-1, keepdim=True) / LARGEST[format]
        scale = torch.where(largest > 0, largest, scale)
    # torch casts an e5m2 overflow to infinity and, by release, an e4m3 one to NaN or 448.
    inside = (values / scale).clamp(-LARGEST[format], LARGEST[format])
    return (inside.to(FORMATS[format]).float() * scale).to(rows.dtype)
