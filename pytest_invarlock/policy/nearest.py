"""The nearest valid name, for remedies."""

from __future__ import annotations

import difflib


def nearest(wrong: str, known: list[str], what: str) -> str:
    """A remedy that names the nearest of ``known``, or lists them."""
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"the {what}s are: {', '.join(known)}"
