"""Windows and sets of them: what a model reads, which outputs are scored, and against what."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_invarlock.plan import Arm

Reading = Literal["causal", "masked", "seq2seq"]
"""How a model reads a window: left to right, with gaps to fill, or encoder then decoder."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Window:
    """One evaluated sequence.

    Attributes:
        tokens: int32 (length,), what the model (seq2seq: its encoder) reads, with any special
            tokens and, for masked models, the replacements.
        positions: int32 (n,), the output row that predicts each target: causal, the one before
            the token; masked, the token's own; seq2seq, the decoder's, from 0.
        targets: int32 (n,), the token ids that are predicted, in order.
        document: ordinal of the document, unique over both arms.
        span: first and last + 1 token of the document that the window covers.
        words: words in the scored text, where the convention weighs by words; None: by tokens.
        example: ordinal of the example of which this window is one choice; None elsewhere.
        is_label: whether this choice is the right one.
    """

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    targets: NDArray[np.int32]
    document: int
    span: tuple[int, int]
    words: int | None = None
    example: int | None = None
    is_label: bool = False

    @classmethod
    def causal(
        cls,
        tokens: NDArray[np.int32],
        first_scored: int,
        document: int,
        span: tuple[int, int] | None = None,
    ) -> Window:
        """A left-to-right window: every token from index ``first_scored`` (≥ 1) on is predicted."""
        return cls(
            tokens,
            np.arange(first_scored - 1, len(tokens) - 1, dtype=np.int32),
            tokens[first_scored:],
            document,
            (0, len(tokens)) if span is None else span,
        )

    @property
    def n_scored(self) -> int:
        """How many tokens are predicted."""
        return len(self.targets)

    @property
    def weight(self) -> int:
        """What the window counts for in the metric: its words, or else its predicted tokens."""
        return self.n_scored if self.words is None else self.words

    def content(self) -> bytes:
        """Everything that is measured, as bytes: tokens, scored rows, targets."""
        return b"|".join(
            array.astype("<i4").tobytes() for array in (self.tokens, self.positions, self.targets)
        )


def n_counted(windows: Sequence[Window]) -> int:
    """How many of what a selection counts ``windows`` are: examples with choices, else windows."""
    examples = {window.example for window in windows}
    return len(windows) if None in examples else len(examples)


def first_counted(windows: Sequence[Window], count: int) -> tuple[Window, ...]:
    """The first ``count`` of what a selection counts, every choice of an example with it."""
    if any(window.example is None for window in windows):
        return tuple(windows[:count])
    examples = list(dict.fromkeys(window.example for window in windows))[:count]
    return tuple(window for window in windows if window.example in examples)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WindowSet:
    """The windows of both arms, and what identifies the data they came from.

    ``calibration`` are the windows on which guards look at activations, of documents of neither
    arm; no number of theirs enters the metric.
    ``digest`` covers all tokenised documents and the sampling settings; ``reading`` says which
    kind of model they are for; ``overlap_fraction`` is the share of scored tokens that another
    window of the set scores too, ``duplicate_fraction`` that of windows equal to an earlier one,
    both counted from the tokens; ``notes`` say what was adjusted, such as a seq_len capped at the
    model's context.
    """

    arms: Mapping[Arm, tuple[Window, ...]]
    digest: str
    seq_len: int
    n_documents: Mapping[str, int]
    notes: tuple[str, ...] = ()
    reading: Reading = "causal"
    overlap_fraction: float = 0.0
    duplicate_fraction: float = 0.0
    calibration: tuple[Window, ...] = ()

    @property
    def preview(self) -> tuple[Window, ...]:
        """The preview arm."""
        return self.arms["preview"]

    @property
    def final(self) -> tuple[Window, ...]:
        """The final arm, on which the verdict rests."""
        return self.arms["final"]

    def n_drawn(self, arm: Arm) -> int:
        """How many of what a selection counts an arm holds: examples with choices, else windows."""
        return n_counted(self.arms[arm])

    def content_digest(self) -> str:
        """``sha256:`` over what is measured: every window's content, weight and document."""
        content = hashlib.sha256(self.reading.encode())
        for arm, windows in sorted(self.arms.items()):
            for window in windows:
                head = (
                    f"|{arm}|{window.document}|{window.weight}|{window.example}|{window.is_label}|"
                )
                content.update(head.encode() + window.content())
        return "sha256:" + content.hexdigest()

    def keyed_hashes(self, salt: bytes) -> dict[str, list[str]]:
        """HMAC-SHA-256 of each window under the run's salt, 32 hex digits, by arm."""
        return {
            arm: [
                hmac.new(salt, window.content(), hashlib.sha256).hexdigest()[:32]
                for window in windows
            ]
            for arm, windows in self.arms.items()
        }
