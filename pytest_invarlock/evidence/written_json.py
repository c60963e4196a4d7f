"""JSON as this project writes it: sorted keys, two spaces, UTF-8, integers and finite numbers.

A text that the writer makes again of what was read from it can be read in one way only: a second
key, an overlong number or another layout would not come back. Such a text, and nearly every
document of a pack is one, needs none of the checks of `strict_json.loads`.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

_LAYOUT = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_INDENT_2
    | orjson.OPT_APPEND_NEWLINE
    | orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)


class NotAsWritten:
    """Of a text that the writer would not have written; it may be JSON all the same."""


NOT_AS_WRITTEN: Final = NotAsWritten()


def written(value: object) -> bytes:
    """The text of ``value``, for one that holds no NaN and no infinity: they become null.

    Raises TypeError for integers beyond ±(2^53 - 1), keys that are not text, lone surrogates,
    other types, and for more than 254 levels.
    """
    return orjson.dumps(value, default=_number, option=_LAYOUT)


def is_written_of(data: bytes, value: object) -> bool:
    """Whether ``data`` is to the letter the text of ``value``.

    False says nothing of a value that holds a tuple, which is read back as a list.
    """
    try:
        return written(value) == data and bool(orjson.loads(data) == value)
    except TypeError:
        return False


def read_written(data: bytes) -> Any:
    """The value of a text that `written` made; NOT_AS_WRITTEN of any other.

    Of what is nested deeply and not indented, `written` makes a far longer text: ask before.
    """
    try:
        value = orjson.loads(data)
        same = written(value) == data
    except (orjson.JSONDecodeError, TypeError):
        return NOT_AS_WRITTEN
    return value if same else NOT_AS_WRITTEN


def _number(value: object) -> float:
    """What numpy calls a float64 is one."""
    if isinstance(value, float):
        return float(value)
    raise TypeError(f"holds a {type(value).__name__}, which JSON does not have")
