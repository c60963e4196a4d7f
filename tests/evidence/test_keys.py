"""Keys that must not be used are refused before anything is signed or trusted."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.signer import SSlibKey

from pytest_invarlock.errors import SigningKeyError
from pytest_invarlock.evidence import keys

if TYPE_CHECKING:
    from pathlib import Path

PRIME = 2**255 - 19
OTHERS = {
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "EC": lambda: ec.generate_private_key(ec.SECP256R1()),
    "X25519": x25519.X25519PrivateKey.generate,
    "Ed448": ed448.Ed448PrivateKey.generate,
}


def pem_of(key, form=ser.PrivateFormat.PKCS8, encryption=None) -> bytes:
    return key.private_bytes(ser.Encoding.PEM, form, encryption or ser.NoEncryption())


def private_file(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def code_of(call, *arguments) -> str:
    with pytest.raises(SigningKeyError) as caught:
        call(*arguments)
    return caught.value.code


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o601])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, key, mode: int) -> None:
    path = private_file(tmp_path / "k.pem", pem_of(key), mode)
    with pytest.raises(SigningKeyError, match=f"chmod 600 {path}") as caught:
        keys.load_private_key(path)
    assert caught.value.code == "KEY_MODE"


@pytest.mark.parametrize("kind", OTHERS)
def test_a_key_of_another_type_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    other = OTHERS[kind]()
    path = private_file(tmp_path / "k.pem", pem_of(other))
    public = tmp_path / "k.pub.pem"
    public.write_bytes(
        other.public_key().public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo)
    )
    for load, file in ((keys.load_private_key, path), (keys.load_public_key, public)):
        with pytest.raises(SigningKeyError, match=rf"of type {kind},") as caught:
            load(file)
        assert caught.value.code == "KEY_TYPE"


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    assert code_of(keys.load_private_key, private_file(tmp_path / "k", content)) == "KEY_MALFORMED"


def test_swapped_halves_are_refused(tmp_path: Path, key) -> None:
    public = private_file(tmp_path / "p", keys.public_pem(key.public_key()))
    private = private_file(tmp_path / "k", pem_of(key))
    openssh = private_file(tmp_path / "o", pem_of(key, ser.PrivateFormat.OpenSSH))
    assert code_of(keys.load_private_key, public) == "KEY_MALFORMED"
    assert code_of(keys.load_public_key, private) == "KEY_IS_PRIVATE"
    with pytest.raises(SigningKeyError, match="OPENSSH PRIVATE KEY"):
        keys.load_private_key(openssh)


def test_a_missing_file_and_a_directory_and_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "absent", tmp_path, tmp_path / "pipe"):
        assert code_of(keys.load_private_key, path) == "KEY_MISSING"
        assert code_of(keys.load_public_key, path) == "KEY_MISSING"


def test_passphrases(tmp_path: Path, key, monkeypatch: pytest.MonkeyPatch) -> None:
    encrypted = pem_of(key, encryption=ser.BestAvailableEncryption(b"sesame"))
    path = private_file(tmp_path / "k.pem", encrypted)
    monkeypatch.delenv(keys.PASSPHRASE_ENV, raising=False)
    with pytest.raises(SigningKeyError, match=keys.PASSPHRASE_ENV) as caught:
        keys.load_private_key(path)
    assert caught.value.code == "KEY_PASSPHRASE"
    monkeypatch.setenv(keys.PASSPHRASE_ENV, "wrong")
    assert code_of(keys.load_private_key, path) == "KEY_PASSPHRASE"

    def decrypts_to_noise(*_: object) -> None:
        raise ValueError("Could not deserialize key data.")

    with monkeypatch.context() as patched:
        patched.setattr(keys.serialization, "load_pem_private_key", decrypts_to_noise)
        assert code_of(keys.load_private_key, path) == "KEY_PASSPHRASE"
    monkeypatch.setenv(keys.PASSPHRASE_ENV, "sesame")
    assert keys.load_private_key(path).sign(b"") == key.sign(b"")
    plain = private_file(tmp_path / "plain.pem", pem_of(key))
    assert keys.load_private_key(plain).sign(b"") == key.sign(b"")


def small_order_encodings() -> list[bytes]:
    """Every 32-byte encoding of a point of order 1, 2, 4 or 8, also those not reduced mod p."""
    d = -121665 * pow(121666, -1, PRIME) % PRIME
    root = sqrt((1 + d) % PRIME)
    squares = [(sign * root - 1) * pow(d, -1, PRIME) % PRIME for sign in (1, -1)]
    order_8 = [y for square in squares for y in [sqrt(square)] if y is not None]
    ys = {0, 1, PRIME - 1, PRIME, PRIME + 1}
    ys |= {y for root in order_8 for y in (root, PRIME - root)}
    return [(y | sign << 255).to_bytes(32, "little") for y in sorted(ys) for sign in (0, 1)]


def sqrt(square: int) -> int | None:
    root = pow(square, (PRIME + 3) // 8, PRIME)
    for candidate in (root, root * pow(2, (PRIME - 1) // 4, PRIME) % PRIME):
        if candidate * candidate % PRIME == square:
            return candidate
    return None


def test_points_of_small_order_are_refused() -> None:
    encodings = small_order_encodings()
    assert len(encodings) == 14
    for raw in encodings:
        public = Ed25519PublicKey.from_public_bytes(raw)
        assert code_of(keys.parse_public_key, keys.public_pem(public), "x") == "KEY_WEAK"
    # Why: for the identity, a signature of all zeros but R = identity verifies any message.
    identity = Ed25519PublicKey.from_public_bytes(b"\x01" + bytes(31))
    identity.verify(b"\x01" + bytes(63), b"anything at all")


def test_honest_keys_are_accepted() -> None:
    for seed in range(50):
        public = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32).public_key()
        read = keys.parse_public_key(keys.public_pem(public), "x")
        assert read.public_bytes_raw() == public.public_bytes_raw()


def test_fingerprint_and_keyid_are_those_of_other_tools(key) -> None:
    public = key.public_key()
    der = public.public_bytes(ser.Encoding.DER, ser.PublicFormat.SubjectPublicKeyInfo)
    assert keys.fingerprint(public) == "sha256:" + hashlib.sha256(der).hexdigest()
    assert keys.keyid(public) == SSlibKey.from_crypto(public).keyid


def test_generated_key_is_private_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(keys.PASSPHRASE_ENV, raising=False)
    path = tmp_path / "release.pem"
    old = os.umask(0)
    try:
        public = keys.generate_key(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.fingerprint(keys.load_private_key(path).public_key()) == keys.fingerprint(public)
    beside = tmp_path / "release.pub.pem"
    assert keys.fingerprint(keys.load_public_key(beside)) == keys.fingerprint(public)


def test_generated_key_is_encrypted_where_a_passphrase_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(keys.PASSPHRASE_ENV, "sesame")
    path = tmp_path / "k.pem"
    keys.generate_key(path)
    assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    keys.load_private_key(path)


@pytest.mark.parametrize("taken", ["k.pem", "k.pub.pem"])
@pytest.mark.parametrize("as_link", [False, True])
def test_keygen_overwrites_nothing(tmp_path: Path, taken: str, as_link: bool) -> None:
    if as_link:
        (tmp_path / taken).symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / taken).write_bytes(b"mine")
    assert code_of(keys.generate_key, tmp_path / "k.pem") == "KEY_EXISTS"
    assert [p.name for p in tmp_path.iterdir()] == [taken]
    assert as_link or (tmp_path / taken).read_bytes() == b"mine"


def test_keygen_needs_the_directory(tmp_path: Path) -> None:
    assert code_of(keys.generate_key, tmp_path / "absent" / "k.pem") == "KEY_UNWRITABLE"


def test_user_key_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(keys, "user_config_path", lambda name, appauthor: tmp_path / name)
    path, created = keys.user_signing_key()
    assert created
    assert path == tmp_path / "pytest-invarlock" / "signing-key.pem"
    assert keys.user_signing_key() == (path, False)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_nlink == 1
    public = keys.load_private_key(path).public_key()
    beside = keys.load_public_key(path.with_name("signing-key.pub.pem"))
    assert keys.fingerprint(beside) == keys.fingerprint(public)
    names = sorted(p.name for p in path.parent.iterdir())
    assert names == ["signing-key.pem", "signing-key.pub.pem"]


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no XDG_CONFIG_HOME")
def test_processes_that_race_end_with_one_user_key(tmp_path: Path) -> None:
    program = (
        "from pytest_invarlock.evidence import keys\n"
        "path, created = keys.user_signing_key()\n"
        "print(created, keys.fingerprint(keys.load_private_key(path).public_key()))"
    )
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}

    def run(_: int) -> list[str]:
        command = [sys.executable, "-W", "ignore", "-c", program]
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True
        ).stdout.split()

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(run, range(6)))
    assert [created for created, _ in results].count("True") == 1
    assert len({text for _, text in results}) == 1
    assert len(list((tmp_path / "pytest-invarlock").iterdir())) == 2
