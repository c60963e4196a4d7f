"""A small T5: continues half a window of text with the other half."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, processors
from transformers import (
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from . import measure, tokenizer
from .small import SmallModel
from .tokenizer import VOCABULARY
from .train import sequences

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PAD, END = "<pad>", "</s>"
PAD_ID, END_ID = VOCABULARY, VOCABULARY + 1
HALF_TOKENS = 64
BATCH_WINDOWS = 8
# Steps at which it can copy make the encoder worth a little more to the decoder, if not much.
OVERLAP_SHARE = 0.4


def build() -> PreTrainedModel:
    """T5 with two layers on either side, tied embeddings, the decoder started by padding."""
    config = T5Config(
        vocab_size=VOCABULARY + 2,
        d_model=128,
        d_kv=32,
        d_ff=384,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        dropout_rate=0.0,
        pad_token_id=PAD_ID,
        eos_token_id=END_ID,
    )
    config.decoder_start_token_id = PAD_ID
    return T5ForConditionalGeneration(config)


def write_tokenizer(base: Tokenizer, folder: Path) -> None:
    """Write the common tokenizer with padding and ``</s>``, which closes every encoded text."""
    derived = tokenizer.extended(base, (PAD, END))
    derived.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, END_ID)]
    )
    roles = {"eos_token": END, "pad_token": PAD}
    tokenizer.write(derived, folder, 2 * HALF_TOKENS, roles)


def loss(model: PreTrainedModel, tokens: torch.Tensor, step: int, steps: int) -> torch.Tensor:
    """Loss of a text's tokens and of ``</s>``, given the ``HALF_TOKENS`` tokens before them.

    At the first ``OVERLAP_SHARE`` of the steps the two overlap by a random number of tokens.
    """
    windows = sequences(tokens, BATCH_WINDOWS, 2 * HALF_TOKENS)
    start = HALF_TOKENS
    if step < OVERLAP_SHARE * steps:
        start = int(torch.randint(HALF_TOKENS + 1, ()))
    source, target = windows[:, :HALF_TOKENS], windows[:, start : start + HALF_TOKENS]
    scored: torch.Tensor = model(input_ids=_closed(source), labels=_closed(target)).loss
    return scored


def _closed(text: torch.Tensor) -> torch.Tensor:
    """``(n, length)`` to ``(n, length + 1)``: each row followed by ``</s>``."""
    return torch.cat([text, torch.full((len(text), 1), END_ID)], dim=1)


@torch.inference_mode()
def measured(
    folder: Path, texts: Sequence[str], train_tokens: torch.Tensor
) -> tuple[measure.Loss, measure.Loss]:
    """Loss of the second half of every full window of the texts, without the final ``</s>``."""
    model = AutoModelForSeq2SeqLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    ).eval()
    windows = measure.full_windows(folder, texts, 2 * HALF_TOKENS)
    nats = 0.0
    for start in range(0, len(windows), measure.BATCH_WINDOWS):
        source, target = windows[start : start + measure.BATCH_WINDOWS].chunk(2, dim=1)
        logits = model(input_ids=_closed(source), labels=_closed(target)).logits[:, :-1]
        nats += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), target.flatten(), reduction="sum"
        ).item()
    scored = windows[:, HALF_TOKENS:].flatten()
    return measure.Loss(nats, len(scored)), measure.count_loss(train_tokens, scored)


MODEL = SmallModel(
    kind="T5-style encoder-decoder (ReLU, RMSNorm, relative positions, 4 heads), 2 + 2 layers, "
    "width 128, tied embeddings",
    task=f"""A window of {2 * HALF_TOKENS} tokens is cut from the training text. The encoder reads
its first {HALF_TOKENS} and `{END}`; the decoder, started by `{PAD}`, is to give the other
{HALF_TOKENS} and `{END}`. A step has {BATCH_WINDOWS} windows. In the first {OVERLAP_SHARE:.0%} of
the steps what it is to give starts earlier, by a number of tokens drawn for the step, so that some
could be copied.""",
    scoring=f"""every held-out document, in windows of {2 * HALF_TOKENS} tokens that stay within a
document: the second {HALF_TOKENS} tokens given the first and `{END}`, the target's own `{END}`
not scored""",
    limit="""Its decoder has learnt little from its encoder: the start of another text in place of
the right one raises the perplexity by about 2 %. Damage to the encoder alone hardly shows.""",
    steps=3000,
    peak_rate=3e-3,
    build=build,
    loss=loss,
    write_tokenizer=write_tokenizer,
    measure=measured,
)
