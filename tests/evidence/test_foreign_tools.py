"""Tools that know nothing of us verify our packs: openssl, coreutils, securesystemslib, in-toto."""

from __future__ import annotations

import base64
import copy
import datetime as dt
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from pytest_invarlock.evidence import dsse
from pytest_invarlock.evidence.keys import generate_key, keyid, public_pem
from pytest_invarlock.evidence.trust import load_trust

from .synthetic import FILES

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs" / "verify-by-hand.md"
README = ROOT / "README.md"
ENVELOPE = "manifest.signature.json"
REPORT = "reports/tiny/clean/run_0/evaluation.report.json"
TOOLS = ("openssl", "sha256sum", "base64", "sed", "grep", "find", "diff")

needs_tools = pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}"
)


def recipe(with_jq: bool) -> str:
    """The shell blocks of the page in order, with or without those that use jq."""
    blocks = re.findall(r"^```sh( jq)?\n(.*?)^```$", DOC.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 11
    return "".join(text for jq, text in blocks if with_jq or not jq)


def run_recipe(pack: Path, fingerprint: str, tmp: Path, with_jq: bool) -> Any:
    tmp.mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "TMPDIR": str(tmp),
        "PACK": str(pack),
        "FINGERPRINT": fingerprint,
    }
    return subprocess.run(
        ["sh", "-c", recipe(with_jq)], env=environment, capture_output=True, text=True
    )


