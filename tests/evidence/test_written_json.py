"""What is read as our own writer's is read alike by the strict reader; all else is left to it."""

from __future__ import annotations

import contextlib
import math
from datetime import date
from enum import Enum, StrEnum
from uuid import UUID

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence import strict_json
from pytest_invarlock.evidence.limits import MAX_JSON_DEPTH
from pytest_invarlock.evidence.written_json import (
    NOT_AS_WRITTEN,
    is_written_of,
    read_written,
    written,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53) + 1, 2**53 - 1)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


class Word(StrEnum):
    A = "a"


class Plain(Enum):
    A = math.nan


def strictly(data):
    """As where nothing is taken for our own writer's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_json, "read_written", lambda _: NOT_AS_WRITTEN)
        return strict_json.loads(data, max_bytes=10**6)


@settings(max_examples=200, deadline=None, database=None)
@given(values)
def test_what_is_written_is_read_back_to_the_type(value):
    data = written(value)
    assert repr(read_written(data)) == repr(strictly(data))
    assert read_written(data) == value
    assert is_written_of(data, value)


@settings(max_examples=300, deadline=None, database=None)
@given(values, st.data())
def test_no_altered_text_is_read_otherwise_than_strictly(value, data):
    text = bytearray(written([value, {"a": 1.5, "b": [1, -2]}]))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place : place + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", b"0", b"1", b"e", b"-", b".", b'"', b" ", b"\n", b"\\", b"a"])
        )
    found = read_written(bytes(text))
    if found is not NOT_AS_WRITTEN:
        assert repr(found) == repr(strictly(bytes(text)))


@pytest.mark.parametrize(
    "text",
    [
        b'{\n  "a": 1,\n  "a": 1\n}\n',
        b'{\n  "b": 1,\n  "a": 1\n}\n',
        b"[\n  1.50\n]\n",
        b"[\n  -0\n]\n",
        b"[\n  1e999\n]\n",
        b"[\n  NaN\n]\n",
        b"[\n  9007199254740993\n]\n",
        b'[\n  "\\ud800"\n]\n',
        b'[\n  "\\u0041"\n]\n',
        b"[\n  1\n]",
        b"\xef\xbb\xbf[]\n",
        b"[\n 1\n]\n",
        b"[]\n\n",
    ],
)
def test_another_text_of_the_same_values_is_not_taken_for_ours(text):
    assert read_written(text) is NOT_AS_WRITTEN


@pytest.mark.parametrize("depth", [MAX_JSON_DEPTH, MAX_JSON_DEPTH + 1, 200])
@pytest.mark.parametrize("innermost", [[], [1]])
def test_depth_is_bounded_as_for_any_text(depth, innermost):
    value = innermost
    for _ in range(depth - 1):
        value = [value]
    data = written(value)
    if depth > MAX_JSON_DEPTH:
        with pytest.raises(EvidenceError) as refused:
            strict_json.loads(data, max_bytes=10**6)
        assert refused.value.code == "TOO_LARGE"
    else:
        assert strict_json.loads(data, max_bytes=10**6) == value


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 254 + b"0," * 50_000 + b"0" + b"]" * 254,
        b"[" * MAX_JSON_DEPTH + b"0," * 50_000 + b"0" + b"]" * MAX_JSON_DEPTH,
        b"[" * 8 + (b"[" * 56 + b"0" + b"]" * 56 + b",") * 2_000 + b"0" + b"]" * 8,
        (b"[" * 40 + b"\n") + b"0,\n" * 50_000 + b"0" + b"]" * 40,
    ],
)
def test_a_short_text_of_deep_lists_is_not_laid_out_to_be_compared(text, monkeypatch):
    # Laid out it would be fifty times as long, and take as much memory.
    monkeypatch.setattr(strict_json, "read_written", lambda _: pytest.fail("was laid out"))
    with contextlib.suppress(EvidenceError):
        strict_json.loads(text, max_bytes=10**6)


@pytest.mark.parametrize(
    "value",
    [[UUID(int=1)], [Plain.A], [orjson.Fragment(b"xx")], [date(2026, 1, 1)], {Word.A: 1}, [b"x"]],
)
def test_what_python_would_not_write_is_not_written(value):
    with pytest.raises(EvidenceError) as refused:
        strict_json.pretty(value)
    assert refused.value.code == "NOT_CANONICAL"


@pytest.mark.parametrize(
    ("stated", "value"),
    [(None, math.nan), (None, math.inf), (1, True), (True, 1), (1, 1.0), (0.0, -0.0), ("1", 1)],
)
def test_values_that_compare_or_print_alike_are_told_apart(stated, value):
    assert not is_written_of(written({"a": stated}), {"a": value})
    assert is_written_of(written({"a": stated}), {"a": stated})


def test_a_value_that_json_cannot_carry_was_not_written():
    assert not is_written_of(b"[\n  null\n]\n", [2**60])
    assert not is_written_of(b"{}\n", {1: 2})


def test_numpys_float64_is_a_number_and_its_integers_are_not():
    assert written([np.float64(1.5)]) == b"[\n  1.5\n]\n"
    with pytest.raises(TypeError):
        written([np.int64(1)])
