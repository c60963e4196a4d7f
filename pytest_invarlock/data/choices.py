"""Windows of examples with choices: one a choice, of which only the choice is scored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_invarlock.data.pairs import seq2seq_window
from pytest_invarlock.data.pieces import Piece
from pytest_invarlock.data.special_tokens import Affixes, affixes_of, as_ids, token_ids
from pytest_invarlock.data.window_set import Reading, Window
from pytest_invarlock.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_invarlock.data.documents import Document, Example


class ChoiceCutter:
    """Examples to windows.

    A left-to-right model reads context and choice; the choice's tokens are those of both together
    without those of the context alone, or, where these do not begin the former, those of the
    choice alone. A blank stands between the two where neither brings one. A context that is too
    long loses its beginning.
    """

    def __init__(
        self, documents: Sequence[Document], tokenizer: Any, seq_len: int, reading: Reading
    ) -> None:
        self._tokenizer = tokenizer
        self._seq_len = seq_len
        self._reading = reading
        self._affixes = affixes_of(tokenizer)
        is_seq2seq = reading == "seq2seq"
        self._target_affixes = affixes_of(tokenizer, target=True) if is_seq2seq else Affixes()
        self._truncated = self._separate = 0
        self._examples = [
            [self._windows(example, index, place) for place, example in enumerate(d.examples)]
            for index, d in enumerate(documents)
        ]
        self.contents = [
            b"|".join(window.content() for windows in examples for window in windows)
            for examples in self._examples
        ]
        counts = [sum(w.n_scored for windows in e for w in windows) for e in self._examples]
        self._offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    @property
    def settings(self) -> Mapping[str, Any]:
        """The special tokens, and which choice of each example is the right one."""
        target = self._target_affixes
        labels = [
            [[w.is_label for w in windows].index(True) for windows in examples]
            for examples in self._examples
        ]
        return {
            "affixes": [list(self._affixes.prefix), list(self._affixes.suffix)],
            "target_affixes": [list(target.prefix), list(target.suffix)],
            "labels": labels,
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """How many contexts were cut, and how many choices were tokenised alone."""
        notes: tuple[str, ...] = ()
        if self._truncated:
            notes += (f"the contexts of {self._truncated} choices lose their beginning to seq_len",)
        if self._separate:
            notes += (f"{self._separate} choices are tokenised apart from their context",)
        return notes

    def cut(self, members: Sequence[int]) -> dict[int, list[Piece]]:
        """One piece an example, with the windows of all its choices."""
        pieces: dict[int, list[Piece]] = {}
        for index in members:
            offset = int(self._offsets[index])
            pieces[index] = []
            for windows in self._examples[index]:
                end = offset + sum(window.n_scored for window in windows)
                pieces[index].append(Piece.of(windows, np.arange(offset, end, dtype=np.int64)))
                offset = end
        return pieces

    def _windows(self, example: Example, document: int, place: int) -> tuple[Window, ...]:
        make = self._seq2seq if self._reading == "seq2seq" else self._causal
        windows = []
        for number, choice in enumerate(example.choices):
            tokens, positions, targets = make(example.text, choice)
            windows.append(
                Window(
                    tokens, positions, targets, document, (place, place + 1),
                    is_label=number == example.label,
                )
            )  # fmt: skip
        return tuple(windows)

    def _causal(
        self, text: str, choice: str
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        joined = choice if text[-1].isspace() or choice[0].isspace() else f" {choice}"
        context = token_ids(self._tokenizer, text)
        both = token_ids(self._tokenizer, text + joined)
        if len(both) > len(context) and np.array_equal(both[: len(context)], context):
            targets = both[len(context) :]
        else:
            targets = token_ids(self._tokenizer, joined)
            self._separate += 1
        prefix = as_ids(self._affixes.prefix)
        room = self._seq_len - len(prefix) - len(targets)
        kept = context[max(len(context) - max(room, 0), 0) :]
        first = len(prefix) + len(kept)
        if room < 0 or first < 1 or not len(targets):
            raise self._unfit(len(targets))
        self._truncated += len(kept) < len(context)
        tokens = np.concatenate([prefix, kept, targets])
        return tokens, np.arange(first - 1, len(tokens) - 1, dtype=np.int32), targets

    def _seq2seq(
        self, text: str, choice: str
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        context = token_ids(self._tokenizer, text)
        room = self._seq_len - self._affixes.length
        self._truncated += len(context) > room
        targets = self._target_affixes.around(token_ids(self._tokenizer, choice, target=True))
        if len(targets) > self._seq_len or room < 1:
            raise self._unfit(len(targets))
        source = self._affixes.around(context[max(len(context) - room, 0) :])
        window = seq2seq_window(source, targets, 0, (0, 0))
        return window.tokens, window.positions, window.targets

    def _unfit(self, length: int) -> DataError:
        return DataError(
            f"a choice of {length} tokens does not fit into windows of {self._seq_len}",
            remedy="give a greater seq_len, or drop that example",
            code="CHOICE_LENGTH",
        )
