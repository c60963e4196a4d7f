"""Controls: rewrites of the weights that leave the computed function as it was.

Each proves it: the model's logits on a fixed input are compared without and with it, in float32
whatever the model's dtype, and a rewrite that does not fit an architecture is reported and not
written, instead of becoming damage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pytest_invarlock.faults.function_probe import write_preserving
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
from pytest_invarlock.faults.rewrite import Rewrite
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

    layouts = _layouts(pairs, PAIR_LAYOUTS)
    return write_preserving(
        journal, [pair_rescaling(journal.model, pairs, layout, factor) for layout in layouts]
    )


def pair_rescaling(
    model: torch.nn.Module, pairs: Sequence[Pair], layout: str, factor: float
) -> Rewrite:
    """Up projections of gated ``pairs`` times ``factor``, down projections divided by it."""
    named, rewrite = bias_names(model), Rewrite(model)
    for pair in pairs:
        _, up = _gate_and_up(pair, layout)
        map_outputs(
            rewrite, pair.first, named.get(pair.first.name), on_positions(up, lambda x: x * factor)
        )
        map_inputs(rewrite, pair.second, lambda x: x / factor)
    return rewrite


def permute_mlp_neurons(
    journal: UndoableWriter, *, seed: int = 0, layers: Layers = None
) -> dict[str, float]:
    """Permute the hidden neurons of every feed-forward network, in its inputs and its outputs.

    The experts of a stack share a permutation. Returns ``relative_logit_change``.
    """
    pairs = mlp_pairs(journal.model, layers)
    if not pairs:
        raise no_target("no feed-forward network with an up and a down projection")

    layouts = _layouts(pairs, PAIR_LAYOUTS)
    return write_preserving(
        journal, [_permutation(journal.model, pairs, layout, seed) for layout in layouts]
    )


def _permutation(model: torch.nn.Module, pairs: Sequence[Pair], layout: str, seed: int) -> Rewrite:
    named, rewrite = bias_names(model), Rewrite(model)
    for pair in pairs:
        gate, up = _gate_and_up(pair, layout)
        order = torch.randperm(len(up), generator=generator(seed, pair.first.name))

        def permuted(x: torch.Tensor, order: torch.Tensor = order) -> torch.Tensor:
            return x[..., order.to(x.device)]

        change = on_positions(up, permuted)
        if pair.fused:
            change = _both(change, on_positions(gate, permuted))
        map_outputs(rewrite, pair.first, named.get(pair.first.name), change)
        if pair.gate is not None:
            map_outputs(rewrite, pair.gate, named.get(pair.gate.name), permuted)
        map_inputs(rewrite, pair.second, permuted)
    return rewrite


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
    found = [heads_of(journal.model, pair) for pair in attention_pairs(journal.model, layers)]
    heads = [each for each in found if each is not None]
    if not heads:
        raise no_target("no value and output projections with known heads")
    layouts = _layouts([each.pair for each in heads], HEAD_LAYOUTS)
    return write_preserving(
        journal, [value_rotation(journal.model, heads, layout, seed) for layout in layouts]
    )


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """The heads of an attention: ``n_heads`` of queries, ``n_kv_heads`` of values, of ``width``."""

    pair: Pair
    width: int
    n_heads: int
    n_kv_heads: int


def heads_of(model: torch.nn.Module, pair: Pair) -> Heads | None:
    """The heads of an attention's ``pair``; None where nothing states their width.

    Raises:
        EditError: the width does not divide the projections (EDIT_NO_TARGET).
    """
    width = head_width(model, pair)
    if width is None:
        return None
    n_outputs = pair.first.weight.shape[-2 if pair.first.input_axis == -1 else -1]
    n_heads = pair.second.weight.shape[pair.second.input_axis] // width
    n_values = (n_outputs // width - n_heads) // 2 if pair.fused else n_outputs // width
    if n_values < 1 or n_heads % n_values:
        raise no_target(f"heads of an unknown shape in {pair.first.name}")
    return Heads(pair, width, n_heads, n_values)


def value_rotation(
    model: torch.nn.Module, heads: Sequence[Heads], layout: str, seed: int
) -> Rewrite:
    """Value heads times random orthogonal matrices, output projections times their transposes."""
    named, rewrite = bias_names(model), Rewrite(model)
    for each in heads:
        first, count = each.pair.first, each.n_kv_heads
        draw = torch.randn(count, each.width, each.width, generator=generator(seed, first.name))
        # In float64: a float32 model would meet the rounding of the rotation beside its own.
        rotation = torch.linalg.qr(draw.double()).Q
        values = (
            value_positions(layout, each.n_heads, count, each.width)
            if each.pair.fused
            else torch.arange(count * each.width)
        )
        turned = on_positions(values, _by_head(rotation))
        map_outputs(rewrite, first, named.get(first.name), turned)
        shared = rotation.repeat_interleave(each.n_heads // count, dim=0)
        map_inputs(rewrite, each.pair.second, _by_head(shared))
    return rewrite


def _by_head(rotation: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Multiply each head of the last axis, ``(…, heads·width)``, by its (width, width) matrix."""

    def rotated(x: torch.Tensor) -> torch.Tensor:
        heads = x.reshape(*x.shape[:-1], *rotation.shape[:2])
        turned = torch.einsum("...hd,hde->...he", heads, rotation.to(x))
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

    rewrite = Rewrite(journal.model)
    for norm, readers in found:
        gain, offset = norm.gain.clone(), norm.offset
        for matrix in readers:
            map_inputs(rewrite, matrix, lambda x, gain=gain: x * gain)  # type: ignore[misc]
        if norm.bias_name is not None:
            rewrite.change(norm.bias_name, lambda x, gain=gain: x / gain)  # type: ignore[misc]
        rewrite.change(
            norm.name,
            lambda x, offset=offset: torch.ones_like(x) - offset,  # type: ignore[misc]
        )
    return {**write_preserving(journal, [rewrite]), "n_norms": len(found)}


def _layouts(pairs: Sequence[Pair], known: tuple[str, ...]) -> tuple[str, ...]:
    return known if any(pair.fused for pair in pairs) else known[:1]
