"""The text that says which block projections an edit, a fault or a guard reaches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

ScopeFamily = Literal["ffn", "attn", "all"]

# Six digits hold any model's depth and keep a mistyped number from being read as a huge one.
_PIECE = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Scope:
    """Projections of ``family`` (``all``: ffn and attn) in the blocks of ``layers``.

    ``layers`` are block indices as ranges, counted as ``WeightMatrix.block`` is; None: every block.
    """

    family: ScopeFamily
    layers: tuple[range, ...] | None = None

    def holds(self, family: str, block: int) -> bool:
        """Whether a projection of ``family`` in ``block`` is in this scope.

        Families other than ffn and attn never are.
        """
        if family not in ("ffn", "attn") or self.family not in ("all", family):
            return False
        return self.layers is None or any(block in layers for layers in self.layers)

    def check_depth(self, blocks: int) -> None:
        """Raise ValueError if a layer of this scope is not among the ``blocks`` of a model."""
        for layers in self.layers or ():
            if layers[-1] >= blocks:
                raise ValueError(
                    f"layer {layers[-1]} is out of range: the model has {blocks} blocks"
                    + (f", 0 to {blocks - 1}" if blocks else "")
                )

    def __str__(self) -> str:
        if self.layers is None:
            return self.family
        pieces = (f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in self.layers)
        return f"{self.family}@layers={','.join(pieces)}"


def parse_scope(text: str) -> Scope:
    """Read ``ffn``, ``attn`` or ``all``, with or without layers: ``ffn@layers=0,2-4``.

    Layers count from 0, ends included. ValueError, with the reason, if ``text`` is none of these.
    """
    family, at, rest = text.partition("@")
    if family not in get_args(ScopeFamily):
        raise ValueError(f"unknown scope {text!r}: it starts with {family!r}, not ffn, attn or all")
    if not at:
        return Scope(cast("ScopeFamily", family))
    key, equals, numbers = rest.partition("=")
    if key != "layers" or not equals:
        raise ValueError(f"scope {text!r}: after '@' comes 'layers=' and a list such as 0,2-4")
    layers = tuple(_layers(piece, text) for piece in numbers.split(","))
    return Scope(cast("ScopeFamily", family), layers)


def _layers(piece: str, text: str) -> range:
    match = _PIECE.fullmatch(piece)
    if match is None:
        raise ValueError(f"scope {text!r}: {piece!r} is neither a layer nor a range such as 2-4")
    first = int(match[1])
    last = int(match[2] or match[1])
    if last < first:
        raise ValueError(f"scope {text!r}: the range {piece!r} runs backwards")
    return range(first, last + 1)