def run_readme(pack: Path, fingerprint: str, tmp: Path) -> Any:
    """The README's recipe, as CI runs it, on another pack."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    (text,) = (block for block in blocks if "openssl" in block)
    tmp.mkdir(exist_ok=True)
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp), "pack": str(pack)}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        env=environment | {"fingerprint": fingerprint},
        capture_output=True,
        text=True,
    )


jq_or_not = pytest.mark.parametrize(
    "with_jq",
    [
        False,
        pytest.param(True, marks=pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")),
    ],
)


@needs_tools
@jq_or_not
def test_the_page_accepts_a_sound_pack(pack: Any, tmp_path: Path, with_jq: bool) -> None:
    done = run_recipe(pack.path, pack.fingerprint, tmp_path / "tmp", with_jq)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3:] == [
        '"verdict":"PASS"',
        '"run_id":"demo-20261120T120000Z"',
        '"created_at":"2026-11-20T12:00:31Z"',
    ]


@needs_tools
def test_the_readme_accepts_a_sound_pack_and_no_other_signer(pack: Any, tmp_path: Path) -> None:
    done = run_readme(pack.path, pack.fingerprint, tmp_path / "tmp")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == '"verdict":"PASS"'
    assert run_readme(pack.path, "sha256:" + "0" * 64, tmp_path / "tmp").returncode != 0


def edit_and_regenerate_checksums(pack: Any) -> None:
    (pack.path / REPORT).write_bytes(b'{"ratio": 0.5}\n')
    files = sorted(p for p in pack.path.rglob("*") if p.is_file())
    names = [p.relative_to(pack.path).as_posix() for p in files]
    listed = [n for n in names if "manifest" not in n and n != "checksums.sha256"]
    done = subprocess.run(["sha256sum", *listed], cwd=pack.path, capture_output=True, check=True)
    (pack.path / "checksums.sha256").write_bytes(done.stdout)


def resign(pack: Any) -> None:
    other = Ed25519PrivateKey.generate()
    pack.resign(pack.body(), key=other)
    (pack.path / "metadata/signer.pub.pem").write_bytes(public_pem(other.public_key()))


def change_the_body(pack: Any) -> None:
    envelope = pack.json(ENVELOPE)
    pack.write_envelope({**envelope, "payload": envelope["payload"].replace("A", "B", 1)})


def sign_another_type(pack: Any) -> None:
    pack.resign(pack.body(), payload_type="application/json")


def add_a_file(pack: Any) -> None:
    (pack.path / "reports/extra").write_bytes(b"")


def link_a_file(pack: Any) -> None:
    shutil.move(pack.path / REPORT, pack.path.parent / "copy")
    (pack.path / REPORT).symlink_to(pack.path.parent / "copy")


def remove_a_file(pack: Any) -> None:
    (pack.path / REPORT).unlink()


def remove_the_envelope(pack: Any) -> None:
    (pack.path / ENVELOPE).unlink()


@needs_tools
@jq_or_not
@pytest.mark.parametrize(
    "tamper",
    [
        edit_and_regenerate_checksums,
        resign,
        change_the_body,
        sign_another_type,
        add_a_file,
        link_a_file,
        remove_a_file,
        remove_the_envelope,
    ],
    ids=lambda function: function.__name__,
)
def test_the_page_refuses_a_tampered_pack(
    pack: Any, tmp_path: Path, tamper: Callable[[Any], None], with_jq: bool
) -> None:
    tamper(pack)
    recipes = [lambda: run_recipe(pack.path, pack.fingerprint, tmp_path / "tmp", with_jq)]
    if not with_jq:
        recipes.append(lambda: run_readme(pack.path, pack.fingerprint, tmp_path / "tmp"))
    for run in recipes:
        done = run()
        assert done.returncode != 0
        assert "PASS" not in done.stdout


@needs_tools
def test_the_page_refuses_another_signer(pack: Any, tmp_path: Path) -> None:
    other = "sha256:" + "0" * 64
    assert run_recipe(pack.path, other, tmp_path / "tmp", False).returncode != 0


@needs_tools
def test_checksums_satisfy_coreutils_alone(pack: Any) -> None:
    command = ["sha256sum", "--strict", "-c", "checksums.sha256"]
    done = subprocess.run(command, cwd=pack.path, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.count(": OK") == len(FILES) + 1  # and the signer's key
    listed = "find . -type f | cut -c3- | LC_ALL=C sort | grep -v -e ^manifest -e ^checksums"
    pipeline = f"{listed} | xargs sha256sum | cmp - checksums.sha256"
    subprocess.run(["sh", "-c", pipeline], cwd=pack.path, check=True)


@needs_tools
def test_openssl_reads_our_keys_and_signs_what_we_accept(tmp_path: Path, pack: Any) -> None:
    private = tmp_path / "k.pem"
    public = generate_key(private)
    body, type_ = b"hello", dsse.IN_TOTO_PAYLOAD_TYPE
    (tmp_path / "pae").write_bytes(dsse.pae(type_, body))
    command = "openssl pkeyutl -sign -inkey k.pem -rawin -in pae -out sig"
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    envelope = dsse.sign(body, type_, Ed25519PrivateKey.generate())
    signature = base64.b64encode((tmp_path / "sig").read_bytes()).decode()
    envelope["signatures"] = [{"keyid": keyid(public), "sig": signature}]
    assert dsse.verify(dsse.envelope_bytes(envelope), [public]).body == body


def test_securesystemslib_verifies_the_envelope(pack: Any, other_key: Ed25519PrivateKey) -> None:
    document = pack.json(ENVELOPE)
    envelope = Envelope.from_dict(copy.deepcopy(document))
    key = SSlibKey.from_crypto(pack.key.public_key())
    accepted = envelope.verify([key], 1)
    assert list(accepted) == [key.keyid] == [document["signatures"][0]["keyid"]]
    with pytest.raises(VerificationError):
        envelope.verify([SSlibKey.from_crypto(other_key.public_key())], 1)


def test_we_verify_what_securesystemslib_writes(key: Ed25519PrivateKey) -> None:
    from securesystemslib.signer import CryptoSigner

    envelope = Envelope(b"hello", dsse.IN_TOTO_PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(key))
    data = dsse.envelope_bytes(envelope.to_dict())
    assert dsse.verify(data, [key.public_key()]).body == b"hello"


def test_in_toto_accepts_the_statement(pack: Any) -> None:
    message = json_format.ParseDict(pack.body(), statement_pb2.Statement())
    statement = Statement.copy_from_pb(message)
    statement.validate()
    assert statement.pb.predicate_type == "urn:pytest-invarlock:evidence-pack:v1"
    assert len(statement.pb.subject) == len(FILES) + 3
    assert statement.pb.predicate["verdict"] == "PASS"


def test_the_trust_store_on_the_page_is_read(tmp_path: Path) -> None:
    text = re.search(r"^```yaml\n(.*?)^```$", DOC.read_text(), re.DOTALL | re.MULTILINE)
    assert text
    path = tmp_path / "store.yaml"
    path.write_text(text[1])
    trust = load_trust((), path, dt.datetime(2026, 11, 20, tzinfo=dt.UTC))
    assert sorted(trust.names.values()) == ["evaluation team", "release CI"]
    assert len(trust.keys) == 1
