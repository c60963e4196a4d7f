"""The repeated blocks of a model: where they stand, from the shape of its module tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from invarlock_guards.role_names import SIDES

if TYPE_CHECKING:
    from collections.abc import Iterator

Side = Literal["encoder", "decoder"]
Block = tuple[str, torch.nn.Module]


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Blocks that follow one another, with their names; ``side`` is None unless there are two."""

    side: Side | None
    blocks: list[Block]


def stacks(model: torch.nn.Module) -> list[Stack]:
    """The stack of ``model``, or its encoder's and then its decoder's; empty if it has none."""
    lists = list(_outermost_lists(model, "", layer_count(model)))
    declared = getattr(_config(model), "is_encoder_decoder", None)
    if declared is not False:
        sides: dict[Side, list[list[Block]]] = {"encoder": [], "decoder": []}
        for members in lists:
            side = next((part for part in members[0][0].split(".") if part in SIDES), None)
            if side is not None:
                sides["encoder" if side == "encoder" else "decoder"].append(members)
        if all(sides.values()):
            return [Stack(side, _largest(found, None)) for side, found in sides.items()]
    if not lists:
        return []
    # A vision tower may be deeper than the text model whose depth the configuration gives.
    return [Stack(None, _largest(lists, layer_count(model)))]


def blocks(model: torch.nn.Module) -> list[Block]:
    """Name and module of every block, in order: the encoder's first where there are two stacks."""
    return [block for stack in stacks(model) for block in stack.blocks]


def decoder_blocks(model: torch.nn.Module) -> list[Block]:
    """The blocks of the decoder, or of the only stack; empty if ``model`` repeats nothing."""
    found = stacks(model)
    return found[-1].blocks if found else []


def text_config(model: torch.nn.Module) -> Any:
    """The configuration of the language model in ``model``, or None without a configuration."""
    config = _config(model)
    try:
        return config.get_text_config()
    except (AttributeError, ValueError):
        # Other libraries' configurations have none; transformers' may have several and not choose.
        return config


def layer_count(model: torch.nn.Module) -> int | None:
    """How many blocks the configuration gives a stack; None if it does not say."""
    count = getattr(text_config(model), "num_hidden_layers", None)
    return count if isinstance(count, int) else None


def _config(model: torch.nn.Module) -> Any:
    return getattr(model, "config", None)


def _outermost_lists(
    module: torch.nn.Module, name: str, count: int | None
) -> Iterator[list[Block]]:
    """Lists of like members, none inside another: experts in a block are no stack of blocks."""
    if isinstance(module, torch.nn.ModuleList):
        members = [(f"{name}.{index}" if name else str(index), m) for index, m in enumerate(module)]
        # Blocks of hybrid models differ in class; their number is the configuration's.
        if len({type(member) for member in module}) == 1 or (members and len(members) == count):
            yield members
            return
    for child_name, child in module.named_children():
        yield from _outermost_lists(child, f"{name}.{child_name}" if name else child_name, count)


def _largest(lists: list[list[Block]], count: int | None) -> list[Block]:
    if len(lists) == 1:
        # No parameter need be counted.
        return lists[0]
    return max(lists, key=lambda found: (len(found) == count, *_size(found)))


def _size(members: list[Block]) -> tuple[int, int]:
    # Some models list their blocks' norms beside the blocks, as many of them.
    return len(members), sum(p.numel() for _, member in members for p in member.parameters())
