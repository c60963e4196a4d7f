"""Streams: runs of tokens that windows are cut from, each token knowing its document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Stream:
    """A run of tokens.

    ``tokens`` int32 (n,); ``documents`` int64 (n,), the document of each token; ``places`` int64
    (n,), its index among the document's tokens.
    """

    tokens: NDArray[np.int32]
    documents: NDArray[np.int64]
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def of_document(cls, tokens: NDArray[np.int32], document: int, first_place: int = 0) -> Stream:
        """The stream of one document's tokens, or of those from ``first_place`` on."""
        places = np.arange(first_place, first_place + len(tokens), dtype=np.int64)
        return cls(tokens, np.full(len(tokens), document, dtype=np.int64), places)

    @classmethod
    def joined(cls, streams: Sequence[Stream]) -> Stream:
        """One stream of several, in order; there must be at least one."""
        return cls(
            np.concatenate([stream.tokens for stream in streams]),
            np.concatenate([stream.documents for stream in streams]),
            np.concatenate([stream.places for stream in streams]),
        )

    def part_of_document(self, start: int, first: int, end: int) -> tuple[int, tuple[int, int]]:
        """The document of token ``first``, and which of its tokens lie from ``start`` to ``end``.

        The second is first and last + 1 index among the document's tokens.
        """
        document = int(self.documents[first])
        own = self.places[start:end][self.documents[start:end] == document]
        # A prefix before the first document stands at -1, which is no token of it.
        return document, (max(int(own[0]), 0), int(own[-1]) + 1)
