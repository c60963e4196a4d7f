"""Perplexity of a shipped model, of unigram counts on the same tokens, and after known edits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .tokenizer import VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

WINDOW_TOKENS = 128
BATCH_WINDOWS = 32


@dataclass(frozen=True)
class Loss:
    """Summed negative log-likelihood in nats, and how many tokens it sums over."""

    nats: float
    n_tokens: int

    @property
    def perplexity(self) -> float:
        """Exponential of the mean loss per token."""
        return math.exp(self.nats / self.n_tokens)


@dataclass(frozen=True)
class EditRatio:
    """Perplexity after an edit of the weights over the perplexity before it.

    Attributes:
        edit: what was done, in words.
        ratio: after / before, on the same tokens.
        low: the ratio is as it should be at or above this.
        high: and at or below this.
    """

    edit: str
    ratio: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether the ratio lies where this edit should put it."""
        return self.low <= self.ratio <= self.high


def load(folder: Path) -> PreTrainedModel:
    """The exported model with its bf16 weights widened to float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def windows(folder: Path, texts: Sequence[str]) -> list[torch.Tensor]:
    """Cut each text into windows of at most ``WINDOW_TOKENS`` tokens, none across two texts.

    Returns:
        ``(n,)`` int64 tensors with 2 <= n <= ``WINDOW_TOKENS``; a first token is context only.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    cut = [
        torch.tensor(tokens[start : start + WINDOW_TOKENS])
        for text in texts
        for tokens in [tokenizer.encode(text, add_special_tokens=False, verbose=False)]
        for start in range(0, len(tokens), WINDOW_TOKENS)
    ]
    return [window for window in cut if len(window) > 1]


def full_windows(folder: Path, texts: Sequence[str], length: int) -> torch.Tensor:
    """Every window of exactly ``length`` text tokens within a text, ``(n_windows, length)``."""
    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encoded = loaded(list(texts), add_special_tokens=False, verbose=False).input_ids
    return torch.tensor(
        [
            tokens[start : start + length]
            for tokens in encoded
            for start in range(0, len(tokens) - length + 1, length)
        ]
    )


@torch.inference_mode()
def model_loss(model: PreTrainedModel, cut: Sequence[torch.Tensor]) -> Loss:
    """Loss of every token but the first of each window."""
    nats, n_tokens = 0.0, 0
    for start in range(0, len(cut), BATCH_WINDOWS):
        batch = cut[start : start + BATCH_WINDOWS]
        # Padding stands after the text, where a causal model cannot see it, and is not scored.
        tokens = torch.nn.utils.rnn.pad_sequence(list(batch), batch_first=True, padding_value=-100)
        inputs = tokens.clamp(min=0)
        logits = model(
            input_ids=inputs, attention_mask=(tokens >= 0).long(), use_cache=False
        ).logits
        targets = tokens[:, 1:].flatten()
        summed = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), targets, ignore_index=-100, reduction="sum"
        )
        nats += summed.item()
        n_tokens += int((targets >= 0).sum())
    return Loss(nats, n_tokens)


def unigram_loss(train_tokens: torch.Tensor, cut: Sequence[torch.Tensor]) -> Loss:
    """Loss of the tokens that :func:`model_loss` scores, under counts of ``train_tokens``."""
    return count_loss(train_tokens, torch.cat([window[1:] for window in cut]))


def count_loss(train_tokens: torch.Tensor, scored: torch.Tensor) -> Loss:
    """Loss of ``scored`` under add-one smoothed counts of ``train_tokens``, both ``(n,)`` int64."""
    counts = torch.bincount(train_tokens, minlength=VOCABULARY).double() + 1
    log_probabilities = (counts / counts.sum()).log()
    return Loss(-log_probabilities[scored].sum().item(), len(scored))


def edit_ratios(folder: Path, cut: Sequence[torch.Tensor]) -> list[EditRatio]:
    """What harmless and harmful edits do to the shipped model, with where each should land."""
    before = model_loss(load(folder), cut).perplexity

    def after(edit: Callable[[torch.Tensor], torch.Tensor], part: str = "") -> float:
        model = load(folder)
        for weight in _block_weights(model, part):
            weight.copy_(edit(weight))
        return model_loss(model, cut).perplexity / before

    eight_bits = after(lambda w: round_to_nearest(w, 8))
    four_bits = after(lambda w: round_to_nearest(w, 4, 32), "mlp")
    pruned = after(lambda w: prune(w, 0.7))
    return [
        EditRatio("8-bit RTN per channel, all", eight_bits, 0.995, 1.005),
        EditRatio("4-bit RTN group 32, FFN", four_bits, 0.97, 1.03),
        EditRatio("prune 70 % by magnitude, all", pruned, 1.4, math.inf),
    ]


def _block_weights(model: PreTrainedModel, part: str) -> Iterator[torch.Tensor]:
    """Views ``(out, in)`` of the blocks' linear weights whose module name contains ``part``."""
    for name, module in model.named_modules():
        if part not in name or name == "lm_head":
            continue
        if isinstance(module, torch.nn.Linear):
            yield module.weight.data
        elif isinstance(module, Conv1D):
            # GPT-2 stores its linears transposed.
            yield module.weight.data.T


def round_to_nearest(weight: torch.Tensor, bits: int, group: int | None = None) -> torch.Tensor:
    """Symmetric quantise-dequantise of ``(out, in)``, one scale per ``group`` inputs or per row."""
    grouped = weight.reshape(weight.shape[0], -1, group or weight.shape[1])
    limit = 2 ** (bits - 1) - 1
    scale = grouped.abs().amax(-1, keepdim=True).clamp(min=1e-12) / limit
    steps = (grouped / scale).round().clamp(-limit - 1, limit)
    return torch.mul(steps, scale).reshape(weight.shape)


def prune(weight: torch.Tensor, share: float) -> torch.Tensor:
    """Zero the ``share`` of the entries that are smallest in magnitude."""
    threshold = weight.abs().flatten().kthvalue(int(share * weight.numel())).values
    return torch.where(weight.abs() > threshold, weight, 0.0)
