"""JSON that two parsers could read in two ways is refused."""

from __future__ import annotations

import json
import math
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence import atomic, strict_json

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 100_000
PROPERTY = settings(deadline=None, max_examples=60, database=None, derandomize=True)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    # RFC 8785 writes 2.0**53 as an integer literal, which loads refuses; pretty keeps the ".0".
    | st.floats(allow_nan=False, allow_infinity=False).filter(
        lambda x: abs(x) < 2**53 or abs(x) >= 1e21
    )
    | st.text()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"b": {"a": 1, "\\u0061": 2}}', "twice"),
        (b'{"a": NaN}', "NaN"),
        (b"[Infinity]", "Infinity"),
        (b"[-Infinity]", "Infinity"),
        (b"[1e999]", "overflows"),
        (b"[-1e999]", "overflows"),
        (b'["\\ud800"]', "Unicode"),
        (b'{"\\uDFFF": 1}', "Unicode"),
        (b'["\xff"]', "Unicode"),
        (b'["\xed\xa0\x80"]', "Unicode"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ('{"a": 1}'.encode("utf-16"), "Unicode"),
        (b"{} {}", "Extra data"),
        (b"{}\x00", "Extra data"),
        (b"", "Expecting value"),
        (b"{'a': 1}", "Expecting"),
        (b'["\t"]', "control character"),
        (b"[1,]", "Expecting value|trailing comma"),
        (b"[01]", "Expecting"),
        (b'["unterminated', "Unterminated"),
        (b"[9007199254740992]", "integer"),
        (b"[-9007199254740992]", "integer"),
    ],
)
def test_refuses(data: bytes, why: str) -> None:
    with pytest.raises(EvidenceError, match=why) as caught:
        strict_json.loads(data, max_bytes=LIMIT, what="x.json")
    assert caught.value.code == "MALFORMED_JSON"
    assert caught.value.cause.startswith("x.json ")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"[" + b"9" * 5000 + b"]", "5000 characters"),
        (b"[1." + b"9" * 5000 + b"]", "5002 characters"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested"),
        (b" " * (LIMIT + 1), "longer"),
    ],
)
def test_refuses_what_is_too_large(data: bytes, why: str) -> None:
    with pytest.raises(EvidenceError, match=why) as caught:
        strict_json.loads(data, max_bytes=LIMIT, what="x.json")
    assert caught.value.code == "TOO_LARGE"


@pytest.mark.parametrize("item", [b"[],", b"{},", b"0,"])
def test_values_are_counted_before_they_take_memory(
    item: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two bytes of text would become an object of sixty."""
    monkeypatch.setattr(strict_json, "MAX_JSON_VALUES", 20_000)
    strict_json.loads(b"[" + item * 9_000 + b"0]", max_bytes=2**20)
    data = b"[" + item * 300_000 + b"0]"
    tracemalloc.start()
    with pytest.raises(EvidenceError, match="more than 20000 values"):
        strict_json.loads(data, max_bytes=2**20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_reads_what_is_sound() -> None:
    data = b'{"a": [1, 2.5, "\\ud83d\\ude00 [[[ \\" {", null, true, -0.0], "b": 9007199254740991}'
    assert strict_json.loads(data, max_bytes=LIMIT) == json.loads(data)
    deep = b"[" * 64 + b"]" * 64
    assert strict_json.loads(deep, max_bytes=LIMIT) == json.loads(deep)


@pytest.mark.parametrize("data", [b'"' + b'\\"' * 500_000, b'"' * 1_000_001, b"[]" * 500_000])
def test_hostile_text_is_refused_in_linear_time(data: bytes) -> None:
    start = time.perf_counter()
    with pytest.raises(EvidenceError):
        strict_json.loads(data, max_bytes=2_000_000)
    assert time.perf_counter() - start < 5


@given(VALUES)
@PROPERTY
def test_canonical_and_pretty_forms_read_back(value: object) -> None:
    encoded = strict_json.canonical(value)
    back = strict_json.loads(encoded, max_bytes=10 * LIMIT)
    assert strict_json.canonical(back) == encoded
    pretty = strict_json.pretty(value)
    assert strict_json.canonical(strict_json.loads(pretty, max_bytes=10 * LIMIT)) == encoded


def test_canonical_form_follows_rfc_8785() -> None:
    """The number, string and key-order rules of RFC 8785, section 3.2."""
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": '€$\x0f\nA\'B"\\\\"/',
        "literals": [None, True, False],
    }
    assert strict_json.canonical(value) == (
        b'{"literals":[null,true,false],'
        b'"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        b'"string":"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\x80", "\xf6"]
    order = list(json.loads(strict_json.canonical(dict.fromkeys(keys))))
    assert order == ["\r", "1", "\x80", "\xf6", "\u20ac", "\U0001f600", "\ufb33"]


def test_digest_does_not_depend_on_key_order() -> None:
    assert strict_json.digest({"a": 1, "b": 1e-7}) == strict_json.digest({"b": 1e-07, "a": 1})
    assert strict_json.digest({}) == (
        "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**53, {1: 2}, "\ud800", {"\ud800": 1}, {1}])
def test_what_json_cannot_carry_is_refused(value: object) -> None:
    for encode in (strict_json.canonical, strict_json.pretty):
        with pytest.raises(EvidenceError) as caught:
            encode([value])
        assert caught.value.code == "NOT_CANONICAL"


def test_a_cycle_is_refused() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(EvidenceError):
        strict_json.canonical(value)


def test_agrees_with_rfc8785() -> None:
    assert strict_json.canonical({"z": 1.0, "a": [1]}) == rfc8785.dumps({"z": 1.0, "a": [1]})


def test_atomic_write_replaces_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    atomic.write_json(target, {"b": 1, "a": [1.5]})
    assert target.read_text() == '{\n  "a": [\n    1.5\n  ],\n  "b": 1\n}\n'
    with pytest.raises(EvidenceError):
        atomic.write_json(target, {"a": math.nan})
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert json.loads(target.read_text())["b"] == 1


def test_atomic_write_that_is_interrupted_keeps_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x"
    target.write_bytes(b"old")

    def interrupt(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic.write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_exclusive_creation_never_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        atomic.create_bytes(tmp_path / "link", b"x", mode=0o600)
    assert not (tmp_path / "elsewhere").exists()
