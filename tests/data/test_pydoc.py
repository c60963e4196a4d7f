"""The shipped text: its digest is pinned, damage is refused, its arms are fixed."""

from __future__ import annotations

import gzip
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING

import pytest

from pytest_invarlock.data import get_provider, providers, pydoc
from pytest_invarlock.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bytes) -> None:
    """Stand a copy of the shipped text with ``packed`` as its content."""
    pinned = files("pytest_invarlock.builtin").joinpath("text", "heldout.sha256").read_bytes()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "heldout.jsonl.gz").write_bytes(packed)
    (tmp_path / "text" / "heldout.sha256").write_bytes(pinned)
    monkeypatch.setattr(pydoc, "files", lambda _package: tmp_path)


def packed_text() -> bytes:
    return files("pytest_invarlock.builtin").joinpath("text", "heldout.jsonl.gz").read_bytes()


def test_changed_shipped_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = gzip.decompress(packed_text()).replace(b"e", b"E", 1)
    shipped(tmp_path, monkeypatch, gzip.compress(content, 1))
    with pytest.raises(DataError) as caught:
        get_provider("pydoc")
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
        get_provider("pydoc")


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


def test_its_identity_names_it_as_public() -> None:
    identity = get_provider("pydoc").identity()
    assert identity["shareable"] is True
    assert identity["digest"] == get_provider("pydoc").source_digest()
