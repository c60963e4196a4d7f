"""Low-rank approximation of weights by singular value decomposition, stored dense."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from pytest_invarlock.edits.error_figures import SquaredError
from pytest_invarlock.edits.targets import as_rows, as_stored, finite_targets
from pytest_invarlock.errors import EditError

if TYPE_CHECKING:
    from pytest_invarlock.edits.writer import TensorWriter

OVERSAMPLING = 8
POWER_ITERATIONS = 2


def lowrank_svd(
    journal: TensorWriter,
    *,
    rank: int | None = None,
    energy: float | None = None,
    method: str = "exact",
    seed: int = 0,
    scope: str = "all",
    layers: str | Sequence[int] | None = None,
    include: Sequence[str] = (),
) -> Mapping[str, float]:
    """Replace every matrix in scope by a low-rank approximation; give ``rank`` or ``energy``.

    Args:
        journal: of the model to change.
        rank: singular values kept; a matrix of no higher rank is left as it is, bit for bit.
        energy: the smallest rank is kept that holds this share of the squared Frobenius norm.
        method: ``exact``, or ``randomized`` (faster, below the optimum; with ``rank`` only).
        seed: of the randomized method; each matrix adds its own name.
        scope: ``ffn``, ``attn`` or ``all``, with ``@layers=`` to limit the blocks.
        layers: the blocks, where the scope does not name them.
        include: ``embed`` and ``head``, which no scope holds.

    Returns:
        ``energy_retained`` over all matrices together, 1 - ‖ΔW‖²/‖W‖² of what is stored,
        ``energy_retained_min`` over matrices, ``rank_min``, ``rank_max``, ``relative_error``.

    Raises:
        EditError: neither or both of rank and energy, or energy with the randomized method
            (EDIT_PARAMETERS); a matrix holds non-finite weights (EDIT_NO_TARGET).
    """
    if (rank is None) == (energy is None) or (energy is not None and method != "exact"):
        raise EditError(
            "lowrank_svd takes either rank or energy, and energy needs method exact",
            remedy="give one of them",
            code="EDIT_PARAMETERS",
        )
    error, retained, ranks = SquaredError(), [], []
    for matrix in finite_targets(journal.model, scope, layers, include):
        rows = as_rows(matrix)
        done = torch.empty_like(rows)
        for index, w in _matrices(rows):
            name = f"{matrix.name}{index}"
            done[index], kept = (
                randomized_low_rank(w, int(rank or 0), name_seed(seed, name))
                if method == "randomized"
                else low_rank(w, rank=rank, energy=energy)
            )
            own = SquaredError()
            own.add(w, done[index])
            retained.append(1 - own.relative**2)
            ranks.append(kept)
        error.add(rows, done)
        journal.write(matrix.name, as_stored(matrix, done))
    return {
        "energy_retained": 1 - error.relative**2,
        "energy_retained_min": min(retained, default=1.0),
        "rank_min": min(ranks, default=0),
        "rank_max": max(ranks, default=0),
        "relative_error": error.relative,
    }


def _matrices(rows: torch.Tensor) -> list[tuple[tuple[int, ...], torch.Tensor]]:
    if rows.ndim == 2:
        return [((), rows)]
    return [((expert,), matrix) for expert, matrix in enumerate(rows)]


def low_rank(
    rows: torch.Tensor, *, rank: int | None = None, energy: float | None = None
) -> tuple[torch.Tensor, int]:
    """The closest matrix of ``rank`` (Eckart–Young), or of the rank that ``energy`` needs.

    ``rows`` (outputs, inputs) of any dtype; arithmetic in float32. Returns the matrix in that
    dtype and its rank; ``rows`` itself where nothing is cut.
    """
    if rank is not None and rank >= min(rows.shape):
        return rows, min(rows.shape)
    u, s, vh = torch.linalg.svd(rows.detach().float(), full_matrices=False)
    kept = rank if rank is not None else rank_for_energy(s, energy or 0.0)
    if kept >= min(rows.shape):
        return rows, min(rows.shape)
    return ((u[:, :kept] * s[:kept]) @ vh[:kept]).to(rows.dtype), kept


def rank_for_energy(singular_values: torch.Tensor, energy: float) -> int:
    """The smallest count of leading values whose squares reach ``energy`` of the sum of squares."""
    squares = singular_values.double() ** 2
    reached = squares.cumsum(0) >= energy * squares.sum()
    # Rounding may keep the last sum below a share of 1.
    return int(reached.int().argmax().item()) + 1 if bool(reached.any()) else len(squares)


def randomized_low_rank(rows: torch.Tensor, rank: int, seed: int) -> tuple[torch.Tensor, int]:
    """A rank-``rank`` approximation from a seeded random range (Halko et al. 2011, algorithm 4.4).

    Returns what `low_rank` does; the draw is made on the CPU, so that devices agree on it.
    """
    if rank >= min(rows.shape):
        return rows, min(rows.shape)
    values = rows.detach().float()
    width = min(rank + OVERSAMPLING, min(values.shape))
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(values.shape[1], width, generator=generator).to(values.device)
    basis = torch.linalg.qr(values @ draw).Q
    for _ in range(POWER_ITERATIONS):
        basis = torch.linalg.qr(values @ torch.linalg.qr(values.T @ basis).Q).Q
    u, s, vh = torch.linalg.svd(basis.T @ values, full_matrices=False)
    return (basis @ (u[:, :rank] * s[:rank]) @ vh[:rank]).to(rows.dtype), rank


def name_seed(seed: int, name: str) -> int:
    """A seed of its own for each tensor: (``seed`` + CRC-32 of ``name``) mod 2^32."""
    return (seed + zlib.crc32(name.encode())) % 2**32
