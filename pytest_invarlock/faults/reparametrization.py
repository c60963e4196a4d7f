"""Controls: rewrites of the weights that leave the computed function as it was.

Each proves it: the model's logits on a fixed input are compared before and after, and a rewrite
that does not fit an architecture is undone and reported, instead of becoming damage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from pytest_invarlock.errors import EditError
from pytest_invarlock.faults.function_probe import LIMIT, probe_logits, relative_change
from pytest_invarlock.faults.fused_layout import (
    HEAD_LAYOUTS,
    PAIR_LAYOUTS,
    gate_and_up_positions,
    head_width,
    value_positions,
)
from pytest_invarlock.faults.norm_readers import block_readers
from pytest_invarlock.faults.projections import (
    Pair,
    attention_pairs,
    map_inputs,
    map_outputs,
    mlp_pairs,
    on_positions,
)
from pytest_invarlock.faults.targets import bias_names, generator, no_target, norms

if TYPE_CHECKING:
    from pytest_invarlock.edits.writer import UndoableWriter

Layers = str | list[int] | None


def rescale_gated_pair(
    journal: UndoableWriter, *, factor: float = 2.0, layers: Layers = None
) -> dict[str, float]:
    """Multiply up projections by ``factor`` and divide down projections by it; gated MLPs only.

    A power of two is exact in every floating type. Returns ``relative_logit_change``.
    """
    pairs = [
        pair
        for pair in mlp_pairs(journal.model, layers)
        if pair.gate is not None or pair.first.role == "gate_up"
    ]
    if not pairs:
        raise no_target("no gated feed-forward network", "use permute_mlp_neurons instead")

    named = bias_names(journal.model)

    def rewrite(layout: str) -> None:
        for pair in pairs:
            _, up = _gate_and_up(pair, layout)
            map_outputs(
                journal,
                pair.first,
                named.get(pair.first.name),
                on_positions(up, lambda x: x * factor),
            )
            map_inputs(journal, pair.second, lambda x: x / factor)

    return _preserving(journal, rewrite, _layouts(pairs, PAIR_LAYOUTS))


def permute_mlp_neurons(
    journal: UndoableWriter, *, seed: int = 0, layers: Layers = None
) -> dict[str, float]:
    """Permute the hidden neurons of every feed-forward network, in its inputs and its outputs.

    The experts of a stack share a permutation. Returns ``relative_logit_change``.
    """
    pairs = mlp_pairs(journal.model, layers)
    if not pairs:
        raise no_target("no feed-forward network with an up and a down projection")

    named = bias_names(journal.model)

    def rewrite(layout: str) -> None:
        for pair in pairs:
            gate, up = _gate_and_up(pair, layout)
            order = torch.randperm(len(up), generator=generator(seed, pair.first.name))

            def permuted(x: torch.Tensor, order: torch.Tensor = order) -> torch.Tensor:
                return x[..., order.to(x.device)]

            change = on_positions(up, permuted)
            if pair.fused:
                change = _both(change, on_positions(gate, permuted))
            map_outputs(journal, pair.first, named.get(pair.first.name), change)
            if pair.gate is not None:
                map_outputs(journal, pair.gate, named.get(pair.gate.name), permuted)
            map_inputs(journal, pair.second, permuted)

    return _preserving(journal, rewrite, _layouts(pairs, PAIR_LAYOUTS))


def _both(
    one: Callable[[torch.Tensor], torch.Tensor], other: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: other(one(x))


def _gate_and_up(pair: Pair, layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    n_outputs = pair.first.weight.shape[-2 if pair.first.input_axis == -1 else -1]
    if pair.fused:
        return gate_and_up_positions(layout, n_outputs)
    return torch.arange(0), torch.arange(n_outputs)


def rotate_value_output_heads(
    journal: UndoableWriter, *, seed: int = 0, layers: Layers = None
) -> dict[str, float]:
    """Rotate each value head by a random orthogonal matrix and the output projection back.

    Query heads that share a value head share its rotation. Returns ``relative_logit_change``.
    """
    heads = []
    for pair in attention_pairs(journal.model, layers):
        width = head_width(journal.model, pair)
        if width is not None:
            heads.append((pair, width, *_head_counts(pair, width)))
    if not heads:
        raise no_target("no value and output projections with known heads")

    named = bias_names(journal.model)

    def rewrite(layout: str) -> None:
        for pair, width, n_heads, n_kv_heads in heads:
            draw = torch.randn(n_kv_heads, width, width, generator=generator(seed, pair.first.name))
            rotation = torch.linalg.qr(draw).Q
            values = (
                value_positions(layout, n_heads, n_kv_heads, width)
                if pair.fused
                else torch.arange(n_kv_heads * width)
            )
            map_outputs(
                journal,
                pair.first,
                named.get(pair.first.name),
                on_positions(values, _by_head(rotation)),
            )
            shared = rotation.repeat_interleave(n_heads // n_kv_heads, dim=0)
            map_inputs(journal, pair.second, _by_head(shared))

    return _preserving(journal, rewrite, _layouts([h[0] for h in heads], HEAD_LAYOUTS))


def _head_counts(pair: Pair, width: int) -> tuple[int, int]:
    n_outputs = pair.first.weight.shape[-2 if pair.first.input_axis == -1 else -1]
    n_heads = pair.second.weight.shape[pair.second.input_axis] // width
    n_values = (n_outputs // width - n_heads) // 2 if pair.fused else n_outputs // width
    if n_values < 1 or n_heads % n_values:
        raise no_target(f"heads of an unknown shape in {pair.first.name}")
    return n_heads, n_values


def _by_head(rotation: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Multiply each head of the last axis, ``(…, heads·width)``, by its (width, width) matrix."""

    def rotated(x: torch.Tensor) -> torch.Tensor:
        heads = x.reshape(*x.shape[:-1], *rotation.shape[:2])
        turned = torch.einsum("...hd,hde->...he", heads, rotation.to(x.device))
        return turned.reshape(x.shape)

    return rotated


