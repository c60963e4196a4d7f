"""Pairing: equal windows match, every difference is found and named by arm, place and document."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_invarlock.data.pairing import compare_windows, require_paired
from pytest_invarlock.data.window_set import Window, WindowSet
from pytest_invarlock.errors import DataError


def window_set(**changed: Any) -> WindowSet:
    def arm(start: int, first: int) -> tuple[Window, ...]:
        return tuple(
            Window.causal(
                np.arange(start + 10 * n, start + 10 * n + 8, dtype=np.int32), 1, first + n
            )
            for n in range(6)
        )

    arms: Any = {"preview": arm(100, 0), "final": arm(1000, 6), **changed}
    return WindowSet(arms, "sha256:" + "0" * 64, 8, {"preview": 6, "final": 6})


def with_window(place: int, **fields: Any) -> WindowSet:
    final = list(window_set().final)
    final[place] = replace(final[place], **fields)
    return window_set(final=tuple(final))


def test_equal_sets_are_paired() -> None:
    pairing = compare_windows(window_set(), window_set())
    assert pairing.match_fraction == 1.0
    assert pairing.mismatched == ()
    require_paired(window_set(), window_set())


@pytest.mark.parametrize(
    "fields",
    [
        {"tokens": np.arange(8, dtype=np.int32)},
        {"targets": np.arange(7, dtype=np.int32)},
        {"positions": np.arange(1, 8, dtype=np.int32)},
        {"document": 3},
        {"words": 3},
        {"example": 1},
        {"is_label": True},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_every_difference_that_is_measured_is_a_mismatch(fields: dict[str, Any]) -> None:
    pairing = compare_windows(window_set(), with_window(2, **fields))
    assert pairing.match_fraction == pytest.approx(11 / 12)
    assert pairing.named() == "final[2] (document 8)"


def test_a_window_that_only_one_set_has_is_a_mismatch() -> None:
    shorter = window_set(final=window_set().final[:4])
    for pairing in (compare_windows(window_set(), shorter), compare_windows(shorter, window_set())):
        assert pairing.named() == "final[4] (document 10), final[5] (document 11)"


def test_sets_for_other_ways_of_reading_do_not_match() -> None:
    other = replace(window_set(), reading="masked")
    assert compare_windows(window_set(), other).match_fraction == 0.0


def test_the_refusal_names_every_window() -> None:
    with pytest.raises(DataError) as caught:
        require_paired(window_set(), with_window(2, document=3))
    assert caught.value.code == "PAIRING_MISMATCH"
    assert caught.value.cause == ("1 of 12 windows are not the baseline's: final[2] (document 8)")
    with pytest.raises(DataError) as caught:
        require_paired(window_set(), replace(window_set(), reading="masked"))
    named = "preview[0-5], final[0-5]"
    assert caught.value.cause == f"12 of 12 windows are not the baseline's: {named}"
    kept = window_set()
    others = [replace(w, document=99) if n != 3 else w for n, w in enumerate(kept.final)]
    with pytest.raises(DataError, match=r"preview\[1\], final\[0-2, 4-5\] "):
        require_paired(
            kept,
            window_set(
                preview=tuple(
                    replace(w, words=3) if n == 1 else w for n, w in enumerate(kept.preview)
                ),
                final=tuple(others),
            ),
        )


def test_nothing_and_nothing_agree() -> None:
    empty = window_set(preview=(), final=())
    assert compare_windows(empty, empty).match_fraction == 1.0
