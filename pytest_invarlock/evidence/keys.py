"""Ed25519 keys: PKCS#8 and SPKI PEM files, fingerprints, and the user's own signing key.

A key proves who signed, not that the run was honest. People pin the fingerprint (SHA-256 of the
SPKI DER, as ``openssl pkey -pubin -outform DER | sha256sum`` prints it), never the DSSE keyid.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from platformdirs import user_config_path

from pytest_invarlock.errors import SigningKeyError
from pytest_invarlock.evidence import atomic
from pytest_invarlock.evidence.strict_json import canonical

PASSPHRASE_ENV = "INVARLOCK_SIGNING_KEY_PASSPHRASE"
MAX_PEM_BYTES = 16_384
_FIELD_PRIME = 2**255 - 19
_CURVE_D = -121665 * pow(121666, -1, _FIELD_PRIME) % _FIELD_PRIME


def load_private_key(path: Path, passphrase_env: str = PASSPHRASE_ENV) -> Ed25519PrivateKey:
    """Read an Ed25519 private key.

    Args:
        path: a PKCS#8 PEM file that only its owner can read.
        passphrase_env: environment variable with the passphrase of an encrypted file.

    Raises:
        SigningKeyError: KEY_MISSING, KEY_MODE (others may read it), KEY_MALFORMED (no private key
            PEM), KEY_PASSPHRASE (absent or wrong) or KEY_TYPE (a key of another algorithm).
    """
    pem = _read_pem(path, private=True)
    encrypted = b"ENCRYPTED" in pem
    passphrase = os.environ.get(passphrase_env, "").encode() if encrypted else b""
    if encrypted and not passphrase:
        raise SigningKeyError(
            f"{path}: the key is encrypted and {passphrase_env} is not set",
            remedy=f"put the passphrase into {passphrase_env}",
            code="KEY_PASSPHRASE",
        )
    try:
        key = serialization.load_pem_private_key(pem, passphrase or None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # One wrong passphrase in 256 leaves padding that looks right, and what it hides malformed.
        if encrypted and not isinstance(error, UnsupportedAlgorithm):
            raise SigningKeyError(
                f"{path}: the passphrase in {passphrase_env} does not open the key",
                remedy="give the passphrase the key was made with, or make another key",
                code="KEY_PASSPHRASE",
            ) from error
        raise SigningKeyError(
            f"{path}: {_what_pem(pem)}, not a PKCS#8 private key",
            remedy="make a key with `invarlock evidence-pack keygen FILE`",
            code="KEY_MALFORMED",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _wrong_type(str(path), key)
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Read an Ed25519 public key from an SPKI PEM file.

    Raises SigningKeyError: KEY_MISSING, or as :func:`parse_public_key`.
    """
    return parse_public_key(_read_pem(path, private=False), str(path))


