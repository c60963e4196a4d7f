"""One forward pass over batches: token losses, first choices, and how far two models differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pytest_invarlock.adapters.output_head import final_states, output_head

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_invarlock.metrics.batches import Batch

MAX_LOGITS_ELEMENTS = 1 << 24
"""Logits in float32 held at once and model: 64 MiB, whatever the batch and the vocabulary."""
CPU_LOGITS_ELEMENTS = 1 << 20
"""4 MiB on a CPU: what its caches hold is worked through several times as fast."""
LEAST_ROWS = 128
"""A head of a large vocabulary is itself large: it must not be read anew for a few rows."""

Progress = Callable[[int], None]
Head = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Outputs:
    """The scored outputs of one batch: logits, or what ``head`` turns into logits.

    ``rows`` (n_scored, d) in the model's dtype; ``head`` None where they are logits already.
    """

    rows: torch.Tensor
    head: Head | None

    def logits(self, part: slice) -> torch.Tensor:
        """Float32 (n, vocabulary) of some of the rows."""
        rows = self.rows[part]
        return (rows if self.head is None else self.head(rows)).float()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Scores:
    """Token-level results of one model over batches, in the batches' order.

    ``nll`` float32 (n_tokens,), nats; ``top1`` int64 (n_tokens,), the first choice; ``states``
    (n_tokens, d) in the model's dtype on the CPU, where they were kept.
    """

    nll: torch.Tensor
    top1: torch.Tensor
    states: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Reference:
    """The baseline's side of a comparison.

    ``outputs`` gives its outputs for a batch and the range of the batch's tokens among the arm's;
    None where the two vocabularies differ, so that only losses can be compared.
    """

    outputs: Callable[[Batch, slice], Outputs] | None


def model_outputs(model: Any, batch: Batch, *, by_head: bool) -> Outputs:
    """Run ``model`` on ``batch`` and keep the scored outputs.

    Args:
        model: in eval mode, on the batch's device.
        batch: what to read and what to score.
        by_head: take final states, for the output head to turn into logits in parts, as
            `head_reproduces_logits` allows: the logits of a whole batch then never exist.
    """
    if by_head:
        states = final_states(model, **batch.inputs, **batch.options)
        return Outputs(states[batch.rows, batch.positions], output_head(model))
    logits = model(**batch.inputs, **batch.options).logits
    return Outputs(logits[batch.rows, batch.positions], None)


@torch.inference_mode()
def score(
    model: Any,
    batches: Sequence[Batch],
    *,
    by_head: bool,
    keep_states: bool = False,
    progress: Progress | None = None,
) -> Scores:
    """Losses and first choices of one model.

    Args:
        model: in eval mode, on the batches' device.
        batches: as `make_batches` gives them.
        by_head: see `model_outputs`.
        keep_states: keep what goes into the head, for later comparisons; needs ``by_head``.
        progress: called with the windows done after each batch.
    """
    nll, top1, states = [], [], []
    done = 0
    for batch in batches:
        outputs = model_outputs(model, batch, by_head=by_head)
        for part in _parts(outputs):
            logits = outputs.logits(part)
            nll.append(_nll(logits, logits.logsumexp(-1), batch.targets[part]).cpu())
            top1.append(_first_choice(logits))
        if keep_states:
            states.append(outputs.rows.cpu())
        done += len(batch.order)
        if progress is not None:
            progress(done)
    return Scores(torch.cat(nll), torch.cat(top1), torch.cat(states) if keep_states else None)


@torch.inference_mode()
def compare(
    model: Any,
    batches: Sequence[Batch],
    reference: Reference,
    *,
    by_head: bool,
    first_token: int = 0,
    progress: Progress | None = None,
) -> tuple[Scores, torch.Tensor | None]:
    """Scores of a subject, and from the same pass KL(baseline ‖ subject) of every token.

    Args:
        model: the subject, in eval mode, on the batches' device.
        batches: those of the baseline, or a run of them.
        reference: the baseline's side.
        by_head: see `model_outputs`; of the subject.
        first_token: where the batches' tokens start among the reference's.
        progress: called with the windows done after each batch.

    Returns:
        The subject's scores, and float32 (n_tokens,) in nats, or None without reference outputs.
    """
    nll, top1, divergence = [], [], []
    done, start = 0, first_token
    for batch in batches:
        outputs = model_outputs(model, batch, by_head=by_head)
        there = slice(start, start + len(batch.targets))
        theirs = None if reference.outputs is None else reference.outputs(batch, there)
        for part in _parts(outputs):
            logits = outputs.logits(part)
            normaliser = logits.logsumexp(-1)
            nll.append(_nll(logits, normaliser, batch.targets[part]).cpu())
            top1.append(_first_choice(logits))
            if theirs is not None:
                divergence.append(_kl(theirs.logits(part), logits, normaliser).cpu())
        start = there.stop
        done += len(batch.order)
        if progress is not None:
            progress(done)
    kl = None if reference.outputs is None else torch.cat(divergence)
    return Scores(torch.cat(nll), torch.cat(top1)), kl


def window_sums(values: torch.Tensor, batches: Sequence[Batch], n: int) -> NDArray[np.float64]:
    """Sums of token values by window: float64 (n,), NaN for windows in none of the batches.

    Args:
        values: (n_tokens,) in the batches' order.
        batches: which token belongs to which window.
        n: windows of the arm.
    """
    result = np.full(n, np.nan)
    start = 0
    array = values.double().numpy()
    for batch in batches:
        end = start + len(batch.targets)
        # numpy adds in one fixed order; scattered adds on a GPU do not.
        result[list(batch.order)] = np.bincount(
            batch.rows.cpu().numpy(), weights=array[start:end], minlength=len(batch.order)
        )
        start = end
    return result


def _parts(outputs: Outputs) -> Iterator[slice]:
    n, width = outputs.rows.shape
    if outputs.head is not None:
        width = int(outputs.head.get_parameter("weight").shape[0])  # type: ignore[attr-defined]
    elements = CPU_LOGITS_ELEMENTS if outputs.rows.device.type == "cpu" else MAX_LOGITS_ELEMENTS
    step = max(LEAST_ROWS, elements // int(width))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def _nll(logits: torch.Tensor, normaliser: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return normaliser - logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def _first_choice(logits: torch.Tensor) -> torch.Tensor:
    if logits.device.type == "cpu":
        # The same place in a tenth of the time: of equals the first, and NaN before all.
        return torch.from_numpy(logits.numpy().argmax(-1))
    return logits.argmax(-1).cpu()


def _kl(
    baseline: torch.Tensor, subject: torch.Tensor, subject_normaliser: torch.Tensor
) -> torch.Tensor:
    """Σ p_b (z_b − z_s) − (ln Σ e^z_b − ln Σ e^z_s): exactly 0 for equal logits."""
    largest = baseline.amax(-1, keepdim=True)
    share = (baseline - largest).exp_()
    total = share.sum(-1)
    # Products in place and then their sum: `vecdot` of tensors just made takes four times as long.
    divergence = share.mul_(baseline - subject).sum(-1)
    # Few models rule a token out, and 0 times an infinite difference tells.
    if bool(divergence.isnan().any()):
        # What the baseline rules out adds nothing, whatever the subject says of it.
        difference = (baseline - subject).masked_fill_(baseline.isneginf(), 0.0)
        divergence = (baseline - largest).exp_().mul_(difference).sum(-1)
    # As `logsumexp` reckons, to the bit, so that equal normalisers cancel.
    normaliser = total.log().add_(largest.squeeze(-1))
    return divergence / total - (normaliser - subject_normaliser)
