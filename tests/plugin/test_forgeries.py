"""A certificate edited to look passing, with everything around it made again, is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_invarlock.certificate import render_certificate_markdown
from pytest_invarlock.cli import main
from pytest_invarlock.evidence.keys import fingerprint
from pytest_invarlock.evidence.layout import PackFile, checksums_text
from pytest_invarlock.evidence.pack import seal_pack
from pytest_invarlock.evidence.pack_files import UNSIGNED_PAGE

FOLDER = "reports/builtin-llama/pruned/run_0"


def look_passing(files, *, signed):
    """The certificate says PASS, and its page, manifest and attestation with it."""
    files = dict(files)
    report = json.loads(files[f"{FOLDER}/evaluation.report.json"])
    report["decision"] |= {"outcome": "PASS", "expectation_met": True, "fired": []}
    for check in report["decision"]["checks"]:
        check |= (
            {"outcome": "PASS", "violations": []} if "violations" in check else {"outcome": "PASS"}
        )
    report["validation"] = dict.fromkeys(report["validation"], True)
    encoded = json.dumps(report).encode()
    files[f"{FOLDER}/evaluation.report.json"] = encoded
    page = render_certificate_markdown(report).encode()
    files[f"{FOLDER}/report.md"] = page if signed else page + UNSIGNED_PAGE
    runtime = json.loads(files[f"{FOLDER}/runtime.manifest.json"])
    runtime["report"]["sha256"] = hashlib.sha256(encoded).hexdigest()
    files[f"{FOLDER}/runtime.manifest.json"] = json.dumps(runtime).encode()
    for name in files:
        if name.endswith("/report.md") and name != f"{FOLDER}/report.md" and not signed:
            files[name] += UNSIGNED_PAGE
    return files


@pytest.fixture
def forged(sealed, tmp_path):
    """Seals the forgery with a key, or none: checksums and manifest are made again."""
    files, header, key = sealed

    def make(signer):
        path = tmp_path / "pack"
        seal_pack(path, look_passing(files, signed=signer is not None), header, signer)
        return str(path), fingerprint(key.public_key())

    return make


def codes(capsys):
    return {entry["code"] for entry in json.loads(capsys.readouterr().out)["findings"]}


def test_unsigned_it_is_refused_for_want_of_a_signature(forged, capsys):
    pack, pinned = forged(None)
    assert main(["verify", pack, "--expected-fingerprint", pinned, "--json"]) == 5
    assert main(["verify", pack]) == 5
    assert main(["verify", pack, "--allow-unsigned", "--expected-fingerprint", pinned]) == 5


def test_where_no_signature_is_asked_for_it_does_not_follow_from_its_record(forged, capsys):
    pack, _ = forged(None)
    assert main(["verify", pack, "--allow-unsigned", "--json"]) == 7
    assert "SEMANTIC_MISMATCH" in codes(capsys)


def test_signed_again_by_another_key_it_is_refused(forged, capsys):
    other = Ed25519PrivateKey.generate()
    pack, pinned = forged(other)
    assert main(["verify", pack, "--expected-fingerprint", pinned]) == 5
    # Even who trusts the forger is told.
    own = fingerprint(other.public_key())
    assert main(["verify", pack, "--expected-fingerprint", own]) == 7


def test_the_signature_of_the_honest_pack_does_not_cover_it(sealed, tmp_path):
    """Files and checksums made again, the envelope kept: what is signed is no longer there."""
    files, header, key = sealed
    path = tmp_path / "pack"
    seal_pack(path, files, header, key)
    for name, content in look_passing(files, signed=True).items():
        (path / name).write_bytes(content)
    listed = [
        PackFile(name, 0, hashlib.sha256((path / name).read_bytes()).hexdigest())
        for name in (p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    ]
    (path / "checksums.sha256").write_bytes(checksums_text(listed))
    assert main(["verify", str(path), "--expected-fingerprint", fingerprint(key.public_key())]) == 6


def test_a_verdict_made_passing_with_it_does_not_follow_either(sealed, tmp_path):
    files, header, key = sealed
    forged = look_passing(files, signed=True)
    verdict = json.loads(forged["results/final_verdict.json"])
    verdict["verdict"] = "PASS"
    forged["results/final_verdict.json"] = json.dumps(verdict).encode()
    seal_pack(tmp_path / "pack", forged, replace(header, verdict="PASS"), key)
    pinned = fingerprint(key.public_key())
    assert main(["verify", str(tmp_path / "pack"), "--expected-fingerprint", pinned]) == 7
