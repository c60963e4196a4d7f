"""Values of a guard's policy: each is checked, and an error names its key."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from invarlock_guards.judge.kinds import group_of


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """The greatest allowed value of a statistic, for each group of kinds."""

    strict: float
    compression: float
    open: float

    def of(self, kind: str) -> float:
        """The limit under the declared ``kind``."""
        return {
            "strict": self.strict, "compression": self.compression, "open": self.open,
        }[group_of(kind)]  # fmt: skip


def read_limits(key: str, value: Any) -> GroupLimits:
    """Limits from a number for every group, or from one for each.

    Raises:
        ValueError: names ``key`` and what it may be.
    """
    if isinstance(value, GroupLimits):
        numbers: Any = {"strict": value.strict, "compression": value.compression,
                        "open": value.open}  # fmt: skip
    else:
        numbers = value
    if not isinstance(numbers, Mapping):
        number = positive(key, numbers)
        return GroupLimits(number, number, number)
    if set(numbers) != {"strict", "compression", "open"}:
        raise ValueError(f"{key}: give one number, or strict, compression and open; not {value!r}")
    return GroupLimits(**{name: positive(f"{key}.{name}", n) for name, n in numbers.items()})


def positive(key: str, value: Any) -> float:
    """``value`` as a finite number above 0; ValueError, naming ``key``, if it is none."""
    return _number(key, value, "a number above 0", lambda x: x > 0)


def share(key: str, value: Any) -> float:
    """``value`` as a number from 0 to 1; ValueError, naming ``key``, if it is none."""
    return _number(key, value, "a number from 0 to 1", lambda x: 0 <= x <= 1)


def not_negative(key: str, value: Any) -> float:
    """``value`` as a finite number of at least 0; ValueError, naming ``key``, if it is none."""
    return _number(key, value, "a number of at least 0", lambda x: x >= 0)


def whole(key: str, value: Any) -> int:
    """``value`` as a whole number of at least 0; ValueError, naming ``key``, if it is none."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{key}: a whole number of at least 0, not {value!r}")
    return value


def flag(key: str, value: Any) -> bool:
    """``value`` as true or false; ValueError, naming ``key``, if it is neither."""
    if not isinstance(value, bool):
        raise ValueError(f"{key}: true or false, not {value!r}")
    return value


def unknown_keys(known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise ValueError if ``given`` holds a key that ``known`` lacks."""
    for key in given:
        if key not in known:
            raise ValueError(f"unknown key {key!r}: one of {', '.join(sorted(known))}")


def _number(key: str, value: Any, what: str, fits: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # An integer may be too large for a float, which is then neither finite nor a limit.
    if not number or not abs(value) <= sys.float_info.max or not fits(value):
        raise ValueError(f"{key}: {what}, not {value!r}")
    return float(value)
