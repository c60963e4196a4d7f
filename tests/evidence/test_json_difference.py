"""What is told of two documents that differ is short, whatever a stranger wrote."""

from __future__ import annotations

import pytest

from pytest_invarlock.evidence.json_difference import first_difference

LONG = "\U000e0001" * 1_000_000
DEEP: list = ["x"]
for _ in range(50):
    DEEP = [DEEP, DEEP]


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ("a", LONG),
        (LONG, "a"),
        ({}, {LONG: 1}),
        ({LONG: 1}, {LONG: 2}),
        (1, [LONG] * 50),
        (1, {LONG: LONG}),
        (1, DEEP),
        ([1], [1, *range(1_000_000)]),
    ],
)
def test_a_difference_is_told_in_a_line(expected, found):
    told = first_difference({"k": expected}, {"k": found})
    assert told is not None
    assert told.startswith("/k")
    assert len(told) < 4000


def test_places_and_values_are_named():
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == "/a/1/b is 3, 2 follows"
    assert first_difference({"a": 1}, {"a": 1, "b": 2}) == "/b is unexpected"
    assert first_difference({"a": 1, "b": 2}, {"a": 1}) == "/b is missing"
    assert first_difference({"a": "x"}, {"a": "y"}) == "/a is 'y', 'x' follows"
    assert first_difference(1.0, 1.0 + 1e-12) is None
