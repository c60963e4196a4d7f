"""One forward pass of a model with hooks on it that are always taken off again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

Batch = Mapping[str, Any]
"""Keyword arguments of one forward pass; tensors have the batch's windows as first axis.

Masks (``attention_mask``, ``decoder_attention_mask``, ``encoder_attention_mask``) are (windows,
length), 0 where a token is padding; without a mask every token counts.
"""
Before = Callable[[torch.Tensor], "torch.Tensor | None"]
After = Callable[[torch.Tensor], None]


class BranchError(ValueError):
    """A model, or its batches, whose branches cannot be recorded or compared; says why."""


@contextmanager
def quiet(model: torch.nn.Module) -> Iterator[None]:
    """``model`` without dropout and gradients; each module's mode is put back at the end."""
    training = [module for module in model.modules() if module.training]
    with torch.no_grad():
        try:
            for module in training:
                module.training = False
            yield
        finally:
            for module in training:
                module.training = True


def watched_forward(
    model: torch.nn.Module,
    batch: Batch,
    before: Mapping[str, Before],
    after: Mapping[str, After],
) -> Any:
    """Run ``model`` on ``batch`` and return what it returned.

    Args:
        model: its modules are named as in ``model.named_modules()``.
        batch: the keyword arguments.
        before: by module, what sees its first input and may return another in its place.
        after: by module, what sees its output (the first tensor, where there are several).

    Raises:
        BranchError: ``model`` lacks a named module.
    """
    with ExitStack() as hooks:
        for name, look in before.items():
            hook = _pre_hook(name, look)
            handle = _module(model, name).register_forward_pre_hook(hook, with_kwargs=True)
            hooks.callback(handle.remove)
        for name, see in after.items():
            handle = _module(model, name).register_forward_hook(_hook(name, see))
            hooks.callback(handle.remove)
        return model(**batch)


def _module(model: torch.nn.Module, name: str) -> torch.nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise BranchError(
            f"the subject has no module {name}, which the baseline has: compare models of one "
            "architecture"
        ) from error


def _pre_hook(name: str, look: Before) -> Callable[..., Any]:
    def hook(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args and isinstance(args[0], torch.Tensor):
            other = look(args[0])
            return None if other is None else ((other, *args[1:]), kwargs)
        for key, value in kwargs.items():
            if isinstance(value, torch.Tensor):
                other = look(value)
                return None if other is None else (args, {**kwargs, key: other})
        raise BranchError(f"{name} was called without a tensor")

    return hook


def _hook(name: str, see: After) -> Callable[..., None]:
    def hook(_module: torch.nn.Module, _args: Any, output: Any) -> None:
        # Attentions return their weights beside their output.
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        if not isinstance(first, torch.Tensor):
            raise BranchError(f"{name} returned no tensor")
        see(first)

    return hook


def n_windows(batch: Batch) -> int:
    """How many windows ``batch`` holds.

    Raises:
        BranchError: it holds no tensor.
    """
    for value in batch.values():
        if isinstance(value, torch.Tensor) and value.ndim:
            return int(value.shape[0])
    raise BranchError("a batch holds no tensor: give the keyword arguments of a forward pass")


def one_window(batch: Batch) -> dict[str, Any]:
    """The first window of ``batch`` alone."""
    count = n_windows(batch)
    return {
        key: value[:1]
        if isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == count
        else value
        for key, value in batch.items()
    }
