"""A model in memory with its tokenizer and identity, and how long a sequence it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from pytest_invarlock.adapters.model_source import ModelSource
    from pytest_invarlock.data.window_set import Reading

_LIMITS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_sequence_length",
    "max_encoder_position_embeddings",
    "max_decoder_position_embeddings",
)


@dataclass(slots=True, eq=False, repr=False)
class LoadedModel:
    """A model in memory with its tokenizer and identity.

    ``context`` is the greatest sequence length in tokens, or None where the architecture has no
    limit; ``checkpoint_digest`` is None for a model that did not come from files; ``unread`` names
    tensors of the checkpoint that the architecture has no place for; ``reading`` is how the model
    reads a window; ``adapter`` names the adapter that loaded it, never ``hf_auto``, which hands
    over to the others.
    """

    model: PreTrainedModel
    tokenizer: Any
    tokenizer_fingerprint: str | None
    context: int | None
    checkpoint_digest: str | None
    source: ModelSource | None = None
    unread: tuple[str, ...] = ()
    reading: Reading = "causal"
    adapter: str = "hf_causal"

    @property
    def device(self) -> torch.device:
        """Where the model's inputs go."""
        return next(self.model.parameters()).device

    @property
    def attention(self) -> str:
        """The attention implementation in use, such as ``sdpa``; ``unknown`` where none is told."""
        config = getattr(self.model, "config", None)
        name = getattr(config, "_attn_implementation", None)
        return name if isinstance(name, str) and name else "unknown"


def context_length(model: torch.nn.Module) -> int | None:
    """The greatest sequence length the model takes, in tokens, counting special tokens.

    It is the least of what the configuration and its parts (encoder, decoder, text) say and of
    what padded tables of positions leave. None where nothing limits it, as with the relative
    positions of T5, whose ``n_positions`` only tells the length it was trained on.
    """
    limits = [*_configured_limits(getattr(model, "config", None)), *_position_rows(model)]
    return min(limits, default=None)


def _configured_limits(config: Any) -> Iterator[int]:
    relative = hasattr(config, "relative_attention_num_buckets")
    for key in _LIMITS:
        value = getattr(config, key, None)
        if isinstance(value, int) and value > 1 and not (relative and key == "n_positions"):
            yield value
    parts = (getattr(config, name, None) for name in ("text_config", "encoder", "decoder"))
    for part in parts:
        if part is not None and part is not config:
            yield from _configured_limits(part)


def _position_rows(model: torch.nn.Module) -> Iterator[int]:
    for name, module in model.named_modules():
        table = isinstance(module, torch.nn.Embedding) and "position" in name.rpartition(".")[2]
        # RoBERTa's kin count positions from the padding row on: rows up to it hold none.
        if table and module.padding_idx is not None:
            yield module.num_embeddings - module.padding_idx - 1
