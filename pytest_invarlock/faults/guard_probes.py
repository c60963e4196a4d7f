"""Mild faults aimed at one guard each: noise for rmt, scales for spectral, skew for variance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from pytest_invarlock.edits.targets import as_rows, as_stored
from pytest_invarlock.errors import EditError
from pytest_invarlock.faults.targets import (
    ATTENTION_INPUTS,
    UP,
    generator,
    last_blocks,
    matrices_with,
    normal_like,
    picked,
)

if TYPE_CHECKING:
    from pytest_invarlock.edits.writer import TensorWriter

Layers = str | Sequence[int] | None


def rmt_norm_noise(
    journal: TensorWriter,
    *,
    blend: float = 0.80,
    row_fraction: float = 0.20,
    max_rows: int = 192,
    max_params: int = 10,
    scope: str = "ffn",
    layers: Layers = None,
    preserve_norms: bool = True,
    jitter: float = 0.01,
    row_selection: str = "random",
    seed: int = 42,
) -> dict[str, float]:
    """Draw rows of some matrices towards one common row: anisotropy that keeps row norms.

    Each selected row becomes (1 - blend)·row + blend·first selected row, is rescaled to its old
    norm (``preserve_norms``), and gets normal noise of ``jitter`` times the mean of the selected
    rows' standard deviations. Rows are output channels; each expert of a stack has its own.

    Args:
        journal: of the model to change.
        blend: 0 to 1.
        row_fraction: share of a matrix's rows, at least 2 of them.
        max_rows: the most rows of one matrix.
        max_params: how many matrices, drawn from the eligible.
        scope: ``ffn`` (up, gate, down), ``attn`` or ``all``.
        layers: the blocks; by default the last eight.
        preserve_norms: rescale each row to its old norm.
        jitter: relative standard deviation of the noise.
        row_selection: ``random``, ``first``, ``last`` or ``top_norm``.
        seed: of the draw of matrices; each matrix adds its name for rows and noise.

    Raises:
        EditError: no eligible matrix, or matrices with non-finite weights (EDIT_NO_TARGET).
    """
    blocks = last_blocks(journal.model, 8) if layers is None else layers
    found = matrices_with(journal.model, scope=scope, layers=blocks)
    n_rows = 0
    for matrix in picked(found, max_params, seed):
        rows = as_rows(matrix).float().clone()
        if not bool(torch.isfinite(rows).all()):
            raise EditError(
                f"{matrix.name} holds non-finite weights already",
                remedy="inject this fault into a sound model",
                code="EDIT_NO_TARGET",
            )
        stack = rows.reshape(-1, *rows.shape[-2:])
        for expert, each in enumerate(stack):
            name = f"{matrix.name}[{expert}]"
            at = _rows(each, row_fraction, max_rows, row_selection, seed, name)
            each[at] = _drawn_together(each[at], blend, preserve_norms, jitter, seed, name)
            n_rows += len(at)
        journal.write(matrix.name, as_stored(matrix, stack.reshape(rows.shape)))
    return {"n_rows": n_rows}


def _drawn_together(
    rows: torch.Tensor, blend: float, preserve_norms: bool, jitter: float, seed: int, name: str
) -> torch.Tensor:
    norms = rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    mixed = (1 - blend) * rows + blend * rows[:1]
    if preserve_norms:
        mixed = mixed * (norms / mixed.norm(dim=1, keepdim=True).clamp_min(1e-12))
    spread = rows.std(dim=1).mean().clamp_min(1e-6)
    return mixed + normal_like(mixed, seed, name + " noise") * (jitter * spread)


def _rows(
    rows: torch.Tensor, fraction: float, most: int, selection: str, seed: int, name: str
) -> torch.Tensor:
    n = len(rows)
    count = min(max(round(fraction * n), 2), n, most)
    if selection == "first":
        return torch.arange(count)
    if selection == "last":
        return torch.arange(n - count, n)
    if selection == "top_norm":
        order: torch.Tensor = torch.linalg.vector_norm(rows, dim=1).argsort(descending=True)
        return order[:count].cpu()
    return torch.randperm(n, generator=generator(seed, name))[:count]


def rmt_norm_noise_strong(
    journal: TensorWriter,
    *,
    blend: float = 1.0,
    row_fraction: float = 0.35,
    max_rows: int = 512,
    max_params: int = 16,
    scope: str = "ffn",
    layers: Layers = None,
    preserve_norms: bool = True,
    jitter: float = 0.01,
    row_selection: str = "random",
    seed: int = 7,
) -> dict[str, float]:
    """`rmt_norm_noise` with rows that coincide in direction, in more rows and matrices."""
    return rmt_norm_noise(
        journal, blend=blend, row_fraction=row_fraction, max_rows=max_rows, max_params=max_params,
        scope=scope, layers=layers, preserve_norms=preserve_norms, jitter=jitter,
        row_selection=row_selection, seed=seed,
    )  # fmt: skip


def spectral_moderate_scale(
    journal: TensorWriter,
    *,
    factor: float = 1.5,
    layers: Layers = None,
    max_params: int = 8,
    include_qkv: bool = False,
    seed: int = 42,
) -> None:
    """Multiply attention output projections (with ``include_qkv``, all attention) by ``factor``.

    ``max_params`` matrices are drawn with ``seed`` from ``layers``, by default from every block.
    """
    roles = ("o", *ATTENTION_INPUTS) if include_qkv else ("o",)
    _scale(journal, "attn", roles, layers, factor, max_params, seed)


def spectral_moderate_scale_mlp(
    journal: TensorWriter,
    *,
    factor: float = 1.4,
    layers: Layers = None,
    max_params: int = 2,
    seed: int = 7,
) -> None:
    """Multiply ``max_params`` up projections by ``factor``, drawn from ``layers`` with ``seed``.

    By default the first four blocks. Where up and gate are one matrix, both are multiplied.
    """
    blocks = _first_blocks(journal, 4) if layers is None else layers
    _scale(journal, "ffn", UP, blocks, factor, max_params, seed)


def ve_mlp_scale_skew(
    journal: TensorWriter,
    *,
    factor: float = 0.90,
    layers: Layers = None,
    max_params: int = 1,
    seed: int = 42,
) -> None:
    """Multiply ``max_params`` down projections by ``factor``, drawn from ``layers`` with ``seed``.

    By default from the last four blocks.
    """
    blocks = last_blocks(journal.model, 4) if layers is None else layers
    _scale(journal, "ffn", ("down",), blocks, factor, max_params, seed)


def ve_mlp_scale_skew_up(
    journal: TensorWriter,
    *,
    factor: float = 1.12,
    layers: Layers = None,
    max_params: int = 1,
    seed: int = 7,
) -> None:
    """`ve_mlp_scale_skew` upwards: down projections multiplied by a factor above 1."""
    ve_mlp_scale_skew(journal, factor=factor, layers=layers, max_params=max_params, seed=seed)


def _first_blocks(journal: TensorWriter, count: int) -> list[int]:
    return sorted({m.block for m in matrices_with(journal.model) if m.block is not None})[:count]


def _scale(
    journal: TensorWriter,
    scope: str,
    roles: Sequence[str],
    layers: Layers,
    factor: float,
    max_params: int,
    seed: int,
) -> None:
    found = matrices_with(journal.model, scope=scope, roles=roles, layers=layers)
    for matrix in picked(found, max_params, seed):
        journal.write(matrix.name, matrix.weight.detach() * factor)
