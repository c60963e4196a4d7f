"""Wilson's score interval of a share."""

from __future__ import annotations

import math


def wilson(count: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval, 95 % at the default ``z``, of ``count`` of ``n``; (0, 1) of nothing.

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
