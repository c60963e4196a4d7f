"""What verification establishes, stage by stage; `test_tamper_table` has what it refuses."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence import dsse
from pytest_invarlock.evidence.findings import Finding, Stage, VerifyReport
from pytest_invarlock.evidence.keys import fingerprint
from pytest_invarlock.evidence.verify import VerifyOptions, verify_pack

from .attacks_on_files import (
    add_a_dangling_link,
    add_a_file,
    edit_and_regenerate_checksums,
    flip_a_byte,
    lengthen,
    link_inside,
    remove,
)
from .attacks_signed import (
    delete_the_envelope,
    edit_checksums_and_payload,
    resign_but_keep_the_signers_key_file,
)
from .synthetic import ENVELOPE, OTHER, REPORT, errors, warnings

if TYPE_CHECKING:
    from collections.abc import Callable


def test_an_untouched_pack_is_valid(pack: Any) -> None:
    report = pack.verify()
    assert not report.findings
    assert (report.ok, report.exit_status, report.verdict) == (True, 0, "PASS")
    assert (report.digest, report.signer) == (pack.sealed.digest, pack.fingerprint)
    assert report.trusted
    assert list(report.reached) == list(Stage)


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE"])
def test_valid_evidence_of_another_verdict_is_not_invalid(make_pack: Any, verdict: str) -> None:
    report = make_pack(verdict=verdict).verify()
    assert (report.ok, report.exit_status, report.verdict) == (True, 1, verdict)


def test_without_a_trusted_key_all_is_checked_and_nothing_accepted(pack: Any) -> None:
    """Row 8."""
    seen = []
    options = VerifyOptions(allow_unsigned=True)

    def rederive(verified: Any) -> list[Finding]:
        seen.append(verified.verdict())
        return []

    report = verify_pack(pack.path, options, rederive)
    assert (errors(report), report.exit_status) == (["NO_TRUSTED_KEY"], 5)
    assert (seen, report.ok, report.trusted) == (["PASS"], False, False)
    flip_a_byte(pack)
    report = verify_pack(pack.path, options, rederive)
    assert errors(report) == ["NO_TRUSTED_KEY", "DIGEST_MISMATCH"]
    assert report.exit_status == 5
    resign_but_keep_the_signers_key_file(pack)
    report = verify_pack(pack.path, options, rederive)
    assert (errors(report), report.exit_status) == (["UNTRUSTED_KEY"], 5)


def test_nothing_of_the_payload_is_used_before_the_signature_holds(
    pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_body: bytes) -> None:
        raise AssertionError("parsed an unverified payload")

    monkeypatch.setattr("pytest_invarlock.evidence.verify.parse_statement", never)
    edit_checksums_and_payload(pack)
    assert errors(pack.verify()) == ["BAD_SIGNATURE"]
    assert errors(pack.verify(expected_fingerprints=())) == ["BAD_SIGNATURE"]
    assert pack.verify(expected_fingerprints=("sha256:" + "0" * 64,)).exit_status == 5


def test_rollback_to_an_older_pack_of_the_same_signer(pack: Any) -> None:
    """Row 14; without these options an old pack is as valid as ever."""
    assert errors(pack.verify(expect_run="later")) == ["OTHER_RUN"]
    assert pack.verify(expect_run="later").exit_status == 5
    assert errors(pack.verify(not_before="2026-11-21")) == ["STALE_PACK"]
    assert pack.verify(not_before="2026-11-21").exit_status == 5
    assert pack.verify(not_before="2026-11-20T12:00:31Z", expect_run="demo-20261120T120000Z").ok
    report = pack.verify(not_before="yesterday")
    assert (errors(report), report.exit_status) == (["BAD_TIME"], 2)


def test_another_policy_than_the_callers(pack: Any, header: Any) -> None:
    """Row 34."""
    report = pack.verify(expect_policy="sha256:" + "0" * 64)
    assert (errors(report), report.exit_status) == (["POLICY_MISMATCH"], 7)
    assert pack.verify(expect_policy=header.policy_digest).ok


def test_extra_files_are_warnings_without_strict(pack: Any) -> None:
    add_a_file("reports/extra.json")(pack)
    report = pack.verify(strict=False)
    assert (report.ok, report.exit_status) == (True, 0)
    assert warnings(report) == [("EXTRA_FILE", "reports/extra.json")]
    add_a_dangling_link(pack)
    assert errors(pack.verify(strict=False)) == ["SYMLINK"]


def test_a_pack_may_be_reached_through_a_link(pack: Any) -> None:
    latest = pack.path.parent / "latest"
    latest.symlink_to(pack.path)
    options = VerifyOptions(expected_fingerprints=(pack.fingerprint,))
    assert verify_pack(latest, options, lambda _: []).ok


def test_the_lenient_profile_reports_further_signatures(pack: Any) -> None:
    """Rows 40 and 41."""
    envelope = pack.json(ENVELOPE)
    second = dsse.sign(b"", "x", OTHER)["signatures"]
    pack.write_envelope({**envelope, "signatures": envelope["signatures"] + second, "note": "x"})
    assert pack.verify().exit_status == 5
    report = pack.verify(dsse_lenient=True)
    assert (report.ok, warnings(report)) == (True, [("EXTRA_SIGNATURE", ENVELOPE)])


# --- unsigned packs ------------------------------------------------------------------------------


def test_unsigned_packs_need_leave(make_pack: Any) -> None:
    pack = make_pack(signer=None)
    refused = pack.verify(allow_unsigned=False)
    assert (errors(refused), refused.exit_status) == (["UNSIGNED"], 5)
    report = pack.verify()
    assert (report.ok, report.exit_status, report.trusted) == (True, 0, False)
    assert warnings(report) == [("UNSIGNED", ENVELOPE)]


def test_a_demanded_signer_is_not_waived_by_allow_unsigned(make_pack: Any, key: Any) -> None:
    pack = make_pack(signer=None)
    report = pack.verify(expected_fingerprints=(fingerprint(key.public_key()),))
    assert (errors(report), report.exit_status) == (["UNSIGNED"], 5)


def test_a_stripped_signature_is_told_from_none(pack: Any) -> None:
    delete_the_envelope(pack)
    report = pack.verify(expected_fingerprints=(), allow_unsigned=True)
    assert errors(report) == ["SIGNATURE_STRIPPED"]
    assert report.exit_status == 5


@pytest.mark.parametrize(
    ("tamper", "code"),
    [
        (flip_a_byte, "DIGEST_MISMATCH"),
        (edit_and_regenerate_checksums, "DIGEST_MISMATCH"),
        (lengthen, "SIZE_MISMATCH"),
        (add_a_file("extra"), "EXTRA_FILE"),
        (remove(REPORT), "MISSING_FILE"),
        (link_inside, "SYMLINK"),
    ],
)
def test_unsigned_packs_are_still_whole(
    make_pack: Any, tamper: Callable[[Any], None], code: str
) -> None:
    pack = make_pack(signer=None)
    tamper(pack)
    report = pack.verify()
    assert errors(report)[0] == code
    assert report.exit_status == 6


# --- the last stages -----------------------------------------------------------------------------


def semantic_report(pack: Any, rederive: Any, check_schemas: Any = None) -> VerifyReport:
    options = VerifyOptions(expected_fingerprints=(pack.fingerprint,))
    return verify_pack(pack.path, options, rederive, check_schemas)


def test_semantic_findings_decide_last(pack: Any) -> None:
    finding = Finding("SEMANTIC_MISMATCH", Stage.SEMANTICS, REPORT, "does not follow")
    report = semantic_report(pack, lambda _: [finding])
    assert (errors(report), report.exit_status) == (["SEMANTIC_MISMATCH"], 7)
    note = dataclasses.replace(finding, code="GUARD_ATTESTED", level="note")
    assert semantic_report(pack, lambda _: [note]).exit_status == 0

    def fail(_: Any) -> list[Finding]:
        raise EvidenceError("cannot be read", remedy="", code="RECORD_ARRAYS")

    report = semantic_report(pack, fail)
    assert (errors(report), report.exit_status) == (["RECORD_ARRAYS"], 7)


def test_schema_findings_keep_the_semantic_stage_from_running(pack: Any) -> None:
    finding = Finding("SCHEMA", Stage.SCHEMA, REPORT, "ratio: is missing")

    def never(_: Any) -> list[Finding]:
        raise AssertionError

    report = semantic_report(pack, never, lambda _: [finding])
    assert (errors(report), report.exit_status) == (["SCHEMA"], 4)


def test_hostile_names_do_not_end_the_verification(pack: Any) -> None:
    (pack.path / "\x1b[2J\nx").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(pack.path) + b"/\xff")).write_bytes(b"")
    deep = pack.path / "/".join(["d"] * 40)
    deep.mkdir(parents=True)
    assert "BAD_PATH" in errors(pack.verify())
    shutil.rmtree(pack.path / "d")
    assert errors(pack.verify()) == ["EXTRA_FILE", "EXTRA_FILE"]
