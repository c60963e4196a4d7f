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
_BEYOND = re.compile("[\U00010000-\U0010ffff]")
# What the two writers write alike needs no look: no exponent, and a fraction other than .0.
_NO_FRACTION = re.compile(r"\.0(?!\d)")
_MINUS_ZERO = re.compile(r"-0(?![\d.])")
_EXPONENT = re.compile(r"(?<![\d.])-?\d++(?:\.\d++)?e[+-]\d+")
_GAP = "\x00"


def quick_canonical(value: object) -> bytes:
    """The same bytes as `strict_json.canonical`, for JSON values that `strict_json.loads` allows.

    Raises ValueError for NaN, infinities and lone surrogates; other keys than text are not found.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    if not text.isascii() and _BEYOND.search(text):
        return rfc8785.dumps(value)  # type: ignore[arg-type]
    parts = _STRING.split(text)
    # Between strings stand numbers and signs only, so that a control character can part them.
    between = _NO_FRACTION.sub("", _GAP.join(parts[::2]))
    if "-0" in between:
        between = _MINUS_ZERO.sub("0", between)
    if "e-" in between or "e+" in between:
        between = _EXPONENT.sub(_plain, between)
    parts[::2] = between.split(_GAP)
    return "".join(parts).encode()


def _plain(match: re.Match[str]) -> str:
    """A number with an exponent as ECMAScript writes it: plain from 1e-6 up to 1e21."""
    mantissa, _, power = match[0].partition("e")
    exponent = int(power)
    if not -7 < exponent < 21:
        return f"{mantissa}e{exponent:+d}"
    sign = "-" if mantissa.startswith("-") else ""
    digits = mantissa.lstrip("-").replace(".", "")
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    return sign + digits.ljust(exponent + 1, "0")
