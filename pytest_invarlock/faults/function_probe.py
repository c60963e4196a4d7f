"""Does a change leave the computed function as it was? Logits of one short fixed input tell."""

from __future__ import annotations

from typing import Any

import torch

PROBE_TOKENS = 12
LIMIT = {torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.15}
"""Largest `relative_change` of a function-preserving rewrite, whose only error is rounding.

Over eight small architectures rewrites that fit moved the logits by at most 6e-6 (float32), .02
(float16) and .06 (bfloat16) of their spread, and rewrites that do not fit by .3 or more.
"""


def probe_logits(model: torch.nn.Module) -> torch.Tensor:
    """Logits (2, `PROBE_TOKENS`, vocabulary), float32, of two fixed token sequences.

    An encoder-decoder reads the second half of the ids as the decoder's. A model without a head
    gives its last hidden states.
    """
    any_model: Any = model
    vocabulary = int(any_model.get_input_embeddings().num_embeddings)
    device = next(model.parameters()).device
    # Low ids, where special tokens live, are left out: padding is masked by some models.
    ids = (torch.arange(2 * PROBE_TOKENS) * 7919 + 11) % max(vocabulary - 8, 1) + 7
    ids = ids.clamp(max=vocabulary - 1).reshape(2, PROBE_TOKENS).to(device)
    inputs = {"input_ids": ids}
    if getattr(any_model.config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids.flip(1)
    with torch.no_grad():
        out = any_model(**inputs)
    logits = out.logits if hasattr(out, "logits") else out.last_hidden_state
    return torch.as_tensor(logits).float()


def relative_change(before: torch.Tensor, after: torch.Tensor) -> float:
    """RMS of the change of logits over the standard deviation of the logits before."""
    change = (after - before).double().square().mean().sqrt()
    return float(change / before.double().std().clamp_min(1e-30))
