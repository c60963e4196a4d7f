"""Roles of weight matrices: which belong to attention, which to the feed-forward network.

A role is read from where a matrix stands: the block of the decoder that owns it, and the class of
the block's child it is part of. Parameter names decide nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

Family = Literal["ffn", "attn", "other"]


@dataclass(frozen=True, slots=True, eq=False)
class WeightMatrix:
    """A block's projection. ``input_axis`` is the axis of ``weight`` (2-D) that meets the input."""

    name: str
    weight: torch.nn.Parameter
    family: Family
    block: int
    input_axis: int


def decoder_blocks(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """The repeated blocks of ``model``: the longest module list whose members share a class."""
    best: list[tuple[str, torch.nn.Module]] = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len({type(m) for m in module}) == 1:
            members = [(f"{name}.{index}", child) for index, child in enumerate(module)]
            if len(members) > len(best):
                best = members
    return best


def weight_matrices(model: torch.nn.Module, scope: str = "all") -> Iterator[WeightMatrix]:
    """The projections of every block, embeddings and head excluded; ``scope``: ffn, attn or all."""
    for index, (block_name, block) in enumerate(decoder_blocks(model)):
        for child_name, child in block.named_children():
            family = _family(child)
            if scope not in ("all", family):
                continue
            for name, module in child.named_modules(prefix=f"{block_name}.{child_name}"):
                axis = _input_axis(module)
                if axis is not None:
                    weight = module.get_parameter("weight")
                    yield WeightMatrix(f"{name}.weight", weight, family, index, axis)


def _family(child: torch.nn.Module) -> Family:
    kind = type(child).__name__.lower()
    if "attention" in kind or "attn" in kind:
        return "attn"
    if any(word in kind for word in ("mlp", "feedforward", "ffn", "moe", "expert")):
        return "ffn"
    return "other"


def _input_axis(module: torch.nn.Module) -> int | None:
    if isinstance(module, torch.nn.Linear):
        return 1
    # transformers' Conv1D stores (input, output), the transpose of Linear.
    return 0 if type(module).__name__ == "Conv1D" else None
