"""The README beside each small model of the test-suite."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import torch
import transformers

from .tokenizer import VOCABULARY
from .train import WEIGHT_DECAY

if TYPE_CHECKING:
    from pathlib import Path

    from .cards import Training
    from .small import SmallModel


def write(small: SmallModel, training: Training, folder: Path) -> None:
    """Write the model card as ``README.md`` into the model's folder."""
    (folder / "README.md").write_text(_card(small, training), encoding="ascii")


def _card(small: SmallModel, training: Training) -> str:
    recipe = training.recipe
    better = training.unigram.perplexity / training.model.perplexity
    command = (
        f"python scripts/train_builtin_models.py --only {training.name} "
        f"--steps {recipe.steps} --seed {recipe.seed} --threads {recipe.threads}"
    )
    return f"""# Small {training.name} of the test-suite

For the tests of this repository, and nothing else: a small real model of an architecture that the
package does not ship. It is loaded from here without a network and is no part of the wheel.

## What it is

| | |
|---|---|
| architecture | {small.kind} |
| parameters | {training.n_parameters:,} |
| vocabulary | the {VOCABULARY} of the built-in models, then the architecture's special tokens |
| weights | bf16; load with `dtype=torch.float32` to measure |
| SHA-256 of `model.safetensors` | `{training.weights_sha256}` |

## What it was trained to do

{small.task}

The text is what the built-in models are trained on, {training.n_train_tokens:,} tokens of
CPython's help topics and docstrings; the held-out text is the package's own, which shares no
document with it.

## Measured

The bf16 weights loaded in float32, on {small.scoring} ({training.model.n_tokens:,} scored tokens):

| | |
|---|---|
| held-out perplexity | {training.model.perplexity:.2f} |
| unigram perplexity, same tokens | {training.unigram.perplexity:.1f} |
| unigram / model | {better:.1f} |

The unigram model is the add-one smoothed token counts of the training text.

## How to reproduce

    {command}

Seed {recipe.seed}, {recipe.steps} steps, AdamW with peak rate {recipe.peak_rate} after
{recipe.warmup_steps} warm-up steps, cosine to a twentieth, weight decay {WEIGHT_DECAY}, no dropout.
Made with CPython {platform.python_version()}, torch {torch.__version__}, transformers
{transformers.__version__} on {recipe.threads} CPU threads in {training.seconds:.0f} s. Another CPU,
torch or thread count sums in another order and gives other weights; another CPython carries other
text.

## Limits

One training run from one seed, stopped long before it had learnt all it could. What it predicts is
better than token counts and no more; do not read answers from it.

{small.limit}

## Licence

Weights and tokenizer: Apache-2.0. The text they were trained on: PSF-2.0, from CPython.
"""
