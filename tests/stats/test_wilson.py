"""Wilson's interval of a share, beside values from the formula by hand."""

from __future__ import annotations

import pytest

from pytest_invarlock.stats.wilson import wilson


def test_nothing_of_nothing_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_intervals_of_small_counts() -> None:
    assert wilson(0, 3) == (0.0, pytest.approx(0.5615, abs=1e-4))
    assert wilson(3, 3) == (pytest.approx(0.4385, abs=1e-4), 1.0)
    assert wilson(1, 10) == (pytest.approx(0.0179, abs=1e-4), pytest.approx(0.4042, abs=1e-4))
