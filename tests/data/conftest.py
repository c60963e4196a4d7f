"""For the tests of data: a tokenizer of numbered words, a provider of given texts, a Hub cache."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.data.documents import Document
from pytest_invarlock.data.providers import Provider
from pytest_invarlock.plan import DataSource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

COMMIT = "b08601e04326c79dfdd32d625aee71d232d685c3"


@lru_cache(maxsize=1024)
def _words(text: str) -> tuple[tuple[int, tuple[int, int]], ...]:
    """Each word's number and place; the same texts are read again and again."""
    found = re.finditer(r"\S+", text)
    return tuple((int(m[0][1:]) if re.fullmatch(r"w\d+", m[0]) else 3, m.span()) for m in found)


class WordTokenizer:
    """Words ``w<number>`` to their numbers, any other word to 3; special tokens as told."""

    is_fast = True

    def __init__(
        self,
        prefix: tuple[int, ...] = (),
        suffix: tuple[int, ...] = (),
        bos: int | None = None,
        eos: int | None = None,
        mask: int | None = None,
    ) -> None:
        self.prefix, self.suffix = list(prefix), list(suffix)
        self.bos_token_id, self.eos_token_id, self.mask_token_id = bos, eos, mask
        known = {*prefix, *suffix, bos, eos, mask} - {None}
        self.all_special_ids = sorted(known)
        self.vocab_size = 5_000

    def __call__(
        self,
        text: str | None = None,
        *,
        text_target: str | None = None,
        add_special_tokens: bool = True,
        return_offsets_mapping: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        found = _words(str(text if text_target is None else text_target))
        ids = [number for number, _ in found]
        encoded: dict[str, Any] = {
            "input_ids": [*self.prefix, *ids, *self.suffix] if add_special_tokens else ids
        }
        if return_offsets_mapping:
            encoded["offset_mapping"] = [span for _, span in found]
        return encoded


class Texts(Provider):
    """Given documents."""

    kind = "texts"

    def __init__(self, documents: Sequence[Document], **fields: Any) -> None:
        super().__init__(DataSource("texts", **fields))
        self._given = list(documents)
        first = self._given[0]
        self.contents = (("pairs",) if first.pairs else ("choices",) if first.examples else ("text",))  # fmt: skip

    def read(self, content: Any) -> tuple[list[Document], tuple[str, ...]]:
        return self._given, ()

    def source_digest(self) -> str:
        return "sha256:" + "0" * 64


@pytest.fixture(scope="session")
def word_tokenizer() -> type[WordTokenizer]:
    return WordTokenizer


@pytest.fixture(scope="session")
def texts_provider() -> type[Texts]:
    return Texts


def numbered_words(start: int, count: int) -> str:
    return " ".join(f"w{number}" for number in range(start, start + count))


@pytest.fixture(scope="session")
def words() -> Callable[[int, int], str]:
    """``words(start, count)``: that many numbered words."""
    return numbered_words


class HubCacheBuilder:
    """Writes data sets as the Hub client lays them out: refs, snapshots, blobs behind links."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(
        self,
        name: str,
        files: Mapping[str, Sequence[Mapping[str, Any]] | bytes],
        card: str | None = None,
        commit: str = COMMIT,
    ) -> Path:
        """Add a data set; rows become parquet or JSON Lines by extension. Returns the snapshot."""
        repository = self.folder / ("datasets--" + name.replace("/", "--"))
        snapshot = repository / "snapshots" / commit
        for part in ("refs", "blobs", f"snapshots/{commit}"):
            (repository / part).mkdir(parents=True, exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        contents = {path: _content(path, rows) for path, rows in files.items()}
        if card is not None:
            contents["README.md"] = card.encode()
        for number, (path, content) in enumerate(contents.items()):
            blob = repository / "blobs" / f"{number:040x}"
            blob.write_bytes(content)
            (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
            (snapshot / path).symlink_to(blob)
        return snapshot

    def add_wikitext(
        self,
        articles: int = 30,
        name: str = "Salesforce/wikitext",
        configs: Sequence[str] = ("wikitext-2-raw-v1",),
    ) -> Path:
        """WikiText-2 in small: its card, its files, articles of headings and paragraphs."""
        files = {
            f"{config}/{split}-00000-of-00001.parquet": wikitext_rows(split, articles)
            for config in configs
            for split in ("test", "train", "validation")
        }
        return self.add(name, files, wikitext_card())


def wikitext_card() -> str:
    configs = ["wikitext-103-raw-v1", "wikitext-2-raw-v1"]
    lines = ["---", "license: [cc-by-sa-3.0]", "configs:"]
    for config in configs:
        lines += [f"- config_name: {config}", "  data_files:"]
        for split in ("test", "train", "validation"):
            lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    return "\n".join([*lines, "---", "# wikitext"])


def wikitext_rows(split: str, articles: int) -> list[dict[str, str]]:
    rows = [""]
    for article in range(articles):
        rows += [f" = {split} {article} = \n", ""]
        for section in range(3):
            rows += [f" = = Section {section} = = \n", ""]
            rows += [_paragraph(split, article, section, n) for n in range(2)]
    return [{"text": row} for row in rows]


def _paragraph(split: str, article: int, section: int, number: int) -> str:
    start = sum(map(ord, split)) * 200_000 + article * 2000 + section * 600 + number * 300
    return " " + numbered_words(start % 900_000, 200) + " \n"


def _content(path: str, rows: Sequence[Mapping[str, Any]] | bytes) -> bytes:
    if isinstance(rows, bytes):
        return rows
    if path.endswith(".jsonl"):
        return b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(list(rows)), sink)
    return bytes(sink.getvalue().to_pybytes())


@pytest.fixture
def hub(tmp_path: Path) -> HubCacheBuilder:
    return HubCacheBuilder(tmp_path / "hub")
