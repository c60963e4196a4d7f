"""Providers: where documents come from. Each yields documents and the digest of its source."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.data.windows import WindowSet, draw_windows
from pytest_invarlock.errors import ConfigError, DataError
from pytest_invarlock.plan import DataSource, WindowSelection
from pytest_invarlock.policy.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

ARM_NAMES = ("final", "preview", "guard_calibration", "tuning")


@dataclass(frozen=True, slots=True)
class Document:
    """One independent text; ``arm`` is None where the provider leaves the split to us."""

    text: str
    arm: str | None = None


class Provider(ABC):
    """A source of documents; its digest identifies the source without naming its place."""

    kind: str

    @abstractmethod
    def documents(self) -> Sequence[Document]:
        """All documents, in the source's order; raises DataError where there are none."""

    @abstractmethod
    def source_digest(self) -> str:
        """``sha256:`` of the source's bytes."""

    def windows(
        self,
        tokenizer: Any,
        *,
        preview_n: int,
        final_n: int,
        seq_len: int,
        stride: int,
        seed: int = 0,
    ) -> WindowSet:
        """Cut and draw ``preview_n`` + ``final_n`` windows of at most ``seq_len`` tokens."""
        selection = WindowSelection(seq_len, min(stride, seq_len), preview_n, final_n, seed=seed)
        return draw_windows(self, tokenizer, selection, draw=0)


class PydocProvider(Provider):
    """The shipped held-out text: Python's own documentation, split by document, digest pinned."""

    kind = "pydoc"

    def __init__(self) -> None:
        folder = files("pytest_invarlock.builtin").joinpath("text")
        self._content = _decompressed(folder.joinpath("heldout.jsonl.gz").read_bytes())
        pinned = folder.joinpath("heldout.sha256").read_text(encoding="ascii").split()[0]
        if hashlib.sha256(self._content).hexdigest() != pinned:
            raise _damaged()

    def documents(self) -> Sequence[Document]:
        """The shipped documents with their fixed arms."""
        rows = [json.loads(line) for line in self._content.splitlines()]
        return [Document(row["text"], row["arm"]) for row in rows]

    def source_digest(self) -> str:
        """The pinned digest of the uncompressed text."""
        return "sha256:" + hashlib.sha256(self._content).hexdigest()


def _decompressed(content: bytes) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged() from error


def _damaged() -> DataError:
    return DataError(
        "the shipped evaluation text is damaged: its digest is not the pinned one",
        remedy="reinstall pytest-invarlock",
        code="DATA_DIGEST",
    )


class LocalJsonlProvider(Provider):
    """A JSON Lines file: one object a line; rows sharing ``id_field`` form one document."""

    kind = "local_jsonl"

    def __init__(self, source: DataSource) -> None:
        if source.location is None:
            raise ConfigError("provider local_jsonl has no file", remedy="give dataset.file")
        self._path = Path(source.location)
        self._text_field = source.text_field
        self._id_field = source.id_field
        try:
            self._content = self._path.read_bytes()
        except OSError as error:
            raise DataError(
                f"{self._path}: cannot be read: {error.strerror}",
                remedy="name a readable JSON Lines file",
                code="DATA_UNREADABLE",
            ) from error

    def source_digest(self) -> str:
        """The digest of the file's bytes and of the fields that are read from it."""
        fields = f"|{self._text_field}|{self._id_field or ''}".encode()
        return "sha256:" + hashlib.sha256(self._content + fields).hexdigest()

    def documents(self) -> Sequence[Document]:
        """One document a row, or a document id; raises DataError naming file and line."""
        texts: dict[str, list[str]] = {}
        for number, line in enumerate(self._content.splitlines(), start=1):
            if line.strip():
                key, text = self._row(line, number)
                texts.setdefault(key, []).append(text)
        documents = [
            Document("\n".join(parts)) for parts in texts.values() if "".join(parts).strip()
        ]
        if not documents:
            raise DataError(
                f"{self._path}: holds no text in field {self._text_field!r}",
                remedy="give a file with at least one non-empty text",
                code="DATA_EMPTY",
            )
        return documents

    def _row(self, line: bytes, number: int) -> tuple[str, str]:
        where = f"{self._path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"{where}: is not a JSON object", remedy="mend that line", code="DATA_BAD_LINE"
            ) from error
        if not isinstance(row, dict) or not isinstance(row.get(self._text_field), str):
            raise DataError(
                f"{where}: has no text in field {self._text_field!r}",
                remedy=nearest(self._text_field, sorted(row), "field")
                if isinstance(row, dict) and row
                else "write one JSON object a line",
                code="DATA_BAD_LINE",
            )
        if not row[self._text_field].isprintable() and _has_surrogate(row[self._text_field]):
            raise DataError(
                f"{where}: holds half of a character (a lone surrogate)",
                remedy="mend that line",
                code="DATA_BAD_LINE",
            )
        if self._id_field is None:
            return f"row {number}", row[self._text_field]
        if self._id_field not in row:
            raise DataError(
                f"{where}: has no field {self._id_field!r}",
                remedy="mend that line or id_field",
                code="DATA_BAD_LINE",
            )
        return f"id {row[self._id_field]!r}", row[self._text_field]


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def get_provider(kind: str, source: DataSource | None = None, **arguments: Any) -> Provider:
    """The provider of ``kind``; ``source``, or ``file=``, ``text_field=``, ``id_field=``."""
    if source is None:
        source = DataSource(
            kind,
            location=arguments.get("file"),
            text_field=arguments.get("text_field", "text"),
            id_field=arguments.get("id_field"),
        )
    if kind == "pydoc":
        return PydocProvider()
    if kind == "local_jsonl":
        return LocalJsonlProvider(source)
    raise ConfigError(
        f"no data provider is named {kind!r}",
        remedy=nearest(kind, ["local_jsonl", "pydoc"], "provider"),
        code="UNKNOWN_PROVIDER",
    )
