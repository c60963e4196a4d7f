"""Where two JSON values differ, numbers aside that two computers may round apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from reprlib import Repr
from typing import Any

TOLERANCE = 1e-9
# Both sides may hold a stranger's text of any length.
_SHOWN = Repr()
_SHOWN.maxstring = _SHOWN.maxother = 200
_MOST_OF_A_KEY = 100


def first_difference(expected: Any, found: Any, where: str = "") -> str | None:
    """The first place where two JSON values differ; numbers may differ by 1e-9 relative."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in sorted(set(expected) | set(found)):
            if key not in expected or key not in found:
                word = "unexpected" if key in found else "missing"
                return f"{where}/{str(key)[:_MOST_OF_A_KEY]} is {word}"
            place = f"{where}/{str(key)[:_MOST_OF_A_KEY]}"
            difference = first_difference(expected[key], found[key], place)
            if difference is not None:
                return difference
        return None
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            difference = first_difference(one, other, f"{where}/{index}")
            if difference is not None:
                return difference
        return None
    if _equal(expected, found):
        return None
    return f"{where or '/'} is {_SHOWN.repr(found)}, {_SHOWN.repr(expected)} follows"


def _equal(expected: Any, found: Any) -> bool:
    numbers = (int, float)
    if isinstance(expected, bool) or isinstance(found, bool):
        return expected is found
    if isinstance(expected, numbers) and isinstance(found, numbers):
        return math.isclose(expected, found, rel_tol=TOLERANCE, abs_tol=1e-12)
    return type(expected) is type(found) and bool(expected == found)
