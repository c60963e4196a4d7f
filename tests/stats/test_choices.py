"""Predictions from losses: the least loss wins, and labels that say nothing are errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_invarlock.errors import DataError
from pytest_invarlock.stats.choices import example_documents, predicted_right

PROPERTY = settings(deadline=None, max_examples=60, database=None, derandomize=True)
EXAMPLES = np.array([0, 0, 1, 1, 1])
LABELS = np.array([1, 0, 0, 0, 1])


def test_the_least_loss_is_the_prediction() -> None:
    assert predicted_right(np.array([1.0, 2, 3, 2, 1]), EXAMPLES, LABELS).tolist() == [True, True]
    assert predicted_right(np.array([3.0, 2, 1, 2, 3]), EXAMPLES, LABELS).tolist() == [False, False]


def test_exact_ties_go_to_the_first_in_order() -> None:
    assert predicted_right(np.array([2.0, 2, 1, 2, 1]), EXAMPLES, LABELS).tolist() == [True, False]


def test_examples_come_in_ascending_order_wherever_their_choices_stand() -> None:
    order = np.array([3, 0, 4, 2, 1])
    nll = np.array([1.0, 2, 1, 2, 3])
    found = predicted_right(nll[order], EXAMPLES[order], LABELS[order])
    assert found.tolist() == [True, False]


@pytest.mark.parametrize(
    ("nll", "examples", "labels", "code"),
    [
        (np.ones(4), EXAMPLES, LABELS, "UNPAIRED_CHOICES"),
        (np.ones((5, 1)), EXAMPLES, LABELS, "UNPAIRED_CHOICES"),
        (np.ones(0), EXAMPLES[:0], LABELS[:0], "UNPAIRED_CHOICES"),
        (np.full(5, math.nan), EXAMPLES, LABELS, "NON_FINITE"),
        (np.ones(5), EXAMPLES, np.zeros(5, int), "LABELS"),
        (np.ones(5), EXAMPLES, np.ones(5, int), "LABELS"),
        (np.ones(5), EXAMPLES, np.array([1, 2, 0, 0, 1]), "LABELS"),
        (np.ones(5), np.array([0, 0, 1, 1, 2]), np.array([1, 0, 1, 0, 1]), "ONE_CHOICE"),
    ],
)
def test_unusable_choices_are_errors(nll: Any, examples: Any, labels: Any, code: str) -> None:
    with pytest.raises(DataError) as caught:
        predicted_right(nll, examples, labels)
    assert caught.value.code == code


def test_an_example_stands_in_one_document() -> None:
    assert example_documents(EXAMPLES, np.array([7, 7, 3, 3, 3])).tolist() == [7, 3]
    with pytest.raises(DataError) as caught:
        example_documents(EXAMPLES, np.array([7, 7, 3, 3, 4]))
    assert caught.value.code == "SPLIT_EXAMPLE"


@PROPERTY
@given(st.lists(st.lists(st.floats(0, 50), min_size=2, max_size=5), min_size=1, max_size=8))
def test_agrees_with_argmin(losses: list[list[float]]) -> None:
    nll = np.array([loss for one in losses for loss in one])
    examples = np.repeat(np.arange(len(losses)), [len(one) for one in losses])
    labels = np.array([int(i == 0) for one in losses for i in range(len(one))])
    expected = [int(np.argmin(one)) == 0 for one in losses]
    assert predicted_right(nll, examples, labels).tolist() == expected
