"""What providers yield: documents, each a text, or the pairs or examples that belong together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Content = Literal["text", "pairs", "choices"]
"""What a document holds: running text, source-target pairs, or examples with choices."""


@dataclass(frozen=True, slots=True)
class TextPair:
    """What an encoder reads and what a decoder is to say."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Example:
    """A question or context, its possible continuations, and the place of the right one."""

    text: str
    choices: tuple[str, ...]
    label: int


@dataclass(frozen=True, slots=True)
class Document:
    """One independent unit of data, on which resampling rests.

    Attributes:
        text: all its text; of pairs and examples, empty.
        arm: the arm a provider has fixed for it; None where the split is left to us.
        rows: the rows of the source that the text was joined from; empty: the text is one row.
        pairs: its pairs, for content ``pairs``.
        examples: its examples, for content ``choices``.
    """

    text: str = ""
    arm: str | None = None
    rows: tuple[str, ...] = ()
    pairs: tuple[TextPair, ...] = ()
    examples: tuple[Example, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The rows of the source."""
        return self.rows or (self.text,)

    def content(self) -> bytes:
        """What the document says, as bytes, whatever tokenizer will read it."""
        said = [
            *self.texts,
            *(part for pair in self.pairs for part in (pair.source, pair.target)),
            *(part for example in self.examples for part in (example.text, *example.choices)),
        ]
        return b"".join(b"%d|" % len(part) + part for part in map(str.encode, said))
