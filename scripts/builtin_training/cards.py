"""The README beside each model and the one beside the held-out text."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import transformers

from .heldout import HELDOUT_CHARS, Split
from .tokenizer import VOCABULARY
from .train import BATCH_TOKENS, HEADS, LAYERS, MAX_TOKENS, WEIGHT_DECAY, WIDTH, Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from .measure import EditRatio, Loss

KIND = {
    "llama": f"Llama-style (SwiGLU, RMSNorm, rotary positions, {HEADS} query heads on "
    f"{HEADS // 2} key-value heads)",
    "gpt2": f"GPT-2-style (GELU, LayerNorm, learned positions, {HEADS} heads, linears as Conv1D)",
}


@dataclass(frozen=True)
class Training:
    """How one model was made and what was measured on its exported weights."""

    name: str
    recipe: Recipe
    seconds: float
    n_parameters: int
    n_train_tokens: int
    weights_sha256: str
    model: Loss
    unigram: Loss
    ratios: tuple[EditRatio, ...]


def write_model_card(training: Training, folder: Path) -> None:
    """Write the model card as ``README.md`` into the model's folder."""
    (folder / "README.md").write_text(_model_card(training), encoding="ascii")


def _model_card(training: Training) -> str:
    recipe = training.recipe
    better = training.unigram.perplexity / training.model.perplexity
    edits = "\n".join(f"| {edit.edit} | {edit.ratio:.4f} |" for edit in training.ratios)
    command = (
        f"python scripts/train_builtin_models.py --only {training.name} "
        f"--steps {recipe.steps} --seed {recipe.seed} --threads {recipe.threads}"
    )
    return f"""# Built-in {training.name}

For testing the gate, and nothing else: a small real language model that a harmless edit leaves
alone and a harmful one damages, loaded from the package without a network.

## What it is

| | |
|---|---|
| architecture | {KIND[training.name]}, {LAYERS} layers, width {WIDTH}, tied embeddings |
| parameters | {training.n_parameters:,} |
| vocabulary | {VOCABULARY}, byte-level BPE trained on the training text |
| positions | {MAX_TOKENS} (trained on {MAX_TOKENS // 2} and {MAX_TOKENS} tokens) |
| weights | bf16; load with `dtype=torch.float32` to measure |
| SHA-256 of `model.safetensors` | `{training.weights_sha256}` |

## Measured

On every held-out document, in windows of {MAX_TOKENS // 2} tokens that stay within a document
({training.model.n_tokens:,} scored tokens), the bf16 weights loaded in float32:

| | |
|---|---|
| held-out perplexity | {training.model.perplexity:.2f} |
| unigram perplexity, same tokens | {training.unigram.perplexity:.1f} |
| unigram / model | {better:.1f} |

The unigram model is the add-one smoothed token counts of the training text.

| edit | perplexity ratio |
|---|---|
{edits}

## How to reproduce

    {command}

Seed {recipe.seed}, {recipe.steps} steps of {BATCH_TOKENS} tokens ({training.n_train_tokens:,}
training tokens), AdamW with peak rate {recipe.peak_rate} after {recipe.warmup_steps} warm-up
steps, cosine to a twentieth, weight decay {WEIGHT_DECAY}, no dropout. Made with CPython
{platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}
on {recipe.threads} CPU threads in {training.seconds:.0f} s. Another CPU, torch or thread count
sums in another order and gives other weights; another CPython carries other text.

## Limits

- One training run from one seed. It knows the prose of one software manual, in English; do not
  read answers from it.
- A perplexity here says nothing about another model. What an edit does to {training.n_parameters:,}
  parameters does not predict what it does to billions.
- Held-out and training text are from the same manual and share style, vocabulary and paragraphs
  of up to 30 characters.

## Licence

Weights and tokenizer: Apache-2.0. The text they were trained on: PSF-2.0, from CPython.
"""


def write_text_card(split: Split, digest: str, folder: Path) -> None:
    """Write where the held-out text is from as ``README.md`` into its folder."""
    arms = "\n".join(f"| {arm} | {count} |" for arm, count in split.arm_counts().items())
    text = f"""# Held-out text

{len(split.heldout)} documents which the built-in models were not trained on, taken from CPython
{platform.python_version()}: topics of `pydoc_data.topics` (the language reference as `help()`
shows it) and docstrings of the standard library's Python modules.

`heldout.jsonl.gz` holds one document a line, `{{"id", "arm", "text"}}`. `heldout.sha256` is the
digest of the uncompressed lines: `{digest}`.

| arm | documents |
|---|---|
{arms}

A document is a topic, a module's docstrings, or one class's docstrings in a long module. Those of
{HELDOUT_CHARS.start} to {HELDOUT_CHARS.stop - 1} characters, ordered by the SHA-256 of their id,
fill the arms in turn; everything else is trained on. No document is in two arms.

## Changes made to the text

- Only help topics and docstrings are taken; a file that states another copyright holder or terms
  of its own is left out, and so are packages developed outside CPython.
- Characters outside ASCII are replaced by their nearest ASCII form or dropped; trailing blanks
  and repeated blank lines are removed.
- A paragraph of more than 30 characters is kept in the first document that has it only, so no
  two documents, held out or trained on, share one.
- Indentation of docstrings is normalised, and their order is that of the source.

## Licence

PSF-2.0. Copyright (c) 2001, 2002, 2003, 2004, 2005, 2006, 2007, 2008, 2009, 2010, 2011, 2012,
2013, 2014, 2015, 2016, 2017, 2018, 2019, 2020, 2021, 2022, 2023 Python Software Foundation; All
Rights Reserved. The licence is `LICENSES/PSF-2.0.txt`.
"""
    (folder / "README.md").write_text(text, encoding="ascii")
