"""Rows of data files by their extension: parquet, arrow, csv, tsv, text, JSON, JSON Lines."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from typing import TYPE_CHECKING, Any

from pytest_invarlock.data.json_lines import json_lines
from pytest_invarlock.data.rows import Row
from pytest_invarlock.errors import DataError
from pytest_invarlock.policy.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

JSON_LINES = (".jsonl", ".ndjson")


def is_data_file(path: Path) -> bool:
    """Whether the extension is one that `table_rows` reads."""
    return _extension(path) in _READERS


def table_rows(path: Path) -> Iterator[Row]:
    """The rows of a data file, read as its extension says; ``.gz`` behind it is unpacked.

    A text file has one row a line, in column ``text``; JSON is a list of objects, or one a line.

    Raises:
        DataError: a file that cannot be read, is damaged, or has another extension.
    """
    extension = _extension(path)
    if extension not in _READERS:
        raise DataError(
            f"{path}: no data file has extension {extension or 'none'!r}",
            remedy=nearest(extension, sorted(_READERS), "extension"),
            code="DATA_FORMAT",
        )
    content = file_bytes(path)
    if path.suffix == ".gz":
        content = _unpacked(content, path)
    if not content.strip():
        raise DataError(
            f"{path}: is empty", remedy="give a file with at least one row", code="DATA_EMPTY"
        )
    return _READERS[extension](content, path)


def file_bytes(path: Path) -> bytes:
    """The content of a file; raises DataError naming it where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror}",
            remedy="name a readable data file",
            code="DATA_UNREADABLE",
        ) from error


def _extension(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    return "." + name.rpartition(".")[2].lower() if "." in name else ""


def _unpacked(content: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, "gzip") from error


def _damaged(path: Path, form: str) -> DataError:
    return DataError(
        f"{path}: is no readable {form} file: cut off, damaged or of another format",
        remedy="copy or download the file again",
        code="DATA_DAMAGED",
    )


def _numbered(values: Iterator[Mapping[str, Any]], path: Path) -> Iterator[Row]:
    for number, row in enumerate(values, start=1):
        yield Row(f"{path}: row {number}", row, str(path))


def _batched(batches: Iterator[Any], path: Path, form: str) -> Iterator[Row]:
    import pyarrow as pa

    def values() -> Iterator[Mapping[str, Any]]:
        try:
            for batch in batches:
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _damaged(path, form) from error

    return _numbered(values(), path)


def _parquet(content: bytes, path: Path) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        opened = parquet.ParquetFile(io.BytesIO(content))
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, "parquet") from error
    return _batched(opened.iter_batches(batch_size=1024), path, "parquet")


def _arrow(content: bytes, path: Path) -> Iterator[Row]:
    import pyarrow as pa

    # `datasets` writes streams, other tools files that begin with this mark.
    is_file = content.startswith(b"ARROW1")
    try:
        if is_file:
            reader = pa.ipc.open_file(io.BytesIO(content))
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            batches = iter(pa.ipc.open_stream(io.BytesIO(content)))
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, "arrow") from error
    return _batched(batches, path, "arrow")


def _separated(separator: str) -> Callable[[bytes, Path], Iterator[Row]]:
    def read(content: bytes, path: Path) -> Iterator[Row]:
        import pyarrow as pa
        from pyarrow import csv

        form = "csv" if separator == "," else "tsv"
        try:
            table = csv.read_csv(
                io.BytesIO(content),
                parse_options=csv.ParseOptions(delimiter=separator, newlines_in_values=True),
                # An empty cell is empty text, which the reader of the column judges.
                convert_options=csv.ConvertOptions(strings_can_be_null=False),
            )
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, form) from error
        return _batched(iter(table.to_batches()), path, form)

    return read


def _text(content: bytes, path: Path) -> Iterator[Row]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            yield Row(f"{path}:{number}", {"text": line.rstrip(b"\r").decode()}, str(path))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}:{number}: is not UTF-8 text",
                remedy="save the file as UTF-8",
                code="DATA_BAD_LINE",
            ) from error


def _json(content: bytes, path: Path) -> Iterator[Row]:
    if not content.lstrip().startswith(b"["):
        return json_lines(content, str(path))
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "JSON") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(
                f"{path}: row {number}: is not a JSON object",
                remedy="mend that row",
                code="DATA_BAD_LINE",
            )
    return _numbered(iter(rows), path)


_READERS: Mapping[str, Callable[[bytes, Path], Iterator[Row]]] = {
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".txt": _text,
    ".json": _json,
    **{extension: lambda content, path: json_lines(content, str(path)) for extension in JSON_LINES},
}
