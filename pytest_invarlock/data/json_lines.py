"""JSON Lines files: one object a line, errors with file and line number."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pytest_invarlock.data.rows import Row
from pytest_invarlock.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator


def json_lines(content: bytes, place: str) -> Iterator[Row]:
    """The rows of a file's content; ``place`` is what errors call it. Blank lines are no rows.

    Raises:
        DataError: ``DATA_BAD_LINE`` for a line that is not one JSON object in UTF-8.
    """
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{place}:{number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _no_object(where) from error
        if not isinstance(values, dict):
            raise _no_object(where)
        yield Row(where, values, place)


def _no_object(where: str) -> DataError:
    return DataError(
        f"{where}: is not a JSON object", remedy="mend that line", code="DATA_BAD_LINE"
    )
