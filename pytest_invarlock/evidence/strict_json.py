"""JSON that every parser reads alike: strict reading, canonical bytes (RFC 8785), digests.

Python's own reader keeps the last of duplicate keys, accepts NaN, turns 1e999 into infinity and
lets lone surrogates through; two verifiers could then see two documents in one signed file.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from itertools import accumulate
from typing import Any

import rfc8785

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.limits import MAX_JSON_DEPTH, MAX_JSON_VALUES, MAX_NUMBER_LENGTH
from pytest_invarlock.evidence.written_json import NOT_AS_WRITTEN, read_written, written

MAX_SAFE_INTEGER = 2**53 - 1
_BOM = b"\xef\xbb\xbf"
# Strings are consumed whole, so that brackets inside do not count; possessive: no backtracking.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DEEPER = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def loads(data: bytes, *, max_bytes: int, what: str = "JSON") -> Any:
    """Parse one JSON text (RFC 8259, restricted as I-JSON, RFC 7493).

    Args:
        data: the whole text, UTF-8 without byte order mark.
        max_bytes: refuse longer input before any parsing.
        what: how errors name the input, such as the path inside the pack.

    Returns:
        dict, list, str, int, float, bool or None; floats are finite, integers within ±(2^53 - 1).

    Raises:
        EvidenceError: TOO_LARGE, before anything is parsed, for what is too long, too deep or of
            too many values, and for a number of too many digits; MALFORMED_JSON for the rest. The
            cause says which rule is broken.
    """
    if len(data) > max_bytes:
        raise _too_large(what, f"is longer than {max_bytes} bytes")
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise _too_large(what, f"holds more than {MAX_JSON_VALUES} values")
    if data.startswith(_BOM):
        raise _malformed(what, "starts with a byte order mark")
    # Where nothing is escaped, every other quote ends a string: what is between is structure.
    outside = _STRING.sub(b"", data) if b"\\" in data else b"".join(data.split(b'"')[::2])
    depth = _depth(outside, what)
    # Most documents of a pack are of our own writer, and read in a fifth of the time. What is not
    # indented is not: laid out as ours, a short text of deep lists would take all memory.
    if depth * _most_lines(outside) <= len(data):
        value = read_written(data)
        if value is not NOT_AS_WRITTEN:
            return value
    return _read_strictly(data, outside, what)


def _read_strictly(data: bytes, outside: bytes, what: str) -> Any:
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=None if _short_and_finite(outside) else _finite_float,
            parse_int=_safe_integer,
        )
        if _SURROGATE_ESCAPE.search(data):
            _refuse_surrogates(value)
    except UnicodeError as error:
        raise _malformed(what, "is not valid Unicode (UTF-8, no lone surrogates)") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise _malformed(what, f"{error.msg} at {place}") from error
    except _LongNumberError as error:
        raise _too_large(what, str(error)) from error
    except ValueError as error:
        raise _malformed(what, str(error)) from error
    return value


def canonical(value: Any) -> bytes:
    """The canonical UTF-8 bytes of ``value`` (JCS, RFC 8785).

    Raises EvidenceError, code NOT_CANONICAL, for what JSON cannot carry alike everywhere: NaN,
    infinities, integers beyond ±(2^53 - 1), keys that are not text, lone surrogates, other types.
    """
    try:
        return rfc8785.dumps(value)
    except (ValueError, RecursionError) as error:
        raise _not_canonical(error) from error


def _not_canonical(error: Exception) -> EvidenceError:
    return EvidenceError(
        f"value has no canonical JSON form: {error}",
        remedy="use finite numbers, text keys, and text for integers beyond 2^53 - 1",
        code="NOT_CANONICAL",
    )


def digest(value: Any) -> str:
    """``sha256:<hex>`` of the canonical bytes of ``value``."""
    return sha256_text(canonical(value))


def sha256_text(data: bytes) -> str:
    """``sha256:<hex>`` of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def pretty(value: Any) -> bytes:
    """``value`` for people: sorted keys, indented, UTF-8, final newline; equal values, equal bytes.

    Raises EvidenceError, code NOT_CANONICAL, for what :func:`loads` would not read back.
    """
    try:
        _require_json(value)
        return written(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise _not_canonical(error) from error


def _require_json(value: Any) -> None:
    """Raise ValueError for what the writer turns into null, or refuses without a word on where."""
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise ValueError(f"holds the key {key!r}, which is no plain text")
            _require_json(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _require_json(item)
    elif isinstance(value, int) and abs(value) > MAX_SAFE_INTEGER:
        raise ValueError(f"holds the integer {value}, beyond ±(2^53 - 1)")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"holds {value}, which JSON does not have")
    elif value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"holds a {type(value).__name__}, which JSON does not have")


def _depth(outside: bytes, what: str) -> int:
    """How deep the deepest value is nested; raises EvidenceError where that is too deep."""
    brackets = outside.translate(None, _NO_BRACKETS)
    depth = max(accumulate(map(_DEEPER.__getitem__, brackets)), default=0)
    if depth > MAX_JSON_DEPTH:
        raise _too_large(what, f"is nested deeper than {MAX_JSON_DEPTH}")
    return depth


def _most_lines(outside: bytes) -> int:
    """How many lines our writer gives a text at most: one a value, and one a closing bracket."""
    return 1 + outside.count(b",") + 2 * (outside.count(b"[") + outside.count(b"{"))


def _short_and_finite(outside: bytes) -> bool:
    """Whether no fraction outside strings can be too long or overflow, without a look at each.

    Digits between two other signs are few, and no exponent but a negative one is stated.
    """
    zeros = outside.translate(_ZEROS)
    return not any(sign in zeros for sign in (b"0" * (MAX_NUMBER_LENGTH // 4), b"E", b"e+", b"e0"))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"holds the key {ascii(twice)[:80]} twice")
    return value


def _refuse_constant(text: str) -> float:
    raise ValueError(f"holds {text}, which is not JSON")


class _LongNumberError(ValueError):
    """A number of more digits than any that is meant."""


def _check_length(text: str) -> None:
    if len(text) > MAX_NUMBER_LENGTH:
        raise _LongNumberError(f"holds a number of {len(text)} characters, {text[:40]}...")


def _finite_float(text: str) -> float:
    _check_length(text)
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"holds the number {text[:40]}, which overflows")
    return value


def _safe_integer(text: str) -> int:
    _check_length(text)
    if abs(int(text)) > MAX_SAFE_INTEGER:
        raise ValueError(f"holds the integer {text[:40]}, beyond ±(2^53 - 1)")
    return int(text)


def _refuse_surrogates(value: Any) -> None:
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, list):
        for item in value:
            _refuse_surrogates(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            key.encode()
            _refuse_surrogates(item)


def _malformed(what: str, why: str, code: str = "MALFORMED_JSON") -> EvidenceError:
    return EvidenceError(f"{what} {why}", remedy="take the file again from its source", code=code)


def _too_large(what: str, why: str) -> EvidenceError:
    return _malformed(what, why, "TOO_LARGE")
