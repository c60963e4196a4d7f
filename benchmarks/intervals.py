"""Shares with their intervals, as the pages state them."""

from __future__ import annotations

import math


def wilson(count: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; (0, 1) of nothing."""
    if n == 0:
        return 0.0, 1.0
    share, square = count / n, z * z
    middle = share + square / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    # At the ends the formula meets 0 and 1 but for rounding.
    low = 0.0 if count == 0 else (middle - reach) / (1 + square / n)
    high = 1.0 if count == n else (middle + reach) / (1 + square / n)
    return low, high


def told(count: int, n: int) -> str:
    """``3 of 8: .375 [.137, .694]``."""
    if n == 0:
        return "none"
    low, high = wilson(count, n)
    return f"{count} of {n}: {_short(count / n)} [{_short(low)}, {_short(high)}]"


def _short(share: float) -> str:
    return f"{share:.3f}".removeprefix("0") if share < 1 else "1"
