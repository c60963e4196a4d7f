"""Branches of a transformer: a sub-layer with its norms, and where the residual stream enters it.

Which norm belongs to which sub-layer, and whether it stands before it, behind it or behind the
addition to the residual stream, is seen in a forward pass over one window: by who reads whose
output. A norm that belongs to none, such as the last, is a branch of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from invarlock_guards.families import all_weight_matrices
from invarlock_guards.measure.sublayers import (
    BranchKind,
    ProjectionSite,
    SubLayer,
    Tokens,
    sublayers,
)
from invarlock_guards.measure.watched_forward import (
    Batch,
    one_window,
    quiet,
    watched_forward,
)
from invarlock_guards.projections import is_norm
from invarlock_guards.stacks import blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from invarlock_guards.families import Family, Side

# A sum of two tensors, recomputed from its parts in bfloat16, is off by less than this share.
_SAME_SUM = 0.02


@dataclass(frozen=True, slots=True)
class Branch:
    """A part of a model that reads the residual stream at known places.

    Attributes:
        name: of the module that holds the sub-layer, or of the norm.
        kind: ``attention``, ``cross_attention``, ``feed_forward``, or ``norm`` for a norm that is
            no sub-layer's.
        family: ``attn``, ``ffn`` or ``other``.
        block: index of its block, the encoder's counted first; None outside the blocks.
        stack: which stack the block is in, where there are two.
        norms: names of the norms that belong to it.
        entries: modules whose first input is the residual stream, or an encoder's output.
        outputs: modules whose outputs are the branch's: one, or, where a norm stands behind the
            addition, that norm too.
        projections: its projections that are called as modules.
        matrices: names of its parameters of two axes or more.
        tokens: the batch's key of the mask of its own tokens.
    """

    name: str
    kind: BranchKind
    family: Family
    block: int | None
    stack: Side | None
    norms: tuple[str, ...]
    entries: tuple[str, ...]
    outputs: tuple[str, ...]
    projections: tuple[ProjectionSite, ...]
    matrices: tuple[str, ...]
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class BranchPlan:
    """The branches of a model, and what of its blocks belongs to none.

    ``share`` is the share of the blocks' parameters of two axes or more that is in a branch;
    ``left_out`` names the others; ``reason`` says why there is no branch, and is None where there
    are some.
    """

    branches: tuple[Branch, ...]
    share: float
    left_out: tuple[str, ...]
    reason: str | None = None


def find_branches(model: torch.nn.Module, batch: Batch) -> BranchPlan:
    """The branches of ``model``, found with a forward pass over the first window of ``batch``.

    Raises:
        BranchError: ``batch`` holds no tensor.
    """
    found = sublayers(model)
    if not found:
        n_blocks = len(blocks(model))
        reason = (
            f"none of the {n_blocks} blocks has an attention or a feed-forward network whose "
            "matrices are known"
            if n_blocks
            else "the model repeats no block"
        )
        return BranchPlan((), 0.0, tuple(name for name, _ in _block_matrices(model)), reason)
    trace = _trace(model, found, batch)
    called = [
        layer
        for layer in found
        if layer.output in trace.outputs and layer.inputs[0] in trace.inputs
    ]
    wiring = _Wiring(trace, called, [name for name, _ in blocks(model)])
    branches = [wiring.branch(layer) for layer in called]
    branches += [_norm_branch(name, model) for name in wiring.free_norms()]
    branches.sort(key=lambda branch: trace.order[branch.entries[0]])
    covered = {name for branch in branches for name in branch.matrices}
    sizes = _block_matrices(model)
    total = sum(size for _, size in sizes)
    inside = sum(size for name, size in sizes if name in covered)
    left_out = tuple(name for name, _ in sizes if name not in covered)
    if not called:
        return BranchPlan((), 0.0, left_out, "no attention or feed-forward network was called")
    return BranchPlan(tuple(branches), inside / total, left_out)


def _block_matrices(model: torch.nn.Module) -> list[tuple[str, int]]:
    return [
        (m.name, m.weight.numel())
        for m in all_weight_matrices(model)
        if m.block is not None and m.family != "embed"
    ]


@dataclass(slots=True)
class _Trace:
    """First inputs and outputs of the watched modules, and the order of their first calls."""

    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)
    order: dict[str, int] = field(default_factory=dict)
    returned: dict[str, int] = field(default_factory=dict)
    norms: list[str] = field(default_factory=list)
    clock: int = 0

    def enter(self, name: str) -> Callable[[torch.Tensor], None]:
        def see(value: torch.Tensor) -> None:
            if name not in self.inputs:
                self.inputs[name] = value
                self.order[name] = self.clock
                self.clock += 1

        return see

    def leave(self, name: str) -> Callable[[torch.Tensor], None]:
        def see(value: torch.Tensor) -> None:
            if name not in self.outputs:
                # Some models add to what a module gave in place: a norm's is read by identity.
                self.outputs[name] = value if name in self.norms else value.clone()
                self.returned[name] = self.clock
                self.clock += 1

        return see


def _trace(model: torch.nn.Module, found: list[SubLayer], batch: Batch) -> _Trace:
    widths = _stream_widths(model, found)
    prefixes = tuple(f"{name}." for name, _ in blocks(model))
    trace = _Trace()
    # In a block, a norm of another width is inside a sub-layer: a head's.
    trace.norms = [
        name
        for name, module in model.named_modules()
        if name
        and is_norm(module)
        and (module.get_parameter("weight").numel() in widths or not name.startswith(prefixes))
    ]
    names = dict.fromkeys([n for layer in found for n in (*layer.inputs, layer.output)])
    watched = [*names, *(norm for norm in trace.norms if norm not in names)]
    with quiet(model):
        watched_forward(
            model,
            one_window(batch),
            {name: trace.enter(name) for name in watched},
            {name: trace.leave(name) for name in watched},
        )
    trace.norms = [norm for norm in trace.norms if norm in trace.outputs]
    return trace


def _stream_widths(model: torch.nn.Module, found: list[SubLayer]) -> set[int]:
    matrices = {m.name: m for m in all_weight_matrices(model)}
    widths = set()
    for layer in found:
        for matrix in map(matrices.__getitem__, layer.matrices):
            if matrix.role in ("o", "down"):
                widths.add(matrix.weight.shape[-3 - matrix.input_axis])
    return widths


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors that are alive share their memory, views of one included."""
    return one.data_ptr() == other.data_ptr() and one.numel() == other.numel()


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.numel() != other.numel():
        return False
    return torch.equal(one.reshape(-1), other.reshape(-1).to(one.dtype))


