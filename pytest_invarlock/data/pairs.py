"""Windows of encoder-decoder models: from source-target pairs, or from the halves of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_invarlock.data.pieces import Piece
from pytest_invarlock.data.special_tokens import Affixes, affixes_of, token_ids
from pytest_invarlock.data.window_set import Window

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_invarlock.data.documents import Document

HALVES_NOTE = "text is read by halves: the encoder reads the first half of a window's tokens, the decoder is scored on the second"  # noqa: E501  one sentence


def seq2seq_window(
    source: NDArray[np.int32], targets: NDArray[np.int32], document: int, span: tuple[int, int]
) -> Window:
    """The window of an encoder's ids and a decoder's targets, every target scored."""
    return Window(source, np.arange(len(targets), dtype=np.int32), targets, document, span)


class PairCutter:
    """Pairs to windows: both sides with the tokenizer's own special tokens, cut at seq_len."""

    def __init__(self, documents: Sequence[Document], tokenizer: Any, seq_len: int) -> None:
        self._affixes = affixes_of(tokenizer), affixes_of(tokenizer, target=True)
        self._truncated = 0
        self._windows = [
            [
                seq2seq_window(
                    self._side(token_ids(tokenizer, pair.source), self._affixes[0], seq_len),
                    self._side(
                        token_ids(tokenizer, pair.target, target=True), self._affixes[1], seq_len
                    ),
                    index,
                    (place, place + 1),
                )
                for place, pair in enumerate(document.pairs)
            ]
            for index, document in enumerate(documents)
        ]
        self.contents = [
            b"|".join(window.content() for window in windows) for windows in self._windows
        ]
        counts = [sum(window.n_scored for window in windows) for windows in self._windows]
        self._offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    @property
    def settings(self) -> Mapping[str, Any]:
        """The special tokens of both sides."""
        return {"affixes": [[list(a.prefix), list(a.suffix)] for a in self._affixes]}

    @property
    def notes(self) -> tuple[str, ...]:
        """How many sides were cut."""
        if not self._truncated:
            return ()
        return (f"{self._truncated} sources or targets are cut at seq_len",)

    def cut(self, members: Sequence[int]) -> dict[int, list[Piece]]:
        """One window a pair."""
        pieces: dict[int, list[Piece]] = {}
        for index in members:
            offset = int(self._offsets[index])
            pieces[index] = []
            for window in self._windows[index]:
                scored = np.arange(offset, offset + window.n_scored, dtype=np.int64)
                pieces[index].append(Piece.of((window,), scored))
                offset += window.n_scored
        return pieces

    def _side(self, ids: NDArray[np.int32], affixes: Affixes, seq_len: int) -> NDArray[np.int32]:
        room = max(seq_len - affixes.length, 1)
        self._truncated += len(ids) > room
        return affixes.around(ids[:room])
