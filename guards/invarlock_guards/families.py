"""Roles of the weights of a transformer: what each matrix, norm and bias of a model is for.

A role is read from where a weight stands, from its shape and from the configuration; attribute
names, all in ``role_names``, decide what these leave open. What stays open has the role
``unknown`` in the family ``other``, and is listed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from invarlock_guards.attention_roles import attentions
from invarlock_guards.feed_forward_roles import FeedForwards
from invarlock_guards.outer_roles import OuterRoles
from invarlock_guards.projections import Found, is_norm
from invarlock_guards.role_names import FAMILIES, FAMILY_OF, Family, Role
from invarlock_guards.scopes import Scope, parse_scope
from invarlock_guards.stacks import Side, Stack, blocks, decoder_blocks, stacks, text_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "Bias",
    "Family",
    "FamilyRow",
    "NormWeight",
    "Role",
    "Scope",
    "Side",
    "WeightMatrix",
    "all_weight_matrices",
    "biases",
    "blocks",
    "decoder_blocks",
    "describe_families",
    "norm_weights",
    "parse_scope",
    "weight_matrices",
]


@dataclass(frozen=True, slots=True, eq=False)
class WeightMatrix:
    """A parameter of two axes or more, with its role.

    Attributes:
        name: in ``model.named_parameters()``.
        weight: (outputs, inputs), (inputs, outputs), or experts stacked before either.
        family: the family of ``role``.
        role: what the matrix is for; a tied head counts as the ``embedding``.
        block: index of its block, the encoder's blocks counted first; None outside the blocks.
        input_axis: negative axis of ``weight`` that meets the input; -2 for tables of rows, and
            -1, for want of a better one, where the role is ``unknown``.
        expert: index of the expert it belongs to, where experts are listed and not stacked.
        stack: which stack the block is in, where a model has an encoder and a decoder.
        cross: whether it belongs to the attention of a decoder to an encoder.
    """

    name: str
    weight: torch.nn.Parameter
    family: Family
    role: Role
    block: int | None
    input_axis: int
    expert: int | None = None
    stack: Side | None = None
    cross: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class NormWeight:
    """A norm's vectors, each of shape (features,).

    ``norm`` is the norm's name in its block, or in the model outside the blocks; ``bias_name`` and
    ``bias`` are None for a norm without one.
    """

    name: str
    weight: torch.nn.Parameter
    norm: str
    block: int | None
    stack: Side | None
    bias_name: str | None = None
    bias: torch.nn.Parameter | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Bias:
    """A projection's bias: (outputs,), or (experts, outputs); role and place are the matrix's.

    ``matrix`` is the name of the projection's own weight, which ``named_parameters`` omits where
    it is tied to an earlier one.
    """

    name: str
    bias: torch.nn.Parameter
    matrix: str
    family: Family
    role: Role
    block: int | None
    stack: Side | None


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """The weights of one role: ``count`` tensors of ``parameters`` numbers, one by name."""

    family: Family
    role: Role
    count: int
    parameters: int
    example: str


def weight_matrices(model: torch.nn.Module, scope: str | Scope = "all") -> Iterator[WeightMatrix]:
    """The projections of the blocks in ``scope``: attention and feed-forward network, experts too.

    Routers, embeddings, the head and what is unknown are never among them. Raises ValueError if
    ``scope`` cannot be read, or names a layer ``model`` does not have.
    """
    wanted = parse_scope(scope) if isinstance(scope, str) else scope
    wanted.check_depth(len(blocks(model)))
    return (
        matrix
        for matrix in all_weight_matrices(model)
        if matrix.family in ("ffn", "attn")
        and matrix.block is not None
        and wanted.holds(matrix.family, matrix.block)
    )


def all_weight_matrices(model: torch.nn.Module) -> Iterator[WeightMatrix]:
    """Every parameter of two axes or more, in the model's order; tied ones once, by storage."""
    standing = stacks(model)
    places = _Places(standing)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    roles = _roles(model, standing, parameters)
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, parameter in parameters.items():
        if name in roles:
            groups.setdefault(_storage(parameter), []).append(name)
    for names in groups.values():
        found = _first_of(names, roles)
        block, stack, _ = places.of(names[0])
        yield WeightMatrix(
            name=names[0],
            weight=parameters[names[0]],
            family=FAMILY_OF[found.role],
            role=found.role,
            block=block,
            input_axis=found.input_axis,
            expert=found.expert,
            stack=stack,
            cross=found.cross,
        )


def norm_weights(model: torch.nn.Module) -> Iterator[NormWeight]:
    """The weights of every norm, in the model's order, with its bias if it has one."""
    places = _Places(stacks(model))
    for name, module in model.named_modules():
        if not name or not is_norm(module):
            continue
        block, stack, norm = places.of(name)
        bias = (
            module.bias if isinstance(getattr(module, "bias", None), torch.nn.Parameter) else None
        )
        bias_name = None if bias is None else f"{name}.bias"
        weight = module.get_parameter("weight")
        yield NormWeight(f"{name}.weight", weight, norm, block, stack, bias_name, bias)


