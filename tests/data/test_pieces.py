"""Overlap and duplicates are counted from tokens: made by hand, each shows."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_invarlock.data.pieces import duplicate_fraction, overlap_fraction
from pytest_invarlock.data.window_set import Window


@pytest.mark.parametrize(
    ("scored", "fraction"),
    [
        ([], 0.0),
        ([[]], 0.0),
        ([[1, 2], [3, 4]], 0.0),
        ([[1, 2, 3], [3, 4]], 0.25),
        ([[1, 2], [1, 2]], 1.0),
        ([[1, 1], [2]], 0.0),
        ([[1], [1], [1], [2]], 0.5),
    ],
)
def test_overlap_is_the_share_of_scored_tokens_with_several_windows(
    scored: list[list[int]], fraction: float
) -> None:
    assert overlap_fraction([np.array(part, dtype=np.int64) for part in scored]) == fraction


def window(*tokens: int, first: int = 1) -> Window:
    return Window.causal(np.array(tokens, dtype=np.int32), first, 0)


def test_duplicates_are_windows_equal_to_an_earlier_one_in_all_that_is_measured() -> None:
    assert duplicate_fraction([]) == 0.0
    assert duplicate_fraction([window(1, 2, 3), window(1, 2, 4)]) == 0.0
    assert duplicate_fraction([window(1, 2, 3), window(1, 2, 3)]) == 0.5
    assert duplicate_fraction([window(1, 2, 3), window(1, 2, 3, first=2)]) == 0.0
    assert duplicate_fraction([window(1, 2)] * 4) == 0.75
