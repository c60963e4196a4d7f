"""The one seam through which everything is measured: `measure`, and nothing else, makes records."""

from __future__ import annotations

import resource
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pytest_invarlock.bench.draws import metric_of
from pytest_invarlock.bench.foreign_guards import PreparedGuard, attested_answers, prepare_guards
from pytest_invarlock.bench.guard_side import (
    UNRECORDED,
    guard_evidence,
    n_guard_windows,
    overhead_evidence,
)
from pytest_invarlock.bench.model_watch import is_demanded, subject_watch
from pytest_invarlock.bench.rescaling import rescaling_trial
from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.bench.tensor_digest import combined_digest
from pytest_invarlock.bench.unloadable import unloadable_subject
from pytest_invarlock.checks.guard_overhead import CHECK as OVERHEAD
from pytest_invarlock.core.determinism import (
    determinism_in_force,
    device_identity,
    in_force,
    resolve_plan,
)
from pytest_invarlock.core.pairing import match_fraction
from pytest_invarlock.errors import EditError, MeasurementError
from pytest_invarlock.evidence.strict_json import digest
from pytest_invarlock.policy.deploy_limits import DEPLOYABLE
from pytest_invarlock.policy.edit_names import kind_of
from pytest_invarlock.policy.tuned import SKIPPED_REMEDY
from pytest_invarlock.provenance import code_digest, keyed_host, library_versions, machine
from pytest_invarlock.records import Facts, Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from invarlock_guards.measure.invariants import ModelStructure

    from pytest_invarlock.bench.baseline_cache import BaselineEvidence
    from pytest_invarlock.bench.guard_side import RecordedBaseline
    from pytest_invarlock.bench.rescaling import RescalingTrial
    from pytest_invarlock.bench.subject import Subject
    from pytest_invarlock.bench.subject_pass import PairedArm
    from pytest_invarlock.data import WindowSet
    from pytest_invarlock.plan import Arm, MeasurementPlan, Pair, Scenario


def measure(
    pair: Pair,
    scenario: Scenario,
    plan: MeasurementPlan,
    *,
    bench: Bench | None = None,
    salt: bytes | None = None,
    worker: str = "main",
) -> Record:
    """Measure ``scenario`` of ``pair`` under ``plan``: the subject whole, paired with the baseline.

    Args:
        pair: the baseline and its name.
        scenario: an edit to apply in place (and undo), a structural fault to apply to a view of
            the checkpoint, or a checkpoint to load.
        plan: what to measure; ``plan.draw`` selects the windows.
        bench: the pair's resident bench; None makes one for this call.
        salt: the run's salt for keyed hashes of windows and host among the observations; None
            leaves them out.
        worker: the name of the process that measures, for the observations.

    Raises:
        InvarlockError: any typed error of loading, data, edit or measurement; EditError
            (EDIT_SKIPPED) for a clean edit whose file of parameters has none on purpose.
    """
    if scenario.skipped is not None:
        raise EditError(scenario.skipped, remedy=SKIPPED_REMEDY, code="EDIT_SKIPPED")
    if bench is None:
        bench = Bench(pair, resolve_plan(plan))
    started = datetime.now(UTC)
    clock = time.perf_counter()
    taken = _first_try(bench, scenario, plan.draw)
    if taken is None:
        # Outside the handler, which would keep the failed try's tensors alive.
        with bench.half_batches():
            taken = _take_again(bench, scenario, plan.draw)
    windows = bench.windows(plan.draw)
    end = time.perf_counter()
    observations = {
        "started_at": started.isoformat(timespec="seconds"),
        "seconds_to_baseline": round(taken.ready - clock, 6),
        "seconds_subject": round(end - taken.ready, 6),
        "peak_memory_bytes": peak_memory_bytes(),
        "counters": asdict(bench.counters),
        "device": device_identity(bench.plan.device),
        "determinism": taken.determinism,
        "versions": library_versions(),
        "machine": machine(),
        "worker": worker,
        "host": None if salt is None else keyed_host(salt),
        "window_hmacs": None if salt is None else windows.keyed_hashes(salt),
    }
    return Record(taken.facts, observations)


@dataclass(frozen=True, slots=True, repr=False)
class _Taken:
    """Facts, when the subject's turn came (`time.perf_counter`), and the flags in force."""

    facts: Facts
    ready: float
    determinism: Mapping[str, Any]


@dataclass(frozen=True, slots=True, repr=False)
class _Before:
    """What was taken of the baseline; no ``evidence`` where nothing of a subject can be measured.

    Kept here, for a guard may make the bench drop its resident.
    """

    evidence: BaselineEvidence | None
    recorded: RecordedBaseline
    foreign: tuple[PreparedGuard, ...]


def _first_try(bench: Bench, scenario: Scenario, draw: int) -> _Taken | None:
    """A measurement; None where memory ran out."""
    try:
        return _take(bench, scenario, draw)
    except torch.OutOfMemoryError:
        return None


