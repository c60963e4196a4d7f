"""What a model is, compared: a caller's model stays as it was while others' code runs near it."""

from __future__ import annotations

import copy
import enum
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch

from pytest_invarlock.bench.function_state import function_state
from pytest_invarlock.bench.tensor_digest import model_tensors, tensor_digest, tensor_digests
from pytest_invarlock.errors import EditError

_SCALARS = (bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device)
# What torch itself keeps of a module is compared as tensors and by `function_state`; a loader's
# mark of a tensor that it has filled says nothing of what is computed.
_NOT_ATTRIBUTES = {*vars(torch.nn.Module()), "_is_hf_initialized"}


@dataclass(frozen=True, slots=True, repr=False)
class ModelStructure:
    """All that a model is but the numbers of its tensors; equal for a model and its copy.

    ``form`` has shape, dtype and device of each tensor by name; ``ties`` the groups of names that
    are one tensor; ``function`` is its `function_state`; ``attributes`` has each module's class and
    plain attributes, configurations among them.
    """

    form: Mapping[str, tuple[Any, ...]]
    ties: frozenset[tuple[str, ...]]
    function: str
    attributes: Mapping[str, Any]

    @classmethod
    def of(cls, model: torch.nn.Module) -> ModelStructure:
        """Read it."""
        tensors = model_tensors(model)
        places: dict[tuple[Any, ...], list[str]] = {}
        for name, tensor in tensors.items():
            place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
            places.setdefault(place, []).append(name)
        return cls(
            form={n: (tuple(t.shape), t.dtype, t.device) for n, t in tensors.items()},
            ties=frozenset(tuple(names) for names in places.values()),
            function=function_state(model),
            attributes={name: _attributes(module) for name, module in model.named_modules()},
        )


@contextmanager
def confined(
    model: torch.nn.Module, digests: Mapping[str, str], who: str, *, restorable: bool
) -> Iterator[None]:
    """Run others' code that is not to change ``model``, and prove that it has not.

    Args:
        model: the caller's.
        digests: the digest of each of its tensors, from before.
        who: whose code it is, for the error.
        restorable: keep its tensors in main memory meanwhile, so that a change can be undone.

    Raises:
        EditError: ``EDIT_NOT_CONFINED``, also where the code itself raised; whether the model is
            again as it was is in the error, after proof.
    """
    structure = ModelStructure.of(model)
    kept = _Kept(model) if restorable else None

    def unchanged() -> bool:
        try:
            return ModelStructure.of(model) == structure and tensor_digests(model) == digests
        except RuntimeError:
            # A tensor that has no bytes to read any more (on the meta device) was changed.
            return False

    try:
        yield
    finally:
        if not unchanged():
            if kept is not None:
                kept.restore()
            restored = kept is not None and unchanged()
            raise EditError(
                f"{who} changed the model itself while the edit was prepared, not only a copy; "
                + ("it is again as it was" if restored else "the model is left changed"),
                remedy="mend it to change only what apply() is given"
                + ("" if restored else ", and load the model again"),
                code="EDIT_NOT_CONFINED",
            )


class _Kept:
    """A model's modules and tensors as they are now, to be put back into the same objects."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._modules = [(module, _shallow(vars(module))) for module in model.modules()]
        configs = {
            id(value): value
            for module in model.modules()
            for value in vars(module).values()
            if _is_config(value)
        }
        self._configs = [(config, copy.deepcopy(vars(config))) for config in configs.values()]
        tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
        # With its storage, which code may have put another in place of.
        self._tensors = [
            (tensor, tensor.data, tensor.detach().to("cpu", copy=True))
            for tensor in tensors.values()
        ]

    def restore(self) -> None:
        for module, kept in self._modules:
            vars(module).clear()
            vars(module).update(_shallow(kept))
        for config, kept in self._configs:
            vars(config).clear()
            vars(config).update(copy.deepcopy(kept))
        with torch.no_grad():
            for tensor, storage, bits in self._tensors:
                tensor.data = storage
                tensor.copy_(bits)


def _shallow(members: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: copy.copy(value) if isinstance(value, dict | list | set) else value
        for name, value in members.items()
    }


def _attributes(module: torch.nn.Module) -> dict[str, Any]:
    plain = {n: _plain(v) for n, v in vars(module).items() if n not in _NOT_ATTRIBUTES}
    return {"class": type(module), "forward": type(module).forward, **plain}


def _plain(value: Any) -> Any:
    """``value`` in a form that compares equal for equal values, though one is a copy."""
    if isinstance(value, torch.Tensor):
        return tensor_digest(value)
    if isinstance(value, Mapping):
        return {repr(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted(repr(item) for item in value)
    if isinstance(value, FunctionType | BuiltinFunctionType):
        return value
    if _is_config(value):
        return type(value), _plain(vars(value))
    return type(value), repr(value) if isinstance(value, _SCALARS) else None


def _is_config(value: Any) -> bool:
    # Not a class, whose members are no values.
    is_instance = hasattr(value, "__dict__") and not isinstance(value, type)
    return is_instance and callable(getattr(value, "to_dict", None))
