"""Edits: changes people make to a model on purpose, applied in place through a journal."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_invarlock.edits.registry import apply_edit
    from pytest_invarlock.edits.rtn_quant_edit import RTNQuantEdit

__all__ = ["RTNQuantEdit", "apply_edit"]

# The registry names the faults too, and they build on modules of this package: imported eagerly,
# each would wait for the other.
_HOMES = {"RTNQuantEdit": "rtn_quant_edit", "apply_edit": "registry"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
