"""What the guards see of a pair: the baseline's branches beforehand, then a subject beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from invarlock_guards.measure.forced_branches import compare_branches, record_branches
from invarlock_guards.measure.invariants import measure_invariants
from invarlock_guards.measure.rmt import measure_rmt
from invarlock_guards.measure.spectral import measure_models
from invarlock_guards.measure.variance import measure_variance
from invarlock_guards.measure.watched_forward import BranchError

from pytest_invarlock.bench.draws import batch_shape
from pytest_invarlock.bench.rescaling import measure_rescaling
from pytest_invarlock.data.window_set import first_counted, n_counted
from pytest_invarlock.metrics.batches import make_batches

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from invarlock_guards.contract import GuardEvidence
    from invarlock_guards.measure.forced_branches import BranchRecord
    from invarlock_guards.measure.invariants import ModelStructure
    from invarlock_guards.measure.watched_forward import Batch

    from pytest_invarlock.adapters import LoadedModel
    from pytest_invarlock.bench.rescaling import RescalingTrial
    from pytest_invarlock.bench.subject import Subject
    from pytest_invarlock.data import Window, WindowSet
    from pytest_invarlock.plan import MeasurementPlan

ACTIVATIONS = ("rmt", "variance")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RecordedBaseline:
    """The baseline's branches on the guards' windows.

    ``record`` is None where no guard asks, or where ``problem`` says why none could be made.
    """

    batches: Sequence[Batch]
    record: BranchRecord | None
    problem: str | None = None


NO_WINDOWS = (
    "no document is left for the guards' windows (give more text, or ask for fewer windows)"
)
UNRECORDED = RecordedBaseline((), None)
"""Of a baseline whose branches no guard asks for."""


def record_baseline(
    baseline: LoadedModel, windows: WindowSet, plan: MeasurementPlan, *, given: bool
) -> RecordedBaseline:
    """One pass of the baseline over the guards' windows, before any edit can change it.

    Windows that were ``given`` ready-made bring none for guards, and the tuning pool has no
    documents to spare: then those of the preview are taken, on which no verdict rests. Where a
    provider's documents left none, none are.
    """
    if not set(ACTIVATIONS) & set(plan.guards):
        return UNRECORDED
    if not n_guard_windows(windows, plan, given=given):
        return RecordedBaseline((), None, NO_WINDOWS)
    batches = guard_batches(baseline, windows, plan)
    try:
        record = record_branches(baseline.model, batches, outlier_factor=plan.outlier_factor)
    except BranchError as error:
        return RecordedBaseline((), None, str(error))
    return RecordedBaseline(batches, record)


def guard_batches(
    baseline: LoadedModel, windows: WindowSet, plan: MeasurementPlan
) -> list[dict[str, Any]]:
    """The guards' windows as keyword arguments of forward passes, made afresh."""
    chosen = guard_windows(windows, plan)
    shape = batch_shape(baseline, plan.batch_tokens, windows.reading)
    return [
        {**batch.inputs, **batch.options}
        for batch in make_batches(chosen, shape, device=baseline.device)
    ]


def guard_windows(windows: WindowSet, plan: MeasurementPlan) -> tuple[Window, ...]:
    """The windows that guards look at: the calibration's, or else the first of the preview."""
    return windows.calibration or first_counted(windows.preview, plan.windows.guard_windows)


def n_guard_windows(windows: WindowSet, plan: MeasurementPlan, *, given: bool) -> int:
    """How many windows, of choices examples, there are for guards to look at."""
    is_there = windows.calibration or given or plan.windows.pool == "tuning"
    return n_counted(guard_windows(windows, plan)) if is_there else 0


def guard_evidence(
    baseline: LoadedModel,
    structure: ModelStructure,
    recorded: RecordedBaseline,
    subject: Subject,
    guards: Sequence[str],
    *,
    reads_alike: bool,
    trial: RescalingTrial | None = None,
) -> dict[str, GuardEvidence]:
    """The evidence of ``guards`` on ``subject``, by name, as the record holds it.

    Weights are compared whatever a subject reads; its activations only where it ``reads_alike``,
    that is, the baseline's windows as the baseline does. ``trial`` says on what the variance
    guard's proposals are tried; None looks for none.
    What could not be measured is ``{"not_evaluated": reason}``, which no policy lets pass.
    """
    evidence: dict[str, GuardEvidence] = {
        "invariants": measure_invariants(structure, subject.structure)
    }
    others = [name for name in guards if name != "invariants"]
    if subject.load_failure is not None:
        return evidence | {name: {"not_evaluated": subject.load_failure} for name in others}
    if not others:
        return evidence
    spectral = _weights(baseline, subject)
    if recorded.problem is not None:
        activations = _unread(recorded.problem)
    elif recorded.record is None:
        return evidence | {"spectral": spectral}
    elif reads_alike:
        tried = trial if "variance" in others else None
        activations = _activations(recorded.batches, recorded.record, subject, spectral, tried)
    else:
        activations = _unread(
            "the subject does not read the baseline's windows as the baseline does"
        )
    measured = {"spectral": spectral, **activations}
    return evidence | {name: measured[name] for name in others}


def _weights(baseline: LoadedModel, subject: Subject) -> GuardEvidence:
    before = subject.weights_before
    if before is None:
        before = dict(baseline.model.named_parameters())
    return measure_models(baseline.model, before, dict(subject.loaded.model.named_parameters()))


def _activations(
    batches: Sequence[Batch],
    record: BranchRecord,
    subject: Subject,
    spectral: GuardEvidence,
    trial: RescalingTrial | None,
) -> dict[str, GuardEvidence]:
    try:
        compared = compare_branches(subject.loaded.model, batches, record)
    except BranchError as error:
        return _unread(str(error))
    proposals = None if trial is None else measure_rescaling(compared, subject, trial)
    return {
        "rmt": measure_rmt(
            compared,
            _of_matrices(spectral, "balanced_edge"),
            _of_matrices(spectral, "relative_change"),
        ),
        # Edges are the other guard's.
        "variance": measure_variance({**compared, "sites": []}, proposals),
    }


def _unread(reason: str) -> dict[str, GuardEvidence]:
    return {name: {"not_evaluated": reason} for name in ACTIVATIONS}


def _of_matrices(spectral: Mapping[str, Any], statistic: str) -> dict[str, float | None]:
    """One statistic of each changed matrix."""
    return {
        change["name"]: change[statistic]
        for change in spectral["changes"]
        if change["type"] == "matrix"
    }
