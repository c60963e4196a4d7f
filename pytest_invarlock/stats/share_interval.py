"""Wilson's interval of a share: how far k of n may be from the rate behind it."""

from __future__ import annotations

import math

Z_95 = 1.959964


def wilson(count: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """The two-sided 95 % interval of a share; (0, 1) of nothing.

    Args:
        count: how many of ``n`` it was.
        n: how many there were.
        z: the normal quantile of another level.

    Source: Wilson, Journal of the American Statistical Association 22 (1927), 209-212.
    """
    if n == 0:
        return 0.0, 1.0
    share, square = count / n, z * z
    middle = share + square / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    # At the ends the formula meets 0 and 1 but for rounding.
    low = 0.0 if count == 0 else (middle - reach) / (1 + square / n)
    high = 1.0 if count == n else (middle + reach) / (1 + square / n)
    return low, high
