"""What a caller can demand besides: a profile, runtime manifests, and all that was planned."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_invarlock.evidence.findings import Finding

from .synthetic import FILES, POLICY, REPORT, RUNTIME, VERDICT, compact, errors, runtime_of, sealed
from .synthetic import warnings as warned


def with_files(tmp_path: Any, changes: dict[str, bytes | None], **header: Any) -> Any:
    files = {name: data for name, data in {**FILES, **changes}.items() if data is not None}
    return sealed(tmp_path / "changed", files=files, **header)


def outcome(pack: Any, **options: Any) -> tuple[list[str], int]:
    report = pack.verify(**options)
    return errors(report), report.exit_status


# The profile.


def test_another_profile_is_refused(pack: Any) -> None:
    assert outcome(pack, profile="release") == (["PROFILE_MISMATCH"], 7)
    assert outcome(pack, profile="ci") == ([], 0)
    assert outcome(pack) == ([], 0)


@pytest.mark.parametrize("profiles", [["ci", "dev"], []])
def test_every_policy_must_be_of_the_profile(tmp_path: Any, profiles: list[str]) -> None:
    policies = {"policies": [{"profile": profile} for profile in profiles]}
    pack = with_files(tmp_path, {POLICY: compact(policies)})
    assert outcome(pack, profile="ci") == (["PROFILE_MISMATCH"], 7)


def test_a_policy_document_that_is_none_is_a_finding(tmp_path: Any) -> None:
    pack = with_files(tmp_path, {POLICY: b"[]"})
    report = pack.verify(profile="ci")
    assert (errors(report), report.exit_status) == (["UNDECIDABLE"], 7)
    assert report.findings[0].path == POLICY
    assert "TypeError" in report.findings[0].message


# Runtime manifests.


@pytest.mark.parametrize("mode", ["report", "strict"])
def test_a_certificate_needs_its_runtime_manifest(tmp_path: Any, mode: Any) -> None:
    pack = with_files(tmp_path, {RUNTIME: None})
    report = pack.verify(report_assurance=mode)
    missing = [f.path for f in report.findings if f.code == "MISSING_RUNTIME_MANIFEST"]
    assert (missing, report.exit_status) == ([RUNTIME], 7)
    assert outcome(pack, report_assurance="off") == ([], 0)


def test_one_of_another_certificate_is_refused(tmp_path: Any) -> None:
    pack = with_files(tmp_path, {RUNTIME: runtime_of(b"another")})
    assert outcome(pack) == (["RUNTIME_MANIFEST_MISMATCH"], 7)
    assert outcome(pack, report_assurance="off") == ([], 0)


@pytest.mark.parametrize("name", ["allow_remote_code", "allow_third_party_plugins"])
def test_strict_assurance_takes_no_foreign_code(tmp_path: Any, name: str) -> None:
    document = json.loads(runtime_of(FILES[REPORT]))
    document["runtime"][name] = True
    pack = with_files(tmp_path, {RUNTIME: compact(document)})
    assert outcome(pack, report_assurance="strict") == (["RUNTIME_FOREIGN_CODE"], 7)
    assert outcome(pack) == ([], 0)
    assert outcome(sealed(tmp_path / "own"), report_assurance="strict") == ([], 0)


def test_a_mode_that_there_is_not_is_a_usage_error(pack: Any) -> None:
    assert outcome(pack, report_assurance="lax") == (["BAD_OPTION"], 2)


@pytest.mark.parametrize("document", [b"[]", b"{}", b'{"report": 1}'])
def test_a_runtime_manifest_of_another_form_is_a_finding(tmp_path: Any, document: bytes) -> None:
    report = with_files(tmp_path, {RUNTIME: document}).verify()
    assert (errors(report), report.exit_status) == (["UNDECIDABLE"], 7)
    assert report.findings[0].path == RUNTIME


# Counts.

RECORD = "records/tiny/broken/run_1.record.json"
CERTIFICATE = "reports/tiny/broken/run_1/evaluation.report.json"


def without(*names: str) -> dict[str, bytes | None]:
    return dict.fromkeys(names, None)


@pytest.mark.parametrize(
    "changes",
    [
        without(RECORD),
        without(CERTIFICATE),
        without(RECORD, CERTIFICATE),
        {"records/tiny/more/run_0.record.json": b"{}"},
        {"reports/tiny/more/run_0/evaluation.report.json": b"{}"},
        {VERDICT: compact({"decisions": []})},
        {VERDICT: compact({"decisions": json.loads(FILES[VERDICT])["decisions"] * 2})},
    ],
)
@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE"])
def test_a_draw_that_stands_in_one_list_only_is_found(
    tmp_path: Any, changes: dict[str, bytes | None], verdict: str
) -> None:
    pack = with_files(tmp_path, changes, verdict=verdict)
    codes, status = outcome(pack, report_assurance="off")
    assert (set(codes), status) == ({"COUNT_MISMATCH"}, 7)


def test_a_run_that_failed_for_a_lost_record_may_say_so(tmp_path: Any) -> None:
    decided = json.loads(FILES[VERDICT])["decisions"]
    lost = [one for one in decided if (one["scenario"], one["draw"]) != ("broken", 1)]
    changes = without(RECORD, CERTIFICATE) | {VERDICT: compact({"decisions": lost})}
    report = with_files(tmp_path, changes, verdict="FAIL").verify()
    assert (report.exit_status, warned(report)) == (1, [("COUNT_MISMATCH", "manifest.json")])
    assert outcome(sealed(tmp_path / "p", files=_kept(changes)))[0][0] == "COUNT_MISMATCH"


def _kept(changes: dict[str, bytes | None]) -> Any:
    return {name: data for name, data in {**FILES, **changes}.items() if data is not None}


# What a check raises.


@pytest.mark.parametrize(
    "error",
    [OverflowError, TypeError, KeyError, ValueError, RecursionError, MemoryError, AttributeError],
)
@pytest.mark.parametrize(("stage", "status"), [("schemas", 4), ("records", 7)])
def test_whatever_a_check_raises_is_a_finding_that_names_it(
    pack: Any, error: type[Exception], stage: str, status: int
) -> None:
    def hostile(verified: Any) -> list[Finding]:
        verified.read(REPORT)
        raise error("made up for this test")

    checks = (lambda _: [], hostile) if stage == "schemas" else (hostile, None)
    report = pack.verify(*checks)
    assert (errors(report), report.exit_status) == (["UNDECIDABLE"], status)
    assert report.findings[0].path == REPORT
    assert error.__name__ in report.findings[0].message
