"""The largest singular value of a matrix, with a bound on its error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from invarlock_guards.measure.row_blocks import row_blocks

GRAM_SIDE = 8192
"""Up to this smaller side the Gram matrix is made (512 MiB of float64 at most)."""

TOLERANCE = 1e-6
"""Largest relative error of a singular value of a weight."""

CHANGE_TOLERANCE = 1e-3
"""The same of a difference of weights: its spectrum is dense at the top, its use is coarse."""

KRYLOV_BLOCK = 12
KRYLOV_STEPS = 24
ROUNDING = 1e-14

Blocks = Callable[[], Iterator[torch.Tensor]]


@dataclass(frozen=True, slots=True)
class MatrixNorms:
    """Sizes of one matrix.

    Attributes:
        sigma: largest singular value.
        sigma_error: bound on its relative error (0 for a zero matrix).
        frobenius: Frobenius norm.
    """

    sigma: float
    sigma_error: float
    frobenius: float

    @property
    def stable_rank(self) -> float:
        """frobenius² / sigma²: 1 for rank one, at most the smaller side; 0 for a zero matrix."""
        return (self.frobenius / self.sigma) ** 2 if self.sigma else 0.0


def matrix_norms(
    matrix: torch.Tensor,
    minus: torch.Tensor | None = None,
    factors: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> MatrixNorms:
    """Norms of ``matrix`` (n, m), or of ``matrix - minus``, in float64 whatever the dtype.

    ``factors``, float64 of shapes (n,) and (m,), multiply its rows and its columns first.

    Up to a smaller side of `GRAM_SIDE` sigma is the root of the largest eigenvalue of the Gram
    matrix of the smaller side. Beyond, a block Krylov iteration gives it with its residual
    ‖Gv - θv‖, within which of θ an eigenvalue lies, to `TOLERANCE` of a matrix and to
    `CHANGE_TOLERANCE` of a difference; ``sigma_error`` says what was reached. Rows are read in
    blocks.

    Raises:
        ValueError: not two axes, or NaN or infinite elements.
    """
    if matrix.ndim != 2:
        raise ValueError(f"a matrix has two axes, not {matrix.ndim}")
    wide = matrix.shape[0] < matrix.shape[1]

    def raw() -> Iterator[torch.Tensor]:
        # Blocks run along the larger side, so that the Gram matrix is the smaller one.
        pair = [matrix] if minus is None else [matrix, minus]
        start = 0
        for blocks in row_blocks(*(m.T if wide else m for m in pair)):
            block = blocks[0] if minus is None else blocks[0] - blocks[1]
            if factors is not None:
                rows, columns = factors[::-1] if wide else factors
                block = block * rows[start : start + len(block), None] * columns
                start += len(block)
            yield block

    # Only squares of float64 numbers can leave its range.
    doubles = torch.float64 in (matrix.dtype, None if minus is None else minus.dtype)
    unit = _power_of_two(raw) if doubles else 1.0

    def scaled() -> Iterator[torch.Tensor]:
        return raw() if unit == 1.0 else (block / unit for block in raw())

    side = min(matrix.shape)
    tolerance = TOLERANCE if minus is None else CHANGE_TOLERANCE
    square = sum(float(block.square().sum()) for block in scaled())
    if not math.isfinite(square):
        raise ValueError("NaN or infinite elements have no norm")
    if square == 0.0:
        return MatrixNorms(0.0, 0.0, 0.0)
    if side <= GRAM_SIDE:
        sigma, error = _by_gram(scaled), ROUNDING * side
    else:
        sigma, error = _by_krylov(scaled, side, tolerance)
    return MatrixNorms(sigma * unit, error, math.sqrt(square) * unit)


def _power_of_two(blocks: Blocks) -> float:
    """A power of two near the largest magnitude, so that scaling by it is exact."""
    largest = max((float(block.abs().max()) for block in blocks() if block.numel()), default=0.0)
    if not math.isfinite(largest):
        raise ValueError("NaN or infinite elements have no norm")
    return math.ldexp(1.0, math.frexp(largest)[1]) if largest else 1.0


def _by_gram(blocks: Blocks) -> float:
    gram: torch.Tensor | None = None
    for block in blocks():
        gram = block.T @ block if gram is None else gram.addmm_(block.T, block)
    if gram is None:
        return 0.0
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[-1])))


def _by_krylov(blocks: Blocks, side: int, tolerance: float) -> tuple[float, float]:
    """The root of the largest eigenvalue of the Gram matrix, and a bound on its relative error."""
    first = next(blocks())
    start = torch.randn(side, KRYLOV_BLOCK, generator=torch.Generator().manual_seed(0))
    newest = torch.linalg.qr(start.to(first)).Q
    basis, images = newest, _gram_times(blocks, newest)
    for _ in range(KRYLOV_STEPS):
        values, vectors = torch.linalg.eigh(basis.T @ images)
        top = vectors[:, -1]
        theta = float(values[-1])
        residual = float((images @ top - theta * (basis @ top)).norm())
        # |λ - θ| ≤ residual, and σ = √λ halves the relative error.
        error = residual / theta / 2 if theta > 0 else math.inf
        if error <= tolerance:
            break
        newest = images[:, -KRYLOV_BLOCK:]
        for _again in range(2):
            newest = newest - basis @ (basis.T @ newest)
        newest = torch.linalg.qr(newest).Q
        for _again in range(2):
            # Columns that lay within the basis came out of the division arbitrary.
            newest = torch.linalg.qr(newest - basis @ (basis.T @ newest)).Q
        basis = torch.cat((basis, newest), dim=1)
        images = torch.cat((images, _gram_times(blocks, newest)), dim=1)
    return math.sqrt(max(0.0, theta)), error + ROUNDING * side


def _gram_times(blocks: Blocks, vectors: torch.Tensor) -> torch.Tensor:
    total = torch.zeros_like(vectors)
    for block in blocks():
        total += block.T @ (block @ vectors)
    return total
