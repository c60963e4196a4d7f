"""The two shipped architectures, and the loop by which every model here is trained."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from .tokenizer import END_OF_TEXT_ID, VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_TOKENS = 256
WIDTH = 128
LAYERS = 4
HEADS = 4
BATCH_TOKENS = 1024
CLIP_NORM = 1.0
WEIGHT_DECAY = 0.1


@dataclass(frozen=True)
class Recipe:
    """What fixes a training run, up to the order of floating-point sums.

    Attributes:
        steps: optimiser steps of ``BATCH_TOKENS`` tokens each.
        seed: seeds the initial weights and the choice of sequences.
        threads: torch threads; another number sums in another order.
        peak_rate: learning rate after the warm-up; a cosine takes it to a twentieth.
        warmup_steps: steps of linear warm-up.
    """

    steps: int
    seed: int
    threads: int
    peak_rate: float = 3e-3
    warmup_steps: int = 100


def build_llama() -> PreTrainedModel:
    """Llama-style: SwiGLU, RMSNorm, rotary positions, 4 query heads on 2 key-value heads, tied."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=320,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=END_OF_TEXT_ID,
        eos_token_id=END_OF_TEXT_ID,
    )
    return LlamaForCausalLM(config)


def build_gpt2() -> PreTrainedModel:
    """GPT-2-style: GELU, LayerNorm, learned positions, linears stored as Conv1D, tied."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=MAX_TOKENS,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=True,
        bos_token_id=END_OF_TEXT_ID,
        eos_token_id=END_OF_TEXT_ID,
    )
    return GPT2LMHeadModel(config)


BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {"llama": build_llama, "gpt2": build_gpt2}


def train(
    name: str,
    tokens: torch.Tensor,
    recipe: Recipe,
    builders: Mapping[str, Callable[[], PreTrainedModel]] = BUILDERS,
) -> tuple[PreTrainedModel, float]:
    """Train one of ``builders`` from its seed.

    Args:
        name: key of ``builders``.
        tokens: ``(n_tokens,)`` int64, the training documents joined by end-of-text.
        recipe: steps, seed and rates.
        builders: make the models, by name; the shipped ones' by default.

    Returns:
        The model in float32 and evaluation mode, and the seconds the steps took.
    """
    return run(name, builders[name], lambda model, step: _loss(model, _batch(tokens, step)), recipe)


def run(
    name: str,
    build: Callable[[], PreTrainedModel],
    loss_at: Callable[[PreTrainedModel, int], torch.Tensor],
    recipe: Recipe,
) -> tuple[PreTrainedModel, float]:
    """Build a model from the recipe's seed and take the recipe's steps down ``loss_at``.

    Args:
        name: what to print the progress under.
        build: makes the model, with weights from torch's generator.
        loss_at: the scalar loss of the model on the batch of a step, counted from 0.
        recipe: steps, seed and rates.

    Returns:
        The model in float32 and evaluation mode, and the seconds the steps took.
    """
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    model = build()
    model.train()
    optimizer = _optimizer(model)
    start = time.perf_counter()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, recipe)
        loss = loss_at(model, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        if step % 250 == 0 or step == recipe.steps - 1:
            seconds = time.perf_counter() - start
            print(f"{name} step {step} loss {loss.item():.3f} at {seconds:.0f} s", flush=True)
    seconds = time.perf_counter() - start
    model.eval()  # type: ignore[no-untyped-call]
    return model, seconds


def _optimizer(model: PreTrainedModel) -> torch.optim.AdamW:
    """AdamW; biases and norms, the one-dimensional parameters, are not decayed."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)


def _rate(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup_steps:
        return recipe.peak_rate * (step + 1) / recipe.warmup_steps
    share = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.peak_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))


def _batch(tokens: torch.Tensor, step: int) -> torch.Tensor:
    """Random sequences: 8 of 128 tokens, at every fourth step 4 of 256 for the later positions."""
    length = MAX_TOKENS if step % 4 == 3 else MAX_TOKENS // 2
    return sequences(tokens, BATCH_TOKENS // length, length)


def sequences(tokens: torch.Tensor, count: int, length: int) -> torch.Tensor:
    """``(count, length)`` int64 cut from random places of the stream ``tokens`` ``(n_tokens,)``."""
    starts = torch.randint(len(tokens) - length, (count, 1))
    return tokens[starts + torch.arange(length)]


def _loss(model: PreTrainedModel, batch: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
