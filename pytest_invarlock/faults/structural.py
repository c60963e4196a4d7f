"""Structural faults: a checkpoint that does not fit its architecture, tokenizer or dtype."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import torch

from pytest_invarlock.errors import EditError
from pytest_invarlock.faults.checkpoint_view import CheckpointView
from pytest_invarlock.faults.targets import no_target
from pytest_invarlock.policy.edit_names import parameter_problem

if TYPE_CHECKING:
    from pytest_invarlock.plan import EditSpec

ViewFault = Callable[..., CheckpointView]
DEPTH_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers")
DECODER_DEPTH_KEYS = ("num_decoder_layers", "decoder_layers")
_STACK = re.compile(r"^(.*?)\.(\d+)\.")
DTYPES = {
    "float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32,
    "float8_e4m3": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2,
}  # fmt: skip


def shape_mismatch(
    view: CheckpointView, *, rows: int = 8, update_config: bool = True
) -> CheckpointView:
    """Grow what counts tokens by ``rows`` rows of zeros, as a careless resize does.

    That is the embedding, the head and its bias, by role: what merely is as long stays.
    ``update_config`` raises ``vocab_size`` with it; False leaves a checkpoint that cannot load.
    """
    grown: dict[int, torch.Tensor] = {}
    tensors = dict(view.tensors)
    for name, axis in view.token_axes.items():
        tensor = view.tensors.get(name)
        if tensor is None:
            continue
        if tensor.data_ptr() not in grown:
            shape = list(tensor.shape)
            shape[axis] = rows
            grown[tensor.data_ptr()] = torch.cat([tensor, tensor.new_zeros(shape)], dim=axis)
        tensors[name] = grown[tensor.data_ptr()]
    if not grown:
        raise no_target("no embedding or head whose rows are tokens")
    config = dict(view.config)
    if update_config:
        if not isinstance(config.get("vocab_size"), int):
            raise no_target("no configured vocab_size to raise", "set update_config: false")
        config["vocab_size"] += rows
    return replace(view, tensors=tensors, config=config)


def missing_tensors(view: CheckpointView, *, update_config: bool = True) -> CheckpointView:
    """Drop the last block of the deepest stack (of two as deep, the later one: a decoder).

    ``update_config`` also lowers the configured depth and shortens per-layer lists, so that the
    rest loads; False leaves a checkpoint whose tensors are missing.
    """
    stacks: dict[str, int] = {}
    for name in view.tensors:
        place = _stack_and_index(name)
        if place is not None:
            stacks[place[0]] = max(stacks.get(place[0], 0), place[1] + 1)
    if not stacks or max(stacks.values()) < 2:
        raise no_target("fewer than two blocks to drop one of")
    deepest = max(stacks.values())
    stack = [name for name, depth in stacks.items() if depth == deepest][-1]
    tensors = {
        name: tensor
        for name, tensor in view.tensors.items()
        if _stack_and_index(name) != (stack, deepest - 1)
    }
    config = dict(view.config)
    if update_config:
        config |= _shallower(config, deepest, decoder="decoder" in stack)
    return replace(view, tensors=tensors, config=config)


def _stack_and_index(name: str) -> tuple[str, int] | None:
    """``("model.layers", 3)`` of ``model.layers.3.mlp.up_proj.weight``; None outside of blocks."""
    match = _STACK.match(name)
    return None if match is None else (match[1], int(match[2]))


def _shallower(config: Mapping[str, Any], depth: int, *, decoder: bool) -> dict[str, Any]:
    keys = [key for key in DECODER_DEPTH_KEYS if decoder and config.get(key) == depth]
    keys = keys or [key for key in DEPTH_KEYS if config.get(key) == depth]
    if not keys:
        raise no_target("no configured depth to lower", "set update_config: false")
    lists = {
        key: value[: depth - 1]
        for key, value in config.items()
        if "layer" in key and isinstance(value, list) and len(value) == depth
    }
    return {**dict.fromkeys(keys, depth - 1), **lists}


def weight_tying_break(view: CheckpointView, *, untied: str = "error") -> CheckpointView:
    """Give each tied name a tensor of its own, equal in value, and configure no tying.

    The function computed is the same; training or editing one of them no longer moves the other.
    An untied model is an error: tying it is another fault, which ``untied="tie"`` asks for there:
    the head becomes the embedding, as a loader makes it where the configuration wrongly ties them.
    T5 is unlike others: it ties whatever its configuration says, and reads the key as another
    scale of its outputs.
    """
    owner: dict[tuple[int, tuple[int, ...]], str] = {}
    tensors = dict(view.tensors)
    for name, tensor in view.tensors.items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if owner.setdefault(key, name) != name and tensor.numel():
            tensors[name] = tensor.clone()
    if any(tensors[name] is not view.tensors[name] for name in tensors):
        return replace(view, tensors=tensors, config={**view.config, "tie_word_embeddings": False})
    if untied == "tie":
        return _tied(view)
    raise no_target("no tied weights", "choose a model whose head is its embedding, or untied: tie")


def _tied(view: CheckpointView) -> CheckpointView:
    """``view`` with its embedding as its head."""
    # In the order of the model: the embedding comes first.
    named = [name for name in view.tensors if name in view.token_axes]
    tables = [name for name in named if view.tensors[name].ndim > 1]
    heads = [n for n in tables[1:] if view.tensors[n].shape == view.tensors[tables[0]].shape]
    if not heads:
        raise no_target("no head of the embedding's shape to tie to it")
    tensors = {**view.tensors, **dict.fromkeys(heads, view.tensors[tables[0]])}
    return replace(view, tensors=tensors, config={**view.config, "tie_word_embeddings": True})


def dtype_change(view: CheckpointView, *, dtype: str = "float16") -> CheckpointView:
    """Store every floating tensor in ``dtype``, as a checkpoint saved in the wrong one is."""
    stored: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}
    tensors = {}
    for name, tensor in view.tensors.items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if key not in stored:
            stored[key] = tensor.to(DTYPES[dtype]) if tensor.is_floating_point() else tensor
        tensors[name] = stored[key]
    if all(tensors[name].dtype == view.tensors[name].dtype for name in tensors):
        raise EditError(
            f"the checkpoint is stored in {dtype} already",
            remedy="choose another dtype",
            code="EDIT_CHANGED_NOTHING",
        )
    return replace(view, tensors=tensors)


def tokenizer_mismatch(view: CheckpointView) -> CheckpointView:
    """Give the checkpoint the identity of a tokenizer that is not its own."""
    if view.tokenizer_fingerprint is None:
        raise no_target("no tokenizer")
    other = sha256(b"another tokenizer than " + view.tokenizer_fingerprint.encode()).hexdigest()
    return replace(view, tokenizer_fingerprint=f"sha256:{other}")


VIEW_FAULTS: Mapping[str, ViewFault] = {
    "shape_mismatch": shape_mismatch,
    "missing_tensors": missing_tensors,
    "weight_tying_break": weight_tying_break,
    "dtype_change": dtype_change,
    "tokenizer_mismatch": tokenizer_mismatch,
}


def apply_view_fault(spec: EditSpec, view: CheckpointView) -> CheckpointView:
    """``view`` with the structural fault ``spec``; the resident model and files stay untouched.

    Raises:
        EditError: no structural fault of this name (UNKNOWN_EDIT), wrong parameters
            (EDIT_PARAMETERS), nothing to strike (EDIT_NO_TARGET, EDIT_CHANGED_NOTHING).
    """
    if spec.name not in VIEW_FAULTS:
        raise EditError(
            f"{spec.name!r} is no structural fault",
            remedy=f"use one of {', '.join(sorted(VIEW_FAULTS))}",
            code="UNKNOWN_EDIT",
        )
    problem = parameter_problem(spec)
    if problem is not None:
        raise EditError(
            f"{spec.name}: {problem}", remedy="mend its parameters", code="EDIT_PARAMETERS"
        )
    return VIEW_FAULTS[spec.name](view, **dict(spec.parameters))


def view_coverage(spec: EditSpec, before: CheckpointView, after: CheckpointView) -> dict[str, Any]:
    """The record's ``edit`` block of a structural fault: what it added, took or changed.

    A tensor counts as changed where it is new, gone, or not the very tensor it was; its parameters
    are counted as they were, or, where it is new, as they are.
    """
    names = set(before.tensors) | set(after.tensors)
    changed = [name for name in names if before.tensors.get(name) is not after.tensors.get(name)]
    n_parameters = sum(
        (before.tensors[name] if name in before.tensors else after.tensors[name]).numel()
        for name in changed
    )
    return {
        **spec.document(),
        "n_tensors_touched": len(changed),
        "n_tensors_changed": len(changed),
        "n_parameters_touched": n_parameters,
        "n_parameters_changed": n_parameters,
    }
