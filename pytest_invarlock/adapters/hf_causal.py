"""Adapter for decoder-only language models in Hugging Face format."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pytest_invarlock.adapters.hf_adapter import HF_Adapter
from pytest_invarlock.adapters.loaded_model import LoadedModel, context_length

if TYPE_CHECKING:
    from pytest_invarlock.data.window_set import Reading

__all__ = ["HF_Causal_Adapter", "HF_Causal_Auto_Adapter", "LoadedModel", "context_length"]


class HF_Causal_Adapter(HF_Adapter):  # noqa: N801  the public name, kept from the API this replaces
    """Loads models that read left to right and predict each next token, such as GPT-2 and Llama."""

    name = "hf_causal"
    reading: ClassVar[Reading] = "causal"


HF_Causal_Auto_Adapter = HF_Causal_Adapter
"""The same under the name the API this replaces has for it."""
