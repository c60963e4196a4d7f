"""A checkpoint in memory: what a loader reads, so that structural faults need no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from invarlock_guards.families import all_weight_matrices
from invarlock_guards.measure.invariants import ModelStructure, read_structure


@dataclass(frozen=True, slots=True, eq=False)
class CheckpointView:
    """Tensors by name, configuration and tokenizer identity of a checkpoint.

    Tensors may share storage with a resident model and are never written to; tied names share
    storage with each other. ``tokenizer_fingerprint`` is None where there is no tokenizer.
    ``token_axes`` holds the axis that counts tokens of each tensor that has one: embeddings, head
    and the head's bias.
    """

    tensors: Mapping[str, torch.Tensor]
    config: Mapping[str, Any]
    tokenizer_fingerprint: str | None = None
    token_axes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadFinding:
    """One reason why a view does not load: ``kind`` is missing, unexpected, shape or tie.

    ``expected`` and ``found`` are shapes as text, or a phrase.
    """

    kind: str
    name: str
    expected: str
    found: str


def view_of(model: torch.nn.Module, tokenizer_fingerprint: str | None = None) -> CheckpointView:
    """The view of a resident transformers ``model``, sharing its storage."""
    config: Any = model.config
    return CheckpointView(
        tensors={n: t.detach() for n, t in model.state_dict(keep_vars=True).items()},
        config=config.to_dict(),
        tokenizer_fingerprint=tokenizer_fingerprint,
        token_axes=_token_axes(model),
    )


def _token_axes(model: torch.nn.Module) -> dict[str, int]:
    """Axes that count tokens, by the roles of tensors: other lengths may equal the vocabulary's."""
    any_model: Any = model
    vocabulary = any_model.get_input_embeddings().num_embeddings
    axes: dict[int, int] = {}
    for matrix in all_weight_matrices(model):
        counting = -2 if matrix.role == "embedding" else -3 - matrix.input_axis
        if matrix.role in ("embedding", "head") and matrix.weight.shape[counting] == vocabulary:
            axes[matrix.weight.data_ptr()] = counting % 2
    head = any_model.get_output_embeddings()
    for module in model.modules():
        # The head's own bias, one of the module around it (BERT), or one of the model's (BART).
        around = module is model or any(child is head for child in module.children())
        for own in ("bias", "final_logits_bias"):
            bias = getattr(module, own, None) if module is head or around else None
            if isinstance(bias, torch.Tensor) and bias.shape[-1:] == (vocabulary,):
                axes[bias.data_ptr()] = bias.ndim - 1
    return {
        name: axes[tensor.data_ptr()]
        for name, tensor in model.state_dict(keep_vars=True).items()
        if tensor.data_ptr() in axes and tensor.numel()
    }


class _AsModel(torch.nn.Module):
    """The two things that `read_structure` reads of a model, answered from a view."""

    def __init__(self, view: CheckpointView) -> None:
        super().__init__()
        self.config = SimpleNamespace(to_dict=lambda: dict(view.config))
        self._view = view

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:  # type: ignore[override]
        return dict(self._view.tensors)


def view_structure(view: CheckpointView) -> ModelStructure:
    """What the invariants guard compares, read from ``view`` without loading it into a model."""
    return read_structure(_AsModel(view), view.tokenizer_fingerprint)


def load_view(
    view: CheckpointView, like: torch.nn.Module
) -> tuple[torch.nn.Module | None, tuple[LoadFinding, ...]]:
    """Load ``view`` strictly into a new model of the class of ``like``.

    The model is built from the view's configuration on the meta device and takes the view's
    tensors as they are: nothing is initialised, filled in or copied, except that floating tensors
    of another dtype are cast to that of ``like``, as a loader with a given dtype does. It shares
    storage with the view: measure it, never write to it. Buffers that checkpoints do not hold
    (rotary frequencies) are taken from ``like``.

    Args:
        view: the checkpoint.
        like: a resident transformers model: its class, dtype, device and attention are taken.

    Returns:
        The model in eval mode and no findings; or None, and every tensor that is missing,
        unexpected, of another shape, or differs from one that the configuration ties it to.
    """
    shell: Any = empty_model(view, like)
    expected = shell.state_dict(keep_vars=True)
    tied = _tied_names(expected)
    given = _completed(view.tensors, tied)
    findings = (*_name_and_shape_findings(expected, given), *_tie_findings(tied, given))
    buffers = _transient_buffers(shell)
    own = dict(like.named_buffers())
    findings += tuple(
        LoadFinding("missing", name, str(tuple(buffer.shape)), "not among the baseline's buffers")
        for name, buffer in buffers.items()
        if name not in own or own[name].shape != buffer.shape
    )
    if findings:
        return None, findings
    first = next(like.parameters())
    shell.load_state_dict(
        {name: _cast(tensor, first) for name, tensor in given.items()}, strict=True, assign=True
    )
    for name in buffers:
        owner, _, leaf = name.rpartition(".")
        setattr(shell.get_submodule(owner), leaf, own[name].detach().clone())
    if tied:
        # Assigning made separate parameters of names that are one by configuration.
        shell.tie_weights()
    return shell.eval().requires_grad_(False), ()


def empty_model(view: CheckpointView, like: torch.nn.Module) -> torch.nn.Module:
    """A model of the view's configuration on the meta device: names and shapes, no numbers.

    Its class and attention are those of ``like``.
    """
    model: Any = like
    config = type(model.config).from_dict(dict(view.config))
    attention = getattr(model.config, "_attn_implementation", None)
    if attention is not None:
        config._attn_implementation = attention  # noqa: SLF001 - transformers has no public name
    build: Any = type(like)
    with torch.device("meta"):
        made: torch.nn.Module = build(config)
    return made


def _tied_names(expected: Mapping[str, torch.Tensor]) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, tensor in expected.items():
        # On the meta device nothing has an address; tied names are the same object.
        groups.setdefault(id(tensor), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _completed(
    tensors: Mapping[str, torch.Tensor], tied: list[list[str]]
) -> dict[str, torch.Tensor]:
    """``tensors`` with the names filled in that are tied to one that is there."""
    given = dict(tensors)
    for names in tied:
        present = [name for name in names if name in tensors]
        for name in names if present else ():
            given.setdefault(name, tensors[present[0]])
    return given


def _name_and_shape_findings(
    expected: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]
) -> list[LoadFinding]:
    found = []
    for name in sorted(set(expected) | set(given)):
        if name not in given:
            found.append(LoadFinding("missing", name, _shape(expected[name]), "absent"))
        elif name not in expected:
            found.append(LoadFinding("unexpected", name, "absent", _shape(given[name])))
        elif expected[name].shape != given[name].shape:
            found.append(LoadFinding("shape", name, _shape(expected[name]), _shape(given[name])))
    return found


def _tie_findings(tied: list[list[str]], given: Mapping[str, torch.Tensor]) -> list[LoadFinding]:
    return [
        LoadFinding("tie", name, f"equal to {names[0]}", "another tensor")
        for names in tied
        if names[0] in given
        for name in names[1:]
        if not _same(given[names[0]], given[name])
    ]


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.data_ptr() == other.data_ptr() and one.shape == other.shape:
        return True
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def _transient_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    kept = set(model.state_dict())
    return {name: buffer for name, buffer in model.named_buffers() if name not in kept}


def _cast(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    dtype = like.dtype if tensor.is_floating_point() else tensor.dtype
    return tensor.to(device=like.device, dtype=dtype)


def _shape(tensor: torch.Tensor) -> str:
    return str(tuple(tensor.shape))
