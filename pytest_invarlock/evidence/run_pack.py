"""From the files of a run to its reports and its sealed pack; only the controller calls this."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.calibration.preset_file import FOLDER
from pytest_invarlock.certificate import (
    make_certificate,
    render_certificate_html,
    render_certificate_markdown,
)
from pytest_invarlock.certificate.probes import FILES, make_probe
from pytest_invarlock.certificate.verdict_text import verdict_file_text
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.atomic import write_bytes, write_json
from pytest_invarlock.evidence.keys import load_private_key, user_signing_key
from pytest_invarlock.evidence.manifest import ManifestHeader, ToolIdentity
from pytest_invarlock.evidence.pack import SealedPack, seal_pack
from pytest_invarlock.evidence.pack_schemas import (
    ENVIRONMENT,
    POLICY,
    RESULTS,
    SCENARIOS,
    VERDICT,
    VERDICT_TEXT,
    check_schemas,
)
from pytest_invarlock.evidence.rederive import combined_plan_digest, rederive_pack
from pytest_invarlock.evidence.strict_json import pretty
from pytest_invarlock.evidence.verify import VerifyOptions, verify_pack
from pytest_invarlock.policy.decision_policy import policies_digest
from pytest_invarlock.provenance import code_digest, library_versions, machine, tool_version
from pytest_invarlock.run_summary import calibrated_models
from pytest_invarlock.run_text import markdown
from pytest_invarlock.signal_summary import SUMMARIES
from pytest_invarlock.timing_summary import TIMING_SUMMARY, timing_summary

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_invarlock.run_summary import RunSummary


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


def write_reports(summary: RunSummary, *, html: bool = True) -> None:
    """Write certificates, their pages and probes, final verdict, summaries and ``summary.md``.

    With ``html`` each certificate has a page for browsers too, which no pack holds.

    Each by atomic rename. A sweep has no final verdict, and no file of one; a run that is not whole
    has no summaries of what fired.

    Raises EvidenceError where the run's folder cannot be written.
    """
    try:
        for record, decision in zip(summary.records, summary.decisions, strict=True):
            folder = summary.run.report_folder(decision.model, decision.scenario, decision.draw)
            folder.mkdir(parents=True, exist_ok=True)
            certificate = make_certificate(
                record, summary.policy(decision), run_id=summary.run.run_id
            )
            write_json(folder / "evaluation.report.json", certificate)
            write_bytes(folder / "report.md", render_certificate_markdown(certificate).encode())
            if html:
                page = render_certificate_html(certificate, record.facts)
                write_bytes(folder / "report.html", page.encode())
            for name in summary.probes(decision):
                probe = make_probe(
                    name, record, summary.policy(decision), run_id=summary.run.run_id
                )
                write_json(folder / FILES[name], probe)
        if not summary.is_sweep:
            _write_verdict(summary)
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


def seal_run(summary: RunSummary, key: Ed25519PrivateKey | None) -> SealedPack:
    """Seal the pack of a whole run: reports, records, results and metadata; nothing else."""
    if summary.verdict is None:
        raise EvidenceError("a run without a verdict is not sealed", remedy="run the whole suite")
    policies = _policies(summary)
    started = min((str(r.observations["started_at"]) for r in summary.records), default=_now())
    header = ManifestHeader(
        run_id=summary.run.run_id,
        suite=summary.name,
        started_at=_utc(started),
        finished_at=_now(),
        created_at=_now(),
        tool=ToolIdentity("pytest-invarlock", tool_version(), code_digest()),
        verdict=summary.verdict.verdict,
        planned=summary.planned,
        plan_digest=combined_plan_digest(summary.records),
        policy_digest=policies_digest(summary.policy_documents()),
    )
    sealed = seal_pack(summary.run.pack, _files(summary, policies), header, key)
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


def _files(summary: RunSummary, policies: dict[str, Any]) -> dict[str, bytes | Path]:
    run = summary.run
    files: dict[str, bytes | Path] = {
        VERDICT: run.path / "final_verdict.json",
        VERDICT_TEXT: run.path / "final_verdict.txt",
        **{f"{RESULTS}/{name}": run.path / name for name in SUMMARIES},
        POLICY: pretty(policies),
        SCENARIOS: pretty(_scenarios(summary)),
        ENVIRONMENT: pretty(
            {
                "format": "invarlock-environment-v1",
                "versions": library_versions(),
                "machine": machine(),
            }
        ),
    }
    for folder, patterns in (
        ("records", ("*.record.json", "*.npz")),
        (FOLDER, ("*.json",)),
        ("reports", ("evaluation.report.json", "report.md", *FILES.values())),
    ):
        for pattern in patterns:
            for path in sorted((run.path / folder).rglob(pattern)):
                files[path.relative_to(run.path).as_posix()] = path
    return files


def _policies(summary: RunSummary) -> dict[str, Any]:
    return {"format": "invarlock-policies-v1", "policies": summary.policy_documents()}


def _scenarios(summary: RunSummary) -> dict[str, Any]:
    return {
        "format": "invarlock-scenarios-v1",
        "suite": summary.name,
        "planned": [entry.document() for entry in summary.planned],
        "scenarios": [scenario for plan in summary.plans for scenario in plan["scenarios"]],
        **({"calibrations": models} if (models := calibrated_models(summary.plans)) else {}),
    }


def _utc(stamp: str) -> str:
    return datetime.fromisoformat(stamp).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
