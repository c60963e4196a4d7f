"""Adapter for encoder-decoder language models in Hugging Face format."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pytest_invarlock.adapters.hf_adapter import HF_Adapter

if TYPE_CHECKING:
    from pytest_invarlock.data.window_set import Reading


class HF_Seq2Seq_Adapter(HF_Adapter):  # noqa: N801  the public name, kept from the API this replaces
    """Loads models whose decoder answers what their encoder reads, such as T5 and BART."""

    name = "hf_seq2seq"
    reading: ClassVar[Reading] = "seq2seq"