def biases(model: torch.nn.Module) -> Iterator[Bias]:
    """The biases of all projections, stacked experts among them; those of norms are not here."""
    standing = stacks(model)
    places = _Places(standing)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    modules = dict(model.named_modules(remove_duplicate=False))
    seen: set[int] = set()
    for matrix, found in _roles(model, standing, parameters).items():
        bias = _bias_of(modules, matrix)
        if bias is None or id(bias) in seen:
            continue
        seen.add(id(bias))
        block, stack, _ = places.of(matrix)
        yield Bias(names[id(bias)], bias, matrix, FAMILY_OF[found.role], found.role, block, stack)


def describe_families(model: torch.nn.Module) -> list[FamilyRow]:
    """One row for each role in ``model``, by family; stacked experts count as one tensor."""
    count: Counter[Role] = Counter()
    numbers: Counter[Role] = Counter()
    examples: dict[Role, str] = {}
    for matrix in all_weight_matrices(model):
        count[matrix.role] += 1
        numbers[matrix.role] += matrix.weight.numel()
        examples.setdefault(matrix.role, matrix.name)
    return [
        FamilyRow(family, role, count[role], numbers[role], examples[role])
        for family, roles in FAMILIES.items()
        for role in roles
        if count[role]
    ]


class _Places:
    """Where names stand: block index, stack, and what remains of the name inside the block."""

    def __init__(self, found: list[Stack]) -> None:
        members = [(stack.side, name) for stack in found for name, _ in stack.blocks]
        self._blocks = {name: (index, side) for index, (side, name) in enumerate(members)}

    def of(self, name: str) -> tuple[int | None, Side | None, str]:
        end = name.find(".")
        while end >= 0:
            if name[:end] in self._blocks:
                return *self._blocks[name[:end]], name[end + 1 :]
            end = name.find(".", end + 1)
        return None, None, name


def _roles(
    model: torch.nn.Module, standing: list[Stack], parameters: Mapping[str, torch.nn.Parameter]
) -> dict[str, Found]:
    """What is known of every matrix, by name; a tied matrix is there under each of its names."""
    outer = OuterRoles(model)
    places = _Places(standing)
    found: dict[str, Found] = {}
    for stack in standing:
        for name, block in stack.blocks:
            found |= _block_roles(name, block, model)
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, module in modules.items():
        weight = f"{name}.weight" if name else "weight"
        if isinstance(module, torch.nn.Embedding):
            found[weight] = outer.embedding(name, module)
        elif weight not in found and places.of(weight)[0] is None:
            told = outer.projection(name, module)
            if told is not None:
                found[weight] = told
    stacked_biases = {id(bias) for name in found if (bias := _bias_of(modules, name)) is not None}
    return {
        name: found.get(name, Found("unknown"))
        for name, parameter in parameters.items()
        if parameter.ndim > 1 and id(parameter) not in stacked_biases
    }


def _block_roles(name: str, block: torch.nn.Module, model: torch.nn.Module) -> dict[str, Found]:
    seen = attentions(name, block)
    width = seen.width or _width(block, model)
    if width is None:
        return seen.found
    networks = FeedForwards(width, set(seen.found), seen.units)
    networks.search(name, block)
    return seen.found | networks.found


def _width(block: torch.nn.Module, model: torch.nn.Module) -> int | None:
    """The width of the residual stream in a block without attention: its norm's, or configured."""
    # Norms deeper inside may normalise something narrower.
    for module in block.children():
        if is_norm(module):
            return module.get_parameter("weight").numel()
    width = getattr(text_config(model), "hidden_size", None)
    return width if isinstance(width, int) else None


def _bias_of(modules: Mapping[str, torch.nn.Module], matrix: str) -> torch.nn.Parameter | None:
    """The bias beside the parameter ``matrix``: ``bias`` for ``weight``, or ``…_bias``."""
    owner_name, _, own_name = matrix.rpartition(".")
    stem = own_name.removesuffix("weight")
    bias = getattr(
        modules[owner_name],
        f"{own_name}_bias" if stem == own_name else f"{stem}bias",
        None,
    )
    return bias if isinstance(bias, torch.nn.Parameter) else None


def _first_of(names: list[str], roles: dict[str, Found]) -> Found:
    """What a tied matrix is: the embedding if it is one, else the first role that is known."""
    candidates = [roles[name] for name in names]
    embedding = next((found for found in candidates if found.role == "embedding"), None)
    known = next((found for found in candidates if found.role != "unknown"), candidates[0])
    return embedding or known


def _storage(parameter: torch.nn.Parameter) -> tuple[object, ...]:
    pointer = parameter.data_ptr() if not parameter.is_meta else 0
    # Tensors without memory of their own, such as meta tensors, are told apart as objects.
    return (parameter.device, pointer, parameter.shape) if pointer else (id(parameter),)
