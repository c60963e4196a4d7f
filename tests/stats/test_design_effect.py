"""Intraclass correlation and design effect of windows within documents."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_invarlock.stats import document_sums
from pytest_invarlock.stats.design_effect import design_effect, intraclass_correlation


def clustered(icc: float, n_documents: int = 400, size: int = 5, seed: int = 3) -> tuple:
    rng = np.random.default_rng(seed)
    documents = np.repeat(np.arange(n_documents), size)
    shared = np.repeat(rng.normal(size=n_documents), size)
    return np.sqrt(icc) * shared + np.sqrt(1 - icc) * rng.normal(size=len(documents)), documents


@pytest.mark.parametrize("icc", [0.0, 0.2, 0.5, 0.9])
def test_recovers_what_was_put_in(icc: float) -> None:
    assert intraclass_correlation(*clustered(icc)) == pytest.approx(icc, abs=0.06)


def test_a_worked_analysis_of_variance() -> None:
    # Means 1, 3, 5 of pairs: MSB = 8, MSW = 2, n0 = 2: (8 − 2)/(8 + 2).
    values = np.array([0.0, 2, 2, 4, 4, 6])
    assert intraclass_correlation(values, np.repeat([0, 1, 2], 2)) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("values", "documents"),
    [
        (np.array([1.0, 2, 3]), np.array([0, 0, 0])),
        (np.array([1.0, 2, 3]), np.array([0, 1, 2])),
        (np.full(6, 0.1), np.repeat([0, 1, 2], 2)),
    ],
    ids=["one document", "one unit each", "no spread"],
)
def test_undefined_where_nothing_can_correlate(values: np.ndarray, documents: np.ndarray) -> None:
    assert intraclass_correlation(values, documents) is None


@pytest.mark.parametrize("icc", [0.0, 0.5])
def test_the_design_effect_is_that_of_kish(icc: float) -> None:
    values, documents = clustered(icc)
    ones, zero = np.ones(len(values), dtype=np.int64), np.zeros(len(values))
    by_document = document_sums(zero, values, ones, documents)
    by_window = document_sums(zero, values, ones, np.arange(len(values)))
    assert design_effect(by_document, by_window) == pytest.approx(1 + 4 * icc, rel=0.2)
    assert design_effect(by_window, by_window) == 1
    flat = document_sums(zero, zero, ones, documents)
    assert design_effect(flat, flat) is None
