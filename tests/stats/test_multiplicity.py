"""Adjusted p-values: a worked example, and what holds of every family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_invarlock.errors import DataError
from pytest_invarlock.stats.multiplicity import benjamini_hochberg, holm

PROPERTY = settings(deadline=None, max_examples=100, database=None, derandomize=True)
FAMILIES = st.lists(st.floats(0, 1), max_size=30).map(np.array)
BOTH: list[Callable[[Any], Any]] = [holm, benjamini_hochberg]


def test_the_worked_example() -> None:
    # Of R's p.adjust(c(.01, .02, .03, .04, .05)).
    p = np.array([0.01, 0.02, 0.03, 0.04, 0.05])
    assert holm(p) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert benjamini_hochberg(p) == pytest.approx([0.05] * 5)


def test_an_alarm_among_many_survives_only_if_it_is_small_enough() -> None:
    family = np.array([1e-5, *np.linspace(0.1, 1, 99)])
    assert holm(family)[0] == pytest.approx(1e-3)
    assert holm(np.array([0.01, *np.linspace(0.1, 1, 99)]))[0] == 1.0


@pytest.mark.parametrize("adjust", BOTH)
@pytest.mark.parametrize("p", [np.array([1.1]), np.array([-0.1]), np.array([np.nan]), np.eye(2)])
def test_what_is_no_probability_is_refused(adjust: Callable[[Any], Any], p: Any) -> None:
    with pytest.raises(DataError) as caught:
        adjust(p)
    assert caught.value.code == "P_VALUES"


@pytest.mark.parametrize("adjust", BOTH)
def test_an_empty_family_is_empty(adjust: Callable[[Any], Any]) -> None:
    assert adjust(np.array([])).shape == (0,)


@PROPERTY
@given(FAMILIES, st.randoms(use_true_random=False))
def test_what_holds_of_every_family(p: np.ndarray, random: Any) -> None:
    order = list(range(len(p)))
    random.shuffle(order)
    for adjust in BOTH:
        adjusted = adjust(p)
        assert (adjusted >= p).all()
        assert (adjusted <= 1).all()
        assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
        assert adjust(p[order]) == pytest.approx(adjusted[order])
    assert (benjamini_hochberg(p) <= holm(p) + 1e-12).all()
    if len(p):
        assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))
