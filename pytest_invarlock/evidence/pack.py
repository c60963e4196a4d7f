"""Seal a pack: stage it beside its destination, hash, sign, flush to disk, rename into place.

Under the final name there is nothing or a whole pack. Only one process may seal: the controller,
after every worker has ended.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence import dsse
from pytest_invarlock.evidence.atomic import sync_directory
from pytest_invarlock.evidence.keys import fingerprint, public_pem
from pytest_invarlock.evidence.layout import (
    CHECKSUMS,
    CONTROL_FILES,
    ENVELOPE,
    MANIFEST,
    MAX_FILES,
    SIGNER_KEY,
    PackFile,
    check_paths,
    checksums_text,
)
from pytest_invarlock.evidence.manifest import Manifest, ManifestHeader, manifest_digest
from pytest_invarlock.evidence.statement import Statement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class SealedPack:
    """A pack on disk: its digest (SHA-256 of manifest.json) and signer (None: unsigned)."""

    path: Path
    digest: str
    fingerprint: str | None


def seal_pack(
    destination: Path,
    files: Mapping[str, bytes | Path],
    header: ManifestHeader,
    key: Ed25519PrivateKey | None,
) -> SealedPack:
    """Write an evidence pack.

    Args:
        destination: a directory that is absent or empty; its parent must exist.
        files: content, or a regular file to copy, by path in the pack. The control files and
            ``metadata/signer.pub.pem`` are made here and may not be among them.
        header: what the manifest says of the run.
        key: the signing key; None leaves the pack unsigned, and its manifest says so.

    Returns:
        Path, digest and signer's fingerprint.

    Raises:
        EvidenceError: PACK_EXISTS, RESERVED_PATH, BAD_PATH, DUPLICATE_SUBJECT, TOO_MANY_FILES,
            NOT_REGULAR or UNREADABLE_SOURCE for a source that is no readable regular file, and the
            codes of :meth:`Manifest.encode`. Nothing is then left under either name.
        OSError: the disk is full or the directory cannot be written.
    """
    _check_names(files)
    destination = Path(os.path.abspath(destination))  # noqa: PTH100 - resolve() would follow a link
    _check_free(destination)
    staging = destination.with_name(f".{destination.name}.tmp-{secrets.token_hex(4)}")
    try:
        staging.mkdir()
        sealed = _stage(staging, files, header, key)
        _publish(staging, destination)
    finally:
        # After the rename there is nothing here; after any failure, Ctrl-C included, all of it is.
        shutil.rmtree(staging, ignore_errors=True)
    return SealedPack(destination, sealed, fingerprint(key.public_key()) if key else None)


def _stage(
    staging: Path,
    files: Mapping[str, bytes | Path],
    header: ManifestHeader,
    key: Ed25519PrivateKey | None,
) -> str:
    contents: dict[str, bytes | Path] = dict(files)
    if key is not None:
        contents[SIGNER_KEY] = public_pem(key.public_key())
    listed = tuple(_write(staging, path, contents[path]) for path in sorted(contents))
    checksums = _write(staging, CHECKSUMS, checksums_text(listed))
    signer = fingerprint(key.public_key()) if key else None
    encoded = Manifest(header, listed, checksums.sha256, signer).encode()
    manifest = _write(staging, MANIFEST, encoded)
    digest = manifest_digest(encoded)
    if key is not None:
        statement = Statement(
            files=(*listed, checksums, manifest),
            run_id=header.run_id,
            suite=header.suite,
            verdict=header.verdict,
            plan_digest=header.plan_digest,
            policy_digest=header.policy_digest,
            manifest_digest=digest,
            created_at=header.created_at,
        )
        envelope = dsse.sign(statement.body(), dsse.IN_TOTO_PAYLOAD_TYPE, key)
        _write(staging, ENVELOPE, dsse.envelope_bytes(envelope))
    for directory, _, _ in os.walk(staging):
        sync_directory(Path(directory))
    return digest


def _publish(staging: Path, destination: Path) -> None:
    try:
        # rename(2) replaces an empty directory and refuses any other, so nothing can slip between.
        staging.rename(destination)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise _exists(destination) from error
        raise
    sync_directory(destination.parent)


def _check_names(files: Mapping[str, bytes | Path]) -> None:
    reserved = sorted(path for path in files if path in {*CONTROL_FILES, SIGNER_KEY})
    if reserved:
        raise EvidenceError(
            f"{reserved[0]} is written when the pack is sealed",
            remedy="give the file another path",
            code="RESERVED_PATH",
        )
    if len(files) > MAX_FILES - len(CONTROL_FILES) - 1:
        raise EvidenceError(
            f"{len(files)} files are more than a pack may hold",
            remedy="seal fewer runs in one pack",
            code="TOO_MANY_FILES",
        )
    check_paths([*files, *CONTROL_FILES, SIGNER_KEY])


def _check_free(destination: Path) -> None:
    if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
        raise _exists(destination)
    if destination.is_dir() and any(destination.iterdir()):
        raise _exists(destination)


def _exists(destination: Path) -> EvidenceError:
    return EvidenceError(
        f"{destination} exists and is not an empty directory",
        remedy="name a new directory; a pack is never written over",
        code="PACK_EXISTS",
    )


def _write(staging: Path, path: str, content: bytes | Path) -> PackFile:
    target = staging / path
    target.parent.mkdir(parents=True, exist_ok=True)
    hasher, size = hashlib.sha256(), 0
    with target.open("xb") as out:
        if isinstance(content, bytes):
            out.write(content)
            hasher.update(content)
            size = len(content)
        else:
            with _open_regular(content) as source:
                while chunk := source.read(_CHUNK_BYTES):
                    out.write(chunk)
                    hasher.update(chunk)
                    size += len(chunk)
        out.flush()
        os.fsync(out.fileno())
    return PackFile(path, size, hasher.hexdigest())


def _open_regular(path: Path) -> BinaryIO:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise EvidenceError(
            f"{path}: cannot be copied: {error.strerror}",
            remedy="name a readable regular file",
            code="NOT_REGULAR" if error.errno == errno.ELOOP else "UNREADABLE_SOURCE",
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise EvidenceError(
            f"{path}: is not a regular file", remedy="name a regular file", code="NOT_REGULAR"
        )
    return os.fdopen(descriptor, "rb")
