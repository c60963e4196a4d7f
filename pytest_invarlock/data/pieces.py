"""What is drawn as one, and how documents of any content become such pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_invarlock.data.window_set import Window


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Piece:
    """A window, or the windows of all choices of an example.

    ``scored`` int64 (n,) identifies the scored tokens among all tokens of all documents.
    """

    windows: tuple[Window, ...]
    scored: NDArray[np.int64]

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
