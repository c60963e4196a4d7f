"""Shares with their intervals, as the pages state them."""

from __future__ import annotations

from pytest_invarlock.stats.wilson import wilson

__all__ = ["told", "wilson"]


def told(count: int, n: int) -> str:
    """``3 of 8: .375 [.137, .694]``."""
    if n == 0:
        return "none"
    low, high = wilson(count, n)
    return f"{count} of {n}: {_short(count / n)} [{_short(low)}, {_short(high)}]"


def _short(share: float) -> str:
    return f"{share:.3f}".removeprefix("0") if share < 1 else "1"
