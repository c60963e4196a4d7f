"""What lies where in a pack, which paths it may hold, and the text of ``checksums.sha256``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.limits import MAX_PACK_BYTES, max_bytes_of

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT = "evidence-pack-v1"
MANIFEST = "manifest.json"
CHECKSUMS = "checksums.sha256"
ENVELOPE = "manifest.signature.json"
SIGNER_KEY = "metadata/signer.pub.pem"
FINAL_VERDICT = "results/final_verdict.json"
CONTROL_FILES = frozenset({MANIFEST, CHECKSUMS, ENVELOPE})
MAX_FILES = 50_000
MAX_PATH_LENGTH = 1024
MAX_SEGMENTS = 32

_PATH = re.compile(r"[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*")
_RECORD = re.compile(r"records/[^/]+/[^/]+/run_[0-9]+\.record\.json")
_CERTIFICATE = re.compile(r"reports/[^/]+/[^/]+/run_[0-9]+/evaluation\.report\.json")
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PackFile:
    """A file of a pack: relative POSIX path, size in bytes, SHA-256 as 64 lower-case hex digits."""

    path: str
    size_bytes: int
    sha256: str


def records(paths: Iterable[str]) -> list[str]:
    """Those of ``paths``, sorted, at which the record of a draw stands."""
    return sorted(path for path in paths if _RECORD.fullmatch(path))


def certificates(paths: Iterable[str]) -> list[str]:
    """Those of ``paths``, sorted, at which the certificate of a draw stands."""
    return sorted(path for path in paths if _CERTIFICATE.fullmatch(path))


def check_path(path: str) -> None:
    """Raise EvidenceError (BAD_PATH) unless ``path`` is one that every system reads alike.

    Relative, ``/`` between segments of ``[A-Za-z0-9._~-]``, none empty, ``.`` or ``..``.
    """
    segments = path.split("/")
    if (
        not _PATH.fullmatch(path)
        or len(path) > MAX_PATH_LENGTH
        or len(segments) > MAX_SEGMENTS
        or any(segment in (".", "..") or len(segment) > 255 for segment in segments)
    ):
        raise EvidenceError(
            f"{ascii(path)[:200]} is not a path that a pack may hold",
            remedy="use relative paths of letters, digits, '.', '_', '~', '-' and '/'",
            code="BAD_PATH",
        )


def check_paths(paths: Iterable[str]) -> None:
    """Check each path, and that no two name the same file on a file system that folds case.

    Raises EvidenceError: BAD_PATH, also where one path is a directory of another, or
    DUPLICATE_SUBJECT.
    """
    seen: set[str] = set()
    for path in paths:
        check_path(path)
        if path.casefold() in seen:
            raise EvidenceError(
                f"{path} stands twice (letter case does not count)",
                remedy="name every file once",
                code="DUPLICATE_SUBJECT",
            )
        seen.add(path.casefold())
    for path in seen:
        parents = path.split("/")[:-1]
        if any("/".join(parents[: i + 1]) in seen for i in range(len(parents))):
            raise EvidenceError(
                f"{path} lies under a path that is a file itself",
                remedy="name the file or the directory otherwise",
                code="BAD_PATH",
            )


def check_sizes(files: Iterable[PackFile]) -> None:
    """Raise EvidenceError (TOO_LARGE) where a stated size, or their sum, is beyond what we read."""
    total = 0
    for file in files:
        total += file.size_bytes
        if file.size_bytes > max_bytes_of(file.path) or total > MAX_PACK_BYTES:
            whole = (
                "" if file.size_bytes > max_bytes_of(file.path) else ", with the files before it,"
            )
            raise EvidenceError(
                f"{file.path} is stated to have {file.size_bytes} bytes, which{whole} is too much",
                remedy="seal fewer runs in one pack",
                code="TOO_LARGE",
            )


def check_sha256(text: str, path: str) -> None:
    """Raise EvidenceError (MALFORMED_DIGEST) unless ``text`` is 64 lower-case hex digits."""
    if not _HEX.fullmatch(text):
        raise EvidenceError(
            f"{path}: the SHA-256 is not 64 lower-case hex digits",
            remedy="take the pack again from its source",
            code="MALFORMED_DIGEST",
        )


def checksums_text(files: Iterable[PackFile]) -> bytes:
    """``checksums.sha256``: one ``<hex><two spaces><path>`` line each, sorted by byte value.

    Lists every file but the three control files, and satisfies ``sha256sum --strict -c``. Its own
    SHA-256 is the in-toto ``dirHash1`` of the listed files.
    """
    listed = sorted((f.path, f.sha256) for f in files if f.path not in CONTROL_FILES)
    return "".join(f"{sha256}  {path}\n" for path, sha256 in listed).encode()
