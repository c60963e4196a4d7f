"""Adapter that takes each checkpoint for what its ``config.json`` says it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_invarlock.adapters.hf_adapter import HF_Adapter
from pytest_invarlock.adapters.readings import likeliest_reading

if TYPE_CHECKING:
    from pytest_invarlock.data.window_set import Reading


class HF_Auto_Adapter(HF_Adapter):  # noqa: N801  the public name, kept from the API this replaces
    """Loads causal, masked and encoder-decoder language models; `LoadedModel.adapter` says as what.

    The loaded model is the same, to the bit, as that of the adapter it names.
    """

    name = "hf_auto"

    def reading_of(self, config: Any, reference: str) -> Reading:
        """The likeliest reading of ``config``; raises AdapterError where it has no head for any."""
        return likeliest_reading(config, reference)
