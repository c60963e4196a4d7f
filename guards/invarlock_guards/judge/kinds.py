"""Declared kinds of change, and the groups of limits that they choose."""

from __future__ import annotations

from typing import Final, Literal

KindGroup = Literal["strict", "compression", "open"]

GROUP_OF: Final[dict[str, KindGroup]] = {
    "cast": "strict",
    "quantize8": "strict",
    "quantize4": "compression",
    "prune": "compression",
    "finetune": "open",
    "merge": "open",
    "reparametrized": "open",
    "any": "open",
}
ELEMENTWISE: Final = frozenset({"cast", "quantize8", "quantize4", "prune"})
"""Kinds that change each weight by itself, so that their change has no structure of its own."""


def group_of(kind: str) -> KindGroup:
    """The group of limits of the declared ``kind``; ValueError if there is no such kind."""
    if kind not in GROUP_OF:
        raise ValueError(f"unknown kind of change {kind!r}: one of {', '.join(GROUP_OF)}")
    return GROUP_OF[kind]
