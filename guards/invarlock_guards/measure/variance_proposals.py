"""DD-VE: rescalings of branch outputs that would bring back the baseline's variance, and their A/B.

A proposal is tried with a forward hook that multiplies the branch's output on its way to the
residual stream: no weight is written, and what the hook did is gone when it is taken off.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from invarlock_guards.judge.proposals import propose
from invarlock_guards.measure.watched_forward import Batch, n_windows, quiet

if TYPE_CHECKING:
    from invarlock_guards.contract import GuardEvidence
    from invarlock_guards.judge.variance_policy import ProposalRules

WindowLosses = Callable[[torch.nn.Module, Batch], "tuple[Sequence[float], Sequence[float]]"]
"""Of a model and a batch: for each window, its summed loss in nats and its number of tokens."""


def measure_proposals(
    model: torch.nn.Module,
    comparison: GuardEvidence,
    held_out: Sequence[Batch],
    rules: ProposalRules,
    *,
    losses: WindowLosses | None = None,
    documents: Sequence[Hashable] | None = None,
) -> dict[str, Any]:
    """Propose rescalings of the subject's branch outputs, and try them on other windows.

    Args:
        model: the subject; it is not written to.
        comparison: of its forced branches.
        held_out: batches whose windows the comparison did not see.
        rules: tap, scope, targets and the sizes of steps; a whole policy will do.
        losses: gives the loss of each window; next-token losses of a causal model by default.
        documents: the document of each window, in order; each window its own by default.

    Returns:
        As `invarlock_guards.judge.proposals.propose`, with ``ab``: ``documents``, and of each its
        ``gains`` (summed nats without minus with) and ``tokens``; None where there was nothing to
        try, or a loss was not finite (``ab_reason``).
    """
    found = propose(comparison, rules)
    if not found["scales"]:
        return found
    if not held_out:
        return found | {"ab_reason": "there are no held-out windows"}
    with quiet(model):
        without = _losses(model, held_out, losses or next_token_losses)
        with rescaled(model, found["scales"]):
            with_scales = _losses(model, held_out, losses or next_token_losses)
    gains = [before - after for (before, _), (after, _) in zip(without, with_scales, strict=True)]
    names = list(range(len(without))) if documents is None else documents
    return found | tried(names, gains, [count for _, count in without])


@contextmanager
def rescaled(model: torch.nn.Module, scales: Mapping[str, float]) -> Iterator[None]:
    """``model`` with the outputs of the modules in ``scales`` multiplied; no weight is written."""
    with ExitStack() as hooks:
        for name, scale in scales.items():
            hook = model.get_submodule(name).register_forward_hook(_scaled_by(scale))
            hooks.callback(hook.remove)
        yield


def tried(
    documents: Sequence[Hashable], gains: Sequence[float], tokens: Sequence[float]
) -> dict[str, Any]:
    """The A/B, ``ab``, of windows' gains (nats) and tokens, by document; else ``ab_reason``."""
    if not documents:
        return {"ab": None, "ab_reason": "there are no held-out windows"}
    by_document: dict[Hashable, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for name, gain, count in zip(documents, gains, tokens, strict=True):
        by_document[name][0] += gain
        by_document[name][1] += count
    sums = list(by_document.values())
    if not all(math.isfinite(gain) for gain, _ in sums) or not sum(count for _, count in sums):
        return {"ab": None, "ab_reason": "a loss was not finite"}
    ab = {
        "documents": list(by_document),
        "gains": [gain for gain, _ in sums],
        "tokens": [count for _, count in sums],
    }
    return {"ab": ab, "ab_reason": None}


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


def _scaled_by(scale: float) -> Callable[..., Any]:
    def hook(_module: torch.nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] * scale, *output[1:])
        return output * scale

    return hook
