"""Where the parts of fused projections may lie along their output axis.

Architectures disagree and nothing in a checkpoint says which it is, so that callers try these in
turn and keep the one under which a function-preserving rewrite preserves the function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pytest_invarlock.faults.projections import Pair

HEAD_LAYOUTS = ("contiguous", "grouped")
"""Of a fused query-key-value: all of q, k, v in turn (GPT-2), or head by head (GPT-NeoX)."""

PAIR_LAYOUTS = ("gate_first", "interleaved", "up_first")
"""Of a fused gate and up: halves (Mixtral), alternating outputs, or halves the other way round."""


def value_positions(layout: str, n_heads: int, n_kv_heads: int, width: int) -> torch.Tensor:
    """`head_positions` of the values, ``(n_kv_heads·width,)``."""
    return head_positions("v", layout, n_heads, n_kv_heads, width)


def head_positions(
    role: str, layout: str, n_heads: int, n_kv_heads: int, width: int
) -> torch.Tensor:
    """Which outputs of a fused query-key-value are of ``role`` q, k or v, head by head.

    Args:
        role: q, k or v; every layout has them in this order.
        layout: one of `HEAD_LAYOUTS`.
        n_heads: query heads.
        n_kv_heads: key heads, and as many value heads.
        width: of one head.
    """
    groups = 1 if layout == "contiguous" else n_kv_heads
    sizes = [n_heads // groups * width, *(n_kv_heads // groups * width,) * 2]
    positions = torch.arange(groups * sum(sizes)).reshape(groups, -1)
    return torch.split(positions, sizes, dim=1)["qkv".index(role)].reshape(-1)


def gate_and_up_positions(layout: str, n_outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which outputs of a fused gate and up, ``n_outputs`` together, are gate and which are up."""
    positions = torch.arange(n_outputs)
    if layout == "interleaved":
        return positions[0::2], positions[1::2]
    first, second = positions.chunk(2)
    return (second, first) if layout == "up_first" else (first, second)


def head_width(model: torch.nn.Module, pair: Pair) -> int | None:
    """The width of one head, as the attention module or the configuration states it."""
    path = pair.first.name.removesuffix(".weight").rpartition(".")[0]
    module = model.get_submodule(path)
    for name in ("head_dim", "head_size", "attention_head_size", "key_value_proj_dim"):
        if isinstance(width := getattr(module, name, None), int):
            return width
    config: Mapping[str, object] = vars(getattr(model, "config", object)) or {}
    width = config.get("head_dim")
    return width if isinstance(width, int) else None
