"""Roles of the matrices of a block's feed-forward networks, its experts and their routers.

A feed-forward network is told by shape: two matrices from the residual stream to an inner width
and back, or three with a gate. Names decide only what shapes leave open.
"""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import torch

from invarlock_guards.projections import Found, Projection, projection_of
from invarlock_guards.role_names import DOWN, GATE_AND_UP, UP_AND_DOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from invarlock_guards.role_names import Role

_LISTS = (torch.nn.ModuleList, torch.nn.ModuleDict)


class FeedForwards:
    """Finds the feed-forward networks of one block; ``found`` is by parameter name.

    Args:
        width: of the residual stream.
        known: names of the parameters that other parts of the block explain.
        closed: names of modules to leave alone, such as attentions.
    """

    def __init__(self, width: int, known: set[str], closed: Sequence[str]) -> None:
        self.found: dict[str, Found] = {}
        self._width = width
        self._known = known
        self._closed = set(closed)
        self._block = ""
        # Per list that could be one of experts: the index in it and the parameters of each.
        self._lists: dict[str, list[tuple[int, list[str]]]] = {}
        self._stacked: dict[str, int] = {}

    def search(self, name: str, block: torch.nn.Module) -> None:
        """Explain what can be explained of ``block``, whose name in the model is ``name``."""
        self._block = name
        self._closed.discard(name)
        self._visit(name, block, None)
        modules = dict(block.named_modules(prefix=name, remove_duplicate=False))
        for experts, count in self._stacked.items():
            self._routers(experts, count, name, modules)
        for experts, members in self._lists.items():
            # Only a router of as many outputs makes a list one of experts.
            if self._routers(experts, len(list(modules[experts].children())), name, modules):
                for index, parameters in members:
                    for parameter in parameters:
                        before = self.found[parameter]
                        self.found[parameter] = Found(before.role, before.input_axis, expert=index)

    def _visit(
        self, name: str, module: torch.nn.Module, place: tuple[str, int] | None
    ) -> tuple[list[Projection], bool]:
        """The projections in ``module`` left unexplained, and whether other matrices are in it.

        The innermost module that holds exactly a network's matrices is that network. ``place`` is
        the nearest list around the module and the index in it.
        """
        if name in self._closed:
            return [], False
        projection = projection_of(name, module)
        if projection is not None:
            return ([] if projection.name in self._known else [projection]), False
        if self._stacked_experts(name, module):
            return [], False
        free: list[Projection] = []
        foreign = any(p.ndim > 1 for p in module.parameters(recurse=False))
        for index, (child_name, child) in enumerate(module.named_children()):
            inner = (name, index) if isinstance(module, _LISTS) else place
            more, others = self._visit(f"{name}.{child_name}", child, inner)
            free += more
            foreign |= others
        # A second pair loose in a block that has its network is something else: an adapter.
        odd = foreign or (name == self._block and bool(self.found))
        roles = None if odd else feed_forward(free, self._width)
        if roles is None:
            return free, foreign
        for projection, role in zip(free, roles, strict=True):
            self.found[projection.name] = Found(role, projection.input_axis)
        if place is not None:
            self._lists.setdefault(place[0], []).append((place[1], [p.name for p in free]))
        return [], False

    def _stacked_experts(self, name: str, module: torch.nn.Module) -> bool:
        """Explain ``module`` if its own parameters are a network's matrices, stacked."""
        stacked = {k: p for k, p in module.named_parameters(recurse=False) if p.ndim == 3}
        if len(stacked) not in (2, 3) or len({p.shape[0] for p in stacked.values()}) != 1:
            return False
        transposed = getattr(module, "is_transposed", None)
        axes = (-1, -2) if not isinstance(transposed, bool) else ((-2,) if transposed else (-1,))
        owner = name.rpartition(".")[2]
        answers = []
        for axis in axes:
            pieces = [
                Projection(f"{name}.{k}", k, owner, p.shape[axis], p.shape[-3 - axis], axis)
                for k, p in stacked.items()
            ]
            roles = feed_forward(pieces, self._width)
            if roles is not None:
                answers.append(list(zip(pieces, roles, strict=True)))
        # Square matrices fit either layout: then nothing is known.
        if len(answers) != 1:
            return False
        self.found.update({piece.name: Found(r, piece.input_axis) for piece, r in answers[0]})
        self._stacked[name] = next(iter(stacked.values())).shape[0]
        return True

    def _routers(
        self, experts: str, count: int, block_name: str, modules: dict[str, torch.nn.Module]
    ) -> bool:
        """Find what chooses among ``count`` experts: matrices beside them, one output for each.

        One with a single output beside such a router weighs the shared expert: a router too.
        """
        scope = experts
        while scope != block_name:
            scope = scope.rpartition(".")[0]
            free = {
                f"{scope}.{name}": parameter.shape[0]
                for name, parameter in modules[scope].named_parameters(remove_duplicate=False)
                if tuple(parameter.shape) in ((count, self._width), (1, self._width))
                and not f"{scope}.{name}".startswith(f"{experts}.")
            }
            free = {k: n for k, n in free.items() if k not in self._known | self.found.keys()}
            if count in free.values():
                self.found.update(dict.fromkeys(free, Found("router")))
                return True
        return False


def feed_forward(matrices: Sequence[Projection], width: int) -> list[Role] | None:
    """The roles of ``matrices``, in their order, if they are a network on a ``width`` stream.

    None if they are none, or if neither shapes nor names tell which is which.
    """
    if len(matrices) == 2:
        return _plain(matrices, width)
    return _gated(matrices, width) if len(matrices) == 3 else None


def _plain(matrices: Sequence[Projection], width: int) -> list[Role] | None:
    answers: list[tuple[Projection, Role, Projection]] = []
    for up, down in permutations(matrices):
        if up.inputs == width == down.outputs:
            if up.outputs == down.inputs:
                answers.append((up, "up", down))
            elif up.outputs == 2 * down.inputs:
                answers.append((up, "gate_up", down))
    if len(answers) > 1:
        answers = [a for a in answers if _named_so(a[0], a[2])]
    if len(answers) != 1:
        return None
    up, role, _ = answers[0]
    return [role if matrix is up else "down" for matrix in matrices]


def _named_so(up: Projection, down: Projection) -> bool:
    names = {(up.own_name, down.own_name), (up.owner, down.owner)}
    return not names.isdisjoint(UP_AND_DOWN)


def _gated(matrices: Sequence[Projection], width: int) -> list[Role] | None:
    downs = [
        down
        for down in matrices
        if down.outputs == width
        and all((m.inputs, m.outputs) == (width, down.inputs) for m in matrices if m is not down)
    ]
    if len(downs) > 1:
        downs = [down for down in downs if down.own_name in DOWN]
    if len(downs) != 1:
        return None
    first, second = (m for m in matrices if m is not downs[0])
    roles: dict[str, Role] = {downs[0].name: "down", first.name: "inner", second.name: "inner"}
    for gate, up in ((first, second), (second, first)):
        if (gate.own_name, up.own_name) in GATE_AND_UP:
            roles |= {gate.name: "gate", up.name: "up"}
    return [roles[m.name] for m in matrices]
