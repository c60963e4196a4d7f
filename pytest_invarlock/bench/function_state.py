"""What besides tensors and configuration decides what a model computes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import torch

from pytest_invarlock.bench.tensor_digest import tensor_digest
from pytest_invarlock.evidence.strict_json import digest

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def function_state(model: torch.nn.Module) -> str:
    """A digest of modes, hooks, replaced methods, numbers and buffers that no checkpoint holds.

    Equal before and after means that nobody switched a part to training, hung a hook on it, put
    another ``forward`` in its place, wrote to a buffer outside its state (rotary frequencies), or
    to a number beside its tensors; nor chose another attention, nor froze or freed a parameter.
    """
    return digest({part: read(model) for part, read in FUNCTION_PARTS.items()})


def _function(model: torch.nn.Module) -> str:
    kept = set(model.state_dict(keep_vars=True))
    return digest(
        {
            "modules": [
                [name, type(module).__name__, module.training, "forward" in vars(module)]
                + [len(getattr(module, hooks)) for hooks in _HOOKS]
                for name, module in model.named_modules()
            ],
            "buffers": {
                name: tensor_digest(buffer)
                for name, buffer in model.named_buffers()
                if name not in kept
            },
        }
    )


def _attention(model: torch.nn.Module) -> dict[str, Any]:
    configs = ((name, getattr(module, "config", None)) for name, module in model.named_modules())
    return {name: getattr(config, "_attn_implementation", None) for name, config in configs}


def _numbers(model: torch.nn.Module) -> dict[str, str]:
    """Numbers beside the tensors that decide what is computed, such as scales and epsilons."""
    return {
        f"{name}.{key}": repr(value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, float)
    }


FUNCTION_PARTS: Mapping[str, Callable[[torch.nn.Module], Any]] = {
    "a hook, a mode, a method or a buffer": _function,
    "its attention implementation": _attention,
    "a number of a module": _numbers,
    "requires_grad": lambda model: {n: p.requires_grad for n, p in model.named_parameters()},
}
"""What is read of a model for `function_state`, by what it says."""

_FUNCTIONS = (FunctionType, staticmethod, classmethod, property)
_AUTOCAST = ("cpu", "cuda")
_SETTINGS: Mapping[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "the determinism mode": (
        torch.get_deterministic_debug_mode,
        torch.set_deterministic_debug_mode,
    ),
    "autocast": (
        lambda: tuple(torch.is_autocast_enabled(device) for device in _AUTOCAST),
        lambda states: list(map(torch.set_autocast_enabled, _AUTOCAST, states)),
    ),
}


class ProcessState:
    """What of the whole process decides what ``model`` computes, to be put back.

    Settings of torch, hooks on all modules, the functions of the model's classes, and those of the
    Python modules that define them.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._settings = {name: read() for name, (read, _) in _SETTINGS.items()}
        self._hooks = {name: dict(hooks) for name, hooks in _global_hooks().items()}
        classes = {cls for part in model.modules() for cls in type(part).__mro__} - {object}
        homes = {sys.modules[cls.__module__] for cls in classes if cls.__module__ in sys.modules}
        self._classes = {cls: _functions(cls) for cls in classes}
        self._homes = {home: _functions(home) for home in homes}

    def put_back(self) -> list[str]:
        """Put back what is no longer as it was; what that is, in words, sorted."""
        found = set()
        for name, (read, write) in _SETTINGS.items():
            if read() != self._settings[name]:
                write(self._settings[name])
                found.add(name)
        for name, hooks in _global_hooks().items():
            kept = self._hooks[name]
            if dict(hooks) != kept:
                hooks.clear()
                hooks.update(kept)
                found.add("hooks on every module")
        for cls, functions in self._classes.items():
            for name in _functions(cls).keys() - functions.keys():
                delattr(cls, name)
                found.add(f"{cls.__name__}.{name}")
        # What a module gains is imported late; only what it had can be another's.
        owners: list[tuple[Any, dict[str, Any]]]
        owners = [*self._classes.items(), *self._homes.items()]
        for owner, functions in owners:
            for name, function in functions.items():
                if vars(owner).get(name) is not function:
                    setattr(owner, name, function)
                    found.add(f"{owner.__name__}.{name}")
        return sorted(found)


def _global_hooks() -> dict[str, dict[Any, Any]]:
    held = vars(torch.nn.modules.module)
    return {
        name: hooks
        for name, hooks in held.items()
        if name.startswith("_global_") and isinstance(hooks, dict)
    }


def _functions(owner: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(owner).items() if isinstance(value, _FUNCTIONS)}
