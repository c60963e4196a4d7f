"""Every way of tampering with a pack has its code and its exit status."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import hashlib
import json
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence import dsse
from pytest_invarlock.evidence.findings import Finding, Stage, VerifyReport
from pytest_invarlock.evidence.keys import fingerprint, keyid, public_pem
from pytest_invarlock.evidence.layout import PackFile, checksums_text
from pytest_invarlock.evidence.verify import VerifyOptions, verify_pack

if TYPE_CHECKING:
    from collections.abc import Callable

REPORT = "reports/tiny/clean/run_0/evaluation.report.json"
ENVELOPE = "manifest.signature.json"
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)


def errors(report: VerifyReport) -> list[str]:
    return [finding.code for finding in report.findings if finding.level == "error"]


def warnings(report: VerifyReport) -> list[tuple[str, str]]:
    return [(f.code, f.path) for f in report.findings if f.level == "warning"]


def regenerate_checksums(pack: Any) -> None:
    """What an attacker does after editing a file: make sha256sum content again."""
    listed = []
    for path in sorted(p for p in pack.path.rglob("*") if p.is_file()):
        data = path.read_bytes()
        name = path.relative_to(pack.path).as_posix()
        listed.append(PackFile(name, len(data), hashlib.sha256(data).hexdigest()))
    (pack.path / "checksums.sha256").write_bytes(checksums_text(listed))


def reseal_body(pack: Any) -> Any:
    """The statement with digests and sizes of the files as they are now."""
    body = pack.body()
    for subject in body["subject"]:
        data = (pack.path / subject["name"]).read_bytes()
        subject["digest"]["sha256"] = hashlib.sha256(data).hexdigest()
        body["predicate"]["sizes"][subject["name"]] = len(data)
    manifest = (pack.path / "manifest.json").read_bytes()
    body["predicate"]["manifest_digest"] = "sha256:" + hashlib.sha256(manifest).hexdigest()
    return body


def edit_report(pack: Any) -> None:
    (pack.path / REPORT).write_bytes(b'{"ratio": 0.99}\n')


# --- the tamper table: each function does what an attacker would do ------------------------------


def flip_a_byte(pack: Any) -> None:
    path = pack.path / REPORT
    path.write_bytes(path.read_bytes().replace(b"1.01", b"1.00"))


def edit_and_regenerate_checksums(pack: Any) -> None:
    edit_report(pack)
    regenerate_checksums(pack)


def edit_checksums_and_payload(pack: Any) -> None:
    edit_and_regenerate_checksums(pack)
    envelope = pack.json(ENVELOPE)
    body = json.dumps(reseal_body(pack)).encode()
    pack.write_envelope({**envelope, "payload": base64.b64encode(body).decode()})


def resign_with_another_key(pack: Any) -> None:
    edit_report(pack)
    (pack.path / "metadata/signer.pub.pem").write_bytes(public_pem(OTHER.public_key()))
    pack.resign(reseal_body(pack), key=OTHER)


def resign_but_keep_the_signers_key_file(pack: Any) -> None:
    pack.resign(pack.body(), key=OTHER)


def resign_and_claim_the_keyid(pack: Any) -> None:
    pack.resign(pack.body(), key=OTHER)
    envelope = pack.json(ENVELOPE)
    envelope["signatures"][0]["keyid"] = keyid(pack.key.public_key())
    pack.write_envelope(envelope)


def empty_signatures(pack: Any) -> None:
    pack.write_envelope({**pack.json(ENVELOPE), "signatures": []})


def no_signatures_field(pack: Any) -> None:
    envelope = pack.json(ENVELOPE)
    del envelope["signatures"]
    pack.write_envelope(envelope)


def delete_the_envelope(pack: Any) -> None:
    (pack.path / ENVELOPE).unlink()


def sign_twice(pack: Any) -> None:
    envelope = pack.json(ENVELOPE)
    pack.write_envelope({**envelope, "signatures": envelope["signatures"] * 2})


def change_payload_type(pack: Any) -> None:
    pack.write_envelope({**pack.json(ENVELOPE), "payloadType": "application/json"})


def sign_another_payload_type(pack: Any) -> None:
    pack.resign(pack.body(), payload_type="application/vnd.other+json")


def sign_another_predicate(pack: Any) -> None:
    pack.resign({**pack.body(), "predicateType": "https://slsa.dev/provenance/v1"})


def sign_another_statement_type(pack: Any) -> None:
    pack.resign({**pack.body(), "_type": "https://in-toto.io/Statement/v0.1"})


def add_a_file(pack: Any) -> None:
    (pack.path / "reports/extra.json").write_bytes(b"{}")


def add_a_hidden_file(pack: Any) -> None:
    (pack.path / ".DS_Store").write_bytes(b"")


def remove_a_file(pack: Any) -> None:
    (pack.path / REPORT).unlink()


def remove_a_directory(pack: Any) -> None:
    shutil.rmtree(pack.path / "reports")


def link_inside(pack: Any) -> None:
    copy = pack.path.parent / "copy"
    shutil.move(pack.path / REPORT, copy)
    (pack.path / REPORT).symlink_to(copy)


def link_a_directory(pack: Any) -> None:
    shutil.move(pack.path / "reports", pack.path.parent / "moved")
    (pack.path / "reports").symlink_to(pack.path.parent / "moved")


def link_the_envelope(pack: Any) -> None:
    shutil.move(pack.path / ENVELOPE, pack.path.parent / "envelope")
    (pack.path / ENVELOPE).symlink_to(pack.path.parent / "envelope")


def link_the_metadata(pack: Any) -> None:
    shutil.move(pack.path / "metadata", pack.path.parent / "moved")
    (pack.path / "metadata").symlink_to(pack.path.parent / "moved")


def add_a_dangling_link(pack: Any) -> None:
    (pack.path / "extra").symlink_to("nowhere")


def replace_by_a_pipe(pack: Any) -> None:
    (pack.path / REPORT).unlink()
    os.mkfifo(pack.path / REPORT)


def replace_envelope_by_a_pipe(pack: Any) -> None:
    (pack.path / ENVELOPE).unlink()
    os.mkfifo(pack.path / ENVELOPE)


def replace_by_a_directory(pack: Any) -> None:
    (pack.path / "empty").unlink()
    (pack.path / "empty").mkdir()


def rename_subject(name: str) -> Callable[[Any], None]:
    def change(pack: Any) -> None:
        body = pack.body()
        body["predicate"]["sizes"][name] = body["predicate"]["sizes"].pop(
            body["subject"][0]["name"]
        )
        body["subject"][0]["name"] = name
        pack.resign(body)

    return change


def repeat_a_subject(pack: Any) -> None:
    body = pack.body()
    pack.resign({**body, "subject": [*body["subject"], body["subject"][0]]})


def only_sha1(pack: Any) -> None:
    body = pack.body()
    body["subject"][0]["digest"] = {"sha1": "0" * 40}
    pack.resign(body)


def upper_case_hex(pack: Any) -> None:
    body = pack.body()
    digest = body["subject"][0]["digest"]
    digest["sha256"] = digest["sha256"].upper()
    pack.resign(body)


def repeat_a_key_in_the_envelope(pack: Any) -> None:
    path = pack.path / ENVELOPE
    path.write_bytes(path.read_bytes().replace(b'{"payload"', b'{"payload":"","payload"', 1))


def repeat_a_key_in_the_body(pack: Any) -> None:
    pack.resign(json.dumps(pack.body()).replace('{"_type"', '{"_type": "x", "_type"').encode())


def nest_the_body(pack: Any) -> None:
    pack.resign(b"[" * 1_000_000)


def nest_the_envelope(pack: Any) -> None:
    (pack.path / ENVELOPE).write_bytes(b'{"a":' * 1_000_000)


def endless_envelope(pack: Any) -> None:
    with (pack.path / ENVELOPE).open("r+b") as file:
        file.truncate(2**33)


def lengthen(pack: Any) -> None:
    with (pack.path / REPORT).open("ab") as file:
        file.truncate(2**40)


def shorten(pack: Any) -> None:
    (pack.path / REPORT).write_bytes(b"")


def cut_signature(pack: Any) -> None:
    envelope = pack.json(ENVELOPE)
    raw = base64.b64decode(envelope["signatures"][0]["sig"])
    envelope["signatures"][0]["sig"] = base64.b64encode(raw[:63]).decode()
    pack.write_envelope(envelope)


def weak_signer_key(pack: Any) -> None:
    weak = Ed25519PublicKey.from_public_bytes(b"\x01" + bytes(31))
    (pack.path / "metadata/signer.pub.pem").write_bytes(public_pem(weak))


def rsa_signer_key(pack: Any) -> None:
    public = rsa.generate_private_key(65537, 2048).public_key()
    pem = public.public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo)
    (pack.path / "metadata/signer.pub.pem").write_bytes(pem)


def remove_signer_key(pack: Any) -> None:
    (pack.path / "metadata/signer.pub.pem").unlink()


def sign_checksums_with_garbage(pack: Any) -> None:
    """The signer's own tool wrote a bad list: hashes fit, content does not."""
    path = pack.path / "checksums.sha256"
    path.write_bytes(path.read_bytes() + b"garbage\n")
    manifest = pack.json("manifest.json")
    manifest["checksums_sha256_digest"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (pack.path / "manifest.json").write_text(json.dumps(manifest))
    pack.resign(reseal_body(pack))


def sign_another_manifest(**changes: Any) -> Callable[[Any], None]:
    def change(pack: Any) -> None:
        manifest = pack.json("manifest.json")
        for name, value in changes.items():
            if isinstance(value, dict):
                manifest[name].update(value)
            else:
                manifest[name] = value
        (pack.path / "manifest.json").write_text(json.dumps(manifest))
        pack.resign(reseal_body(pack))

    return change


def drop_from_the_manifest(pack: Any) -> None:
    manifest = pack.json("manifest.json")
    manifest["files"] = [f for f in manifest["files"] if f["path"] != REPORT]
    (pack.path / "manifest.json").write_text(json.dumps(manifest))
    pack.resign(reseal_body(pack))


def drop_manifest_subject(pack: Any) -> None:
    body = pack.body()
    body["subject"] = [s for s in body["subject"] if s["name"] != "manifest.json"]
    del body["predicate"]["sizes"]["manifest.json"]
    pack.resign(body)


def remove_manifest(pack: Any) -> None:
    (pack.path / "manifest.json").unlink()


def remove_checksums(pack: Any) -> None:
    (pack.path / "checksums.sha256").unlink()


def remove_pack(pack: Any) -> None:
    shutil.rmtree(pack.path)


def file_instead_of_pack(pack: Any) -> None:
    shutil.rmtree(pack.path)
    pack.path.write_bytes(b"")


TAMPER: list[tuple[str, Callable[[Any], None], str, int]] = [
    ("1", flip_a_byte, "DIGEST_MISMATCH", 6),
    ("2", edit_and_regenerate_checksums, "DIGEST_MISMATCH", 6),
    ("3", edit_checksums_and_payload, "BAD_SIGNATURE", 5),
    ("4", resign_with_another_key, "UNTRUSTED_KEY", 5),
    ("4", resign_but_keep_the_signers_key_file, "UNTRUSTED_KEY", 5),
    ("5", resign_and_claim_the_keyid, "BAD_SIGNATURE", 5),
    ("6", empty_signatures, "UNSIGNED", 5),
    ("6", no_signatures_field, "MALFORMED_ENVELOPE", 4),
    ("7", delete_the_envelope, "UNSIGNED", 5),
    ("9", sign_twice, "SIGNATURE_COUNT", 5),
    ("11", change_payload_type, "BAD_SIGNATURE", 5),
    ("11", sign_another_payload_type, "WRONG_PAYLOAD_TYPE", 5),
    ("12", sign_another_predicate, "WRONG_TYPE", 4),
    ("12", sign_another_statement_type, "WRONG_TYPE", 4),
    ("15", add_a_file, "EXTRA_FILE", 6),
    ("15", add_a_hidden_file, "EXTRA_FILE", 6),
    ("16", remove_a_file, "MISSING_FILE", 6),
    ("16", remove_a_directory, "MISSING_FILE", 6),
    ("16", remove_manifest, "MISSING_FILE", 3),
    ("16", remove_checksums, "MISSING_FILE", 3),
    ("16", remove_pack, "MISSING_PACK", 3),
    ("16", file_instead_of_pack, "MISSING_PACK", 3),
    ("17", link_inside, "SYMLINK", 6),
    ("17", link_a_directory, "SYMLINK", 6),
    ("17", link_the_envelope, "SYMLINK", 6),
    ("17", link_the_metadata, "SYMLINK", 6),
    ("17", add_a_dangling_link, "SYMLINK", 6),
    ("19", replace_by_a_pipe, "NOT_REGULAR", 6),
    ("19", replace_envelope_by_a_pipe, "NOT_REGULAR", 6),
    ("19", replace_by_a_directory, "MISSING_FILE", 6),
    ("20", rename_subject("../x"), "BAD_PATH", 4),
    ("20", rename_subject("/etc/passwd"), "BAD_PATH", 4),
    ("20", rename_subject("a//b"), "BAD_PATH", 4),
    ("20", rename_subject("a\\b"), "BAD_PATH", 4),
    ("20", rename_subject(""), "BAD_PATH", 4),
    ("21", repeat_a_subject, "DUPLICATE_SUBJECT", 4),
    ("22", rename_subject("Manifest.json"), "DUPLICATE_SUBJECT", 4),
    ("23", only_sha1, "WEAK_DIGEST", 4),
    ("24", upper_case_hex, "MALFORMED_DIGEST", 4),
    ("25", repeat_a_key_in_the_envelope, "MALFORMED_JSON", 4),
    ("25", repeat_a_key_in_the_body, "MALFORMED_JSON", 4),
    ("27", nest_the_body, "MALFORMED_JSON", 4),
    ("27", nest_the_envelope, "MALFORMED_JSON", 4),
    ("27", endless_envelope, "MALFORMED_JSON", 4),
    ("28", lengthen, "SIZE_MISMATCH", 6),
    ("28", shorten, "SIZE_MISMATCH", 6),
    ("30", cut_signature, "BAD_SIGNATURE", 5),
    ("31", weak_signer_key, "KEY_WEAK", 5),
    ("32", rsa_signer_key, "KEY_TYPE", 5),
    ("32", remove_signer_key, "SIGNER_KEY_MISSING", 5),
    ("38", sign_checksums_with_garbage, "CHECKSUMS_MISMATCH", 6),
    ("39", drop_from_the_manifest, "MANIFEST_MISMATCH", 6),
    ("39", drop_manifest_subject, "MALFORMED_STATEMENT", 4),
    ("39", sign_another_manifest(verdict="FAIL"), "MANIFEST_MISMATCH", 6),
    ("39", sign_another_manifest(run={"id": "x"}), "MANIFEST_MISMATCH", 6),
    (
        "39",
        sign_another_manifest(signing={"fingerprint": None, "unsigned": True}),
        "MANIFEST_MISMATCH",
        6,
    ),
    ("34", sign_another_manifest(policy_digest="sha256:" + "0" * 64), "MANIFEST_MISMATCH", 6),
    ("-", sign_another_manifest(verdict="GREAT"), "MANIFEST_SCHEMA", 4),
    ("-", sign_another_manifest(extra=1), "MANIFEST_SCHEMA", 4),
]


@pytest.mark.parametrize(
    ("row", "tamper", "code", "status"),
    TAMPER,
    ids=[f"{row}-{i}-{code}" for i, (row, _, code, _) in enumerate(TAMPER)],
)
def test_tampering_is_found(
    pack: Any, row: str, tamper: Callable[[Any], None], code: str, status: int
) -> None:
    tamper(pack)
    report = pack.verify()
    assert errors(report)[0] == code, report.findings
    assert (report.exit_status, report.ok) == (status, False)


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


def test_replay_of_another_packs_envelope(make_pack: Any) -> None:
    """Row 13."""
    good, other = make_pack("good"), make_pack("other", run_id="demo-20261119T120000Z")
    shutil.copy(other.path / ENVELOPE, good.path / ENVELOPE)
    assert errors(good.verify()) == ["DIGEST_MISMATCH"]


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
    add_a_file(pack)
    report = pack.verify(strict=False)
    assert (report.ok, report.exit_status) == (True, 0)
    assert warnings(report) == [("EXTRA_FILE", "reports/extra.json")]
    add_a_dangling_link(pack)
    assert errors(pack.verify(strict=False)) == ["SYMLINK"]


def test_hard_links_are_a_warning(pack: Any) -> None:
    """Row 18."""
    os.link(pack.path / REPORT, pack.path.parent / "elsewhere")
    report = pack.verify()
    assert (report.ok, warnings(report)) == (True, [("HARD_LINK", REPORT)])


def test_sockets_and_devices_are_not_opened(pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 19."""
    monkeypatch.chdir(pack.path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    report = pack.verify()
    assert errors(report) == ["NOT_REGULAR"]
    assert report.findings[0].path == "socket"


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
    assert pack.verify().exit_status == 4
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
        (add_a_file, "EXTRA_FILE"),
        (remove_a_file, "MISSING_FILE"),
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


# --- whom to trust -------------------------------------------------------------------------------


def store(tmp_path: Path, text: str, suffix: str = ".yaml") -> Path:
    path = tmp_path / f"store{suffix}"
    path.write_text(text)
    return path


def test_a_store_of_fingerprints_or_keys_is_enough(pack: Any, tmp_path: Path) -> None:
    pem = json.dumps(public_pem(pack.key.public_key()).decode())
    other = fingerprint(OTHER.public_key())
    for text in (
        f"keys:\n- name: ci\n  fingerprint: {pack.fingerprint}\n",
        f"keys:\n- name: old\n  fingerprint: {other}\n- name: ci\n  pem: {pem}\n",
        json.dumps({"keys": [{"fingerprint": pack.fingerprint}], "threshold": 1}),
    ):
        suffix = ".json" if text.startswith("{") else ".yaml"
        path = store(tmp_path, text, suffix)
        assert pack.verify(expected_fingerprints=(), trust_store=path).ok
    only_other = store(tmp_path, f"keys: [{{fingerprint: {other}}}]")
    report = pack.verify(expected_fingerprints=(), trust_store=only_other)
    assert (errors(report), report.exit_status) == (["UNTRUSTED_KEY"], 5)


def test_a_known_key_needs_nothing_from_the_pack(pack: Any, tmp_path: Path) -> None:
    weak_signer_key(pack)
    pem = json.dumps(public_pem(pack.key.public_key()).decode())
    path = store(tmp_path, f"keys: [{{name: ci, pem: {pem}}}]")
    report = pack.verify(expected_fingerprints=(), trust_store=path)
    assert errors(report) == ["DIGEST_MISMATCH"]
    resign_and_claim_the_keyid(pack)
    report = pack.verify(expected_fingerprints=(), trust_store=path)
    assert errors(report) == ["BAD_SIGNATURE"]


def test_pin_and_store_must_both_hold(pack: Any, tmp_path: Path) -> None:
    other = fingerprint(OTHER.public_key())
    both = store(tmp_path, f"keys: [{{fingerprint: {other}}}, {{fingerprint: {pack.fingerprint}}}]")
    assert pack.verify(trust_store=both).ok
    assert errors(pack.verify(trust_store=both, expected_fingerprints=(other,))) == [
        "UNTRUSTED_KEY"
    ]
    only_other = store(tmp_path, f"keys: [{{fingerprint: {other}}}]")
    assert pack.verify(trust_store=only_other).exit_status == 2


def test_an_expired_key_is_not_trusted(pack: Any, tmp_path: Path) -> None:
    text = f"keys: [{{name: ci, fingerprint: {pack.fingerprint}, not_after: 2026-12-31}}]"
    path = store(tmp_path, text)
    last = dt.datetime(2026, 12, 31, 23, 59, tzinfo=dt.UTC)
    options: dict[str, Any] = {"expected_fingerprints": (), "trust_store": path}
    assert pack.verify(**options, now=last).ok
    report = pack.verify(**options, now=last + dt.timedelta(minutes=2))
    assert (errors(report), report.exit_status) == (["KEY_EXPIRED"], 5)


def test_a_threshold_counts_keys(pack: Any, tmp_path: Path) -> None:
    """Row 9: the same signature twice is one key."""
    other = json.dumps(public_pem(OTHER.public_key()).decode())
    path = store(
        tmp_path, f"threshold: 2\nkeys: [{{fingerprint: {pack.fingerprint}}}, {{pem: {other}}}]"
    )
    options: dict[str, Any] = {
        "expected_fingerprints": (),
        "trust_store": path,
        "dsse_lenient": True,
    }
    assert errors(pack.verify(**options)) == ["TOO_FEW_SIGNATURES"]
    sign_twice(pack)
    assert errors(pack.verify(**options)) == ["TOO_FEW_SIGNATURES"]
    envelope = pack.json(ENVELOPE)
    body = base64.b64decode(envelope["payload"])
    second = dsse.sign(body, dsse.IN_TOTO_PAYLOAD_TYPE, OTHER)["signatures"]
    pack.write_envelope({**envelope, "signatures": envelope["signatures"][:1] + second})
    assert pack.verify(**options).ok


HEX = "sha256:" + "0" * 64
RSA_PEM = json.dumps(
    rsa.generate_private_key(65537, 2048)
    .public_key()
    .public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)
PRIVATE_PEM = json.dumps(
    OTHER.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.PKCS8, ser.NoEncryption()).decode()
)
WEAK_PEM = json.dumps(public_pem(Ed25519PublicKey.from_public_bytes(b"\x01" + bytes(31))).decode())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "TRUST_STORE"),
        ("keys: []", "TRUST_STORE"),
        ("keys: x", "TRUST_STORE"),
        ("[1]", "TRUST_STORE"),
        ("keys: [", "TRUST_STORE"),
        ("keys: [{name: x}]", "TRUST_STORE"),
        (f"keys: [{{fingerprint: '{HEX}', scopes: x}}]", "TRUST_STORE"),
        (f"keys: [{{fingerprint: '{HEX}'}}]\nkeys: []", "TRUST_STORE"),
        (f"keys: [{{fingerprint: '{HEX}'}}]\nthreshold: 0", "TRUST_STORE"),
        (f"keys: [{{fingerprint: '{HEX}'}}]\nthreshold: -1", "TRUST_STORE"),
        (f"keys: [{{fingerprint: '{HEX}'}}]\nthreshold: 2", "TRUST_STORE"),
        (f"keys: [{{fingerprint: '{HEX}'}}]\nthreshold: true", "TRUST_STORE"),
        (f"keys: [{{fingerprint: '{HEX}'}}, {{fingerprint: '{HEX}'}}]", "TRUST_STORE"),
        (f"keys: [{{fingerprint: '{HEX[:-1]}'}}]", "TRUST_STORE"),
        (f"keys: [{{fingerprint: '{HEX}', not_after: soon}}]", "TRUST_STORE"),
        (f"keys: [{{pem: {RSA_PEM}}}]", "KEY_TYPE"),
        (f"keys: [{{pem: {PRIVATE_PEM}}}]", "KEY_IS_PRIVATE"),
        (f"keys: [{{pem: {WEAK_PEM}}}]", "KEY_WEAK"),
        ("keys: [{pem: x}]", "KEY_MALFORMED"),
    ],
)
def test_an_unusable_store_is_a_usage_error(
    pack: Any, tmp_path: Path, text: str, code: str
) -> None:
    """Rows 10, 31 and 32."""
    report = pack.verify(trust_store=store(tmp_path, text), expected_fingerprints=())
    assert (errors(report), report.exit_status) == ([code], 2)
    assert list(report.reached) == [Stage.USAGE]


def test_a_missing_store_and_a_bad_fingerprint(pack: Any, tmp_path: Path) -> None:
    report = pack.verify(trust_store=tmp_path / "absent.yaml")
    assert (errors(report), report.exit_status) == (["TRUST_STORE_MISSING"], 3)
    for text in ("", "abc", pack.fingerprint.upper(), pack.fingerprint + "\n"):
        report = pack.verify(expected_fingerprints=(text,))
        assert (errors(report), report.exit_status) == (["BAD_FINGERPRINT"], 2)


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


def test_the_verified_pack_gives_only_bytes_that_were_hashed(pack: Any, files: Any) -> None:
    """Row 36: a file swapped after the hash stage is not handed out."""

    def rederive(verified: Any) -> list[Finding]:
        assert set(verified.names()) == {s["name"] for s in pack.body()["subject"]}
        assert verified.read(REPORT) == files[REPORT]
        assert verified.read_json(REPORT) == {"ratio": 1.01}
        assert verified.size_bytes("empty") == 0
        assert verified.signed_by == pack.fingerprint
        with pytest.raises(EvidenceError, match="holds no"):
            verified.read("../../etc/passwd")
        flip_a_byte(pack)
        verified.read(REPORT)
        return []

    report = semantic_report(pack, rederive)
    assert (errors(report), report.exit_status) == (["DIGEST_MISMATCH"], 6)


def test_a_metric_that_is_not_a_number_is_malformed(make_pack: Any, key: Any) -> None:
    """Row 26: NaN <= limit is False, but so is NaN > limit."""
    pack = make_pack()
    (pack.path / REPORT).write_bytes(b'{"ratio": NaN}')
    regenerate_checksums(pack)
    manifest = pack.json("manifest.json")
    for entry in manifest["files"]:
        data = (pack.path / entry["path"]).read_bytes()
        entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    checksums = (pack.path / "checksums.sha256").read_bytes()
    manifest["checksums_sha256_digest"] = hashlib.sha256(checksums).hexdigest()
    (pack.path / "manifest.json").write_text(json.dumps(manifest))
    pack.resign(reseal_body(pack))

    def rederive(verified: Any) -> list[Finding]:
        verified.read_json(REPORT)
        return []

    report = semantic_report(pack, rederive)
    assert (errors(report), report.exit_status) == (["MALFORMED_JSON"], 4)


def test_every_single_byte_counts(pack: Any) -> None:
    """Row 43, exhaustive but for the long hex parts, of which every 7th byte is changed."""
    n_changes = 0
    for path in sorted(p for p in pack.path.rglob("*") if p.is_file()):
        data = path.read_bytes()
        for index in range(0, len(data), 1 if len(data) < 300 else 7):
            path.write_bytes(data[:index] + bytes([data[index] ^ 4]) + data[index + 1 :])
            report = pack.verify()
            assert not report.ok, (path, index)
            assert report.exit_status >= 4
            n_changes += 1
        path.write_bytes(data)
    assert n_changes > 1000
    assert pack.verify().ok


def test_hostile_names_do_not_end_the_verification(pack: Any) -> None:
    (pack.path / "\x1b[2J\nx").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(pack.path) + b"/\xff")).write_bytes(b"")
    deep = pack.path / "/".join(["d"] * 40)
    deep.mkdir(parents=True)
    assert "BAD_PATH" in errors(pack.verify())
    shutil.rmtree(pack.path / "d")
    assert errors(pack.verify()) == ["EXTRA_FILE", "EXTRA_FILE"]
