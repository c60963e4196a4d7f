"""Whether a subject's own tokenizer gives the windows that its baseline is measured on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_invarlock.data.pairing import compare_windows, require_paired
from pytest_invarlock.errors import DataError

if TYPE_CHECKING:
    from pytest_invarlock.adapters import LoadedModel
    from pytest_invarlock.bench.resident import Bench


def match_fraction(bench: Bench, subject: LoadedModel, draw: int) -> tuple[float, tuple[str, ...]]:
    """The share of the baseline's windows that the subject's tokenizer reproduces, and notes.

    One pipeline of text to tokens is one set of windows; where the fingerprints differ, the same
    documents are tokenised by the subject's own tokenizer and the windows compared.

    Raises:
        DataError: ``PAIRING_MISMATCH`` under strict pairing, naming the windows that differ where
            the subject's tokenizer is at hand.
    """
    baseline = bench.baseline
    unreadable = _unreadable(bench, subject, draw)
    if unreadable is not None:
        return 0.0, (unreadable,)
    if subject.tokenizer_fingerprint == baseline.tokenizer_fingerprint:
        return 1.0, ()
    if subject.tokenizer is None and not bench.plan.strict_pairing:
        return 0.0, ("the subject's tokenizer is another, and not at hand to make the windows",)
    if subject.tokenizer is None:
        raise DataError(
            "the subject's tokenizer is another, and not at hand to make the windows",
            remedy="leave out strict pairing, or give the subject the baseline's tokenizer",
            code="PAIRING_MISMATCH",
        )
    if bench.draws.is_given(draw):
        return 0.0, ("ready-made windows cannot be made again by the subject's other tokenizer",)
    windows = bench.windows(draw)
    try:
        own = bench.draws.drawn_with(subject.tokenizer, draw, baseline.context, baseline.reading)
    except DataError as error:
        if bench.plan.strict_pairing:
            raise
        return 0.0, (f"the subject's own tokenizer does not give the windows: {error.cause}",)
    if bench.plan.strict_pairing:
        require_paired(windows, own)
    pairing = compare_windows(windows, own)
    note = f"the subject's tokenizer differs and gives {pairing.match_fraction:.0%} of the windows"
    return pairing.match_fraction, (note,)


def _unreadable(bench: Bench, subject: LoadedModel, draw: int) -> str | None:
    """Why the subject cannot read the baseline's windows at all; None where it can."""
    if subject.reading != bench.baseline.reading:
        return f"the subject is a {subject.reading} model, the baseline {bench.baseline.reading}"
    arms = bench.windows(draw).arms.values()
    longest = max(max(len(w.tokens), len(w.targets)) for windows in arms for w in windows)
    if subject.context is not None and longest > subject.context:
        return f"windows have up to {longest} tokens, the subject takes {subject.context}"
    return None
