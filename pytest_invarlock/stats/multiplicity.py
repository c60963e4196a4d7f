"""Adjusted p-values of a family of alarms; printed beside verdicts, never gated on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_invarlock.errors import DataError

if TYPE_CHECKING:
    from pytest_invarlock.stats.clusters import FloatArray


def holm(p_values: FloatArray) -> FloatArray:
    """Adjust p-values so that rejecting those ≤ α has a familywise error of at most α.

    Sorted ascending, p̃₍ᵢ₎ = max over j ≤ i of min(1, (m − j + 1)·p₍ⱼ₎). Valid under any
    dependence.

    Args:
        p_values: float64 (m,), each in [0, 1]; may be empty.

    Returns:
        float64 (m,), in the order given.

    Raises:
        DataError: ``P_VALUES`` for another shape or a value outside [0, 1].

    Source: Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.
    """
    order = _ascending(p_values)
    m = len(order)
    stepped = np.minimum(1.0, (m - np.arange(m)) * p_values[order])
    return _in_order(np.maximum.accumulate(stepped), order)


def benjamini_hochberg(p_values: FloatArray) -> FloatArray:
    """Adjust p-values so that rejecting those ≤ q has a false discovery rate of at most q.

    Sorted ascending, p̃₍ᵢ₎ = min over j ≥ i of min(1, m·p₍ⱼ₎/j). Valid for independent and
    positively dependent tests.

    Args:
        p_values: float64 (m,), each in [0, 1]; may be empty.

    Returns:
        float64 (m,), in the order given.

    Raises:
        DataError: ``P_VALUES`` for another shape or a value outside [0, 1].

    Source: Benjamini and Hochberg, Journal of the Royal Statistical Society B 57 (1995), 289-300.
    """
    order = _ascending(p_values)
    m = len(order)
    # m/j first: at j = m it is exactly 1, so nothing is adjusted below its raw value.
    stepped = np.minimum(1.0, (m / np.arange(1, m + 1)) * p_values[order])
    return _in_order(np.minimum.accumulate(stepped[::-1])[::-1], order)


def _ascending(p_values: FloatArray) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    if p_values.ndim != 1 or not ((p_values >= 0) & (p_values <= 1)).all():
        raise DataError(
            f"p-values of shape {p_values.shape}, or one outside [0, 1]",
            remedy="pass a one-dimensional array of probabilities",
            code="P_VALUES",
        )
    return np.argsort(p_values, kind="stable")


def _in_order(adjusted: FloatArray, order: np.ndarray[tuple[int], np.dtype[np.intp]]) -> FloatArray:
    result = np.empty_like(adjusted)
    result[order] = adjusted
    return result
