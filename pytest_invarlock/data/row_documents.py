"""From rows to documents: texts, pairs or examples, grouped by the column that names a document."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pytest_invarlock.data.documents import Content, Document, Example, TextPair
from pytest_invarlock.data.rows import Row, bad_row, column, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_invarlock.plan import DataSource

Part = TypeVar("Part")


def documents_of(
    rows: Iterable[Row], content: Content, source: DataSource
) -> tuple[list[Document], tuple[str, ...]]:
    """The documents in ``rows``, in order of their first row, and notes on rows left out.

    One row is one document unless ``source.id_field`` names the column that says otherwise; the
    rows of a text document are joined by a line feed.

    Raises:
        DataError: a row without a column, with a value of the wrong kind, an empty side of a
            pair, fewer than two choices, or a label that is none of them.
    """
    if content == "text":
        return _texts(rows, source)
    if content == "pairs":
        pairs = _grouped(rows, source.id_field, lambda row: _pair(row, source))
        return [Document(pairs=tuple(members)) for members in pairs], ()
    every = list(rows)
    labels = _occurring_labels(every, source)
    examples = _grouped(every, source.id_field, lambda row: _example(row, source, labels))
    return [Document(examples=tuple(members)) for members in examples], ()


def _texts(rows: Iterable[Row], source: DataSource) -> tuple[list[Document], tuple[str, ...]]:
    grouped = _grouped(rows, source.id_field, lambda row: text_of(row, source.text_field))
    documents = []
    blank = 0
    for texts in grouped:
        filled = tuple(text for text in texts if text.strip())
        blank += len(texts) - len(filled)
        if filled:
            documents.append(Document("\n".join(filled), rows=filled if len(filled) > 1 else ()))
    return documents, (f"{blank} rows without text are left out",) if blank else ()


def _grouped(
    rows: Iterable[Row], id_field: str | None, read: Callable[[Row], Part]
) -> list[list[Part]]:
    groups: dict[str, list[Part]] = {}
    for number, row in enumerate(rows):
        # repr keeps the number 1 apart from the text "1".
        key = str(number) if id_field is None else repr(column(row, id_field))
        groups.setdefault(key, []).append(read(row))
    return list(groups.values())


def _pair(row: Row, source: DataSource) -> TextPair:
    pair = TextPair(text_of(row, source.source_field), text_of(row, source.target_field))
    for name, text in ((source.source_field, pair.source), (source.target_field, pair.target)):
        if not text.strip():
            raise bad_row(row, f"field {name!r} of the pair is empty")
    return pair


def _occurring_labels(rows: Sequence[Row], source: DataSource) -> tuple[str, ...]:
    if source.choices_field is not None or source.labels:
        return source.labels
    return tuple(sorted({str(column(row, source.label_field)) for row in rows}))


def _example(row: Row, source: DataSource, labels: tuple[str, ...]) -> Example:
    text = text_of(row, source.text_field)
    if not text.strip():
        raise bad_row(row, f"field {source.text_field!r} of the example is empty")
    choices = labels if source.choices_field is None else _choices(row, source.choices_field)
    if len(choices) < 2:
        raise bad_row(row, f"has {len(choices)} choices, fewer than two")
    for choice in choices:
        if not choice.strip():
            raise bad_row(row, "has an empty choice")
    named = source.choices_field is None and not source.labels
    return Example(text, choices, _label(row, source.label_field, choices, named=named))


def _choices(row: Row, name: str) -> tuple[str, ...]:
    values = column(row, name)
    if not isinstance(values, list | tuple):
        raise bad_row(row, f"field {name!r} holds no list of choices")
    return tuple(
        text_of(Row(row.where, {f"{name}[{i}]": value}), f"{name}[{i}]")
        for i, value in enumerate(values)
    )


def _label(row: Row, name: str, choices: tuple[str, ...], *, named: bool) -> int:
    """The place of the right choice: the label is one of them, or else a place from 0."""
    value = column(row, name)
    if str(value) in choices and (named or isinstance(value, str)):
        return choices.index(str(value))
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, int) and 0 <= value < len(choices):
        return int(value)
    raise bad_row(
        row, f"label {value!r} in field {name!r} is neither one of the choices nor a place among "
        f"{len(choices)}"
    )  # fmt: skip


def holds_pairs(row: Row, source: DataSource) -> bool:
    """Whether a row has both columns of a pair."""
    return source.source_field in row.values and source.target_field in row.values