def _take(bench: Bench, scenario: Scenario, draw: int) -> _Taken:
    with in_force(bench.plan.for_draw(draw)):
        # Before any model is loaded and any window scored.
        broken = None
        if scenario.subject is not None:
            broken = unloadable_subject(bench, scenario.subject)
            if broken is None:
                bench.first_look(scenario.subject)
        bench.prove_baseline()
        if broken is not None:
            foreign = prepare_guards(bench, draw)
            ready = time.perf_counter()
            determinism = determinism_in_force(bench.plan.for_draw(draw))
            before = _Before(None, UNRECORDED, foreign)
            return _Taken(_facts(bench, scenario, draw, broken, before), ready, determinism)
        bench.baseline_evidence(draw)
        recorded = bench.recorded_baseline(draw)
        if recorded.altered_by is not None:
            bench.drop()
        foreign = prepare_guards(bench, draw)
        # A baseline that a guard had changed is another by now, and is measured again.
        before = _Before(bench.baseline_evidence(draw), recorded, foreign)
        ready = time.perf_counter()
        determinism = determinism_in_force(bench.plan.for_draw(draw))
        with _subject(bench, scenario, draw) as subject:
            facts = _facts(bench, scenario, draw, subject, before)
            return _Taken(facts, ready, determinism)


def _take_again(bench: Bench, scenario: Scenario, draw: int) -> _Taken:
    """The one retry after memory ran out, of both models: their batches must be alike."""
    try:
        return _take(bench, scenario, draw)
    except torch.OutOfMemoryError as error:
        raise MeasurementError(
            f"out of memory on {bench.plan.device} at {bench.plan.batch_tokens} tokens a batch too",
            remedy=f"give --invarlock-batch={max(1, bench.plan.batch_tokens // 2)} or fewer tokens",
            code="OUT_OF_MEMORY",
        ) from error


def error_record(
    pair: Pair, scenario: Scenario, plan: MeasurementPlan, code: str, skipped: str | None = None
) -> Record:
    """The record of a measurement that ended with an error: its code, and no numbers.

    ``skipped`` is the reason of a backend that is not there.
    """
    facts = Facts(
        model=pair.name,
        scenario=scenario.name,
        draw=plan.draw,
        kind=kind_of(scenario),
        plan=_plan_document(plan, None, None, scenario, {}, None),
        baseline={},
        subject={},
        edit=None,
        data={},
        arms={},
        guards={} if skipped is None else {DEPLOYABLE: {"not_evaluated": skipped}},
        error=code,
    )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Record(facts, {"started_at": now, "versions": library_versions(), "machine": machine()})


def _subject(bench: Bench, scenario: Scenario, draw: int) -> AbstractContextManager[Subject]:
    if scenario.edit is not None:
        return bench.applied(scenario.edit, draw)
    if scenario.subject is None:
        raise MeasurementError("a scenario without a subject", remedy="name an edit or a subject")
    return bench.checkpoint(scenario.subject)


def _facts(bench: Bench, scenario: Scenario, draw: int, subject: Subject, before: _Before) -> Facts:
    """Facts about ``subject``: the metric first, then guards, others' code last."""
    evidence = before.evidence
    windows = bench.windows(draw)
    match, notes = match_fraction(bench, subject.loaded, draw)
    # Losses of another tokenizer's tokens are about other events: none are taken.
    comparable = match == 1.0 and subject.load_failure is None and evidence is not None
    measured = bench.measure_subject(subject, draw) if comparable else {}
    arms = {arm: paired.losses(windows.arms[arm]) for arm, paired in measured.items()}
    baseline = _identity(bench.baseline, bench.digests, bench.structure)
    data_digest = bench.draws.data_digest(draw, bench.baseline)
    plan = _plan_document(
        _measured_plan(bench, draw, windows),
        bench.draws.source_identity(draw),
        data_digest,
        scenario,
        baseline,
        subject.loaded.checkpoint_digest,
        before.foreign,
    )
    identity = _identity(subject.loaded, subject.digests, subject.structure)
    # From here on guards have both models, and whoever changes one makes the bench drop it.
    trial = rescaling_trial(bench, draw, measured)
    guards, attested = _looked_at(
        bench, scenario, draw, subject, before, trial, reads_alike=match == 1.0
    )
    return Facts(
        model=bench.pair.name,
        scenario=scenario.name,
        draw=draw,
        kind=kind_of(scenario),
        plan=plan,
        baseline=baseline,
        subject=identity | ({"checkpoint_digest": None} if subject.edit is not None else {}),
        edit=subject.edit,
        data={
            "digest": data_digest,
            "seq_len": windows.seq_len,
            "n_documents": dict(windows.n_documents)
            | {arm: len(np.unique(losses.documents)) for arm, losses in arms.items()},
            "n_documents_planned": dict(windows.n_documents),
            "n_guard_windows": n_guard_windows(
                windows, bench.plan, given=bench.draws.is_given(draw)
            ),
            "overlap_fraction": windows.overlap_fraction,
            "duplicate_fraction": windows.duplicate_fraction,
            "match_fraction": match,
            "notes": [*bench.plan.notes, *windows.notes, *notes],
        },
        arms=arms,
        guards=guards,
        attested=attested,
        divergence=_divergence(subject, measured, evidence),
        noise_floor={} if evidence is None else evidence.noise_floor,
    )


