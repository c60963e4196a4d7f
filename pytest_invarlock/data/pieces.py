"""What is drawn as one, and how documents of any content become such pieces."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_invarlock.data.window_set import Window


class Piece:
    """A window, or the windows of all choices of an example, made when they are first looked at.

    Of a text's thousands of pieces a draw takes a few.

    Args:
        make: gives the windows, and int64 (n,), which identify the scored tokens among all tokens
            of all documents.
    """

    def __init__(self, make: Callable[[], tuple[tuple[Window, ...], NDArray[np.int64]]]) -> None:
        self._make = make

    @classmethod
    def of(cls, windows: tuple[Window, ...], scored: NDArray[np.int64]) -> Piece:
        """The piece of windows that are made already."""
        return cls(lambda: (windows, scored))

    @cached_property
    def _made(self) -> tuple[tuple[Window, ...], NDArray[np.int64]]:
        return self._make()

    @property
    def windows(self) -> tuple[Window, ...]:
        """The windows."""
        return self._made[0]

    @property
    def scored(self) -> NDArray[np.int64]:
        """Which of all tokens of all documents are scored, int64 (n,)."""
        return self._made[1]

    def content(self) -> bytes:
        """Everything that is measured, as bytes."""
        return b"||".join(window.content() for window in self.windows)


class Cutter(Protocol):
    """Tokenised documents that can be cut into pieces."""

    @property
    def contents(self) -> Sequence[bytes]:
        """The tokens of each document, as bytes."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What else decides the pieces, as plain values for the data digest."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What was cut off or left out so far."""
        ...

    def cut(self, members: Sequence[int]) -> dict[int, list[Piece]]:
        """The pieces of the documents ``members`` of one arm, by document."""
        ...


def overlap_fraction(scored: Sequence[NDArray[np.int64]]) -> float:
    """The share of scored tokens that more than one window scores.

    Args:
        scored: for each window, int64 (n,), the identities of the tokens that it scores.
    """
    if not scored:
        return 0.0
    tokens = np.concatenate([np.unique(window) for window in scored])
    distinct, counts = np.unique(tokens, return_counts=True)
    return float(np.mean(counts > 1)) if len(distinct) else 0.0


def duplicate_fraction(windows: Sequence[Window]) -> float:
    """The share of windows that are equal to an earlier one in all that is measured."""
    if not windows:
        return 0.0
    return 1.0 - len({window.content() for window in windows}) / len(windows)
