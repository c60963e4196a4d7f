"""Adapters: from a model reference to a loaded model and tokenizer that can be measured."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_invarlock.adapters.hf_causal import HF_Causal_Adapter, LoadedModel

_HOMES = {
    "HF_Causal_Adapter": "pytest_invarlock.adapters.hf_causal",
    "LoadedModel": "pytest_invarlock.adapters.hf_causal",
}

__all__ = ["HF_Causal_Adapter", "LoadedModel"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
