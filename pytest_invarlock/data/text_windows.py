"""Running text to windows, for each way of reading and each convention."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_invarlock.data.conventions import (
    MIN_SCORED_TOKENS,
    SEPARATORS,
    Lengths,
    Span,
    chunks,
    rolling,
    sliding,
)
from pytest_invarlock.data.kept_ids import ids_of
from pytest_invarlock.data.masking import Masker
from pytest_invarlock.data.pairs import HALVES_NOTE, seq2seq_window
from pytest_invarlock.data.pieces import Piece
from pytest_invarlock.data.special_tokens import affixes_of, as_ids
from pytest_invarlock.data.streams import Stream
from pytest_invarlock.data.window_set import Reading, Window
from pytest_invarlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_invarlock.data.documents import Document
    from pytest_invarlock.plan import Convention

_WORD = re.compile(r"\S+")


class TextCutter:
    """Tokenised texts, cut as a convention and a way of reading say.

    Args:
        documents: texts.
        tokenizer: a Hugging Face tokenizer.
        convention: how text is cut.
        lengths: greatest length and step of windows.
        reading: how the model reads. ``seq2seq`` splits each span in two halves, source and
            target, and takes no steps shorter than a span.
        masker: what hides tokens, for ``masked``.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        tokenizer: Any,
        convention: Convention,
        lengths: Lengths,
        reading: Reading = "causal",
        masker: Masker | None = None,
    ) -> None:
        self._convention = convention
        self._lengths = lengths
        self._reading = reading
        self._masker = masker
        self._affixes = affixes_of(tokenizer)
        self._target = affixes_of(tokenizer, target=True) if reading == "seq2seq" else None
        self._short = self._truncated = 0
        self._ids = ids_of(tokenizer)
        self._rows = [
            [self._encode(tokenizer, text) for text in self._texts(document)]
            for document in documents
        ]
        self._tokens = [np.concatenate(rows) for rows in self._rows]
        self._offsets = np.concatenate([[0], np.cumsum([len(t) for t in self._tokens])])
        self.contents = [tokens.astype("<i4").tobytes() for tokens in self._tokens]
        self._word_tokens: list[NDArray[np.int64]] = []
        if convention == "lm-eval-word":
            self._start = _start_token(tokenizer)
            self._word_tokens = [_word_tokens(tokenizer, d.text) for d in documents]

    @property
    def settings(self) -> Mapping[str, Any]:
        """The special tokens around windows."""
        affixes = [self._affixes, *([] if self._target is None else [self._target])]
        return {"affixes": [[list(a.prefix), list(a.suffix)] for a in affixes]}

    @property
    def notes(self) -> tuple[str, ...]:
        """What was too short or too long, and how encoder-decoder models read text."""
        notes: tuple[str, ...] = ()
        if self._short:
            notes += (f"{self._short} documents are too short for a window",)
        if self._truncated:
            notes += (f"{self._truncated} rows are cut at seq_len",)
        return (*notes, HALVES_NOTE) if self._reading == "seq2seq" else notes

    def cut(self, members: Sequence[int]) -> dict[int, list[Piece]]:
        """The windows of the documents ``members``, each one piece."""
        pieces: dict[int, list[Piece]] = {index: [] for index in members}
        for stream in self._streams(members):
            for span in self._spans(len(stream)):
                piece = Piece(partial(self._made, stream, span))
                if self._masker is not None:
                    # A window with nothing to mask is told of, drawn or not.
                    _ = piece.windows
                pieces[int(stream.documents[span.first])].append(piece)
        if self._convention == "lm-eval-word":
            return {index: _with_words(of) for index, of in pieces.items()}
        if self._convention in ("document", "row"):
            self._short += sum(not windows for windows in pieces.values())
        return pieces

    def _made(self, stream: Stream, span: Span) -> tuple[tuple[Window], NDArray[np.int64]]:
        window = self._window(stream, span)
        scored = self._offsets[stream.documents[span.first : span.end]]
        scored = scored + stream.places[span.first : span.end]
        if self._reading == "masked":
            prefix = len(self._affixes.prefix)
            scored = scored[window.positions - prefix - (span.first - span.start)]
        elif self._reading == "seq2seq":
            scored = scored[_half(span) :]
        return (window,), scored

    def _texts(self, document: Document) -> Sequence[str]:
        if self._convention == "row":
            return document.texts
        return [document.text + SEPARATORS.get(self._convention, "")]

    def _encode(self, tokenizer: Any, text: str) -> NDArray[np.int32]:
        ids = self._ids(text)
        if self._convention == "concatenated":
            end = getattr(tokenizer, "eos_token_id", None)
            return ids if end is None else np.append(ids, np.int32(end))
        return ids

    def _streams(self, members: Sequence[int]) -> list[Stream]:
        if not members:
            return []
        if self._convention == "row":
            return [stream for index in members for stream in self._row_streams(index)]
        each = [Stream.of_document(self._tokens[index], index) for index in members]
        if self._convention in ("document", "lm-eval-word"):
            return each
        if self._convention in ("gptq-2048", "llama.cpp-512"):
            # Both tokenise the whole text at once, with the tokenizer's own beginning.
            head = Stream.of_document(as_ids(self._affixes.prefix), members[0], first_place=-1)
            each = [head, *each]
        return [Stream.joined(each)]

    def _row_streams(self, index: int) -> list[Stream]:
        streams = []
        place = 0
        for tokens in self._rows[index]:
            streams.append(Stream.of_document(tokens, index, place))
            place += len(tokens)
        return streams

    def _spans(self, length: int) -> list[Span]:
        convention, seq_len = self._convention, self._lengths.seq_len
        if convention == "lm-eval-word":
            return rolling(length, seq_len)
        if convention == "llama.cpp-512":
            return chunks(length, seq_len, seq_len // 2 + 1)
        if convention == "gptq-2048":
            return chunks(length, seq_len, 1)
        room, first = self._room(), self._first()
        if convention == "row":
            self._truncated += length > room
            return sliding(min(length, room), room, room, first=first)
        stride = room if self._reading == "seq2seq" else min(self._lengths.stride, room)
        least = MIN_SCORED_TOKENS if convention == "document" else 1
        spans = sliding(length, room, stride, first=first, least_last=least)
        return [span for span in spans if self._reading != "seq2seq" or span.end - span.start > 1]

    def _first(self) -> int:
        return 1 if self._reading == "causal" and not self._affixes.prefix else 0

    def _room(self) -> int:
        """The tokens of a text that fit into a window beside the special ones."""
        special = self._affixes.length if self._reading == "masked" else len(self._affixes.prefix)
        room = self._lengths.seq_len - (0 if self._reading == "seq2seq" else special)
        if room < 2:
            raise ConfigError(
                f"windows of {self._lengths.seq_len} tokens hold no text beside special tokens",
                remedy="give a greater seq_len",
                code="SEQ_LEN",
            )
        return room

    def _window(self, stream: Stream, span: Span) -> Window:
        if self._convention == "lm-eval-word":
            return self._rolled(stream, span)
        document, part = stream.part_of_document(span.start, span.first, span.end)
        tokens = stream.tokens[span.start : span.end]
        if self._convention == "llama.cpp-512" and self._affixes.prefix:
            tokens = tokens.copy()
            tokens[0] = self._affixes.prefix[0]
        if self._convention in SEPARATORS:
            return Window.causal(tokens, span.first - span.start, document, part)
        prefix = len(self._affixes.prefix)
        if self._masker is not None:
            candidates = np.arange(prefix + span.first - span.start, prefix + len(tokens))
            return self._masker.window(self._affixes.around(tokens), candidates, document, part)
        if self._target is not None:
            half = _half(span)
            source, targets = self._affixes.around(tokens[:half]), tokens[half:]
            return seq2seq_window(source, self._target.around(targets), document, part)
        with_prefix = np.concatenate([as_ids(self._affixes.prefix), tokens])
        return Window.causal(with_prefix, prefix + span.first - span.start, document, part)

    def _rolled(self, stream: Stream, span: Span) -> Window:
        """A window of ``lm-eval-word``: its last target is no longer read."""
        start = max(span.start, 0)
        tokens = stream.tokens[start : span.end - 1]
        if span.start < 0:
            tokens = np.concatenate([as_ids([self._start]), tokens])
        scored = span.end - span.first
        document = int(stream.documents[span.first])
        words = self._word_tokens[document]
        return Window(
            tokens,
            np.arange(len(tokens) - scored, len(tokens), dtype=np.int32),
            stream.tokens[span.first : span.end],
            document,
            (start, span.end),
            words=int(np.sum((words >= span.first) & (words < span.end))),
        )


def _with_words(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces of a document, each of at least one word; their sum stays the document's.

    A window inside one long word holds the end of none, and would weigh nothing: it takes a word
    from the window that has most. Where there are more windows than words, the last ones go.
    """
    words = [piece.windows[0].words or 0 for piece in pieces]
    kept = min(len(pieces), sum(words))
    spare = sum(words[kept:])
    words = words[:kept]
    for place, count in enumerate(words):
        if count == 0 and spare:
            words[place], spare = 1, spare - 1
        elif count == 0:
            words[int(np.argmax(words))] -= 1
            words[place] = 1
    if spare:
        words[-1] += spare
    return [
        Piece.of((replace(piece.windows[0], words=count),), piece.scored)
        for piece, count in zip(pieces, words, strict=False)
    ]


def _half(span: Span) -> int:
    return (span.end - span.start) // 2


def _start_token(tokenizer: Any) -> int:
    """What the first token is predicted from: begin of sequence, or else end of sequence."""
    for name in ("bos_token_id", "eos_token_id"):
        token = getattr(tokenizer, name, None)
        if token is not None:
            return int(token)
    raise ConfigError(
        "convention lm-eval-word needs a begin- or end-of-sequence token, the tokenizer has none",
        remedy="use convention document",
        code="NO_START_TOKEN",
    )


def _word_tokens(tokenizer: Any, text: str) -> NDArray[np.int64]:
    """For each word between blanks, the index of the token that holds its last character."""
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(
            "convention lm-eval-word needs a fast tokenizer, which tells where tokens stand",
            remedy="use convention document",
            code="NO_OFFSETS",
        )
    encoded = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
    )
    ends = np.maximum.accumulate([end for _, end in encoded["offset_mapping"]] or [0])
    words = np.array([word.end() for word in _WORD.finditer(text)], dtype=np.int64)
    return np.minimum(np.searchsorted(ends, words), len(ends) - 1)
