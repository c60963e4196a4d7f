"""Seal what packs were merged into: certificates under one run, the verdict of the union."""

from __future__ import annotations

import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_invarlock.calibration.preset_file import preset_path
from pytest_invarlock.evidence.atomic import write_json
from pytest_invarlock.evidence.build_pack import RunSealedTo
from pytest_invarlock.evidence.model_revisions import STATE_FILE as REVISIONS_FILE
from pytest_invarlock.evidence.pack_schemas import MERGED
from pytest_invarlock.evidence.run_pack import pack_metadata, seal_run, write_reports
from pytest_invarlock.evidence.strict_json import pretty
from pytest_invarlock.path_names import slug
from pytest_invarlock.release_review import ReleaseReview
from pytest_invarlock.run_summary import RunSummary, summarise

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_invarlock.evidence.merge_packs import Merged


def seal_merged(merged: Merged, destination: Path, key: Ed25519PrivateKey | None) -> RunSummary:
    """Write the pack of ``merged`` to ``destination``; returns its run, with its verdict.

    The certificates are made again, because each bears its run's name. A scratch folder beside
    ``destination`` holds them meanwhile.

    Raises:
        EvidenceError: the codes of `seal_run`, PACK_EXISTS among them.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    scratch = destination.absolute().with_name(f".{destination.name}.merge-{secrets.token_hex(4)}")
    run = RunSealedTo(scratch / f"{slug(merged.suite)}-merged-{stamp}", destination)
    try:
        for folder in (run.state / "plans", run.records):
            folder.mkdir(parents=True)
        run.write_plan(merged.plan)
        for record in merged.records:
            run.write_record(record)
        for model, preset in merged.presets.items():
            if preset is not None:
                path = run.path / preset_path(model)
                path.parent.mkdir(exist_ok=True)
                write_json(path, preset)
        if merged.model_revisions is not None:
            write_json(run.state / REVISIONS_FILE, merged.model_revisions)
        signed, source_repo = key is not None, merged.source_repo
        review = ReleaseReview(signed, source_repo is not None) if merged.release_review else None
        summary = summarise(run, set(), cut=None, signed=signed, review=review)
        metadata = pack_metadata(
            summary, merged.permissions,
            source_repo=source_repo, release_review=merged.release_review,
        )  # fmt: skip
        write_reports(summary, metadata)
        beside = {MERGED: pretty(merged.document())}
        summary.sealed = seal_run(summary, metadata, key, beside)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return summary
