"""Sub-layers of a model's blocks: each attention and feed-forward network, by roles and shapes.

What is said here needs no forward pass; which norm belongs to which sub-layer is seen in one, by
`invarlock_guards.measure.branches`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from invarlock_guards.families import all_weight_matrices, blocks

if TYPE_CHECKING:
    from invarlock_guards.families import Family, Role, Side, WeightMatrix

BranchKind = Literal["attention", "cross_attention", "feed_forward", "norm"]
Tokens = Literal["attention_mask", "decoder_attention_mask", "encoder_attention_mask"]

_FROM_STREAM = ("q", "qkv", "q_a")


@dataclass(frozen=True, slots=True)
class ProjectionSite:
    """A projection whose output is looked at: its module's name, its role, its tokens' mask."""

    module: str
    role: Role
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class SubLayer:
    """An attention or a feed-forward network of one block.

    Attributes:
        name: of the module that holds its matrices; where that holds others too, of its output.
        kind: what it is.
        family: the family of its matrices.
        block: index of its block, the encoder's counted first.
        stack: which stack the block is in, where there are two.
        inputs: modules whose first input enters it, the one that reads the residual stream first.
        output: the module that returns to the residual stream.
        projections: its projections that are called as modules; none of a list or stack of experts.
        matrices: names of all its parameters of two axes or more.
        tokens: the batch's key of the mask of its own tokens.
    """

    name: str
    kind: BranchKind
    family: Family
    block: int
    stack: Side | None
    inputs: tuple[str, ...]
    output: str
    projections: tuple[ProjectionSite, ...]
    matrices: tuple[str, ...]
    tokens: Tokens


def sublayers(model: torch.nn.Module) -> list[SubLayer]:
    """The sub-layers of every block of ``model``, in its order; empty where no role is known."""
    block_names = [name for name, _ in blocks(model)]
    by_block: dict[int, list[WeightMatrix]] = defaultdict(list)
    for matrix in all_weight_matrices(model):
        if matrix.block is not None:
            by_block[matrix.block].append(matrix)
    found: list[SubLayer] = []
    for index, matrices in sorted(by_block.items()):
        found += _attentions(model, matrices)
        found += _feed_forwards(model, block_names[index], matrices)
    return [_named_apart(layer, found) for layer in found]


def _named_apart(layer: SubLayer, layers: list[SubLayer]) -> SubLayer:
    """``layer``, named by its output where the module that holds it holds another one too."""
    shared = any(
        other is not layer and other.output.startswith(f"{layer.name}.") for other in layers
    )
    return replace(layer, name=layer.output) if shared else layer


def _attentions(model: torch.nn.Module, matrices: list[WeightMatrix]) -> list[SubLayer]:
    units: dict[str, list[WeightMatrix]] = defaultdict(list)
    outputs = []
    for matrix in matrices:
        if matrix.family == "attn" and matrix.role != "o":
            units[owner(module_of(matrix))].append(matrix)
        elif matrix.role == "o":
            outputs.append(matrix)
    found = []
    for unit, inputs in units.items():
        output = max(
            (o for o in outputs if o.cross == inputs[0].cross),
            key=lambda o: len(common_module([unit, module_of(o)])),
            default=None,
        )
        modules = [module_of(m) for m in inputs]
        # torch's own attention reads its matrices itself: there is no module to force or to read.
        if output is None or any(m.name.endswith("in_proj_weight") for m in inputs):
            continue
        # The second halves of low-rank queries, keys and values read what the first halves give.
        readers = [m for m in inputs if m.role not in ("q_b", "kv_b")]
        readers.sort(key=lambda m: m.role not in _FROM_STREAM)
        first = inputs[0]
        own = _own_tokens(first.stack)
        found.append(
            SubLayer(
                common_module([*modules, module_of(output)]),
                "cross_attention" if first.cross else "attention",
                "attn",
                _index(first),
                first.stack,
                tuple(dict.fromkeys(module_of(m) for m in readers)),
                module_of(output),
                tuple(
                    ProjectionSite(module_of(m), m.role, _tokens(m, own))
                    for m in [*inputs, output]
                    if _is_called(model, m)
                ),
                tuple(m.name for m in [*inputs, output]),
                own,
            )
        )
    return found


def _feed_forwards(
    model: torch.nn.Module, block: str, matrices: list[WeightMatrix]
) -> list[SubLayer]:
    ours = [m for m in matrices if m.family == "ffn" or m.role == "router"]
    networks: dict[str, list[WeightMatrix]] = defaultdict(list)
    plain = not any(_is_expert(m) for m in ours) and sum(m.role == "down" for m in ours) == 1
    for matrix in ours:
        # A dense network and one of experts may stand side by side in a block.
        part = "" if plain else matrix.name[len(block) + 1 :].partition(".")[0]
        networks[part].append(matrix)
    return [made for members in networks.values() if (made := _feed_forward(model, block, members))]


def _feed_forward(
    model: torch.nn.Module, block: str, members: list[WeightMatrix]
) -> SubLayer | None:
    downs = [m for m in members if m.role == "down"]
    if not downs:
        return None
    plain = len(downs) == 1 and not any(_is_expert(m) or m.role == "router" for m in members)
    modules = [module_of(m) for m in members]
    whole = common_module(modules)
    if not plain and whole == block:
        return None
    first = downs[0]
    own = _own_tokens(first.stack)
    entries = [module_of(m) for m in members if m.role not in ("down", "router")]
    return SubLayer(
        whole,
        "feed_forward",
        "ffn",
        _index(first),
        first.stack,
        tuple(entries) if plain else (whole,),
        module_of(first) if plain else whole,
        tuple(
            ProjectionSite(module_of(m), m.role, own)
            for m in members
            if not _is_expert(m) and m.role != "router" and _is_called(model, m)
        ),
        tuple(m.name for m in members),
        own,
    )


def _is_expert(matrix: WeightMatrix) -> bool:
    return matrix.expert is not None or matrix.weight.ndim == 3


def _is_called(model: torch.nn.Module, matrix: WeightMatrix) -> bool:
    """Whether the matrix is its module's whole weight, so that the module's output is its own."""
    return getattr(model.get_submodule(module_of(matrix)), "weight", None) is matrix.weight


def _index(matrix: WeightMatrix) -> int:
    assert matrix.block is not None  # noqa: S101 - only matrices of blocks are grouped
    return matrix.block


def _own_tokens(stack: Side | None) -> Tokens:
    return "decoder_attention_mask" if stack == "decoder" else "attention_mask"


def _tokens(matrix: WeightMatrix, own: Tokens) -> Tokens:
    if not matrix.cross or matrix.role in ("q", "q_a", "q_b", "o"):
        return own
    return "attention_mask" if matrix.stack == "decoder" else "encoder_attention_mask"


def module_of(matrix: WeightMatrix) -> str:
    """The name of the module that owns the parameter ``matrix``."""
    return matrix.name.rpartition(".")[0]


def owner(module: str) -> str:
    """The name of the module around ``module``."""
    return module.rpartition(".")[0]


def common_module(names: list[str]) -> str:
    """The name of the innermost module that holds all of ``names``, or is the only one."""
    parts = [name.split(".") for name in dict.fromkeys(names)]
    shared = []
    for pieces in zip(*parts, strict=False):
        if len(set(pieces)) > 1:
            break
        shared.append(pieces[0])
    return ".".join(shared)
