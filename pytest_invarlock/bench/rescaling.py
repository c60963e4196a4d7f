"""Rescalings of a subject: proposed, tried on the preview arm, and written in for a trial if asked.

The preview arm holds other documents than the guards' windows, which proposals come from, and than
the final arm, which the verdict rests on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from invarlock_guards.judge.proposals import not_applicable, propose
from invarlock_guards.measure.variance_proposals import rescaled, tried

from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import model_tensors, tensor_digest
from pytest_invarlock.metrics.token_scoring import score, window_sums

if TYPE_CHECKING:
    import torch
    from invarlock_guards.contract import GuardEvidence

    from pytest_invarlock.bench.resident import Bench
    from pytest_invarlock.bench.subject import Subject
    from pytest_invarlock.bench.subject_pass import PairedArm
    from pytest_invarlock.data import WindowSet
    from pytest_invarlock.plan import Arm, RescalingPlan

CHOICES = "metric accuracy judges predictions, and a gain is one of losses"
NOTHING = "nothing was proposed"
GUARDS_OWN = "every document of the preview arm lent the guards its windows"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RescalingTrial:
    """On what the proposals for a subject are tried.

    ``arms`` are the subject's losses without them, of the windows that were measured (sequential
    mode may have stopped early); ``n_preview`` is how many windows of the preview arm, from its
    first, they are tried on; ``seen`` are documents of it that the guards compared on; ``told``
    takes the windows done and those in all.
    """

    plan: RescalingPlan
    windows: WindowSet
    arms: Mapping[Arm, PairedArm]
    n_preview: int
    seen: frozenset[int]
    told: Callable[[int, int], None]

    def effect(self, model: torch.nn.Module, arm: Arm) -> dict[str, Any]:
        """What ``model`` gains on ``arm`` over the subject as it was measured, by document."""
        paired, windows = self.arms[arm], self.windows.arms[arm]
        end = self.n_preview if arm == "preview" else len(windows)
        batches = [batch for batch in paired.batches if max(batch.order) < end]
        places = np.sort([place for batch in paired.batches for place in batch.order])
        scores = score(
            model,
            batches,
            by_head=paired.by_head,
            progress=lambda done: self.told(done, sum(len(batch.order) for batch in batches)),
        )
        without = paired.losses(windows)
        gains = without.subject_nll - window_sums(scores.nll, batches, len(windows))[places]
        kept = [
            n for n, name in enumerate(without.documents.tolist())
            if places[n] < end and name not in self.seen
        ]  # fmt: skip
        if not kept:
            return {"ab": None, "ab_reason": GUARDS_OWN}
        return tried(
            without.documents[kept].tolist(), gains[kept].tolist(), without.tokens[kept].tolist()
        )


def rescaling_trial(
    bench: Bench, draw: int, arms: Mapping[Arm, PairedArm]
) -> RescalingTrial | None:
    """The trial of a subject measured as ``arms``; None where the plan looks for no rescalings."""
    plan = bench.plan.rescaling
    if plan is None or not arms:
        return None
    windows = bench.windows(draw)
    lent = () if windows.calibration else windows.preview[: bench.plan.windows.guard_windows]
    return RescalingTrial(
        plan=plan,
        windows=windows,
        arms=arms,
        n_preview=bench.draws.n_tried(draw, windows),
        seen=frozenset(window.document for window in lent),
        told=lambda done, total: bench.progress("rescaling", done, total),
    )


def measure_rescaling(
    compared: GuardEvidence, subject: Subject, trial: RescalingTrial
) -> dict[str, Any]:
    """The variance guard's ``proposals`` of ``subject``; extra passes only where there is one.

    Args:
        compared: its forced branches.
        subject: it is as it was when this returns, whatever was tried.
        trial: rules, windows, and the losses without.

    Raises:
        EditError: what was written for a trial could not be undone (UNDO_FAILED).
    """
    if trial.windows.final[0].example is not None:
        found = not_applicable(trial.plan.rules, CHOICES)
        return found | {"remediation": _unremedied(CHOICES) if trial.plan.remediate else None}
    found = propose(compared, trial.plan.rules)
    scales: dict[str, float] = found["scales"]
    if not scales:
        return found | {"remediation": _unremedied(NOTHING) if trial.plan.remediate else None}
    with rescaled(subject.loaded.model, scales):
        found |= trial.effect(subject.loaded.model, "preview")
    if trial.plan.remediate:
        found["remediation"] = remediate(subject, scales, trial)
    return found


def remediate(
    subject: Subject, scales: Mapping[str, float], trial: RescalingTrial
) -> dict[str, Any]:
    """Write ``scales`` into the subject's weights, measure the final arm, and undo it bit for bit.

    Returns:
        ``tensors`` by name, each with its digest ``before``, ``applied`` and ``restored``; ``ab``
        of the final arm; ``reason`` where there is none.

    Raises:
        EditError: a tensor could not be restored (UNDO_FAILED).
    """
    tensors = model_tensors(subject.loaded.model)
    why = _not_writable(subject, scales, tensors)
    if why is not None:
        return _unremedied(why)
    journal = EditJournal(subject.loaded.model, subject.digests)
    try:
        for module, scale in scales.items():
            for name in (f"{module}.weight", f"{module}.bias"):
                if name in tensors:
                    journal.write(name, tensors[name].detach() * scale)
        touched = journal.touched
        applied = {name: _digest(tensors[name]) for name in touched}
        effect = trial.effect(subject.loaded.model, "final")
    finally:
        journal.undo()
    return {
        "tensors": {
            name: {
                "before": f"sha256:{subject.digests[name]}",
                "applied": applied[name],
                "restored": _digest(tensors[name]),
            }
            for name in touched
        },
        "ab": effect["ab"],
        "reason": effect["ab_reason"],
    }


def _not_writable(
    subject: Subject, scales: Mapping[str, float], tensors: Mapping[str, torch.Tensor]
) -> str | None:
    """Why weights cannot carry the scales; None where they can."""
    if subject.edit is not None and not subject.in_place:
        # Its tensors are the resident's own.
        return "a damaged view of a checkpoint is not written to"
    for module in scales:
        weight = tensors.get(f"{module}.weight")
        if weight is None or weight.ndim < 2 or not weight.is_floating_point():
            return f"{module} is no projection with a weight of its own to scale"
        shared = [n for n, t in tensors.items() if t.data_ptr() == weight.data_ptr()]
        if len(shared) > 1:
            return f"the weight of {module} is shared: {', '.join(sorted(shared))}"
    return None


def _digest(tensor: torch.Tensor) -> str:
    return f"sha256:{tensor_digest(tensor)}"


def _unremedied(reason: str) -> dict[str, Any]:
    return {"tensors": {}, "ab": None, "reason": reason}
