"""The canonical bytes of RFC 8785 at the speed of Python's own JSON writer, for large documents.

That writer differs from the canonical form in three things: how numbers with an exponent or without
a fraction look, in which order keys beyond the basic plane stand, and what it lets through. The
first is mended in its text, the second leaves the work to the library, and the third is why only
values whose keys are text and whose numbers are finite may be given.
"""

from __future__ import annotations

import json
import re

import rfc8785

_STRING = re.compile(r'("(?:[^"\\]++|\\.)*+")')
# What the two writers write alike needs no look: no exponent, and a fraction other than .0.
_NO_FRACTION = re.compile(r"\.0(?!\d)")
_MINUS_ZERO = re.compile(r"-0(?![\d.])")
# Python writes exponents of two digits at least, from 1e-5 down and from 1e16 up.
_WRITTEN_PLAIN = re.compile(r"e(?=-0[56]|\+(?:1[6-9]|20)(?!\d))")
_EXPONENT_LENGTH = 3
_DIGITS = "0123456789"
_GAP = "\x00"


def quick_canonical(value: object) -> bytes:
    """The same bytes as `strict_json.canonical`, for JSON values that `strict_json.loads` allows.

    Raises ValueError for NaN, infinities and lone surrogates; other keys than text are not found.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    if not text.isascii() and len(text.encode("utf-16-le")) > 2 * len(text):
        return rfc8785.dumps(value)  # type: ignore[arg-type]
    # Where nothing is escaped, every other quote ends a string.
    parts, quote = (_STRING.split(text), "") if "\\" in text else (text.split('"'), '"')
    # Between strings stand numbers and signs only, so that a control character can part them.
    between = _NO_FRACTION.sub("", _GAP.join(parts[::2]))
    if "-0" in between:
        between = _MINUS_ZERO.sub("0", between)
    if "e-" in between or "e+" in between:
        between = _ecmascript_exponents(between)
    parts[::2] = between.split(_GAP)
    return quote.join(parts).encode()


def _ecmascript_exponents(text: str) -> str:
    """``text`` with each number as ECMAScript writes it: plain from 1e-6 up to 1e21."""
    for digit in "789":
        text = text.replace(f"e-0{digit}", f"e-{digit}")
    before, *rest = _WRITTEN_PLAIN.split(text)
    pieces = []
    for after in rest:
        # A pattern for the mantissa would be tried at every digit of every number.
        start = len(before.rstrip(_DIGITS + ".-"))
        pieces += [before[:start], _plain(before[start:], int(after[:_EXPONENT_LENGTH]))]
        before = after[_EXPONENT_LENGTH:]
    return "".join((*pieces, before))


def _plain(mantissa: str, exponent: int) -> str:
    sign = "-" if mantissa.startswith("-") else ""
    digits = mantissa.lstrip("-").replace(".", "")
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    return sign + digits.ljust(exponent + 1, "0")
