"""Paired losses summed by document, the unit that every interval here resamples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pytest_invarlock.errors import DataError

# Nats; cubes of contributions, which the skewness takes, still hold in a double.
_LARGEST_SUM = 1e75

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


# No slots: what is derived is kept, and has to lie somewhere.
@dataclass(frozen=True, eq=False)
class DocumentSums:
    """Loss differences and token weights summed over the windows of each document.

    The estimate is the ratio of sums θ = Σ S_j / Σ W_j; all spread is taken between documents.
    Everything else is derived on access, in O(n_documents), and kept where others need it.

    Args:
        weighted_difference: S_j = Σ w·d, float64 (n_documents,), nats.
        weight: W_j = Σ w, float64 (n_documents,), predicted tokens.

    Raises:
        DataError: ``UNPAIRED_DOCUMENTS``, ``ONE_DOCUMENT``, ``ZERO_TOKENS``, ``NON_FINITE`` or
            ``TOO_LARGE`` for values that no longer square.
    """

    weighted_difference: FloatArray
    weight: FloatArray

    def __post_init__(self) -> None:
        if (
            self.weighted_difference.ndim != 1
            or self.weight.shape != self.weighted_difference.shape
        ):
            raise DataError(
                f"document sums of shapes {self.weighted_difference.shape} and {self.weight.shape}",
                remedy="pass two one-dimensional arrays of equal length",
                code="UNPAIRED_DOCUMENTS",
            )
        _require_finite(weighted_difference=self.weighted_difference, weight=self.weight)
        if not (self.weight > 0).all():
            raise DataError(
                "a document has no predicted tokens",
                remedy="drop windows without predicted tokens from both arms",
                code="ZERO_TOKENS",
            )
        if self.n_documents < 2:
            raise DataError(
                f"{self.n_documents} document(s): spread between documents is undefined",
                remedy="draw windows from at least two documents",
                code="ONE_DOCUMENT",
            )

    @property
    def n_documents(self) -> int:
        """Number of documents D."""
        return int(self.weight.size)

    @cached_property
    def total_weight(self) -> float:
        """Σ W_j in tokens, correctly rounded."""
        return math.fsum(self.weight)

    @cached_property
    def delta(self) -> float:
        """Mean loss difference θ = Σ S_j / Σ W_j in nats per token."""
        return math.fsum(self.weighted_difference) / self.total_weight

    @cached_property
    def share(self) -> FloatArray:
        """Leverage h_j = W_j / Σ W of each document, float64 (n_documents,)."""
        return self.weight / self.total_weight

    @cached_property
    def residual(self) -> FloatArray:
        """S_j − θ·W_j, float64 (n_documents,), nats; sums to zero."""
        return self.weighted_difference - self.delta * self.weight

    @cached_property
    def contribution(self) -> FloatArray:
        """Linearised z_j = (S_j − θ·W_j) / Σ W, float64 (n_documents,), nats per token.

        Source: Cochran, Sampling Techniques (1977), section 6.3 (variance of the ratio estimate).
        """
        return self.residual / self.total_weight

    @property
    def mean_difference(self) -> FloatArray:
        """Document means d_j = S_j / W_j, float64 (n_documents,), nats per token."""
        return self.weighted_difference / self.weight

    @property
    def effective_documents(self) -> float:
        """Kish's effective number of documents (Σ W)² / Σ W².

        Source: Kish, Survey Sampling (1965), section 11.7.
        """
        return 1.0 / math.fsum(self.share**2)

    @property
    def document_sd(self) -> float:
        """Standard deviation of the document means (unweighted, D − 1), nats per token."""
        return float(np.std(self.mean_difference, ddof=1))

    @property
    def skewness(self) -> float:
        """Moment skewness of the linearised contributions; 0 where they do not vary at all."""
        contribution = self.contribution
        if not contribution.any():
            return 0.0
        # Not scipy.stats.skew: it takes a second to import, and fails where torch is blocked.
        centred = contribution - contribution.mean()
        return float(np.mean(centred**3) / np.mean(centred**2) ** 1.5)

    @property
    def linear_standard_error(self) -> float:
        """Linearised standard error √(D/(D−1) · Σ z_j²) of θ, nats per token.

        Source: Cochran (1977), section 6.4, with the between-cluster D/(D−1).
        """
        n = self.n_documents
        return math.sqrt(n / (n - 1) * math.fsum(self.contribution**2))

    @property
    def cr2_standard_error(self) -> float:
        """Bias-reduced cluster standard error √(Σ z_j² / (1 − h_j)) of θ, nats per token.

        Source: Bell and McCaffrey, Survey Methodology 28 (2002), 169-181, for the weighted
        mean. With equal weights it is the one-sample sd/√D exactly.
        """
        return math.sqrt(math.fsum(self.contribution**2 / (1.0 - self.share)))


def document_sums(
    baseline_nll: FloatArray, subject_nll: FloatArray, tokens: IntArray, documents: IntArray
) -> DocumentSums:
    """Sum paired windows by document, in ascending order of document ordinal.

    Sums are correctly rounded (``math.fsum``), so the order of the windows leaves no trace.

    Args:
        baseline_nll: float64 (n_windows,), nats summed over the window's predicted tokens.
        subject_nll: float64 (n_windows,), the same windows under the changed model.
        tokens: int64 (n_windows,), predicted tokens of each window, at least 1.
        documents: int64 (n_windows,), document ordinal of each window; any integers.

    Returns:
        The sums (Σ w·d, Σ w) of each document; w·d is ``subject_nll − baseline_nll``.

    Raises:
        DataError: ``NO_WINDOWS``, ``UNPAIRED_WINDOWS``, ``NOT_COUNTS``, ``ZERO_TOKENS``,
            ``NON_FINITE``, ``TOO_LARGE`` or ``ONE_DOCUMENT``.
    """
    _require_paired(baseline_nll, subject_nll, tokens, documents)
    _require_finite(baseline_nll=baseline_nll, subject_nll=subject_nll)
    if not (tokens > 0).all():
        raise DataError(
            "a window has no predicted tokens",
            remedy="drop windows without predicted tokens from both arms",
            code="ZERO_TOKENS",
        )
    order = np.argsort(documents, kind="stable")
    starts = np.flatnonzero(np.diff(documents[order])) + 1
    # Slices of a list: numpy's split takes longer than all the sums.
    differences = (subject_nll - baseline_nll)[order].tolist()
    bounds = [0, *starts.tolist(), len(differences)]
    weights = np.add.reduceat(tokens[order].astype(np.int64), np.concatenate(([0], starts)))
    return DocumentSums(
        weighted_difference=np.array(
            [math.fsum(differences[start:end]) for start, end in pairwise(bounds)]
        ),
        weight=weights.astype(np.float64),
    )


def _require_paired(
    baseline_nll: FloatArray, subject_nll: FloatArray, tokens: IntArray, documents: IntArray
) -> None:
    shapes = [array.shape for array in (baseline_nll, subject_nll, tokens, documents)]
    if len(set(shapes)) != 1 or len(shapes[0]) != 1:
        raise DataError(
            f"baseline, subject, tokens and documents have shapes {shapes}",
            remedy="measure the same windows in both arms",
            code="UNPAIRED_WINDOWS",
        )
    if shapes[0] == (0,):
        raise DataError("no windows", remedy="measure at least two documents", code="NO_WINDOWS")
    for name, counts in (("tokens", tokens), ("documents", documents)):
        if counts.dtype.kind not in "iu":
            raise DataError(
                f"{name} has dtype {counts.dtype}", remedy="pass integers", code="NOT_COUNTS"
            )


def _require_finite(**arrays: FloatArray) -> None:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise DataError(
                f"{name} holds {int((~np.isfinite(array)).sum())} non-finite value(s)",
                remedy="report the window as non-finite before asking for an interval",
                code="NON_FINITE",
            )
        if (np.abs(array) > _LARGEST_SUM).any():
            raise DataError(
                f"{name} holds {int((np.abs(array) > _LARGEST_SUM).sum())} value(s) beyond "
                f"{_LARGEST_SUM:g}",
                remedy="report a loss of this size as non-finite",
                code="TOO_LARGE",
            )
