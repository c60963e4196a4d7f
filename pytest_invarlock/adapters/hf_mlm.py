"""Adapter for masked language models in Hugging Face format."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pytest_invarlock.adapters.hf_adapter import HF_Adapter

if TYPE_CHECKING:
    from pytest_invarlock.data.window_set import Reading


class HF_MLM_Adapter(HF_Adapter):  # noqa: N801  the public name, kept from the API this replaces
    """Loads models that read both ways and fill gaps, such as BERT; their head must be there."""

    name = "hf_mlm"
    reading: ClassVar[Reading] = "masked"
