"""Document sums and the standard errors taken from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_invarlock.errors import DataError
from pytest_invarlock.stats import DocumentSums, document_sums

PROPERTY = settings(deadline=None, max_examples=50, database=None, derandomize=True)

# Two windows of document 7, one of document -3: (tokens 2, 2 | 4), losses 1 nat per token before.
BASELINE = np.array([2.0, 4.0, 2.0])
SUBJECT = np.array([3.0, 4.0, 4.0])
TOKENS = np.array([2, 4, 2])
DOCUMENTS = np.array([7, -3, 7])


def changed(**replacement: object) -> dict[str, object]:
    windows = {
        "baseline_nll": BASELINE,
        "subject_nll": SUBJECT,
        "tokens": TOKENS,
        "documents": DOCUMENTS,
    }
    return windows | replacement


@pytest.mark.parametrize(
    ("replacement", "code"),
    [
        ({"documents": np.array([7, 7, 7])}, "ONE_DOCUMENT"),
        ({"tokens": np.array([2, 0, 2])}, "ZERO_TOKENS"),
        ({"tokens": np.array([2, -4, 2])}, "ZERO_TOKENS"),
        ({"tokens": np.array([2.0, 4.0, 2.0])}, "NOT_COUNTS"),
        ({"documents": np.array([7.0, -3.0, 7.0])}, "NOT_COUNTS"),
        ({"subject_nll": np.array([3.0, np.nan, 4.0])}, "NON_FINITE"),
        ({"baseline_nll": np.array([3.0, np.inf, 4.0])}, "NON_FINITE"),
        ({"subject_nll": np.array([3.0, 4.0])}, "UNPAIRED_WINDOWS"),
        ({"tokens": np.array([[2, 4, 2]])}, "UNPAIRED_WINDOWS"),
        ({"baseline_nll": np.array(3.0)}, "UNPAIRED_WINDOWS"),
    ],
)
def test_missing_evidence_is_an_error(replacement: dict[str, object], code: str) -> None:
    with pytest.raises(DataError) as caught:
        document_sums(**changed(**replacement))  # type: ignore[arg-type]
    assert caught.value.code == code


def test_no_windows_is_an_error() -> None:
    none = np.array([])
    with pytest.raises(DataError) as caught:
        document_sums(none, none, none.astype(np.int64), none.astype(np.int64))
    assert caught.value.code == "NO_WINDOWS"


@pytest.mark.parametrize(
    ("differences", "weights", "code"),
    [
        ([1.0, 2.0], [1.0], "UNPAIRED_DOCUMENTS"),
        ([1.0, 2.0], [1.0, 0.0], "ZERO_TOKENS"),
        ([1.0, np.nan], [1.0, 1.0], "NON_FINITE"),
        ([1.0], [1.0], "ONE_DOCUMENT"),
    ],
)
def test_sums_made_by_hand_are_checked_too(
    differences: list[float], weights: list[float], code: str
) -> None:
    with pytest.raises(DataError) as caught:
        DocumentSums(np.array(differences), np.array(weights))
    assert caught.value.code == code


def test_hand_computed_example() -> None:
    sums = document_sums(BASELINE, SUBJECT, TOKENS, DOCUMENTS)
    # Ascending ordinals: document -3 first, S = 0 of 4 tokens; document 7, S = 1 + 2 of 4 tokens.
    np.testing.assert_array_equal(sums.weighted_difference, [0.0, 3.0])
    np.testing.assert_array_equal(sums.weight, [4.0, 4.0])
    assert sums.n_documents == 2
    assert sums.delta == 3 / 8
    assert sums.effective_documents == 2.0
    # z = (0 - 1.5)/8 and (3 - 1.5)/8; h = 1/2 each.
    np.testing.assert_allclose(sums.contribution, [-0.1875, 0.1875], rtol=1e-15)
    assert sums.cr2_standard_error == pytest.approx(math.sqrt(2 * 0.1875**2 / 0.5), rel=1e-15)
    assert sums.linear_standard_error == pytest.approx(math.sqrt(2 * 2 * 0.1875**2), rel=1e-15)
    assert sums.document_sd == pytest.approx(math.sqrt(2 * 0.375**2), rel=1e-15)
    assert sums.skewness == pytest.approx(0.0, abs=1e-12)


def test_kish_number_of_unequal_weights() -> None:
    sums = DocumentSums(np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, 4.0]))
    assert sums.effective_documents == pytest.approx(36 / 18, rel=1e-15)


def test_skewness_is_that_of_the_contributions_and_zero_without_spread() -> None:
    sums = DocumentSums(np.array([0.0, 1.0, 0.0, 9.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    z = sums.contribution
    assert sums.skewness == pytest.approx((z**3).mean() / (z**2).mean() ** 1.5, rel=1e-12)
    assert DocumentSums(np.array([1.0, 2.0]), np.array([1.0, 2.0])).skewness == 0.0


def test_order_of_windows_leaves_no_trace() -> None:
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, 500, 60)
    baseline, subject = tokens * rng.gamma(3, 1, 60), tokens * rng.gamma(3, 1, 60)
    documents = rng.integers(0, 9, 60)
    order = rng.permutation(60)
    one = document_sums(baseline, subject, tokens, documents)
    other = document_sums(baseline[order], subject[order], tokens[order], documents[order])
    np.testing.assert_array_equal(one.weighted_difference, other.weighted_difference)
    np.testing.assert_array_equal(one.weight, other.weight)


@PROPERTY
@given(st.lists(st.tuples(st.integers(1, 512), st.integers(-2000, 2000)), min_size=2, max_size=20))
def test_cr2_against_an_independent_loop(documents: list[tuple[int, int]]) -> None:
    weight = [float(w) for w, _ in documents]
    difference = [w * d / 1000 for w, d in documents]
    total = sum(weight)
    mean = sum(difference) / total
    variance = 0.0
    for s, w in zip(difference, weight, strict=True):
        z = (s - mean * w) / total
        variance += z * z / (1 - w / total)
    sums = DocumentSums(np.array(difference), np.array(weight))
    assert sums.delta == pytest.approx(mean, rel=1e-12, abs=1e-12)
    assert sums.cr2_standard_error == pytest.approx(math.sqrt(variance), rel=1e-9, abs=1e-12)


def test_equal_weights_give_the_one_sample_standard_error() -> None:
    means = np.random.default_rng(2).normal(0.1, 0.3, 17)
    sums = DocumentSums(256 * means, np.full(17, 256.0))
    expected = stats.sem(means)
    assert sums.cr2_standard_error == pytest.approx(expected, rel=1e-12)
    assert sums.linear_standard_error == pytest.approx(expected, rel=1e-12)
    assert sums.document_sd == pytest.approx(means.std(ddof=1), rel=1e-12)
