"""Roles of the matrices of a block's attentions.

An attention is a module that holds a query, a key and a value, or them fused; these are told by
name. Its output is told by shape: the one other matrix that returns to the residual stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from invarlock_guards.projections import Found, Projection, projection_of, projections_in
from invarlock_guards.role_names import ATTENTION_INPUTS, ATTENTION_OUTPUTS, CROSS_ATTENTIONS

if TYPE_CHECKING:
    from invarlock_guards.role_names import Role

_CONTAINERS = (torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.Sequential)
_COMPLETE: tuple[frozenset[Role], ...] = (
    frozenset({"q", "k", "v"}),
    frozenset({"qkv"}),
    frozenset({"q", "kv"}),
    frozenset({"q", "kv_a", "kv_b"}),
    frozenset({"q_a", "q_b", "kv_a", "kv_b"}),
)


@dataclass(slots=True)
class Attentions:
    """What a block's attentions explain.

    ``found`` is by parameter name, ``units`` names the modules that are attentions, ``width`` is
    the residual stream's (None without an attention).
    """

    found: dict[str, Found] = field(default_factory=dict)
    units: list[str] = field(default_factory=list)
    width: int | None = None


def attentions(block_name: str, block: torch.nn.Module) -> Attentions:
    """Find the attentions of ``block``, whose name in the model is ``block_name``."""
    modules = dict(block.named_modules(prefix=block_name, remove_duplicate=False))
    result = Attentions()
    units: dict[str, dict[str, tuple[Role, Projection]]] = {}
    for name, module in modules.items():
        inputs = _fused_in_torch(name, module) or _inputs(name, module)
        if inputs:
            units[name] = inputs
    result.units = list(units)
    for name, inputs in units.items():
        _explain(name, inputs, block_name, modules, result)
    return result


def _inputs(name: str, module: torch.nn.Module) -> dict[str, tuple[Role, Projection]]:
    """Query, key and value among the children of ``module``; empty unless they are all there."""
    named: list[tuple[Role, Projection]] = []
    for child_name, child in module.named_children():
        projection = projection_of(f"{name}.{child_name}", child)
        if projection is not None and child_name in ATTENTION_INPUTS:
            named.append((ATTENTION_INPUTS[child_name], projection))
    roles = {role for role, _ in named}
    if {"q", "qkv"} == roles:
        # A fused matrix beside a query holds only key and value: GPT-2's cross-attention.
        named = [("kv" if role == "qkv" else role, projection) for role, projection in named]
        roles = {"q", "kv"}
    if roles not in _COMPLETE or len(named) != len(roles):
        return {}
    return {projection.name: (role, projection) for role, projection in named}


def _fused_in_torch(name: str, module: torch.nn.Module) -> dict[str, tuple[Role, Projection]]:
    """The fused input of torch's own attention, which holds it as a bare parameter."""
    if not isinstance(module, torch.nn.MultiheadAttention) or module.in_proj_weight is None:
        return {}
    width = module.embed_dim
    parameter = f"{name}.in_proj_weight"
    fused = Projection(parameter, "in_proj_weight", name.rpartition(".")[2], width, 3 * width, -1)
    return {parameter: ("qkv", fused)}


def _explain(
    name: str,
    inputs: dict[str, tuple[Role, Projection]],
    block_name: str,
    modules: dict[str, torch.nn.Module],
    result: Attentions,
) -> None:
    """Put the matrices of the attention ``name`` into ``result``, where their shapes agree."""
    by_role = dict(inputs.values())
    first = by_role.get("q") or by_role.get("qkv") or by_role["q_a"]
    result.width = result.width or first.inputs
    taken = {*inputs, *result.found}
    output = None
    for level in _levels(name, block_name, modules, result.units):
        output = _output(level, modules[level], taken, by_role, first.inputs)
        if output is not None:
            break
        # What stands beside the output in the attention proper is not the output of a wider module.
        taken |= {projection.name for projection in projections_in(level, modules[level])}
    fused = by_role.get("qkv")
    if fused is not None and not _holds_three(fused, output):
        return
    cross = any(part in CROSS_ATTENTIONS for part in name[len(block_name) :].split("."))
    for parameter, (role, projection) in inputs.items():
        result.found[parameter] = Found(role, projection.input_axis, cross)
    if output is not None:
        result.found[output.name] = Found("o", output.input_axis, cross)


def _levels(
    name: str, block_name: str, modules: dict[str, torch.nn.Module], units: list[str]
) -> list[str]:
    """``name`` and the modules around it that hold no other attention; never the block itself."""
    levels = [name]
    while name != block_name:
        name = name.rpartition(".")[0]
        crowded = sum(unit == name or unit.startswith(f"{name}.") for unit in units) > 1
        if name == block_name or crowded or isinstance(modules[name], _CONTAINERS):
            break
        levels.append(name)
    return levels


def _output(
    name: str,
    module: torch.nn.Module,
    taken: set[str],
    inputs: dict[Role, Projection],
    width: int,
) -> Projection | None:
    """The one matrix in ``module`` that returns to ``width``; names decide only between several."""
    free = [p for p in projections_in(name, module) if p.name not in taken and p.outputs == width]
    if len(free) > 1 and "q" in inputs:
        free = [p for p in free if p.inputs == inputs["q"].outputs]
    if len(free) > 1:
        free = [p for p in free if p.own_name in ATTENTION_OUTPUTS]
    return free[0] if len(free) == 1 else None


def _holds_three(fused: Projection, output: Projection | None) -> bool:
    """Whether ``fused`` is as wide as the output's input plus a key and a value of equal width."""
    heads = fused.inputs if output is None else output.inputs
    rest = fused.outputs - heads
    return rest > 0 and rest % 2 == 0
