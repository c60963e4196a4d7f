"""Providers of local files: JSON Lines, and every other data file by its extension."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from pytest_invarlock.data.json_lines import json_lines
from pytest_invarlock.data.local_files import local_files
from pytest_invarlock.data.providers import RowProvider
from pytest_invarlock.data.row_documents import holds_pairs
from pytest_invarlock.data.tables import file_bytes, table_rows
from pytest_invarlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pytest_invarlock.data.documents import Content
    from pytest_invarlock.data.rows import Row
    from pytest_invarlock.plan import DataSource, Metric


class LocalJsonlProvider(RowProvider):
    """JSON Lines files: a file, a directory of ``*.jsonl``, or a pattern; private by default."""

    kind = "local_jsonl"

    def __init__(self, source: DataSource) -> None:
        super().__init__(source)
        if not source.locations:
            raise ConfigError(
                f"provider {self.kind} has no file",
                remedy="give dataset.file, dataset.path or dataset.data_files",
            )

    def files(self) -> Sequence[Path]:
        """The files, those of a directory or pattern sorted by name."""
        return local_files(self.source.locations)

    def rows(self) -> Iterator[Row]:
        """The objects of all files, line by line."""
        for path in self.files():
            yield from json_lines(file_bytes(path), str(path))

    def place(self) -> str:
        """The locations as given."""
        return ", ".join(self.source.locations)


class LocalJsonlPairsProvider(LocalJsonlProvider):
    """JSON Lines files of source-target pairs."""

    kind = "local_jsonl_pairs"
    contents = ("pairs",)


class LocalJsonlChoicesProvider(LocalJsonlProvider):
    """JSON Lines files of examples with choices and a label."""

    kind = "local_jsonl_choices"
    contents = ("choices",)


class LocalFileProvider(LocalJsonlProvider):
    """Files of any format that `tables` reads; the metric and the columns say what they hold."""

    kind = "local_file"
    contents = ("text", "pairs", "choices")

    def rows(self) -> Iterator[Row]:
        """The rows of all files."""
        return chain.from_iterable(table_rows(path) for path in self.files())

    def content_for(self, metric: Metric) -> Content:
        """As the metric wants it; pairs where the first row has both columns of a pair."""
        content = super().content_for(metric)
        if content == "pairs":
            first = next(self.rows(), None)
            return "pairs" if first is not None and holds_pairs(first, self.source) else "text"
        return content
