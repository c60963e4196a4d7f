"""From the files of a run to its reports and its sealed pack; only the controller calls this."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.calibration.preset_file import read_presets
from pytest_invarlock.certificate import render_certificate_html
from pytest_invarlock.certificate.verdict_text import verdict_file_text
from pytest_invarlock.errors import ConfigError, EvidenceError
from pytest_invarlock.evidence.atomic import write_bytes, write_json
from pytest_invarlock.evidence.attestation import attestation_files
from pytest_invarlock.evidence.environment import environment_document
from pytest_invarlock.evidence.keys import load_private_key, user_signing_key
from pytest_invarlock.evidence.manifest import ManifestHeader, ToolIdentity
from pytest_invarlock.evidence.model_revisions import STATE_FILE as REVISIONS_FILE
from pytest_invarlock.evidence.model_revisions import packed_revisions
from pytest_invarlock.evidence.pack import SealedPack, seal_pack
from pytest_invarlock.evidence.pack_files import (
    REPORT,
    PackMetadata,
    files_of_record,
    in_order,
    metadata_files,
    report_files,
    started_at,
)
from pytest_invarlock.evidence.pack_schemas import (
    MAX_DOCUMENT_BYTES,
    RESULTS,
    VERDICT,
    VERDICT_TEXT,
    check_schemas,
)
from pytest_invarlock.evidence.rederive import combined_plan_digest, rederive_pack
from pytest_invarlock.evidence.strict_json import loads
from pytest_invarlock.evidence.verify import VerifyOptions, verify_pack
from pytest_invarlock.policy.decision_policy import policies_digest
from pytest_invarlock.provenance import code_digest, tool_version
from pytest_invarlock.run_summary import calibrated_models
from pytest_invarlock.run_text import markdown
from pytest_invarlock.signal_summary import SUMMARIES
from pytest_invarlock.timing_summary import TIMING_SUMMARY, timing_summary

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_invarlock.evidence.environment import Permissions
    from pytest_invarlock.run_directory import RunDirectory
    from pytest_invarlock.run_summary import RunSummary

HTML_PAGE = "report.html"
PROVENANCE = "provenance.json"
"""In a run's state: what its pack says of the repository, kept for one that is built later."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The key a pack is signed with; None for an unsigned one; whether it was made just now."""

    private: Ed25519PrivateKey | None
    created: bool = False


def signing_key(chosen: str) -> SigningKey:
    """``auto``: the user's own key, made on first use; ``none``; or a PEM file."""
    if chosen == "none":
        return SigningKey(None)
    if chosen == "auto":
        path, created = user_signing_key()
        return SigningKey(load_private_key(path), created)
    return SigningKey(load_private_key(Path(chosen)))


def pack_metadata(
    summary: RunSummary,
    permissions: Permissions,
    *,
    source_repo: Mapping[str, Any] | None = None,
    release_review: bool = False,
) -> PackMetadata:
    """What certificates and pack of a run say besides its records and policies.

    Raises EvidenceError where the run's state cannot be read.
    """
    revisions = summary.run.state / REVISIONS_FILE
    stated = None
    if revisions.is_file():
        stated = loads(revisions.read_bytes(), max_bytes=MAX_DOCUMENT_BYTES, what=REVISIONS_FILE)
    models = calibrated_models(summary.plans)
    found = read_presets(summary.run.path, models)
    return PackMetadata(
        run_id=summary.run.run_id,
        suite=summary.name,
        planned=summary.planned,
        scenarios=[scenario for plan in summary.plans for scenario in plan["scenarios"]],
        environment=environment_document(summary.records, permissions),
        source_repo=source_repo,
        model_revisions=packed_revisions(stated, summary.records),
        presets={model: found.get(model) for model in models},
        release_review=release_review,
        signed=summary.signed,
    )


def provenance_of(run: RunDirectory) -> tuple[dict[str, Any] | None, bool]:
    """The repository's state as a run recorded it, and whether a release review was asked for.

    Raises EvidenceError where the run's state cannot be read.
    """
    path = run.state / PROVENANCE
    if not path.is_file():
        return None, False
    told = loads(path.read_bytes(), max_bytes=MAX_DOCUMENT_BYTES, what=PROVENANCE)
    return told["source_repo"], told["release_review"]


def check_named_key(chosen: str, *, release_review: bool) -> None:
    """Raise ConfigError where a release review is to be sealed by no key that someone named."""
    if release_review and chosen in ("auto", "none"):
        raise ConfigError(
            f"a release review is not sealed with --signing-key={chosen}",
            remedy="give --signing-key=FILE",
            code="RELEASE_REVIEW",
        )