def fold_norm_gain(journal: UndoableWriter) -> dict[str, float]:
    """Multiply each norm's gain into the projections that read it, and set the gain to one.

    A norm's bias is divided by its gain; a norm with a gain of zero is left. A norm that nothing
    but projections of blocks reads is folded; the last one, before the head, is not. Returns
    ``relative_logit_change`` and ``n_norms``.
    """
    found = [
        (norm, readers)
        for norm, readers in block_readers(journal.model, norms(journal.model))
        if bool((norm.gain != 0).all())
    ]
    if not found:
        raise no_target("no norm whose output only projections of blocks read")

    def rewrite(_layout: str) -> None:
        for norm, readers in found:
            gain = norm.gain.clone()
            for matrix in readers:
                map_inputs(journal, matrix, lambda x, gain=gain: x * gain)  # type: ignore[misc]
            if norm.bias_name is not None:
                bias = journal.model.get_parameter(norm.bias_name)
                journal.write(norm.bias_name, bias.detach().float() / gain)
            journal.write(norm.name, torch.ones_like(gain) - norm.offset)

    return {**_preserving(journal, rewrite, ("",)), "n_norms": len(found)}


def _layouts(pairs: Sequence[Pair], known: tuple[str, ...]) -> tuple[str, ...]:
    return known if any(pair.fused for pair in pairs) else known[:1]


def _preserving(
    journal: UndoableWriter, rewrite: Callable[[str], None], layouts: Sequence[str]
) -> dict[str, float]:
    """Apply ``rewrite`` in the first of ``layouts`` that leaves the model's logits as they were."""
    before = probe_logits(journal.model)
    limit = LIMIT[next(journal.model.parameters()).dtype]
    changes = []
    for layout in layouts:
        rewrite(layout)
        changes.append(relative_change(before, probe_logits(journal.model)))
        if changes[-1] <= limit:
            return {"relative_logit_change": changes[-1]}
        journal.undo()
    raise EditError(
        f"this rewrite changes the model's function: its logits moved by {min(changes):.2g} of "
        f"their spread, more than {limit:g}",
        remedy="the architecture computes otherwise than assumed; choose another control",
        code="CONTROL_CHANGED_FUNCTION",
    )
