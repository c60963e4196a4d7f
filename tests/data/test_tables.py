"""Data files by extension: the same rows from each format, and damage named with the file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_invarlock.data import get_provider
from pytest_invarlock.data.tables import is_data_file, table_rows
from pytest_invarlock.errors import DataError

ROWS = [{"text": "eins, zwei", "label": 0}, {"text": 'mit "Zeichen"\nund Zeile', "label": 1}]


def written(tmp_path: Path, extension: str) -> Path:
    import pyarrow as pa
    from pyarrow import csv, parquet

    path = tmp_path / f"data{extension}"
    table = pa.Table.from_pylist(ROWS)
    if extension == ".parquet":
        parquet.write_table(table, path)
    elif extension in (".csv", ".tsv"):
        csv.write_csv(table, path, csv.WriteOptions(delimiter="," if extension == ".csv" else "\t"))
    elif extension == ".arrow":
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    elif extension == ".json":
        path.write_text(json.dumps(ROWS))
    else:
        path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in ROWS))
    return path


@pytest.mark.parametrize(
    "extension", [".parquet", ".csv", ".tsv", ".arrow", ".json", ".jsonl", ".ndjson"]
)
def test_every_format_gives_the_same_rows(tmp_path: Path, extension: str) -> None:
    path = written(tmp_path, extension)
    assert [dict(row.values) for row in table_rows(path)] == ROWS
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert [dict(row.values) for row in table_rows(packed)] == ROWS
    assert is_data_file(path)


def test_an_arrow_file_is_read_like_an_arrow_stream(tmp_path: Path) -> None:
    import pyarrow as pa

    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(tmp_path / "f.arrow", table.schema) as writer:
        writer.write_table(table)
    assert [dict(row.values) for row in table_rows(tmp_path / "f.arrow")] == ROWS


def test_a_text_file_has_a_row_a_line(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"one\r\ntwo\n\nthree")
    provider = get_provider("local_file", file=str(tmp_path / "t.txt"))
    assert [document.text for document in provider.documents()] == ["one", "two", "three"]


def test_json_lines_in_a_json_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"text": "a"}\n{"text": "b"}\n')
    assert [row.values["text"] for row in table_rows(tmp_path / "t.json")] == ["a", "b"]


def test_rows_name_file_and_number(tmp_path: Path) -> None:
    rows = list(table_rows(written(tmp_path, ".parquet")))
    assert [row.where for row in rows] == [
        f"{tmp_path}/data.parquet: row 1", f"{tmp_path}/data.parquet: row 2"
    ]  # fmt: skip


@pytest.mark.parametrize("extension", [".parquet", ".arrow", ".json", ".jsonl.gz"])
def test_a_truncated_file_is_named(tmp_path: Path, extension: str) -> None:
    path = written(tmp_path, extension.removesuffix(".gz"))
    if extension.endswith(".gz"):
        packed = gzip.compress(path.read_bytes())
        path = path.with_name(path.name + ".gz")
        path.write_bytes(packed)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError) as caught:
        list(table_rows(path))
    assert caught.value.code == "DATA_DAMAGED"
    assert str(path) in caught.value.cause


def test_a_parquet_file_damaged_inside_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "data.parquet"
    table = pa.Table.from_pylist([{"text": f"text {n} " * 20} for n in range(3000)])
    parquet.write_table(table, path, compression="gzip", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[1000:1400] = b"\0" * 400
    path.write_bytes(bytes(content))
    with pytest.raises(DataError) as caught:
        list(table_rows(path))
    assert caught.value.code == "DATA_DAMAGED"


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.csv", b"text,label\none,1\ntwo\n", "DATA_DAMAGED"),
        ("a.csv", b"", "DATA_EMPTY"),
        ("a.jsonl", b" \n", "DATA_EMPTY"),
        ("a.xlsx", b"x", "DATA_FORMAT"),
        ("a", b"x", "DATA_FORMAT"),
        ("a.txt", b"good\n\xff\n", "DATA_BAD_LINE"),
        ("a.json", b"[1, 2]", "DATA_BAD_LINE"),
        ("a.jsonl", b'{"a": 1}\n{"a"\n', "DATA_BAD_LINE"),
    ],
)
def test_a_bad_file_has_its_error(tmp_path: Path, name: str, content: bytes, code: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(table_rows(tmp_path / name))
    assert caught.value.code == code
    assert name in caught.value.cause


def test_an_absent_file_and_a_near_extension_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        table_rows(tmp_path / "absent.csv")
    with pytest.raises(DataError) as caught:
        table_rows(tmp_path / "a.parkuet")
    assert caught.value.remedy == "did you mean '.parquet'?"


def test_the_metric_and_the_columns_say_what_a_file_holds(tmp_path: Path) -> None:
    path = written(tmp_path, ".parquet")
    provider: Any = get_provider("local_file", file=str(path), labels=["a", "b"])
    assert [provider.content_for(m) for m in ("ppl_causal", "ppl_seq2seq", "accuracy")] == [
        "text", "text", "choices"
    ]  # fmt: skip
    assert [d.examples[0].label for d in provider.documents("choices")] == [0, 1]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"source": "a", "target": "b"}\n')
    assert get_provider("local_file", file=str(pairs)).content_for("ppl_seq2seq") == "pairs"


def test_a_missing_column_names_the_nearest(tmp_path: Path) -> None:
    path = written(tmp_path, ".parquet")
    with pytest.raises(DataError) as caught:
        get_provider("local_file", file=str(path), text_field="texts").documents()
    assert caught.value.remedy == "did you mean 'text'?"
    assert "data.parquet: row 1" in caught.value.cause
