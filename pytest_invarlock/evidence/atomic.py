"""Files that are either whole or absent: write beside, flush to disk, rename into place."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from pytest_invarlock.evidence.strict_json import pretty


def write_bytes(path: Path, data: bytes, *, flushed: bool = True) -> None:
    """Replace ``path`` by ``data``: a reader sees the old content or the new, never a part.

    The parent directory must exist; the mode follows the umask. Not ``flushed`` is for what a power
    cut may take, such as progress. Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        create_bytes(temporary, data, mode=0o666, flushed=flushed)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if flushed:
        sync_directory(path.parent)


def write_json(path: Path, value: Any, *, flushed: bool = True) -> None:
    """Replace ``path`` by ``value`` as sorted, indented JSON with a final newline.

    Raises OSError, or EvidenceError (NOT_CANONICAL) for NaN and other values JSON cannot carry.
    """
    write_bytes(path, pretty(value), flushed=flushed)


def create_bytes(path: Path, data: bytes, *, mode: int, flushed: bool = True) -> None:
    """Create ``path`` with ``data``; never follows a link, never touches an existing file.

    Args:
        path: a new file; FileExistsError where anything, a dangling link included, has that name.
        data: the whole content, flushed to disk before this returns, unless not ``flushed``.
        mode: permission bits from the first instant, less the umask.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if flushed:
                os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def sync_directory(path: Path) -> None:
    """Flush the directory's entries to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