def parse_public_key(pem: bytes, name: str) -> Ed25519PublicKey:
    """Read an Ed25519 public key from SPKI PEM bytes; ``name`` is how errors call them.

    Raises SigningKeyError: KEY_IS_PRIVATE, KEY_MALFORMED, KEY_TYPE, or KEY_WEAK for a point of
    small order, for which signatures of any message can be made without a private key.
    """
    if b"PRIVATE KEY" in pem:
        raise SigningKeyError(
            f"{name}: is a private key",
            remedy="give out only the .pub.pem file; replace the key if others have seen it",
            code="KEY_IS_PRIVATE",
        )
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(
            f"{name}: {_what_pem(pem)}, not an SPKI public key",
            remedy="give the .pub.pem file that keygen wrote",
            code="KEY_MALFORMED",
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _wrong_type(name, key)
    if _is_weak(key.public_bytes_raw()):
        raise SigningKeyError(
            f"{name}: is a point of small order, which verifies signatures of anything",
            remedy="remove this key from what you trust",
            code="KEY_WEAK",
        )
    return key


def public_pem(key: Ed25519PublicKey) -> bytes:
    """The SPKI PEM of ``key``."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def fingerprint(key: Ed25519PublicKey) -> str:
    """``sha256:<hex>`` of the SPKI DER of ``key``: what people compare and pin."""
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return "sha256:" + hashlib.sha256(der).hexdigest()


def keyid(key: Ed25519PublicKey) -> str:
    """The DSSE keyid as securesystemslib derives it: 64 hex digits; a hint, never an authority."""
    described = {
        "keytype": "ed25519",
        "keyval": {"public": key.public_bytes_raw().hex()},
        "scheme": "ed25519",
    }
    return hashlib.sha256(canonical(described)).hexdigest()


def generate_key(path: Path, passphrase_env: str = PASSPHRASE_ENV) -> Ed25519PublicKey:
    """Make a key pair: ``path`` (mode 0600 from the start) and ``<stem>.pub.pem`` beside it.

    The private file is encrypted where the environment variable ``passphrase_env`` is set.

    Raises SigningKeyError: KEY_EXISTS where either file is there (links included), KEY_UNWRITABLE.
    """
    key = Ed25519PrivateKey.generate()
    public_path = public_path_of(path)
    _create(path, _private_pem(key, passphrase_env), mode=0o600)
    try:
        _create(public_path, public_pem(key.public_key()), mode=0o644)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return key.public_key()


def public_path_of(path: Path) -> Path:
    """Where the public half of the private key file ``path`` lies: ``<stem>.pub.pem``."""
    return path.with_name(f"{path.stem}.pub.pem")


def user_signing_key_path() -> Path:
    """``signing-key.pem`` in the user's own configuration directory; nothing is created."""
    return user_config_path("pytest-invarlock", appauthor=False) / "signing-key.pem"


def user_signing_key() -> tuple[Path, bool]:
    """The user's own key, made on first use.

    Returns:
        The private key's path, and whether this call made it. Of two processes that race, one
        makes the key and both return the same one: it appears by a hard link, whole or not at all.

    Raises SigningKeyError: KEY_UNWRITABLE.
    """
    path = user_signing_key_path()
    if path.exists():
        return path, False
    draft = path.with_name(f".draft-{os.getpid()}-{secrets.token_hex(4)}.pem")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        public = generate_key(draft)
        os.link(draft, path)
        atomic.write_bytes(public_path_of(path), public_pem(public))
    except FileExistsError:
        return path, False
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        draft.unlink(missing_ok=True)
        public_path_of(draft).unlink(missing_ok=True)
    return path, True


def _private_pem(key: Ed25519PrivateKey, passphrase_env: str) -> bytes:
    passphrase = os.environ.get(passphrase_env, "").encode()
    encryption: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def _create(path: Path, data: bytes, *, mode: int) -> None:
    try:
        atomic.create_bytes(path, data, mode=mode)
    except FileExistsError as error:
        raise SigningKeyError(
            f"{path}: exists already",
            remedy="name a new file; keygen never overwrites a key",
            code="KEY_EXISTS",
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error


def _read_pem(path: Path, *, private: bool) -> bytes:
    try:
        # Non-blocking: a FIFO given by mistake must not hang the run.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise SigningKeyError(
                    f"{path}: is not a regular file", remedy="name a PEM file", code="KEY_MISSING"
                )
            if private and stat.S_IMODE(mode) & 0o077:
                raise SigningKeyError(
                    f"{path}: others may read or change the key (mode {stat.S_IMODE(mode):04o})",
                    remedy=f"chmod 600 {path}",
                    code="KEY_MODE",
                )
            return file.read(MAX_PEM_BYTES)
    except OSError as error:
        raise SigningKeyError(
            f"{path}: cannot be read: {error.strerror}",
            remedy="name a PEM file",
            code="KEY_MISSING",
        ) from error


def _is_weak(raw: bytes) -> bool:
    """Whether the point encoding ``raw`` (32 bytes) has order 1, 2, 4 or 8, or is not reduced.

    On the curve -x² + y² = 1 + d·x²·y², orders 1 and 2 have y = ±1 and order 4 has y = 0; doubling
    a point of order 8 gives y = 0, that is x² = -y², hence d·y⁴ + 2y² = 1.
    """
    encoded = int.from_bytes(raw, "little") & (2**255 - 1)
    y = encoded % _FIELD_PRIME
    order_8 = (_CURVE_D * pow(y, 4, _FIELD_PRIME) + 2 * y * y - 1) % _FIELD_PRIME == 0
    return encoded >= _FIELD_PRIME or y in (0, 1, _FIELD_PRIME - 1) or order_8


def _what_pem(pem: bytes) -> str:
    label = pem.partition(b"-----BEGIN ")[2].partition(b"-----")[0].decode("ascii", "replace")
    return f"holds a PEM block {label[:40]!a}" if label else "holds no PEM block"


def _wrong_type(name: str, key: object) -> SigningKeyError:
    kind = type(key).__name__.removesuffix("PrivateKey").removesuffix("PublicKey")
    return SigningKeyError(
        f"{name}: is a key of type {kind}, not Ed25519",
        remedy="make an Ed25519 key with `invarlock evidence-pack keygen FILE`",
        code="KEY_TYPE",
    )


def _unwritable(path: Path, error: OSError) -> SigningKeyError:
    return SigningKeyError(
        f"{path}: cannot be written: {error.strerror}",
        remedy="name a file in an existing directory that you can write to",
        code="KEY_UNWRITABLE",
    )
