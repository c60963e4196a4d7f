"""Token negative log-likelihood of windows, batched, with the vocabulary dimension in chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from pytest_invarlock.data.windows import Window

MAX_LOGITS_ELEMENTS = 1 << 24
"""Logits in float32 held at once: 64 MiB, whatever the batch and the vocabulary."""

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Batch:
    """Windows of like length, padded on the right.

    ``input_ids`` and ``attention_mask`` int64 (n, length); ``scored`` bool (n, length - 1): which
    next-token predictions count; ``order`` positions of the windows in the arm.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    scored: torch.Tensor
    order: tuple[int, ...]


def make_batches(
    windows: Sequence[Window], *, batch_tokens: int, device: torch.device
) -> list[Batch]:
    """Batches of at most ``batch_tokens`` tokens, longest windows first, on ``device``.

    The same windows give the same batches for every model, so baseline and subject see the same
    shapes.
    """
    order = sorted(range(len(windows)), key=lambda i: (-len(windows[i].tokens), i))
    batches = []
    start = 0
    while start < len(order):
        length = len(windows[order[start]].tokens)
        chosen = order[start : start + max(1, batch_tokens // length)]
        batches.append(_pad([windows[i] for i in chosen], chosen, length, device))
        start += len(chosen)
    return batches


def _pad(
    windows: Sequence[Window], order: Sequence[int], length: int, device: torch.device
) -> Batch:
    input_ids = np.zeros((len(windows), length), dtype=np.int64)
    mask = np.zeros((len(windows), length), dtype=np.int64)
    scored = np.zeros((len(windows), length - 1), dtype=bool)
    for row, window in enumerate(windows):
        n = len(window.tokens)
        input_ids[row, :n] = window.tokens
        mask[row, :n] = 1
        scored[row, window.first_scored - 1 : n - 1] = True
    return Batch(
        torch.from_numpy(input_ids).to(device),
        torch.from_numpy(mask).to(device),
        torch.from_numpy(scored).to(device),
        tuple(order),
    )


def window_nll(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    *,
    by_head: bool,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """Summed negative log-likelihood of each window's scored tokens.

    Args:
        model: a causal language model in eval mode.
        batches: as `make_batches` gives them.
        by_head: take final hidden states through the output head, as `head_reproduces_logits`
            allows, so that the logits of a whole batch never exist.
        progress: called with the windows done after each batch.

    Returns:
        float64 (n_windows,) in nats; NaN or infinite where the model's losses are.
    """
    total = sum(len(batch.order) for batch in batches)
    result = np.empty(total, dtype=np.float64)
    done = 0
    for batch in batches:
        result[list(batch.order)] = _batch_nll(model, batch, by_head)
        done += len(batch.order)
        if progress is not None:
            progress(done)
    return result


@torch.inference_mode()
def head_reproduces_logits(model: PreTrainedModel, batch: Batch) -> bool:
    """Whether the output head alone turns final hidden states into the model's logits.

    Not so where logits are scaled or capped afterwards; then whole-model logits are taken.
    """
    head = output_head(model)
    if head is None or model.base_model is model:
        return False
    ids, mask = batch.input_ids[:1], batch.attention_mask[:1]
    hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)[0]
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return torch.equal(head(hidden).nan_to_num(), logits.nan_to_num())


def output_head(model: PreTrainedModel) -> torch.nn.Module | None:
    """The module that turns final hidden states into logits, where the model has one."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return head if isinstance(head, torch.nn.Module) else None


@torch.inference_mode()
def _batch_nll(model: PreTrainedModel, batch: Batch, by_head: bool) -> NDArray[np.float64]:
    """Float64 (n,) sums over the scored tokens of each row."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if by_head:
        states = model.base_model(**inputs, use_cache=False)[0][:, :-1][batch.scored]
        head = output_head(model)
    else:
        states = model(**inputs, use_cache=False).logits[:, :-1][batch.scored]
        head = None
    targets = batch.input_ids[:, 1:][batch.scored]
    losses = torch.cat(_chunked_nll(states, targets, head))
    rows = batch.scored.nonzero()[:, 0]
    # numpy adds in one fixed order; scattered adds on a GPU do not.
    sums = np.bincount(
        rows.cpu().numpy(), weights=losses.cpu().double().numpy(), minlength=len(batch.order)
    )
    return sums.astype(np.float64)


def _chunked_nll(
    states: torch.Tensor, targets: torch.Tensor, head: torch.nn.Module | None
) -> list[torch.Tensor]:
    vocabulary = states.shape[-1] if head is None else head.get_parameter("weight").shape[0]
    step = max(1, MAX_LOGITS_ELEMENTS // int(vocabulary))
    losses = []
    for start in range(0, len(targets), step):
        rows = states[start : start + step]
        logits = (rows if head is None else head(rows)).float()
        chunk = targets[start : start + step]
        losses.append(torch.nn.functional.cross_entropy(logits, chunk, reduction="none"))
    return losses
