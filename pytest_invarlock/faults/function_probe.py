"""Does a change leave the computed function as it was? Logits of one short fixed input tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from pytest_invarlock.errors import EditError
from pytest_invarlock.faults.float32_pass import float32_pass
from pytest_invarlock.faults.rewrite import Rewrite, wide

if TYPE_CHECKING:
    from pytest_invarlock.edits.writer import UndoableWriter

PROBE_TOKENS = 12
LIMIT = 1e-5
"""Largest `relative_change` of a function-preserving rewrite, computed in float32.

Over fifty small architectures, and deeper models with single activations hundreds of times the
others, rewrites that fit moved the logits by at most 1.3e-6 of their spread.
"""
STORED_LIMIT = {
    torch.float64: LIMIT, torch.float32: LIMIT, torch.float16: 0.05, torch.bfloat16: 0.15,
}  # fmt: skip
"""Largest `relative_change` of the model in its own dtype, rewritten weights rounded to it.

Weights and activations are rounded at other places than before: that moved the logits of eight
small architectures by at most .02 (float16) and .06 (bfloat16).
"""


def probe_logits(model: torch.nn.Module) -> torch.Tensor:
    """Logits (2, `PROBE_TOKENS`, vocabulary), float32 or wider, of two fixed token sequences.

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
    return wide(torch.as_tensor(logits))


def relative_change(before: torch.Tensor, after: torch.Tensor) -> float:
    """RMS of the change of logits over the standard deviation of the logits before."""
    change = (after.double() - before.double()).square().mean().sqrt()
    return float(change / before.double().std().clamp_min(1e-30))


def rewrite_changes(model: torch.nn.Module, rewrites: Sequence[Rewrite]) -> list[float]:
    """How far each of ``rewrites`` moves the model's logits, computed in float32, not rounded.

    Nothing is written. A figure is NaN where logits are not finite.

    Raises:
        EditError: the model's own logits are not finite (EDIT_NO_TARGET).
    """
    with float32_pass(model):
        before = probe_logits(model)
    if not bool(torch.isfinite(before).all()):
        raise EditError(
            "the model's logits are not finite: no rewrite can be shown to leave them as they are",
            remedy="use a sound model",
            code="EDIT_NO_TARGET",
        )
    changes = []
    for rewrite in rewrites:
        with float32_pass(model, rewrite):
            changes.append(relative_change(before, probe_logits(model)))
    return changes


def write_preserving(journal: UndoableWriter, rewrites: Sequence[Rewrite]) -> dict[str, float]:
    """Write that one of ``rewrites`` which moves the model's logits least, if it leaves them.

    Returns ``relative_logit_change``, of the rewrite in float32, and ``stored_logit_change``, of
    the model in its own dtype with what was stored: the first is the proof, the second rounding.

    Raises:
        EditError: none leaves the function (CONTROL_CHANGED_FUNCTION), or rounding to the model's
            dtype spoils it (CONTROL_ROUNDED_AWAY); nothing stays written.
    """
    changes = rewrite_changes(journal.model, rewrites)
    # A rewrite that makes NaN of the logits is never the best.
    ranked = [math.inf if math.isnan(change) else change for change in changes]
    best = ranked.index(min(ranked))
    change = changes[best]
    if not change <= LIMIT:
        raise EditError(
            f"this rewrite changes the model's function: its logits moved by {change:.2g} of "
            f"their spread, more than {LIMIT:g}",
            remedy="the architecture computes otherwise than assumed; choose another control",
            code="CONTROL_CHANGED_FUNCTION",
        )
    dtype = next(journal.model.parameters()).dtype
    before = probe_logits(journal.model)
    rewrites[best].write(journal)
    stored = relative_change(before, probe_logits(journal.model))
    if not stored <= STORED_LIMIT[dtype]:
        journal.undo()
        raise EditError(
            f"rounded to {str(dtype).removeprefix('torch.')}, this rewrite moves the model's "
            f"logits by {stored:.2g} of their spread, more than {STORED_LIMIT[dtype]:g}",
            remedy="choose another control, or a model in a wider dtype",
            code="CONTROL_ROUNDED_AWAY",
        )
    return {"relative_logit_change": change, "stored_logit_change": stored}
