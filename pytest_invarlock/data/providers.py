"""Providers: where documents come from, and what may be said of them outside this machine."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from itertools import islice
from typing import TYPE_CHECKING, Any

from pytest_invarlock.data.row_documents import documents_of
from pytest_invarlock.data.windows import draw_windows
from pytest_invarlock.errors import DataError
from pytest_invarlock.evidence.strict_json import canonical
from pytest_invarlock.plan import DataSource, WindowSelection

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pytest_invarlock.data.documents import Content, Document
    from pytest_invarlock.data.rows import Row
    from pytest_invarlock.data.window_set import Reading, WindowSet
    from pytest_invarlock.plan import Convention, Metric

ARM_NAMES = ("final", "preview", "guard_calibration", "tuning")


class Provider(ABC):
    """A source of documents.

    Attributes:
        kind: the name by which `get_provider` knows it.
        contents: what its documents can hold, the usual first.
        is_public: whether the data is public unless ``source.shareable`` says otherwise.
    """

    kind: str
    contents: tuple[Content, ...] = ("text",)
    is_public = False

    def __init__(self, source: DataSource) -> None:
        self.source = source
        self._documents: dict[Content, list[Document]] = {}
        self._notes: dict[Content, tuple[str, ...]] = {}

    @abstractmethod
    def source_digest(self) -> str:
        """``sha256:`` of the source's content and of the columns that are read from it."""

    @abstractmethod
    def read(self, content: Content) -> tuple[list[Document], tuple[str, ...]]:
        """All documents in the source's order, and notes on what was left out or assumed."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out or assumed, of all that was read so far; no names, no paths."""
        return tuple(dict.fromkeys(note for notes in self._notes.values() for note in notes))

    def documents(self, content: Content | None = None) -> Sequence[Document]:
        """All documents, read once, in the source's order; None takes the usual content.

        Raises:
            DataError: where there are none, or the source cannot be read.
        """
        content = content or self.contents[0]
        if content not in self._documents:
            documents, notes = self.read(content)
            if self.source.dedup:
                documents, dropped = _without_repeats(documents)
                notes += (f"{dropped} documents occurred before and are dropped",)
            self._documents[content], self._notes[content] = documents, notes
        return self._documents[content]

    def content_for(self, metric: Metric) -> Content:
        """What its documents must hold for a metric, whether or not they can."""
        if metric == "accuracy":
            return "choices"
        return "pairs" if metric == "ppl_seq2seq" and "pairs" in self.contents else "text"

    def identity(self) -> dict[str, Any]:
        """What enters plan and pack: of data that is not shareable, nothing that identifies it."""
        shareable = self.is_public if self.source.shareable is None else self.source.shareable
        return {
            "provider": self.kind,
            "shareable": shareable,
            "split_fallback": self.is_split_fallback(),
            "dedup": self.source.dedup,
            "max_samples": self.source.max_samples,
            "digest": self.source_digest() if shareable else None,
            **(self.public_names() if shareable else {}),
        }

    def is_split_fallback(self) -> bool:
        """Whether another split than the default one is read because that is absent."""
        return False

    def public_names(self) -> dict[str, str | None]:
        """``dataset_name``, ``config_name``, ``split`` and ``revision``, where there are any."""
        return {}

    def windows(
        self,
        tokenizer: Any,
        *,
        preview_n: int,
        final_n: int,
        seq_len: int,
        stride: int,
        seed: int = 0,
        convention: Convention = "document",
        reading: Reading = "causal",
        metric: Metric = "ppl_causal",
        mask_probability: float = 0.15,
    ) -> WindowSet:
        """Cut and draw ``preview_n`` + ``final_n`` windows of at most ``seq_len`` tokens."""
        selection = WindowSelection(
            seq_len, min(stride, seq_len), preview_n, final_n, seed=seed, convention=convention
        )
        return draw_windows(
            self,
            tokenizer,
            selection,
            draw=0,
            reading=reading,
            metric=metric,
            mask_probability=mask_probability,
        )


class RowProvider(Provider):
    """A source of rows in data files, whose columns `DataSource` names."""

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """The rows in order; raises DataError naming file and line."""

    @abstractmethod
    def files(self) -> Sequence[Path]:
        """The data files that the rows stand in, in order."""

    @abstractmethod
    def place(self) -> str:
        """What errors call the source."""

    def read(self, content: Content) -> tuple[list[Document], tuple[str, ...]]:
        """The documents in the first ``max_samples`` rows."""
        rows = islice(self.rows(), self.source.max_samples)
        documents, notes = documents_of(rows, content, self.source)
        if not documents:
            field = self.source.source_field if content == "pairs" else self.source.text_field
            raise DataError(
                f"{self.place()}: holds no text in field {field!r}",
                remedy="give a file with at least one non-empty text",
                code="DATA_EMPTY",
            )
        return documents, notes

    def source_digest(self) -> str:
        """The digest of all files' bytes in order and of the columns that are read from them."""
        source = self.source
        columns = [
            source.text_field, source.id_field, source.source_field, source.target_field,
            source.label_field, source.choices_field, list(source.labels),
        ]  # fmt: skip
        content = hashlib.sha256(canonical({"kind": self.kind, "columns": columns}))
        for path in self.files():
            with path.open("rb") as stream:
                content.update(hashlib.file_digest(stream, "sha256").digest())
        return "sha256:" + content.hexdigest()


def _without_repeats(documents: Sequence[Document]) -> tuple[list[Document], int]:
    unique: dict[object, Document] = {}
    for document in documents:
        unique.setdefault((document.text, document.pairs, document.examples), document)
    return list(unique.values()), len(documents) - len(unique)
