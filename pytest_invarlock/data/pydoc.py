"""The shipped held-out text: Python's own documentation, split by document, digest pinned."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from importlib.resources import files
from typing import TYPE_CHECKING

from pytest_invarlock.data.documents import Content, Document
from pytest_invarlock.data.providers import Provider
from pytest_invarlock.errors import DataError

if TYPE_CHECKING:
    from pytest_invarlock.plan import DataSource


class PydocProvider(Provider):
    """The shipped text; its arms are fixed."""

    kind = "pydoc"
    is_public = True

    def __init__(self, source: DataSource) -> None:
        super().__init__(source)
        folder = files("pytest_invarlock.builtin").joinpath("text")
        self._content = _decompressed(folder.joinpath("heldout.jsonl.gz").read_bytes())
        pinned = folder.joinpath("heldout.sha256").read_text(encoding="ascii").split()[0]
        if hashlib.sha256(self._content).hexdigest() != pinned:
            raise _damaged()

    def read(self, content: Content) -> tuple[list[Document], tuple[str, ...]]:
        """The shipped documents with their fixed arms."""
        del content
        rows = [json.loads(line) for line in self._content.splitlines()]
        return [Document(row["text"], row["arm"]) for row in rows][: self.source.max_samples], ()

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
