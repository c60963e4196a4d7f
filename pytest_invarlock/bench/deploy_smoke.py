"""Whether a loaded model computes: logits on a window, and a few tokens generated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pytest_invarlock.adapters import LoadedModel
    from pytest_invarlock.metrics.batches import Batch

PROMPT_TOKENS = 16
NEW_TOKENS = 8


def logits_of(model: Any, window: Batch) -> torch.Tensor:
    """The logits of ``model`` on ``window``, on the CPU in the model's dtype."""
    with torch.no_grad():
        output = model(**window.inputs, **window.options)
    logits: torch.Tensor = output.logits
    return logits.cpu()


def difference(before: torch.Tensor, after: torch.Tensor) -> dict[str, Any]:
    """How far logits after reloading lie from those before; None where that is no number."""
    if before.shape != after.shape:
        return {"n_logits": before.numel(), "n_different": None, "largest_difference": None}
    alike = (before == after) | (before.isnan() & after.isnan())
    distances = (before.double() - after.double())[~alike].abs()
    largest = float(distances.max()) if len(distances) else 0.0
    return {
        "n_logits": before.numel(),
        "n_different": len(distances),
        "largest_difference": largest if math.isfinite(largest) else None,
    }


def smoke(model: Any, baseline: LoadedModel, window: Batch) -> dict[str, Any]:
    """Shape and finiteness of the logits beside the baseline's, and how many tokens come out.

    ``generated_tokens`` is None for a model that generates none; ``error`` is the name of what
    generating raised.
    """
    logits = logits_of(model, window)
    expected = logits_of(baseline.model, window)
    tokens, error = _generated(model, baseline.context, window)
    return {
        "shape": list(logits.shape),
        "expected_shape": list(expected.shape),
        "non_finite": int((~torch.isfinite(logits)).sum()),
        "generated_tokens": tokens,
        "error": error,
    }


def _generated(model: Any, context: int | None, window: Batch) -> tuple[int | None, str | None]:
    """The number of new tokens, and the name of an error; (None, None) where none are made."""
    if not model.can_generate():
        return None, None
    room = PROMPT_TOKENS if context is None else min(PROMPT_TOKENS, context - NEW_TOKENS)
    prompt = window.inputs["input_ids"][:, : max(1, room)]
    try:
        with torch.no_grad():
            made = model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                do_sample=False,
                pad_token_id=0,
            )
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        return 0, type(error).__name__
    # An encoder-decoder's output starts with the decoder's first token instead of the prompt.
    before = 1 if model.config.is_encoder_decoder else prompt.shape[1]
    return int(made.shape[1]) - before, None
