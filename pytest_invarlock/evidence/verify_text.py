"""How a verification reads: lines for people, one object for programs."""

from __future__ import annotations

from typing import Any

from pytest_invarlock.evidence.findings import STAGES, Finding, Stage, VerifyReport
from pytest_invarlock.evidence.plain_text import plain

REPORT_FORMAT = "invarlock-verify-v1"
OF_THE_DATA = frozenset({"DATA_MISMATCH", "DATA_UNCHECKED", "SALT_MISMATCH"})
"""Errors that are about data at hand, found only once the pack itself is valid."""


def report_lines(report: VerifyReport) -> list[str]:
    """One line per stage, one per finding, and the outcome."""
    lines = [_stage_line(report, stage) for stage in STAGES]
    lines += [_finding_line(finding) for finding in report.findings]
    return [*lines, _outcome(report)]


def report_object(report: VerifyReport) -> dict[str, Any]:
    """The report as a JSON object.

    ``authenticity`` is pinned (by a signer the caller named), unpinned or unsigned.
    """
    return {
        "format": REPORT_FORMAT,
        "ok": report.ok,
        "exit_status": int(report.exit_status),
        "verdict": report.verdict,
        "pack_digest": report.digest,
        "signer": report.signer,
        "authenticity": _authenticity(report),
        "stages": [
            {
                "stage": stage.value,
                "status": _status(report, stage),
                "established": report.reached.get(stage, ""),
            }
            for stage in STAGES
        ],
        "findings": [
            {
                "code": finding.code,
                "level": finding.level,
                "stage": finding.stage.value,
                "path": plain(finding.path),
                "message": plain(finding.message),
            }
            for finding in report.findings
        ],
    }


def _stage_line(report: VerifyReport, stage: Stage) -> str:
    status = _status(report, stage)
    said = {"ok": report.reached.get(stage, ""), "failed": "see below", "not run": "not reached"}
    mark = {"ok": " ok ", "failed": "FAIL", "not run": " -- "}[status]
    return f"[{mark}] {stage.value:<10} {plain(said[status])}"


def _status(report: VerifyReport, stage: Stage) -> str:
    if report.failed(stage):
        return "failed"
    return "ok" if stage in report.reached else "not run"


def _finding_line(finding: Finding) -> str:
    level = "" if finding.level == "error" else f"{finding.level}: "
    path = f"{plain(finding.path)}: " if finding.path else ""
    return f"{finding.code}  {level}{path}{plain(finding.message)}"


def _outcome(report: VerifyReport) -> str:
    errors = {finding.code for finding in report.findings if finding.level == "error"}
    if errors == {"NO_TRUSTED_KEY"}:
        return f"NOT TRUSTED: intact, signed by {report.signer}, whom you did not name (exit 5)"
    if errors and errors <= OF_THE_DATA:
        status = int(report.exit_status)
        return (
            f"NOT SHOWN: the pack is valid; its windows are not shown to be these (exit {status})"
        )
    if not report.ok:
        return f"INVALID: this evidence proves nothing (exit {int(report.exit_status)})"
    signed = f"signed by {report.signer}" if report.signer else "unsigned"
    return f"VALID, verdict {report.verdict}, {signed}"


def _authenticity(report: VerifyReport) -> str:
    if report.signer is None:
        return "unsigned"
    return "pinned" if report.trusted else "unpinned"
