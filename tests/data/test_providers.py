"""Providers: documents with the digest of their source, and errors that name the line."""

from __future__ import annotations

import gzip
import hashlib
import json
from importlib.resources import files
from typing import TYPE_CHECKING

import pytest

from pytest_invarlock.data import get_provider, providers
from pytest_invarlock.data.providers import Document, LocalJsonlProvider, PydocProvider
from pytest_invarlock.errors import ConfigError, DataError
from pytest_invarlock.plan import DataSource

if TYPE_CHECKING:
    from pathlib import Path


def jsonl(tmp_path: Path, content: str | bytes, **fields: str) -> LocalJsonlProvider:
    path = tmp_path / "texts.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return LocalJsonlProvider(DataSource("local_jsonl", str(path), **fields))


def refusal(provider: LocalJsonlProvider) -> DataError:
    with pytest.raises(DataError) as caught:
        provider.documents()
    return caught.value


def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bytes) -> None:
    """Stand a copy of the shipped text with ``packed`` as its content."""
    pinned = files("pytest_invarlock.builtin").joinpath("text", "heldout.sha256").read_bytes()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "heldout.jsonl.gz").write_bytes(packed)
    (tmp_path / "text" / "heldout.sha256").write_bytes(pinned)
    monkeypatch.setattr(providers, "files", lambda _package: tmp_path)


def packed_text() -> bytes:
    return files("pytest_invarlock.builtin").joinpath("text", "heldout.jsonl.gz").read_bytes()


def test_changed_shipped_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = gzip.decompress(packed_text()).replace(b"e", b"E", 1)
    shipped(tmp_path, monkeypatch, gzip.compress(content, 1))
    with pytest.raises(DataError) as caught:
        PydocProvider()
    assert caught.value.code == "DATA_DIGEST"


@pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip"])
def test_shipped_text_that_cannot_be_unpacked_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    packed = bytearray(packed_text())
    if damage == "cut":
        packed = packed[: len(packed) // 2]
    elif damage == "flipped":
        packed[len(packed) // 2] ^= 0xFF
    else:
        packed[:2] = b"no"
    shipped(tmp_path, monkeypatch, bytes(packed))
    with pytest.raises(DataError):
        PydocProvider()


def test_the_shipped_texts_digest_is_the_pinned_one() -> None:
    content = gzip.decompress(packed_text())
    pinned = files("pytest_invarlock.builtin").joinpath("text", "heldout.sha256").read_text()
    digest = get_provider("pydoc").source_digest()
    assert digest == "sha256:" + hashlib.sha256(content).hexdigest()
    assert digest == "sha256:" + pinned.split()[0]


def test_the_shipped_text_has_documents_in_every_arm() -> None:
    documents = get_provider("pydoc").documents()
    assert len(documents) >= 200
    assert {document.arm for document in documents} == set(providers.ARM_NAMES)
    assert all(document.text.strip() for document in documents)


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "a"', "nonsense", '"text"', "[1]", "7", '{"text": 7}', '{"text": null}',
        '{"text": "lone \\ud800 surrogate"}',
    ],
)  # fmt: skip
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str) -> None:
    error = refusal(jsonl(tmp_path, f'{{"text": "good"}}\n\n{line}\n'))
    assert error.code == "DATA_BAD_LINE"
    assert "texts.jsonl:3: " in error.cause


def test_a_line_that_is_not_utf_8_is_named_with_its_number(tmp_path: Path) -> None:
    error = refusal(jsonl(tmp_path, b'{"text": "good"}\n{"text": "\xff"}\n'))
    assert "texts.jsonl:2: " in error.cause


def test_an_absent_field_is_named_with_the_nearest(tmp_path: Path) -> None:
    error = refusal(jsonl(tmp_path, '{"texts": "a", "number": 1}\n'))
    assert "has no text in field 'text'" in error.cause
    assert error.remedy == "did you mean 'texts'?"


def test_an_absent_id_field_is_named(tmp_path: Path) -> None:
    error = refusal(jsonl(tmp_path, '{"text": "a", "id": 1}\n{"text": "b"}\n', id_field="id"))
    assert "texts.jsonl:2: has no field 'id'" in error.cause


@pytest.mark.parametrize("content", ["", "\n\n", '{"text": ""}\n{"text": "  "}\n'])
def test_a_file_without_text_is_refused(tmp_path: Path, content: str) -> None:
    error = refusal(jsonl(tmp_path, content))
    assert error.code == "DATA_EMPTY"
    assert "texts.jsonl" in error.cause


@pytest.mark.parametrize("name", ["absent.jsonl", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        LocalJsonlProvider(DataSource("local_jsonl", str(tmp_path / name)))
    assert caught.value.code == "DATA_UNREADABLE"
    assert str(tmp_path) in caught.value.cause


def test_a_provider_without_a_file_is_a_usage_error() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.file"):
        get_provider("local_jsonl")


def test_an_unknown_provider_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        get_provider("pydocs")
    assert caught.value.code == "UNKNOWN_PROVIDER"
    assert caught.value.remedy == "did you mean 'pydoc'?"


def test_each_row_is_a_document_of_its_own(tmp_path: Path) -> None:
    provider = jsonl(tmp_path, '{"text": "a"}\n{"text": "a"}\r\n{"text": " "}\n{"text": "c"}')
    assert list(provider.documents()) == [Document("a"), Document("a"), Document("c")]


def test_rows_of_one_id_are_one_document_in_file_order(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "doc": 1}, {"text": "b", "doc": "1"}, {"text": "c", "doc": 1},
        {"text": "line\u2028one", "doc": "z"},
    ]  # fmt: skip
    content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    documents = jsonl(tmp_path, content, id_field="doc").documents()
    assert [document.text for document in documents] == ["a\nc", "b", "line\u2028one"]
    assert {document.arm for document in documents} == {None}


def test_the_digest_covers_bytes_and_fields(tmp_path: Path) -> None:
    content = '{"text": "a", "body": "b", "id": 1}\n'
    digests = {
        jsonl(tmp_path, content).source_digest(),
        jsonl(tmp_path, content + "\n").source_digest(),
        jsonl(tmp_path, content, text_field="body").source_digest(),
        jsonl(tmp_path, content, id_field="id").source_digest(),
    }
    assert len(digests) == 4
    assert jsonl(tmp_path, content).source_digest() in digests


def test_a_provider_draws_windows_by_itself(texts: Path, tokenizer: object) -> None:
    provider = get_provider("local_jsonl", file=str(texts))
    windows = provider.windows(tokenizer, preview_n=10, final_n=10, seq_len=48, stride=100)
    assert (len(windows.preview), len(windows.final)) == (10, 10)
