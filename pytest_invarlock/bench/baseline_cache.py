"""Baseline evidence, computed once per host, pair and draw: a file per key under a lock."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open

from pytest_invarlock.core.determinism import device_identity
from pytest_invarlock.evidence.strict_json import digest
from pytest_invarlock.metrics.token_scoring import Scores
from pytest_invarlock.plan import ARMS
from pytest_invarlock.provenance import code_digest, library_versions

if TYPE_CHECKING:
    import torch

    from pytest_invarlock.plan import Arm, MeasurementPlan

_NOISE_FLOOR = "noise_floor"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class BaselineEvidence:
    """What one pass over the baseline gave.

    ``scores`` by arm, in the order of the arm's batches; ``noise_floor`` what the baseline differs
    from itself, as the record holds it.
    """

    scores: Mapping[Arm, Scores]
    noise_floor: Mapping[str, Any]


def measured_under(plan: MeasurementPlan, **identity: str | bool | None) -> str:
    """The digest of all that a baseline's evidence depends on: its key.

    Args:
        plan: how it is measured.
        identity: what the model and the windows are.
    """
    sequential = plan.sequential
    return digest(
        {
            **identity,
            "code": code_digest(),
            "first_look": None if sequential is None else sequential.first_look,
            "dtype": plan.dtype,
            "threads": plan.threads,
            "determinism": plan.determinism,
            "batch_tokens": plan.batch_tokens,
            "device": device_identity(plan.device),
            "versions": library_versions(),
        }
    )


def cached_evidence(
    folder: Path | None, key: str, compute: Callable[[], BaselineEvidence]
) -> BaselineEvidence:
    """The evidence stored under ``key``, else that of ``compute``, stored for whoever comes next.

    Args:
        folder: where files and locks go; None keeps nothing.
        key: a digest of everything that changes the evidence's bits.
        compute: takes the evidence; only one process at a time calls it.
    """
    if folder is None:
        return compute()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key.removeprefix('sha256:')}.safetensors"
    with FileLock(path.with_suffix(".lock")):
        if path.is_file():
            try:
                return _read(path)
            except (SafetensorError, KeyError, ValueError, TypeError):
                # A damaged file is a file that is not there: it is written anew.
                path.unlink()
        evidence = compute()
        _write(path, evidence)
    return evidence


def _write(path: Path, evidence: BaselineEvidence) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for arm, scores in evidence.scores.items():
        tensors |= {f"{arm}.nll": scores.nll, f"{arm}.top1": scores.top1}
        if scores.states is not None:
            tensors[f"{arm}.states"] = scores.states
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        safetensors.torch.save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            temporary,
            metadata={_NOISE_FLOOR: json.dumps(dict(evidence.noise_floor))},
        )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> BaselineEvidence:
    with safe_open(path, framework="pt") as stored:
        names = set(stored.keys())
        scores = {
            arm: Scores(
                stored.get_tensor(f"{arm}.nll"),
                stored.get_tensor(f"{arm}.top1"),
                stored.get_tensor(f"{arm}.states") if f"{arm}.states" in names else None,
            )
            for arm in ARMS
        }
        return BaselineEvidence(scores, json.loads(stored.metadata()[_NOISE_FLOOR]))
