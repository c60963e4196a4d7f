"""How alike the windows of one document are, and what that costs in precision."""

from __future__ import annotations

import math

import numpy as np

from pytest_invarlock.stats.clusters import DocumentSums, FloatArray, IntArray


def intraclass_correlation(values: FloatArray, documents: IntArray) -> float | None:
    """Estimate the intraclass correlation of unit values within documents by one-way ANOVA.

    (MSB − MSW) / (MSB + (n₀ − 1)·MSW) with n₀ = (N − Σ n_j²/N) / (D − 1); units are unweighted.

    Args:
        values: float64 (n_units,), one for each window or example, in any unit.
        documents: int64 (n_units,), document ordinal of each unit.

    Returns:
        The estimate, at most 1 and possibly below 0; None where it is undefined: fewer than two
        documents, no document with two units, or no spread at all.

    Source: Donner, International Statistical Review 54 (1986), 67-82, the analysis-of-variance
    estimator for unequal groups.
    """
    _, group, sizes = np.unique(documents, return_inverse=True, return_counts=True)
    n, n_documents = len(values), len(sizes)
    if n_documents < 2 or n == n_documents:
        return None
    # Exactly equal values must give exactly no spread, which their rounded mean would not.
    centred = values - values[0]
    means = np.bincount(group, weights=centred) / sizes
    between = math.fsum(sizes * (means - centred.mean()) ** 2) / (n_documents - 1)
    within = math.fsum((centred - means[group]) ** 2) / (n - n_documents)
    size = (n - math.fsum(sizes.astype(np.float64) ** 2) / n) / (n_documents - 1)
    spread = between + (size - 1) * within
    return (between - within) / spread if spread > 0 else None


def design_effect(documents: DocumentSums, units: DocumentSums) -> float | None:
    """Give the variance of θ by document over its variance were every unit independent.

    Args:
        documents: sums by document.
        units: the same windows or examples, each as a document of its own.

    Returns:
        The ratio of the two CR2 variances, dimensionless; 1 where every document is one unit,
        None where the units do not vary.

    Source: Kish, Survey Sampling (1965), section 8.2 (deff).
    """
    independent = units.cr2_standard_error
    return (documents.cr2_standard_error / independent) ** 2 if independent > 0 else None
