"""Whole runs on disk without a model: made-up records, sealed by the code that seals real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_invarlock.evidence.environment import Permissions
from pytest_invarlock.evidence.run_pack import pack_metadata, seal_run, write_reports
from pytest_invarlock.plan import PlannedScenario
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.policy.metric_limits import MetricLimits
from pytest_invarlock.provenance import code_digest, library_versions, machine
from pytest_invarlock.records import ArmLosses, Facts, Record
from pytest_invarlock.release_review import ReleaseReview
from pytest_invarlock.run_directory import RunDirectory
from pytest_invarlock.run_summary import RunSummary, summarise

from ..checks.made import CLEAN, QUIET, policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_invarlock.evidence.pack_files import PackMetadata

N, TOKENS = 48, 63
SHA, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
EDIT = {"name": "quant_rtn", "parameters": {"bitwidth": 8}}
METRIC = MetricLimits(1.10, 2.0, 0.05, 0.04, 199)


def _arm(change: float, first_document: int) -> ArmLosses:
    generator = np.random.default_rng(4)
    baseline = generator.uniform(2, 4, N) * TOKENS
    subject = baseline + TOKENS * (change + 0.01 * generator.normal(size=N))
    return ArmLosses(np.arange(N) + first_document, np.full(N, TOKENS), baseline, subject)


def _identity(tensors: str) -> dict[str, Any]:
    return {
        "tensors_digest": tensors, "checkpoint_digest": None, "tokenizer_fingerprint": SHA,
        "revision": None, "architecture": "LlamaForCausalLM", "config_digest": SHA,
    }  # fmt: skip


def made_record(scenario: str, change: float = 0.01, *, draw: int = 0, **replaced: Any) -> Record:
    """A record of model ``m`` whose losses grow by ``change`` nats per token."""
    counts = {"preview": N, "final": N}
    stated: dict[str, Any] = {
        "model": "m", "scenario": scenario, "draw": draw, "kind": "any",
        "plan": {
            "format": "invarlock-plan-v1", "data_digest": SHA,
            "source": {"provider": "pydoc", "shareable": True}, "mask_probability": None,
            "sequential": None,
            "windows": {
                "seq_len": TOKENS + 1, "stride": TOKENS + 1, "preview_windows": N,
                "final_windows": N, "max_windows_per_document": 8, "seed": 0,
                "convention": "document", "guard_windows": 16,
            },
            "guards": ["invariants"], "outlier_factor": 1.65, "metric": "ppl_causal",
            "device": "cpu", "dtype": "float32", "threads": 1, "determinism": "strict",
            "batch_tokens": 8192, "draw": draw, "baseline_tensors": SHA, "baseline_config": SHA,
            "subject": EDIT, "code": code_digest(),
        },
        "baseline": _identity(SHA), "subject": _identity(OTHER),
        "edit": {**EDIT, "n_tensors_touched": 4, "n_tensors_changed": 4,
                 "n_parameters_touched": 40, "n_parameters_changed": 39},
        "data": {"digest": SHA, "seq_len": TOKENS + 1, "n_documents": counts,
                 "n_documents_planned": counts, "match_fraction": 1.0, "overlap_fraction": 0.0,
                 "duplicate_fraction": 0.25, "notes": []},
        "arms": {"preview": _arm(change, N), "final": _arm(change, 0)},
        "guards": {"invariants": CLEAN}, "divergence": {"not_evaluated": "made up"},
        "noise_floor": QUIET, "error": None,
    }  # fmt: skip
    observed = {
        "started_at": "2026-11-20T12:00:00+00:00", "versions": library_versions(),
        "machine": machine(),
    }  # fmt: skip
    return Record(Facts(**stated | replaced), observed)


def made_run(
    folder: Path,
    scenarios: Mapping[str, float] | Iterable[Record],
    *,
    strictness: Mapping[str, Strictness] | None = None,
    draws: int = 1,
    **policy_change: Any,
) -> RunDirectory:
    """A whole run of suite ``small`` in ``folder``; ``scenarios`` by name, with their change."""
    run = RunDirectory(folder)
    for each in (run.state / "plans", run.records, folder / "logs"):
        each.mkdir(parents=True)
    run.write_salt(bytes(32))
    (run.state / "session").write_text("made up|")
    records = (
        [made_record(n, c, draw=k) for n, c in scenarios.items() for k in range(draws)]
        if isinstance(scenarios, dict)
        else list(scenarios)
    )
    names = list(dict.fromkeys(record.facts.scenario for record in records))
    demands = {name: (strictness or {}).get(name, Strictness.MUST_PASS) for name in names}
    stated: dict[str, Any] = {
        "primary_metric": METRIC,
        "expectations": {("m", n): Expectation("clean", demand) for n, demand in demands.items()},
    }
    rules = policy(**{**stated, **policy_change})
    run.write_plan(
        {
            "name": "small",
            "node_prefix": "invarlock/small",
            "node_ids": [f"invarlock/small::m::{name}::x" for name in names],
            "planned": [PlannedScenario("m", name, draws).document() for name in names],
            "policies": [rules.document()],
            "scenarios": [{"scenario": n, "kind": "any", "edit": EDIT} for n in names],
        }
    )
    for record in records:
        run.write_record(record)
    return run


def reported(
    run: RunDirectory, *, signed: bool = False, **told: Any
) -> tuple[RunSummary, PackMetadata]:
    """The summary of a run of which every item came to an outcome, and its reports on disk."""
    ran = {node for plan in run.read_plans() for node in plan["node_ids"]}
    review = ReleaseReview(signed, True) if told.get("release_review") else None
    summary = summarise(run, ran, cut=None, signed=signed, review=review)
    metadata = pack_metadata(summary, Permissions(), **told)
    write_reports(summary, metadata)
    return summary, metadata


def sealed_run(run: RunDirectory, key: Ed25519PrivateKey | None) -> Path:
    """The pack of a whole run, with the reports it holds."""
    summary, metadata = reported(run, signed=key is not None)
    return seal_run(summary, metadata, key).path