def _distance(total: torch.Tensor, part: torch.Tensor, rest: torch.Tensor) -> float:
    """‖total - part - rest‖ / ‖rest‖: 0 where ``total`` is the sum of the two."""
    if not total.numel() == part.numel() == rest.numel():
        return float("inf")
    a, b, c = (x.reshape(-1).float() for x in (total, part, rest))
    return float((a - b - c).norm() / c.norm().clamp_min(1e-30))


class _Wiring:
    """Which norms belong to which sub-layers."""

    def __init__(self, trace: _Trace, layers: list[SubLayer], block_names: list[str]) -> None:
        self._trace = trace
        self._blocks = block_names
        self._inner = {
            norm
            for norm in trace.norms
            for layer in layers
            if trace.order[layer.inputs[0]] < trace.order[norm] < trace.returned[layer.output]
            and norm not in layer.inputs
        }
        self._norms = [norm for norm in trace.norms if norm not in self._inner]
        self._before = {
            name: self._feeding(name, layer)
            for layer in layers
            for name in layer.inputs
            if name in trace.inputs
        }
        self._sandwich = {layer.output: self._reader(layer) for layer in layers}
        self._behind = {layer.output: self._post_norm(layer) for layer in layers}
        posts = {norm for norm in self._behind.values() if norm}
        # Behind the addition, a norm gives the residual stream itself: it is not before the next.
        self._before = {
            name: None if norm in posts else norm for name, norm in self._before.items()
        }
        self._used = {n for n in (*self._before.values(), *self._sandwich.values()) if n} | posts

    def branch(self, layer: SubLayer) -> Branch:
        before = {name: self._before.get(name) for name in layer.inputs}
        read = [name for name in layer.inputs if name in self._trace.inputs]
        entries = dict.fromkeys(before[name] or name for name in read)
        sandwich = self._sandwich[layer.output]
        behind = self._behind[layer.output]
        outputs = [sandwich or layer.output]
        if behind is not None:
            entries[behind] = None
            outputs.append(behind)
        norms = dict.fromkeys(n for n in (*before.values(), sandwich, behind) if n is not None)
        return Branch(
            layer.name, layer.kind, layer.family, layer.block, layer.stack, tuple(norms),
            tuple(entries), tuple(outputs), layer.projections, layer.matrices, layer.tokens,
        )  # fmt: skip

    def free_norms(self) -> list[str]:
        """Norms on the residual stream that belong to no sub-layer."""
        return [norm for norm in self._norms if norm not in self._used]

    def _beside(self, layer: SubLayer) -> list[str]:
        """The norms in the sub-layer's block: an embedding's or an encoder's last is not its."""
        return [norm for norm in self._norms if norm.startswith(f"{self._blocks[layer.block]}.")]

    def _feeding(self, name: str, layer: SubLayer) -> str | None:
        """The norm whose output the module ``name`` of ``layer`` reads."""
        trace = self._trace
        value = trace.inputs[name]
        earlier = [n for n in self._beside(layer) if trace.order[n] < trace.order[name]]
        earlier.sort(key=trace.order.__getitem__, reverse=True)
        for alike in (_same, _equal):
            for norm in earlier:
                if alike(trace.outputs[norm], value):
                    return norm
        return None

    def _reader(self, layer: SubLayer) -> str | None:
        """The norm that reads the sub-layer's output alone."""
        later = self._later_norms(layer)
        if not later:
            return None
        return later[0] if _equal(self._trace.inputs[later[0]], self._value(layer)) else None

    def _post_norm(self, layer: SubLayer) -> str | None:
        """The norm that reads the sum of what entered the sub-layer and what it gave."""
        trace = self._trace
        first = layer.inputs[0]
        later = self._later_norms(layer)
        if not later or first not in trace.inputs or self._sandwich[layer.output]:
            return None
        total = trace.inputs[later[0]]
        off = _distance(total, self._value(layer), trace.inputs[first])
        before = self._before[first]
        if before is not None:
            # With a norm in front, the stream is what entered that norm, if that fits better.
            other = _distance(total, self._value(layer), trace.inputs[before])
            if other <= off:
                return None
        return later[0] if off < _SAME_SUM else None

    def _value(self, layer: SubLayer) -> torch.Tensor:
        return self._trace.outputs[layer.output]

    def _later_norms(self, layer: SubLayer) -> list[str]:
        trace = self._trace
        done = trace.returned[layer.output]
        later = [norm for norm in self._beside(layer) if trace.order[norm] > done]
        return sorted(later, key=trace.order.__getitem__)


def _norm_branch(name: str, model: torch.nn.Module) -> Branch:
    index = next(
        (i for i, (block, _) in enumerate(blocks(model)) if name.startswith(f"{block}.")), None
    )
    side: Side | None = None
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        side = "decoder" if "decoder" in name.split(".") else "encoder"
    tokens: Tokens = "decoder_attention_mask" if side == "decoder" else "attention_mask"
    return Branch(name, "norm", "other", index, side, (name,), (name,), (name,), (), (), tokens)


def matrices_by_branch(plan: BranchPlan) -> Mapping[str, str]:
    """The branch of each matrix in ``plan``, by the matrix's parameter name."""
    return {name: branch.name for branch in plan.branches for name in branch.matrices}
