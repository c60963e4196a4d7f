"""The one seam through which everything is measured: `measure`, and nothing else, makes records."""

from __future__ import annotations

import resource
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from invarlock_guards.measure.invariants import measure_invariants

from pytest_invarlock.bench.resident import Bench, Subject
from pytest_invarlock.bench.tensor_digest import combined_digest
from pytest_invarlock.core.determinism import device_identity, in_force, resolve_plan
from pytest_invarlock.errors import InvarlockError, MeasurementError
from pytest_invarlock.evidence.strict_json import digest
from pytest_invarlock.plan import ARMS, Arm, DataSource
from pytest_invarlock.provenance import code_digest, keyed_host, library_versions, machine
from pytest_invarlock.records import ArmLosses, Facts, Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from invarlock_guards.measure.invariants import ModelStructure

    from pytest_invarlock.data import WindowSet
    from pytest_invarlock.plan import MeasurementPlan, Pair, Scenario


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
        scenario: an edit to apply in place (and undo), or a checkpoint to load.
        plan: what to measure; ``plan.draw`` selects the windows.
        bench: the pair's resident bench; None makes one for this call.
        salt: the run's salt for keyed hashes of windows and host among the observations; None
            leaves them out.
        worker: the name of the process that measures, for the observations.

    Raises:
        InvarlockError: any typed error of loading, data, edit or measurement.
    """
    if bench is None:
        bench = Bench(pair, resolve_plan(plan))
    started = datetime.now(UTC)
    clock = time.perf_counter()
    draw = plan.draw
    try:
        with in_force(bench.plan):
            _ = bench.baseline
            windows = bench.windows(draw)
            baseline_losses = bench.baseline_losses(draw)
            ready = time.perf_counter()
            with _subject(bench, scenario, draw) as subject:
                facts = _facts(bench, scenario, draw, windows, subject, baseline_losses)
    except torch.OutOfMemoryError as error:
        raise MeasurementError(
            f"out of memory on {bench.plan.device}",
            remedy=f"give --invarlock-batch={max(1, bench.plan.batch_tokens // 2)} or fewer tokens",
            code="OUT_OF_MEMORY",
        ) from error
    end = time.perf_counter()
    observations = {
        "started_at": started.isoformat(timespec="seconds"),
        "seconds_to_baseline": round(ready - clock, 6),
        "seconds_subject": round(end - ready, 6),
        "peak_memory_bytes": peak_memory_bytes(),
        "counters": asdict(bench.counters),
        "device": device_identity(bench.plan.device),
        "versions": library_versions(),
        "machine": machine(),
        "worker": worker,
        "host": None if salt is None else keyed_host(salt),
        "window_hmacs": None if salt is None else windows.keyed_hashes(salt),
    }
    return Record(facts, observations)


def error_record(pair: Pair, scenario: Scenario, plan: MeasurementPlan, code: str) -> Record:
    """The record of a measurement that ended with an error: its code, and no numbers."""
    facts = Facts(
        model=pair.name,
        scenario=scenario.name,
        draw=plan.draw,
        kind=scenario.kind,
        plan=_plan_document(plan, "unknown", scenario, {}, None),
        baseline={},
        subject={},
        edit=None,
        data={},
        arms={},
        guards={},
        error=code,
    )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Record(facts, {"started_at": now, "versions": library_versions(), "machine": machine()})


def error_code(error: BaseException) -> str:
    """The stable code under which an error enters a record."""
    return error.code if isinstance(error, InvarlockError) else "CRASH"


def _subject(bench: Bench, scenario: Scenario, draw: int) -> AbstractContextManager[Subject]:
    if scenario.edit is not None:
        return bench.edited(scenario.edit)
    if scenario.subject is None:
        raise MeasurementError("a scenario without a subject", remedy="name an edit or a subject")
    return bench.checkpoint(scenario.subject, draw)


def _facts(
    bench: Bench,
    scenario: Scenario,
    draw: int,
    windows: WindowSet,
    subject: Subject,
    baseline_losses: Mapping[Arm, Any],
) -> Facts:
    guards = {"invariants": measure_invariants(bench.structure, subject.structure)}
    comparable = subject.loaded.tokenizer_fingerprint == bench.baseline.tokenizer_fingerprint
    # Losses of another tokenizer's tokens are about other events: none are taken.
    losses = bench.subject_losses(subject, draw) if comparable else None
    baseline = _identity(bench.baseline, bench.digests, bench.structure)
    return Facts(
        model=bench.pair.name,
        scenario=scenario.name,
        draw=draw,
        kind=scenario.kind,
        plan=_plan_document(
            _measured_plan(bench, draw, windows),
            bench.source_digest(draw),
            scenario,
            baseline,
            subject.loaded.checkpoint_digest,
        ),
        baseline=baseline,
        subject=_identity(subject.loaded, subject.digests, subject.structure)
        | ({"checkpoint_digest": None} if subject.edit is not None else {}),
        edit=subject.edit,
        data={
            "digest": bench.data_digest(draw),
            "seq_len": windows.seq_len,
            "n_documents": dict(windows.n_documents),
            "notes": [*bench.plan.notes, *windows.notes],
        },
        arms={} if losses is None else _arms(windows, baseline_losses, losses),
        guards=guards,
    )


def _measured_plan(bench: Bench, draw: int, windows: WindowSet) -> MeasurementPlan:
    """The plan with what windows given ready-made make of it."""
    plan = bench.plan.for_draw(draw)
    if not bench.is_given(draw):
        return plan
    selection = replace(
        plan.windows,
        seq_len=windows.seq_len,
        stride=windows.seq_len,
        preview_windows=len(windows.preview),
        final_windows=len(windows.final),
    )
    return replace(plan, source=DataSource("given"), windows=selection)


def _plan_document(
    plan: MeasurementPlan,
    source_digest: str,
    scenario: Scenario,
    baseline: Mapping[str, Any],
    checkpoint: str | None,
) -> dict[str, Any]:
    return {
        **plan.document(source_digest=source_digest),
        "baseline_tensors": baseline.get("tensors_digest"),
        "baseline_config": baseline.get("config_digest"),
        "subject": (
            scenario.edit.document() if scenario.edit is not None else {"checkpoint": checkpoint}
        ),
        "code": code_digest(),
    }


def _identity(loaded: Any, digests: Mapping[str, str], structure: ModelStructure) -> dict[str, Any]:
    return {
        "config_digest": digest(dict(structure.config)),
        "tensors_digest": combined_digest(digests),
        "checkpoint_digest": loaded.checkpoint_digest,
        "tokenizer_fingerprint": loaded.tokenizer_fingerprint,
        "revision": loaded.source.revision if loaded.source is not None else None,
        "architecture": type(loaded.model).__name__,
    }


def _arms(
    windows: WindowSet, baseline: Mapping[Arm, Any], subject: Mapping[Arm, Any]
) -> dict[Arm, ArmLosses]:
    return {
        arm: ArmLosses(
            documents=np.array([w.document for w in windows.arms[arm]], dtype=np.int64),
            tokens=np.array([w.n_scored for w in windows.arms[arm]], dtype=np.int64),
            baseline_nll=baseline[arm],
            subject_nll=subject[arm],
        )
        for arm in ARMS
    }


def peak_memory_bytes() -> int:
    """The process's greatest resident memory so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
