"""What the guards see of a pair: the baseline's branches beforehand, then a subject beside it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from invarlock_guards.measure.forced_branches import compare_branches, record_branches
from invarlock_guards.measure.invariants import measure_invariants, read_structure
from invarlock_guards.measure.rmt import measure_rmt
from invarlock_guards.measure.spectral import measure_models
from invarlock_guards.measure.variance import measure_variance
from invarlock_guards.measure.watched_forward import BranchError

from pytest_invarlock.bench.counters import Counters
from pytest_invarlock.bench.draws import batch_shape
from pytest_invarlock.bench.model_watch import (
    ModelWatch,
    guard_windows,
    is_demanded,
    proof_window,
)
from pytest_invarlock.bench.rescaling import measure_rescaling
from pytest_invarlock.checks.guard_overhead import CHECK as OVERHEAD
from pytest_invarlock.data.window_set import n_counted
from pytest_invarlock.metrics.batches import make_batches

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from invarlock_guards.contract import GuardEvidence
    from invarlock_guards.measure.forced_branches import BranchRecord
    from invarlock_guards.measure.invariants import ModelStructure
    from invarlock_guards.measure.watched_forward import Batch

    from pytest_invarlock.adapters import LoadedModel
    from pytest_invarlock.bench.foreign_guards import PreparedGuard
    from pytest_invarlock.bench.rescaling import RescalingTrial
    from pytest_invarlock.bench.subject import Subject
    from pytest_invarlock.data import WindowSet
    from pytest_invarlock.plan import MeasurementPlan

ACTIVATIONS = ("rmt", "variance")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RecordedBaseline:
    """The baseline's branches on the guards' windows.

    ``record`` is None where no guard asks, or where ``problem`` says why none could be made.
    ``steps`` are the guards' turns on the baseline, each with what it was before and after;
    ``altered_by`` names the guards that changed it, ``repeatable`` says whether two passes of it
    give the same bits.
    """

    batches: Sequence[Batch]
    record: BranchRecord | None
    problem: str | None = None
    steps: tuple[Mapping[str, Any], ...] = ()
    altered_by: str | None = None
    repeatable: bool = True


NO_WINDOWS = (
    "no document is left for the guards' windows (give more text, or ask for fewer windows)"
)
UNRECORDED = RecordedBaseline((), None)
"""Of a baseline whose branches no guard asks for."""


def record_baseline(
    baseline: LoadedModel,
    windows: WindowSet,
    plan: MeasurementPlan,
    counters: Counters | None = None,
    *,
    given: bool,
) -> RecordedBaseline:
    """One pass of the baseline over the guards' windows, before any edit can change it.

    Windows that were ``given`` ready-made bring none for guards, and the tuning pool has no
    documents to spare: then those of the preview are taken, on which no verdict rests. Where a
    provider's documents left none, none are.
    Where the plan asks for it, the baseline is watched; one that was changed gives no record.
    """
    if not is_demanded(plan):
        return _recorded(baseline, windows, plan, given=given)
    window = proof_window(baseline, windows, plan)
    watch = ModelWatch("baseline", baseline.model, window, counters or Counters())
    _read_again(baseline)
    watch.step(("invariants",))
    recorded = _recorded(baseline, windows, plan, given=given)
    if recorded.batches:
        watch.step(ACTIVATIONS)
    if watch.altered_by is not None:
        recorded = RecordedBaseline((), None, f"{watch.altered_by} changed the baseline")
    return replace(
        recorded,
        steps=tuple(watch.steps),
        altered_by=watch.altered_by,
        repeatable=watch.repeatable,
    )


def _read_again(loaded: LoadedModel) -> None:
    """The reading of invariants, which came with the loading, before there was a watch."""
    read_structure(loaded.model, loaded.tokenizer_fingerprint, loaded.unread)


def _recorded(
    baseline: LoadedModel, windows: WindowSet, plan: MeasurementPlan, *, given: bool
) -> RecordedBaseline:
    if not set(ACTIVATIONS) & set(plan.guards):
        return UNRECORDED
    if not n_guard_windows(windows, plan, given=given):
        return RecordedBaseline((), None, NO_WINDOWS)
    batches = guard_batches(baseline, windows, plan)
    try:
        record = record_branches(baseline.model, batches, outlier_factor=plan.outlier_factor)
    except BranchError as error:
        return RecordedBaseline(batches, None, str(error))
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


def n_guard_windows(windows: WindowSet, plan: MeasurementPlan, *, given: bool) -> int:
    """How many windows, of choices examples, there are for guards to look at."""
    is_there = windows.calibration or given or plan.windows.pool != "certification"
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
    watch: ModelWatch | None = None,
) -> dict[str, GuardEvidence]:
    """The evidence of ``guards`` on ``subject``, by name, as the record holds it.

    Weights are compared whatever a subject reads; its activations only where it ``reads_alike``,
    that is, the baseline's windows as the baseline does. ``trial`` says on what the variance
    guard's proposals are tried; None looks for none. ``watch`` sees the subject after each guard's
    turn; once one has changed it, nothing it or a later one says is evidence.
    What could not be measured is ``{"not_evaluated": reason}``, which no policy lets pass.
    """
    asked = ["invariants", *(n for n in guards if n not in ("invariants", OVERHEAD))]
    if subject.load_failure is not None:
        unread = {name: {"not_evaluated": subject.load_failure} for name in asked[1:]}
        return {"invariants": measure_invariants(structure, subject.structure), **unread}
    evidence: dict[str, GuardEvidence] = {}
    tried = trial if "variance" in asked else None
    looks = _looks(baseline, structure, recorded, subject, tried, reads_alike=reads_alike)
    for look in looks if len(asked) > 1 else itertools.islice(looks, 1):
        if watch is not None:
            # What was read of packed weights are the plain numbers beside the model.
            if "invariants" in look and subject.plain is None:
                _read_again(subject.loaded)
            watch.step(list(look))
            if watch.altered_by is not None:
                break
        evidence |= look
    why = None if watch is None else f"{watch.altered_by} changed the subject"
    return {name: evidence.get(name, {"not_evaluated": why}) for name in asked}


def _looks(
    baseline: LoadedModel,
    structure: ModelStructure,
    recorded: RecordedBaseline,
    subject: Subject,
    trial: RescalingTrial | None,
    *,
    reads_alike: bool,
) -> Iterator[dict[str, GuardEvidence]]:
    """What each look at the subject shows; none is taken before it is asked for."""
    yield {"invariants": measure_invariants(structure, subject.structure)}
    spectral = _weights(baseline, subject)
    yield {"spectral": spectral}
    if recorded.problem is not None:
        yield _unread(recorded.problem)
    elif recorded.record is not None and reads_alike:
        yield _activations(recorded.batches, recorded.record, subject, spectral, trial)
    elif recorded.record is not None:
        yield _unread("the subject does not read the baseline's windows as the baseline does")


def overhead_evidence(
    recorded: RecordedBaseline,
    prepared: Sequence[PreparedGuard],
    subject: Subject,
    watch: ModelWatch | None,
) -> GuardEvidence:
    """What the guards' turns left of the models, as the record holds it.

    ``prepared`` are other packages' guards, with their turns on the baseline; ``watch`` is the
    subject's, None where it has no model that could be watched.
    """
    why = subject.load_failure or "the subject cannot be measured"
    baseline_repeats = recorded.repeatable and all(one.repeatable for one in prepared)
    return {
        "repeatable": baseline_repeats and (watch is None or watch.repeatable),
        "prepare": [*recorded.steps, *(dict(one.turn) for one in prepared if one.turn is not None)],
        "validate": {"not_evaluated": why} if watch is None else watch.steps,
    }


def _weights(baseline: LoadedModel, subject: Subject) -> GuardEvidence:
    if subject.spectral is not None:
        return subject.spectral
    before = subject.weights_before
    if before is None:
        before = dict(baseline.model.named_parameters())
    after = subject.plain
    if after is None:
        after = dict(subject.loaded.model.named_parameters())
    return measure_models(baseline.model, before, after)


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
