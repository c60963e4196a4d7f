"""Whole decisions beside those that are written down: each text, name and number of each branch."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from pytest_invarlock.checks.ratio_numbers import _detectable, exp

from .told_cases import CASES
from .told_records import WRITTEN, document

TOLD: dict[str, Any] = json.loads(WRITTEN.read_text(encoding="utf-8"))


def alike(found: Any, expected: Any) -> bool:
    """Equal, floats but for what another library's rounding could change."""
    if isinstance(found, dict) and isinstance(expected, dict):
        pairs = zip(found.values(), expected.values(), strict=False)
        return list(found) == list(expected) and all(alike(*pair) for pair in pairs)
    if isinstance(found, float) and isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=1e-7, abs_tol=1e-12)
    return type(found) is type(expected) and bool(found == expected)


@pytest.mark.parametrize("case", CASES)
def test_a_decision_is_the_one_written_down(case: str) -> None:
    found = document(CASES[case]())
    assert alike(found, TOLD[case]), found


def test_every_decision_written_down_is_made() -> None:
    assert list(TOLD) == list(CASES)


def test_numbers_end_where_a_double_does() -> None:
    for value, shown in ((699.99, True), (-699.99, True), (700.0, False), (-700.0, False)):
        assert exp(value) == (math.exp(value) if shown else None)
    assert [_detectable(sd, 64.0) for sd in (559.9, 560.0)] == [True, False]
    assert [_detectable(sd, 1.0) for sd in (69.9, 70.0)] == [True, False]
