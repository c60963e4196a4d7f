"""Adapters: from a model reference to a loaded model and tokenizer that can be measured."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_invarlock.adapters.registry import BUILT_IN_ADAPTERS, adapter_named, adapter_names

if TYPE_CHECKING:
    from pytest_invarlock.adapters.hf_adapter import Adapter
    from pytest_invarlock.adapters.hf_auto import HF_Auto_Adapter
    from pytest_invarlock.adapters.hf_causal import HF_Causal_Adapter, HF_Causal_Auto_Adapter
    from pytest_invarlock.adapters.hf_mlm import HF_MLM_Adapter
    from pytest_invarlock.adapters.hf_seq2seq import HF_Seq2Seq_Adapter
    from pytest_invarlock.adapters.loaded_model import LoadedModel

# Imported on first use: they need torch.
_HOMES = {
    "Adapter": "pytest_invarlock.adapters.hf_adapter",
    "HF_Auto_Adapter": "pytest_invarlock.adapters.hf_auto",
    "HF_Causal_Adapter": "pytest_invarlock.adapters.hf_causal",
    "HF_Causal_Auto_Adapter": "pytest_invarlock.adapters.hf_causal",
    "HF_MLM_Adapter": "pytest_invarlock.adapters.hf_mlm",
    "HF_Seq2Seq_Adapter": "pytest_invarlock.adapters.hf_seq2seq",
    "LoadedModel": "pytest_invarlock.adapters.loaded_model",
}

__all__ = [
    "BUILT_IN_ADAPTERS",
    "Adapter",
    "HF_Auto_Adapter",
    "HF_Causal_Adapter",
    "HF_Causal_Auto_Adapter",
    "HF_MLM_Adapter",
    "HF_Seq2Seq_Adapter",
    "LoadedModel",
    "adapter_named",
    "adapter_names",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
