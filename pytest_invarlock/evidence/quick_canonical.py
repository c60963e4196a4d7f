"""The canonical bytes of RFC 8785 at the speed of a writer in native code, for large documents.

That writer differs from the canonical form in how numbers with an exponent or without a fraction
look, which is mended in its text; in the order of keys beyond the basic plane; and in what it takes
for JSON. The last two leave the work to the library.
"""

from __future__ import annotations

import re
from functools import cache

import orjson
import rfc8785

_STRING = re.compile(r'("(?:[^"\\]++|\\.)*+")')
# What the two writers write alike needs no look: no exponent, and a fraction other than .0.
_NO_FRACTION = re.compile(r"\.0(?!\d)")
_MINUS_ZERO = re.compile(r"-0(?![\d.])")
_EXPONENT = re.compile(r"e([-+]?\d++)")
# Exponents of ten between which ECMAScript writes no exponent.
_LEAST_PLAIN, _MOST_PLAIN = -6, 20
_BEYOND_BASIC_PLANE = re.compile(rb"[\xf0-\xf4]")
_PROBE = [1.0, -0.0, 0.1, 1e-4, 1.5e-5, 1e-6, -1.5e-7, 5e-324, 1e15, 1.5e16, -1e20, 1e21, 1.5e300]
_DIGITS = "0123456789"
_GAP = "\x00"


def quick_canonical(value: object) -> bytes:
    """The same bytes as `strict_json.canonical`, and ValueError where that refuses."""
    data = _quickly(value)
    if data is not None:
        return _mended(data.decode())
    try:
        return rfc8785.dumps(value)  # type: ignore[arg-type]
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def _quickly(value: object) -> bytes | None:
    """Compact JSON that can be mended into canonical form; None where that is the library's."""
    try:
        data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER)
    except TypeError:
        return None
    # NaN became null, a tuple a list, an enum its value: the library says which of them is meant.
    if orjson.loads(data) != value or not _numbers_look_as_known():
        return None
    return None if not data.isascii() and _BEYOND_BASIC_PLANE.search(data) else data


@cache
def _numbers_look_as_known() -> bool:
    """Whether the writer that is installed writes numbers in a way that is mended here."""
    text = orjson.dumps(_PROBE).decode()
    return _mended(text) == rfc8785.dumps(_PROBE)


def _mended(text: str) -> bytes:
    # Where nothing is escaped, every other quote ends a string.
    parts, quote = (_STRING.split(text), "") if "\\" in text else (text.split('"'), '"')
    # Between strings stand numbers and signs only, so that a control character can part them.
    between = _NO_FRACTION.sub("", _GAP.join(parts[::2]))
    if "-0" in between:
        between = _MINUS_ZERO.sub("0", between)
    if _EXPONENT.search(between):
        between = _ecmascript_exponents(between)
    parts[::2] = between.split(_GAP)
    return quote.join(parts).encode()


def _ecmascript_exponents(text: str) -> str:
    """``text`` with each number as ECMAScript writes it: plain from 1e-6 up to 1e21."""
    texts = _EXPONENT.split(text)
    befores, exponents, pieces = texts[:-1:2], texts[1::2], []
    for before, exponent in zip(befores, exponents, strict=True):
        # A pattern for the mantissa would be tried at every digit of every number.
        start = len(before.rstrip(_DIGITS + ".-"))
        pieces += [before[:start], _ecmascript(before[start:], int(exponent))]
    return "".join((*pieces, texts[-1]))


def _ecmascript(mantissa: str, exponent: int) -> str:
    if not _LEAST_PLAIN <= exponent <= _MOST_PLAIN:
        return f"{mantissa}e{exponent:+d}"
    sign = "-" if mantissa.startswith("-") else ""
    digits = mantissa.lstrip("-").replace(".", "")
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    return sign + digits.ljust(exponent + 1, "0")
