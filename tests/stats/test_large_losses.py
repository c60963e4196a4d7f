"""Finite losses of any size: typed errors or bounds, never raw arithmetic; rounding by document."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pytest_invarlock.errors import DataError
from pytest_invarlock.stats import (
    document_sums,
    documents_needed,
    minimum_detectable_ratio,
    ratio_bounds,
)

DOCUMENTS = np.arange(40)
TOKENS = np.full(40, 100)


@pytest.mark.parametrize("size", [1e80, 1e200, 1.7e308])
def test_losses_that_no_longer_square_are_a_data_error(size: float) -> None:
    baseline, subject = np.full(40, 300.0), np.full(40, 300.0)
    subject[3] = size
    for losses in ((baseline, subject), (subject, baseline), (-subject, subject)):
        with pytest.raises(DataError) as caught:
            document_sums(*losses, TOKENS, DOCUMENTS)
        assert caught.value.code == "TOO_LARGE"
        with pytest.raises(DataError):
            ratio_bounds(*losses, TOKENS, DOCUMENTS, seed=b"s", replicates=99)


@pytest.mark.parametrize("size", [1e6, 1e30, 1e74])
def test_losses_below_that_have_bounds(size: float) -> None:
    rng = np.random.default_rng(1)
    baseline = rng.uniform(200, 400, 40)
    subject = baseline + size * rng.uniform(0.5, 1, 40)
    found = ratio_bounds(baseline, subject, TOKENS, DOCUMENTS, seed=b"s", replicates=99)
    assert found.delta_lower < found.delta < found.delta_upper
    assert math.isfinite(found.skewness)


def test_planning_from_absurd_spread_is_a_data_error() -> None:
    options = {"alpha": 0.05, "power": 0.9}
    for sd in (1e200, 1.7e308, math.inf, math.nan):
        with pytest.raises(DataError):
            minimum_detectable_ratio(document_sd=sd, effective_documents=40.0, **options)
        with pytest.raises(DataError):
            documents_needed(
                document_sd=sd, effective_share=1.0, true_delta=0.0, limit_delta=0.1, **options
            )
    with pytest.raises(DataError):
        minimum_detectable_ratio(document_sd=1e5, effective_documents=40.0, **options)


def test_a_margin_that_no_number_of_documents_resolves() -> None:
    assert documents_needed(
        document_sd=1.0, effective_share=1.0, true_delta=0.0, limit_delta=1e-300,
        alpha=0.05, power=0.9,
    ) is None  # fmt: skip


@pytest.mark.parametrize("huge", [1e10, 1e13, 1e15, 1e17])
def test_one_huge_window_does_not_erase_the_spread_of_the_others(huge: float) -> None:
    baseline = np.random.default_rng(2).uniform(200, 400, 40)
    subject = baseline + 100 * np.where(np.arange(40) % 2, 0.6, -0.5)
    baseline[0] = subject[0] = huge * 100
    found = ratio_bounds(baseline, subject, TOKENS, DOCUMENTS, seed=b"s", replicates=199)
    assert found.degenerate != "constant"
    assert found.delta_upper > found.delta + 0.05


def test_rounding_of_equally_large_losses_is_still_constant() -> None:
    baseline = np.random.default_rng(2).uniform(200, 400, 40) * 1e6
    subject = baseline + 100 * 0.1
    found = ratio_bounds(baseline, subject, TOKENS, DOCUMENTS, seed=b"s", replicates=99)
    assert found.degenerate == "constant"
