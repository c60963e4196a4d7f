"""Rows of a source, and reading a column of one with an error that names its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_invarlock.errors import DataError
from pytest_invarlock.policy.nearest import nearest


@dataclass(frozen=True, slots=True)
class Row:
    """One row: where it stands (file and line, or split and number), its values by column.

    ``part`` names the file or split it came from.
    """

    where: str
    values: Mapping[str, Any]
    part: str = ""


def column(row: Row, name: str) -> Any:
    """The value of a column; ``outer.inner`` reaches into a nested one.

    Raises:
        DataError: ``DATA_FIELD`` where the row has no such column.
    """
    value: Any = row.values
    if name in row.values:
        return row.values[name]
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise DataError(
                f"{row.where}: has no field {name!r}",
                remedy=nearest(name, _names(row.values), "field"),
                code="DATA_FIELD",
            )
        value = value[part]
    return value


def text_of(row: Row, name: str) -> str:
    """The text in a column; raises DataError where it is no text, or holds half a character."""
    text = column(row, name)
    if not isinstance(text, str):
        raise bad_row(row, f"field {name!r} holds {_kind(text)}, not text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise bad_row(row, "holds half of a character (a lone surrogate)") from error
    return text


def bad_row(row: Row, cause: str) -> DataError:
    """The error for a row that cannot be used."""
    return DataError(f"{row.where}: {cause}", remedy="mend that row", code="DATA_BAD_LINE")


def _kind(value: object) -> str:
    return "nothing (null)" if value is None else f"a value of type {type(value).__name__}"


def _names(values: Mapping[str, Any]) -> list[str]:
    names = sorted(values)
    for outer, value in sorted(values.items()):
        if isinstance(value, Mapping):
            names += [f"{outer}.{inner}" for inner in sorted(value)]
    return names
