"""The quick canonical writer gives the library's bytes, or leaves the work to it."""

from __future__ import annotations

import json
import math
from datetime import date
from enum import Enum, StrEnum
from uuid import UUID

import numpy as np
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_invarlock.evidence import quick_canonical as module
from pytest_invarlock.evidence.quick_canonical import quick_canonical

numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53) + 1, 2**53 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, database=None)
@given(values)
def test_any_json_value_has_the_librarys_bytes(value):
    assert quick_canonical(value) == rfc8785.dumps(value)


@pytest.mark.parametrize(
    "value",
    [
        *(0.0, -0.0, 1.0, -3.0, 1e15, 1e16, 1e20, 1e21, 1.5e300, 1e-4, 1e-5, 1.25e-6, 1e-7, 5e-324),
        *(123456789.125, -9007199254740991, 0.1 + 0.2, 2.0**53),
        {"ratio:1.0,": '1.0,"e+05"', "\\": "1e-05", "\x7f\u2028": "\x00 1.0"},
        {"\ufb33": 1.0, "\U0001f600": 2.0, "é": 3.0},
        [[1.0, -0.0, 1e-05], {"a": {"b": 1e22}}],
    ],
)
def test_what_the_two_writers_disagree_on(value):
    assert quick_canonical(value) == rfc8785.dumps(value)


def test_a_writer_whose_numbers_look_otherwise_is_not_mended_but_left(monkeypatch):
    class Other:
        OPT_SORT_KEYS = OPT_STRICT_INTEGER = 0
        loads = staticmethod(json.loads)

        @staticmethod
        def dumps(value, option=0):
            text = json.dumps(value, sort_keys=True, separators=(",", ":"))
            return text.replace("1e-06", "0.0000010").encode()

    assert module._numbers_look_as_known()
    monkeypatch.setattr(module, "orjson", Other)
    module._numbers_look_as_known.cache_clear()
    try:
        assert not module._numbers_look_as_known()
        assert quick_canonical([1e-6, 1.0]) == b"[0.000001,1]"
    finally:
        module._numbers_look_as_known.cache_clear()


def test_a_tuple_is_written_as_a_list():
    assert quick_canonical({"a": (1, 2.0)}) == b'{"a":[1,2]}'


class Word(StrEnum):
    A = "a"


class Plain(Enum):
    A = math.nan


@pytest.mark.parametrize("value", [np.float64(1.5), Word.A, {Word.A: 1}, {np.str_("a"): 1e-6}])
def test_subclasses_of_text_and_numbers_are_written_as_by_the_library(value):
    assert quick_canonical([value]) == rfc8785.dumps([value])


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def test_what_is_deeper_than_the_quick_writer_goes_is_the_librarys():
    assert quick_canonical(nested(300)) == rfc8785.dumps(nested(300))
    with pytest.raises(ValueError, match="deep"):
        quick_canonical(nested(100_000))


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, "\ud800", 2**53, {1: 2}, object(), UUID(int=1), Plain.A, date(2026, 1, 1)],
)
def test_what_json_cannot_carry_is_refused(value):
    with pytest.raises(ValueError):
        quick_canonical([value])
