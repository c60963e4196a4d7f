"""Which matrices read a norm's output: seen in one forward pass, not guessed from names."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from invarlock_guards.families import all_weight_matrices

from pytest_invarlock.faults.float32_pass import float32_pass
from pytest_invarlock.faults.function_probe import probe_logits

if TYPE_CHECKING:
    from invarlock_guards.families import WeightMatrix

    from pytest_invarlock.faults.targets import Norm

NOT_FOLDED = frozenset({"head", "embedding", "position", "segment", "unknown"})


def block_readers(
    model: torch.nn.Module, norms: list[Norm]
) -> list[tuple[Norm, list[WeightMatrix]]]:
    """Each norm whose output is read by projections of blocks (routers too) and nothing else.

    A reader is a module that is handed the very tensor a norm returned, or a view of it. A norm
    that the head reads is left out, since a tied head is the embedding, and so is one that a
    matrix of unknown role reads.
    """
    seen = _Trace()
    owners: dict[str, list[WeightMatrix]] = {}
    for matrix in all_weight_matrices(model):
        owners.setdefault(_owner(matrix), []).append(matrix)
    with ExitStack() as hooks:
        for norm in norms:
            hooks.callback(norm.module.register_forward_hook(seen.returned(norm)).remove)
        for name in owners:
            module = model.get_submodule(name)
            hooks.callback(
                module.register_forward_pre_hook(seen.received(name), with_kwargs=True).remove
            )
        # In half precision some modules read a widened copy, which is another tensor.
        hooks.enter_context(float32_pass(model))
        probe_logits(model)
    found = []
    for norm in norms:
        matrices = [
            matrix
            for name in seen.readers.get(norm.name, ())
            for matrix in owners[name]
            # A module of stacked experts owns down projections too, which read what is inside.
            if not (matrix.role == "down" and len(owners[name]) > 1)
        ]
        if matrices and not any(m.role in NOT_FOLDED for m in matrices):
            found.append((norm, matrices))
    return found


def _owner(matrix: WeightMatrix) -> str:
    return matrix.name.rpartition(".")[0]


class _Trace:
    """Remembers what norms returned, and which modules received it."""

    def __init__(self) -> None:
        self.readers: dict[str, dict[str, None]] = {}
        self._norm_of: dict[int, str] = {}
        # Held so that no later tensor gets the address of an earlier one.
        self._held: list[torch.Tensor] = []

    def returned(self, norm: Norm) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                self._held.append(output)
                self._norm_of[output.untyped_storage().data_ptr()] = norm.name

        return hook

    def received(self, name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, args: Any, kwargs: Any) -> None:
            for value in (*args, *kwargs.values()):
                if isinstance(value, torch.Tensor):
                    norm = self._norm_of.get(value.untyped_storage().data_ptr())
                    if norm is not None:
                        self.readers.setdefault(norm, {})[name] = None

        return hook
