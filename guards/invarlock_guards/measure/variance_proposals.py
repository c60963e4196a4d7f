"""DD-VE: rescalings of branch outputs that would bring back the baseline's variance, and their A/B.

A proposal is tried with a forward hook that multiplies the branch's output on its way to the
residual stream: no weight is written, and what the hook did is gone when it is taken off.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from invarlock_guards.measure.watched_forward import Batch, n_windows, quiet

if TYPE_CHECKING:
    from invarlock_guards.contract import GuardEvidence
    from invarlock_guards.judge.variance_policy import VariancePolicy

WindowLosses = Callable[[torch.nn.Module, Batch], "tuple[Sequence[float], Sequence[float]]"]
"""Of a model and a batch: for each window, its summed loss in nats and its number of tokens."""

_KINDS = {"down": ("feed_forward",), "o": ("attention", "cross_attention")}
_SCOPES = {"ffn": ("ffn",), "attn": ("attn",), "both": ("ffn", "attn")}


def measure_proposals(
    model: torch.nn.Module,
    comparison: GuardEvidence,
    held_out: Sequence[Batch],
    policy: VariancePolicy,
    *,
    losses: WindowLosses | None = None,
    documents: Sequence[Hashable] | None = None,
) -> dict[str, Any]:
    """Propose rescalings of the subject's branch outputs, and try them on other windows.

    Args:
        model: the subject; it is not written to.
        comparison: of its forced branches.
        held_out: batches whose windows the comparison did not see.
        policy: tap, scope, targets and the sizes of steps.
        losses: gives the loss of each window; next-token losses of a causal model by default.
        documents: the document of each window, in order; each window its own by default.

    Returns:
        ``n_eligible`` branches, the ``reason`` where nothing is proposed, ``scales`` by module, and
        ``ab``: by document, ``gains`` (summed nats without minus with) and ``tokens``; None where
        there was nothing to try, or a loss was not finite (``ab_reason``).
    """
    rows = eligible(comparison, policy)
    if not rows:
        return _nothing(0, _why_none(comparison, policy))
    scales = proposed_scales(rows, policy)
    if not scales:
        return _nothing(len(rows), "no branch is off by more than the deadband")
    found = {"n_eligible": len(rows), "reason": None, "scales": scales}
    if not held_out:
        return found | {"ab": None, "ab_reason": "there are no held-out windows"}
    with quiet(model):
        without = _losses(model, held_out, losses or next_token_losses)
        with ExitStack() as hooks:
            for name, scale in scales.items():
                hook = model.get_submodule(name).register_forward_hook(_scaled_by(scale))
                hooks.callback(hook.remove)
            with_scales = _losses(model, held_out, losses or next_token_losses)
    ab = _by_document(without, with_scales, documents)
    reason = None if ab else "a loss was not finite"
    return found | {"ab": ab, "ab_reason": reason}


def eligible(comparison: GuardEvidence, policy: VariancePolicy) -> list[Mapping[str, Any]]:
    """The branches that ``policy`` lets be rescaled: by tap, scope and, if it says so, edit."""
    kinds = {kind for tap in policy.tap for kind in _KINDS[tap]}
    return [
        row
        for row in comparison["branches"]
        if row["kind"] in kinds
        and row["family"] in _SCOPES[policy.scope]
        and row["log_rms"] is not None
        and (policy.targets == "all" or row["e"] != 0)
    ]


def _why_none(comparison: GuardEvidence, policy: VariancePolicy) -> str:
    taps = " and ".join(policy.tap)
    if policy.targets == "edited_modules_only" and any(
        row["e"] != 0 for row in comparison["branches"]
    ):
        return f"no edited branch has its output at tap {taps} in scope {policy.scope}"
    if policy.targets == "edited_modules_only":
        return "no branch was edited"
    return f"no branch has its output at tap {taps} in scope {policy.scope}"


def proposed_scales(rows: Sequence[Mapping[str, Any]], policy: VariancePolicy) -> dict[str, float]:
    """The scale of each output module in ``rows`` that is worth one, largest step first."""
    low, high = policy.clamp
    raw = {row["output"]: min(max(math.exp(-row["log_rms"]), low), high) for row in rows}
    steps = sorted(raw, key=lambda name: -abs(raw[name] - 1))
    least = max(policy.deadband, policy.min_abs_adjust)
    kept = [name for name in steps if abs(raw[name] - 1) >= least]
    if not kept:
        kept = [name for name in steps if abs(raw[name] - 1) >= least / 2][: policy.topk_backstop]
    if policy.max_adjusted_modules:
        kept = kept[: policy.max_adjusted_modules]
    step = policy.max_scale_step
    return {name: min(max(raw[name], 1 - step), 1 + step) for name in kept}


def next_token_losses(model: torch.nn.Module, batch: Batch) -> tuple[list[float], list[float]]:
    """Summed next-token loss and number of predicted tokens of each window; padding is left out."""
    ids = batch["input_ids"]
    mask = batch.get("attention_mask")
    real = torch.ones_like(ids) if mask is None else mask
    logits = model(**batch).logits[:, :-1].float()
    nll = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), ids[:, 1:], reduction="none"
    ).double()
    scored = (real[:, 1:] * real[:, :-1] != 0).double()
    return (nll * scored).sum(1).tolist(), scored.sum(1).tolist()


def _losses(
    model: torch.nn.Module, batches: Sequence[Batch], losses: WindowLosses
) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for batch in batches:
        sums, counts = losses(model, batch)
        found += zip(sums, counts, strict=True)
        if len(sums) != n_windows(batch):
            raise ValueError(f"losses gave {len(sums)} numbers for {n_windows(batch)} windows")
    return found


def _by_document(
    without: list[tuple[float, float]],
    with_scales: list[tuple[float, float]],
    documents: Sequence[Hashable] | None,
) -> dict[str, list[float]] | None:
    names = range(len(without)) if documents is None else documents
    gains: dict[Hashable, float] = defaultdict(float)
    tokens: dict[Hashable, float] = defaultdict(float)
    for name, (before, count), (after, _) in zip(names, without, with_scales, strict=True):
        gains[name] += before - after
        tokens[name] += count
    if not all(map(math.isfinite, gains.values())) or not sum(tokens.values()):
        return None
    return {"gains": list(gains.values()), "tokens": list(tokens.values())}


def _nothing(n_eligible: int, reason: str) -> dict[str, Any]:
    none: dict[str, Any] = {"scales": {}, "ab": None, "ab_reason": reason}
    return {"n_eligible": n_eligible, "reason": reason, **none}


def _scaled_by(scale: float) -> Callable[..., Any]:
    def hook(_module: torch.nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] * scale, *output[1:])
        return output * scale

    return hook
