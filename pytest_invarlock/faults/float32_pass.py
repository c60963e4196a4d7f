"""A forward pass in float32 of a model stored in half precision, one block at a time.

Rounding in half precision hides errors of some percent: whether a rewrite leaves the function as it
was can be told only in a wider type. A wide copy of the whole model would need twice its memory;
here each block is widened while it runs. What stands outside the blocks (embeddings, head) is wide
throughout: both together, and one block, are the memory this needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from invarlock_guards.families import blocks

from pytest_invarlock.core.determinism import ieee_float32
from pytest_invarlock.errors import EditError
from pytest_invarlock.faults.rewrite import Rewrite, wide


@contextmanager
def float32_pass(model: torch.nn.Module, rewrite: Rewrite | None = None) -> Iterator[None]:
    """Run ``model`` in float32 inside, with ``rewrite`` applied; nothing of it stays.

    Matrix products are in full float32, whatever a determinism mode allows. A float64 model stays
    in float64.

    Raises:
        EditError: the pass did not run a block with a rewritten tensor (CONTROL_NOT_RUN).
    """
    inner = list({id(block): block for _, block in blocks(model)}.values())
    outer = _outside(model, inner)
    widened = _Widened(rewrite)
    with ExitStack() as stack:
        stack.enter_context(ieee_float32())
        stack.callback(widened.restore)
        widened.widen(outer)
        kept = {id(tensor) for tensor in outer}
        for block in inner:
            own = [tensor for tensor in _tensors(block) if id(tensor) not in kept]
            before, after = _hooks(widened, own)
            stack.callback(block.register_forward_pre_hook(before).remove)
            stack.callback(block.register_forward_hook(after).remove)
        yield
    unmet = sorted(set(rewrite.names if rewrite is not None else ()) - widened.met)
    if unmet:
        raise EditError(
            f"the model computes without {unmet[0]}: nothing shows a rewrite of it to be harmless",
            remedy="choose another control, or other layers",
            code="CONTROL_NOT_RUN",
        )


class _Widened:
    """Tensors whose data are replaced by wide ones for a while, and how to put them back."""

    def __init__(self, rewrite: Rewrite | None) -> None:
        self.met: set[str] = set()
        self._stored: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._rewrite = rewrite
        self._names = (
            {_place(rewrite.model.get_parameter(name)): name for name in rewrite.names}
            if rewrite is not None
            else {}
        )

    def widen(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            if id(tensor) in self._stored:
                continue
            name = self._names.get(_place(tensor))
            if name is not None and self._rewrite is not None:
                self.met.add(name)
                value = self._rewrite.value(name)
            else:
                value = wide(tensor.data)
            self._stored[id(tensor)] = (tensor, tensor.data)
            tensor.data = value

    def restore(self, tensors: Iterable[torch.Tensor] | None = None) -> None:
        ids = list(self._stored) if tensors is None else [id(tensor) for tensor in tensors]
        for each in ids:
            if each in self._stored:
                tensor, stored = self._stored.pop(each)
                tensor.data = stored


def _hooks(
    widened: _Widened, tensors: list[torch.Tensor]
) -> tuple[Callable[..., None], Callable[..., None]]:
    def before(_module: torch.nn.Module, _args: Any) -> None:
        widened.widen(tensors)

    def after(_module: torch.nn.Module, _args: Any, _output: Any) -> None:
        widened.restore(tensors)

    return before, after


def _tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _outside(model: torch.nn.Module, inner: list[torch.nn.Module]) -> list[torch.Tensor]:
    """Parameters and buffers of modules that are in no block, those shared with one among them."""
    within = {id(module) for block in inner for module in block.modules()}
    found = {
        id(tensor): tensor
        for module in model.modules()
        if id(module) not in within
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    }
    return list(found.values())


def _place(tensor: torch.Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride())
