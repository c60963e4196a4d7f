"""Where a fault strikes: matrices by role and block, their biases, and the model's norms.

A fault either finds a target in the model it was given, or raises EDIT_NO_TARGET and says what the
model lacks; it never does nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from invarlock_guards.families import biases, blocks, norm_weights

from pytest_invarlock.edits.lowrank_svd import name_seed
from pytest_invarlock.edits.targets import limited_scope, scoped_matrices
from pytest_invarlock.errors import EditError

if TYPE_CHECKING:
    from invarlock_guards.families import WeightMatrix

ATTENTION_INPUTS = ("q", "k", "v", "qkv", "kv", "q_a", "q_b", "kv_a", "kv_b")
UP = ("up", "gate_up", "inner")
"""Roles that hold an up projection: alone, fused with the gate, or not to be told from the gate."""


def no_target(what: str, remedy: str = "choose a model that has it, or another fault") -> EditError:
    """The error of a fault that found nothing to strike; ``what`` completes "the model has"."""
    return EditError(f"the model has {what}", remedy=remedy, code="EDIT_NO_TARGET")


def matrices_with(
    model: torch.nn.Module,
    *,
    scope: str = "all",
    roles: Sequence[str] | None = None,
    layers: str | Sequence[int] | None = None,
) -> list[WeightMatrix]:
    """Block projections in ``scope`` whose role is among ``roles`` (None: any), in model order.

    Raises:
        EditError: there is none (EDIT_NO_TARGET), or no such block (EDIT_PARAMETERS).
    """
    found = [
        matrix
        for matrix in scoped_matrices(model, limited_scope(scope, layers))
        if roles is None or matrix.role in roles
    ]
    if not found:
        named = "/".join(roles) if roles else scope
        where = "" if layers is None else f" in layers {layers}"
        raise no_target(f"no {named} projection{where}")
    return found


def last_blocks(model: torch.nn.Module, count: int) -> list[int]:
    """The numbers of the model's last ``count`` blocks, fewer where it has fewer."""
    blocks = sorted({m.block for m in matrices_with(model) if m.block is not None})
    return blocks[-count:]


def picked(matrices: list[WeightMatrix], count: int, seed: int) -> list[WeightMatrix]:
    """``count`` of ``matrices`` in a seeded random order; all of them where there are fewer."""
    order = torch.randperm(len(matrices), generator=generator(seed)).tolist()
    return [matrices[index] for index in order[:count]]


def generator(seed: int, name: str = "") -> torch.Generator:
    """A CPU generator for ``seed`` and a tensor's ``name``: the same draw on every device."""
    return torch.Generator().manual_seed(name_seed(seed, name) if name else seed)


def normal_like(values: torch.Tensor, seed: int, name: str) -> torch.Tensor:
    """Standard normal numbers (float32) in the shape and on the device of ``values``."""
    drawn = torch.randn(values.shape, generator=generator(seed, name), dtype=torch.float32)
    return drawn.to(values.device)


def bias_names(model: torch.nn.Module) -> dict[str, str]:
    """The name of the bias that is added to each matrix's outputs, by the matrix's name."""
    return {bias.matrix: bias.name for bias in biases(model)}


def block_prefixes(model: torch.nn.Module) -> list[str]:
    """The path of each block in model order, such as ``model.layers.0``; encoders come first."""
    return [name for name, _ in blocks(model)]


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """A normalisation layer: its gain is ``offset + weight``, where Gemma's offset is 1, else 0."""

    name: str
    module: torch.nn.Module
    weight: torch.Tensor
    offset: float
    bias_name: str | None

    @property
    def gain(self) -> torch.Tensor:
        """What the normalised activations are multiplied by, ``(width,)``, float32."""
        return self.weight.detach().float() + self.offset


def norms(model: torch.nn.Module) -> list[Norm]:
    """The model's normalisation layers in model order; an error where there is none."""
    found = []
    for entry in norm_weights(model):
        module = model.get_submodule(entry.name.rpartition(".")[0])
        offset = _offset(module, entry.weight)
        found.append(Norm(entry.name, module, entry.weight, offset, entry.bias_name))
    if not found:
        raise no_target("no normalisation layer with a gain")
    return found


def _offset(module: torch.nn.Module, weight: torch.Tensor) -> float:
    """0 where a zero weight silences ``module``, 1 where it then merely normalises.

    Raises:
        EditError: ``module`` normalises with something besides its input, such as a gate.
    """
    try:
        inspect.signature(module.forward).bind(weight)
    except TypeError as error:
        raise no_target(
            f"a norm of unknown gain, {type(module).__name__}: its forward has a {error}"
        ) from error
    sample = torch.linspace(-1, 1, weight.numel(), device=weight.device, dtype=weight.dtype)
    zeroed = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    with torch.no_grad():
        out = torch.func.functional_call(module, zeroed, (sample.reshape(1, 1, -1),))
    return 1.0 if bool(out.abs().max() > 0) else 0.0