def _looked_at(
    bench: Bench,
    scenario: Scenario,
    draw: int,
    subject: Subject,
    before: _Before,
    trial: RescalingTrial | None,
    *,
    reads_alike: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The guards' evidence and others' answers; a watch is kept where the plan asks for it."""
    watched = is_demanded(bench.plan)
    watch = None
    if watched and subject.load_failure is None:
        watch = subject_watch(bench, draw, subject)
    guards = guard_evidence(
        bench.baseline,
        bench.structure,
        before.recorded,
        subject,
        bench.plan.guards,
        reads_alike=reads_alike,
        trial=trial,
        watch=watch,
    )
    # Last of all that looks at the subject: others' code has no say in our numbers.
    attested = attested_answers(bench, scenario, draw, subject, before.foreign, watch)
    if watched:
        guards[OVERHEAD] = overhead_evidence(before.recorded, before.foreign, subject, watch)
    if subject.deployment is not None:
        guards[DEPLOYABLE] = subject.deployment
    if watch is not None and watch.altered_by is not None:
        bench.drop()
    return guards, attested


def _divergence(
    subject: Subject, measured: Mapping[Arm, PairedArm], evidence: BaselineEvidence | None
) -> dict[str, Any]:
    if subject.load_failure is not None:
        return {"not_evaluated": subject.load_failure}
    if not measured or evidence is None:
        return {"not_evaluated": "the subject cannot be measured on the baseline's windows"}
    if any(paired.kl is None for paired in measured.values()):
        return {"not_evaluated": "the two models' vocabularies differ in size"}
    cached = evidence.scores["final"].states is not None
    return {
        "method": "cached_states" if cached else "side_by_side",
        **{arm: paired.divergence() for arm, paired in measured.items()},
    }


def _measured_plan(bench: Bench, draw: int, windows: WindowSet) -> MeasurementPlan:
    """The plan with the counts and lengths of windows that it does not fix itself."""
    metric = metric_of(bench.plan, bench.baseline.reading)
    plan = replace(bench.plan.for_draw(draw), metric=metric)
    if not bench.draws.is_given(draw):
        if plan.windows.pool == "certification":
            return plan
        drawn = replace(
            plan.windows,
            preview_windows=windows.n_drawn("preview"),
            final_windows=windows.n_drawn("final"),
        )
        return replace(plan, windows=drawn)
    selection = replace(
        plan.windows,
        seq_len=windows.seq_len,
        stride=windows.seq_len,
        preview_windows=len(windows.preview),
        final_windows=len(windows.final),
        # Whoever gives windows decides how many there are to lend.
        guard_windows=n_guard_windows(windows, plan, given=True),
    )
    return replace(plan, windows=selection)


def _plan_document(
    plan: MeasurementPlan,
    source: Mapping[str, Any] | None,
    data_digest: str | None,
    scenario: Scenario,
    baseline: Mapping[str, Any],
    checkpoint: str | None,
    foreign: tuple[PreparedGuard, ...] = (),
) -> dict[str, Any]:
    return {
        **plan.document(source=source, data_digest=data_digest),
        "baseline_tensors": baseline.get("tensors_digest"),
        "baseline_config": baseline.get("config_digest"),
        "subject": (
            scenario.edit.document() if scenario.edit is not None else {"checkpoint": checkpoint}
        ),
        "code": code_digest(),
        **(
            {"foreign_guards": {one.name: dict(one.identity) for one in foreign}} if foreign else {}
        ),
        **({"ends_on_abort": ends} if (ends := [one.name for one in foreign if one.ends]) else {}),
    }


def _identity(loaded: Any, digests: Mapping[str, str], structure: ModelStructure) -> dict[str, Any]:
    return {
        "config_digest": digest(dict(structure.config)),
        "tensors_digest": combined_digest(digests),
        "checkpoint_digest": loaded.checkpoint_digest,
        "tokenizer_fingerprint": loaded.tokenizer_fingerprint,
        "revision": loaded.source.revision if loaded.source is not None else None,
        "architecture": type(loaded.model).__name__,
        "adapter": loaded.adapter,
        "attention": loaded.attention,
        "dtype": str(next(loaded.model.parameters()).dtype).removeprefix("torch."),
    }


def peak_memory_bytes() -> int:
    """The process's greatest resident memory so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
