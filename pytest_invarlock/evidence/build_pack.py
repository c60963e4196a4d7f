"""Seal the folder of a finished run: for the first time, or again with another key."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.calibration.preset_file import FOLDER
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.environment import Permissions
from pytest_invarlock.evidence.json_difference import first_difference
from pytest_invarlock.evidence.model_revisions import STATE_FILE as REVISIONS_FILE
from pytest_invarlock.evidence.run_pack import (
    pack_metadata,
    provenance_of,
    seal_run,
    write_reports,
)
from pytest_invarlock.evidence.runtime_manifest import FILE_NAME
from pytest_invarlock.evidence.strict_json import loads
from pytest_invarlock.release_review import ReleaseReview
from pytest_invarlock.run_directory import RunDirectory
from pytest_invarlock.run_summary import summarise

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_invarlock.evidence.pack import SealedPack
    from pytest_invarlock.evidence.pack_files import PackMetadata
    from pytest_invarlock.run_summary import RunSummary

MAX_VERDICT_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class RunSealedTo(RunDirectory):
    """A run whose pack is written to ``destination`` instead of into its own folder."""

    destination: Path

    @property
    def pack(self) -> Path:
        """The evidence pack."""
        return self.destination


def build_pack(
    folder: Path, key: Ed25519PrivateKey | None, destination: Path | None = None
) -> SealedPack:
    """Seal the run in ``folder``, by default into its own ``evidence_pack``.

    Only a run that ended whole has a verdict to seal, and only while it still follows from the
    records: what was partial, still runs, or was changed since is refused.

    Raises:
        EvidenceError: NOT_A_RUN, RUN_NOT_WHOLE, RUN_CHANGED, and the codes of `seal_run`.
    """
    folder = folder.resolve()
    run = RunSealedTo(folder, destination or RunDirectory(folder).pack)
    plans = run.read_plans() if run.owner() is not None else []
    if not plans:
        raise _refused(
            f"{folder.name}: is not the folder of a run", "NOT_A_RUN",
            "name a folder under invarlock-out, not its pack",
        )  # fmt: skip
    stated = _stated(run)
    if stated.get("status") != "complete" or stated.get("verdict") is None:
        word = stated.get("status") or "without a verdict"
        raise _refused(
            f"{folder.name}: the run is {word}: only whole runs are sealed", "RUN_NOT_WHOLE",
            "run the whole suite; --invarlock-resume takes over what was measured",
        )  # fmt: skip
    ran = {node_id for plan in plans for node_id in plan["node_ids"]}
    source_repo, release_review = provenance_of(run)
    # As it was decided: no release review begins without a named key.
    review = ReleaseReview(True, source_repo is not None) if release_review else None
    summary = summarise(run, ran, cut=None, review=review)
    if summary.verdict is None:
        raise _refused(
            f"{folder.name}: a sweep or a calibration has no verdict", "RUN_NOT_WHOLE",
            "seal the run of a suite",
        )  # fmt: skip
    difference = first_difference(summary.verdict_document(), stated)
    if difference is not None:
        raise _refused(
            f"{folder.name}: final_verdict.json does not follow from the records: {difference}",
            "RUN_CHANGED", "run the suite again",
        )  # fmt: skip
    return _sealed_copy(run, key, review)


def _sealed_copy(
    run: RunSealedTo, key: Ed25519PrivateKey | None, review: ReleaseReview | None
) -> SealedPack:
    """Seal a copy of the run, whose reports are made again: they say whether they are signed."""
    name = run.destination.name
    scratch = run.destination.absolute().with_name(f".{name}.build-{secrets.token_hex(4)}")
    copy = RunSealedTo(scratch / run.run_id, run.destination)
    try:
        for folder in ("state/plans", "records", FOLDER):
            if (run.path / folder).is_dir():
                shutil.copytree(run.path / folder, copy.path / folder)
        revisions = run.state / REVISIONS_FILE
        if revisions.is_file():
            shutil.copy(revisions, copy.state)
        ran = {node_id for plan in copy.read_plans() for node_id in plan["node_ids"]}
        summary = summarise(copy, ran, cut=None, signed=key is not None, review=review)
        metadata = _metadata(run, summary)
        write_reports(summary, metadata)
        return seal_run(summary, metadata, key)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _metadata(run: RunDirectory, summary: RunSummary) -> PackMetadata:
    """What the pack says, with what was allowed, and when, as the run's own reports have it."""
    told = [
        loads(path.read_bytes(), max_bytes=MAX_VERDICT_BYTES, what=path.name)
        for path in sorted((run.path / "reports").rglob(FILE_NAME))
    ]
    if not told:
        raise _refused(
            f"{run.run_id}: no {FILE_NAME} says what the run was allowed", "RUN_NOT_WHOLE",
            "run the suite again",
        )  # fmt: skip
    allowed = Permissions(
        any(one["runtime"]["allow_network"] for one in told),
        any(one["runtime"]["allow_remote_code"] for one in told),
    )
    source_repo, release_review = provenance_of(run)
    metadata = pack_metadata(
        summary, allowed, source_repo=source_repo, release_review=release_review
    )
    stamp = {"recorded_at": max(one["generated_at_utc"] for one in told)}
    return replace(metadata, environment={**metadata.environment, **stamp})


def _stated(run: RunDirectory) -> dict[str, Any]:
    path = run.path / "final_verdict.json"
    if not path.is_file():
        return {}
    value = loads(path.read_bytes(), max_bytes=MAX_VERDICT_BYTES, what=path.name)
    return value if isinstance(value, dict) else {}


def _refused(cause: str, code: str, remedy: str) -> EvidenceError:
    return EvidenceError(cause, remedy=remedy, code=code)
