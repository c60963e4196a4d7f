"""Conventions: how running text is cut into windows, and which of their tokens are scored.

``document``: windows of seq_len tokens every stride within a document, each token scored once; a
last piece that would score fewer than 32 tokens is dropped. ``concatenated``: the same over an
arm's documents in order, each followed by the tokenizer's end-of-sequence token where it has one,
and no piece is dropped. ``row``: one row of the source is one window, cut at seq_len.

Three are fixed by the tools they are named after. ``llama.cpp-512``: chunks of 512 tokens of the
arm's documents, each followed by a line feed; the begin-of-sequence token, where the tokenizer
adds one, replaces a chunk's first token; the outputs at 256 to 510 are scored. ``gptq-2048``:
chunks of 2048 tokens, documents joined by an empty line, the tokenizer's own prefix once at the
start; all but a chunk's first token are scored. ``lm-eval-word``: windows of the model's whole
context roll over a document, each token scored once with as much before it as fits, the first
after the begin-of-sequence (or end-of-sequence) token; windows weigh by words. Incomplete chunks
are dropped. A separator is tokenised with the document before it, so that every token belongs to
one document; a window belongs to the document of its first scored token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.dataset_settings import NAMED_LENGTHS

if TYPE_CHECKING:
    from pytest_invarlock.data.documents import Content
    from pytest_invarlock.data.window_set import Reading
    from pytest_invarlock.plan import Convention, WindowSelection

MIN_SCORED_TOKENS = 32
SEPARATORS = {"llama.cpp-512": "\n", "gptq-2048": "\n\n"}


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens ``start`` to ``end`` of a stream, of which those from ``first`` on are scored."""

    start: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """The greatest length of a window and the step from one to the next, in tokens."""

    seq_len: int
    stride: int
    notes: tuple[str, ...] = ()


def lengths_of(selection: WindowSelection, context: int | None) -> Lengths:
    """The lengths that a convention takes on a model with a context of ``context`` tokens.

    Raises:
        ConfigError: ``CONTEXT_TOO_SHORT`` for a named convention that needs a longer context.
    """
    convention = selection.convention
    if convention == "lm-eval-word":
        seq_len = context or selection.seq_len
        return Lengths(seq_len, seq_len)
    fixed = NAMED_LENGTHS.get(convention)
    if fixed is not None:
        if context is not None and context < fixed:
            raise ConfigError(
                f"convention {convention} needs {fixed} tokens of context, the model has {context}",
                remedy="use convention document",
                code="CONTEXT_TOO_SHORT",
            )
        return Lengths(fixed, fixed)
    seq_len = selection.seq_len
    notes: tuple[str, ...] = ()
    if context is not None and seq_len > context:
        notes = (f"seq_len {seq_len} capped at the model's context of {context} tokens",)
        seq_len = context
    return Lengths(seq_len, min(selection.stride, seq_len), notes)


def check_convention(convention: Convention, reading: Reading, content: Content) -> None:
    """Raise ConfigError where a convention says nothing of such a model or such data."""
    if content != "text":
        allowed: tuple[Convention, ...] = ("document", "row")
        what = f"data that holds {content}"
    elif reading != "causal":
        allowed = ("document", "concatenated", "row")
        what = f"a {reading} language model"
    else:
        return
    if convention not in allowed:
        raise ConfigError(
            f"convention {convention} is not one for {what}",
            remedy=f"use {' or '.join(allowed)}",
            code="CONVENTION_OF_OTHER_KIND",
        )


def sliding(length: int, room: int, stride: int, *, first: int, least_last: int = 1) -> list[Span]:
    """Spans of at most ``room`` tokens every ``stride``, each token scored at most once.

    Args:
        length: tokens of the stream.
        room: greatest length of a span.
        stride: tokens from one span to the next, at most ``room``.
        first: 0 where a span's first token can be predicted, 1 where it has no context.
        least_last: a last span that would score fewer tokens is dropped.
    """
    spans = []
    scored_until = first
    for start in range(0, max(length - first, 0), stride):
        end = min(start + room, length)
        scored_from = max(scored_until, start + first)
        if end - scored_from >= (least_last if end == length else 1):
            spans.append(Span(start, scored_from, end))
            scored_until = end
    return spans


def chunks(length: int, size: int, first: int) -> list[Span]:
    """Whole chunks of ``size`` tokens, each scored from its token ``first`` on."""
    return [Span(start, start + first, start + size) for start in range(0, length - size + 1, size)]


def rolling(length: int, seq_len: int) -> list[Span]:
    """Spans that score every token once, each read by a model of ``seq_len`` tokens.

    The tokens that are read are those from ``start`` to before the last; a ``start`` of -1 stands
    for the prefix token. The first span scores ``seq_len`` tokens after the prefix, each later
    one up to ``seq_len`` more, with as many before them as fit.
    """
    spans = []
    scored = 0
    while scored < length:
        end = min(scored + seq_len, length)
        spans.append(Span(-1 if scored == 0 else end - seq_len - 1, scored, end))
        scored = end
    return spans
