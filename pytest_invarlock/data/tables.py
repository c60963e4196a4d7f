"""Rows of data files by their extension: parquet, arrow, csv, tsv, text, JSON, JSON Lines."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.data.json_lines import json_lines
from pytest_invarlock.data.rows import Row
from pytest_invarlock.errors import DataError
from pytest_invarlock.policy.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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


def _through_datasets(builder: str, content: bytes, path: Path, **options: Any) -> Iterator[Row]:
    """The rows that ``datasets``' own reader of a format gives; its cache is a folder soon gone."""
    import datasets
    import pyarrow as pa

    shown = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"rows{_extension(path)}"
        file.write_bytes(content)
        try:
            rows = list(
                datasets.load_dataset(
                    builder, data_files=str(file), split="train", streaming=True,
                    cache_dir=folder, **options,
                )
            )  # fmt: skip
        except (
            pa.ArrowException, datasets.exceptions.DatasetsError, OSError, ValueError
        ) as error:  # fmt: skip
            raise _damaged(path, _extension(path).removeprefix(".")) from error
        finally:
            datasets.logging.set_verbosity(shown)
    return _numbered(iter(rows), path)


def _parquet(content: bytes, path: Path) -> Iterator[Row]:
    return _through_datasets("parquet", content, path)


def _arrow(content: bytes, path: Path) -> Iterator[Row]:
    return _through_datasets("arrow", content, path)


def _separated(separator: str) -> Callable[[bytes, Path], Iterator[Row]]:
    def read(content: bytes, path: Path) -> Iterator[Row]:
        from datasets import Features, Value

        header = _header(content, path, separator)
        # Cells are text, an id 01 among them, and an empty one is empty text.
        features = Features({name: Value("string") for name in header})
        return _through_datasets(
            "csv", content, path, sep=separator, features=features, keep_default_na=False
        )

    return read


def _header(content: bytes, path: Path, separator: str) -> list[str]:
    """The column names of a separated file, all of whose rows have as many cells."""
    try:
        rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), delimiter=separator)
        header = next(rows)
        for row in rows:
            if row and len(row) != len(header):
                raise DataError(
                    f"{path}:{rows.line_num}: has {len(row)} cells, the header {len(header)}",
                    remedy="mend that line",
                    code="DATA_DAMAGED",
                )
    except (UnicodeDecodeError, csv.Error) as error:
        raise _damaged(path, _extension(path).removeprefix(".")) from error
    return header


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