def write_reports(summary: RunSummary, metadata: PackMetadata, *, html: bool = True) -> None:
    """Write certificates and what stands beside them, final verdict, summaries, ``summary.md``.

    With ``html`` each certificate has a page for browsers too, which no pack holds.

    Each by atomic rename. A sweep has no final verdict, and no file of one; a run that is not whole
    has no summaries of what fired.

    Raises EvidenceError where the run's folder cannot be written.
    """
    try:
        for record, decision in zip(summary.records, summary.decisions, strict=True):
            policy = summary.policy(decision)
            for path, content in report_files(record, decision, policy, metadata).items():
                target = summary.run.path / path
                target.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(target, content)
                if html and target.name == REPORT:
                    page = render_certificate_html(json.loads(content), record.facts)
                    write_bytes(target.with_name(HTML_PAGE), page.encode())
        if not summary.is_sweep:
            _write_verdict(summary)
        told = {"source_repo": metadata.source_repo, "release_review": metadata.release_review}
        write_json(summary.run.state / PROVENANCE, told)
        write_json(summary.run.path / TIMING_SUMMARY, timing_summary(summary.records))
        write_bytes(summary.run.path / "summary.md", markdown(summary).encode())
    except OSError as error:
        raise EvidenceError(
            f"{summary.run.path}: reports cannot be written: {error.strerror}",
            remedy="free space or give another --invarlock-out; records that were written are kept",
            code="OUT_UNWRITABLE",
        ) from error


def _write_verdict(summary: RunSummary) -> None:
    write_json(summary.run.path / "final_verdict.json", summary.verdict_document())
    text = (
        f"no verdict: {summary.status}\n"
        if summary.verdict is None
        else verdict_file_text(summary.verdict)
    )
    write_bytes(summary.run.path / "final_verdict.txt", text.encode())
    if summary.verdict is not None:
        for name, document in summary.verdict.signals.documents().items():
            write_json(summary.run.path / name, document)


def seal_run(
    summary: RunSummary,
    metadata: PackMetadata,
    key: Ed25519PrivateKey | None,
    beside: Mapping[str, bytes] | None = None,
) -> SealedPack:
    """Seal the pack of a whole run: reports, records, results and metadata; nothing else.

    ``beside`` is what else verification knows to explain, by path.
    """
    if summary.verdict is None:
        raise EvidenceError("a run without a verdict is not sealed", remedy="run the whole suite")
    if metadata.signed != (key is not None):
        raise EvidenceError(
            "reports and pack disagree on whether there is a signature", remedy="report this"
        )
    policies = summary.policy_documents()
    header = ManifestHeader(
        run_id=summary.run.run_id,
        suite=summary.name,
        started_at=started_at(summary.records) or _now(),
        finished_at=_now(),
        created_at=_now(),
        tool=ToolIdentity("pytest-invarlock", tool_version(), code_digest()),
        verdict=summary.verdict.verdict,
        planned=summary.planned,
        plan_digest=combined_plan_digest(summary.records),
        policy_digest=policies_digest(policies),
        references=metadata.references(),
    )
    files = {**_files(summary, metadata), **(beside or {})}
    sealed = seal_pack(summary.run.pack, files, header, key)
    _check_own_pack(sealed)
    return sealed


def _check_own_pack(sealed: SealedPack) -> None:
    """A pack that its own verifier refuses must not leave: that would be a defect of ours."""
    pinned = (sealed.fingerprint,) if sealed.fingerprint else ()
    options = VerifyOptions(expected_fingerprints=pinned, allow_unsigned=sealed.fingerprint is None)
    report = verify_pack(sealed.path, options, rederive_pack, check_schemas)
    if not report.ok:
        first = next(finding for finding in report.findings if finding.level == "error")
        shutil.rmtree(sealed.path)
        raise EvidenceError(
            f"the pack that was made does not verify: {first.path}: {first.message}",
            remedy="report this; records and reports are kept",
            code="PACK_SELF_CHECK",
        )


def _files(summary: RunSummary, metadata: PackMetadata) -> dict[str, bytes | Path]:
    """The same files as `pack_files` makes, those that the run's folder holds by their paths."""
    run = summary.run
    judged = in_order(zip(summary.records, summary.decisions, strict=True))
    policies = summary.policy_documents()
    files: dict[str, bytes | Path] = {
        **metadata_files(policies, metadata),
        **attestation_files(judged, policies_digest(policies)),
        VERDICT: run.path / "final_verdict.json",
        VERDICT_TEXT: run.path / "final_verdict.txt",
        **{f"{RESULTS}/{name}": run.path / name for name in SUMMARIES},
    }
    for record, _ in judged:
        files |= {path: run.path / path for path in files_of_record(record, metadata)}
    return files


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
