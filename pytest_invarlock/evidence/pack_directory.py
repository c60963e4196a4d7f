"""Read a pack's directory without following links or opening anything but regular files.

Every name is resolved against the descriptor of the directory it stands in, so that a directory
swapped for a link between two steps changes nothing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Self

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.layout import (
    MAX_FILES,
    MAX_PATH_LENGTH,
    MAX_SEGMENTS,
    PackFile,
    check_path,
)

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_CHUNK_BYTES = 2**20
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Entry:
    """A name below the pack that is not a directory; ``path`` may be hostile text."""

    path: str
    is_link: bool
    is_regular: bool
    n_links: int


class PackDirectory:
    """An open pack directory; a context manager."""

    __slots__ = ("_n_seen", "_root")

    def __init__(self, path: Path) -> None:
        self._n_seen = 0
        # The directory itself may be reached by a link: the user named it.
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the directory; nothing can be read afterwards."""
        os.close(self._root)

    def entries(self) -> list[Entry]:
        """Everything below that is not a directory, sorted by path.

        Raises EvidenceError: UNREADABLE_FILE; TOO_MANY_FILES or BAD_PATH beyond a pack's limits.
        """
        found: list[Entry] = []
        self._n_seen = 0
        try:
            self._walk(self._root, "", found)
        except OSError as error:
            raise _error("UNREADABLE_FILE", f"a directory: {error.strerror}") from error
        return sorted(found, key=lambda entry: os.fsencode(entry.path))

    def exists(self, path: str) -> bool:
        """Whether ``path`` names anything, a dangling link included.

        Raises EvidenceError (SYMLINK) where a directory on the way is a link.
        """
        try:
            with self._parent(path) as (parent, name):
                os.stat(name, dir_fd=parent, follow_symlinks=False)
        except OSError:
            return False
        return True

    def read(self, path: str, max_bytes: int) -> bytes:
        """The bytes of a regular file of at most ``max_bytes``.

        Raises EvidenceError: TOO_LARGE, before anything is read where the file's own size says so;
        MISSING_FILE, SYMLINK, NOT_REGULAR, UNREADABLE_FILE.
        """
        with self._open(path) as file:
            size = os.fstat(file.fileno()).st_size
            # Once more after the read: a file may grow between the two.
            data = b"" if size > max_bytes else file.read(max_bytes + 1)
            if max(size, len(data)) > max_bytes:
                raise _error("TOO_LARGE", f"{path} is longer than {max_bytes} bytes")
            return data

    def read_verified(self, file: PackFile) -> bytes:
        """The bytes of ``file``; what is returned is what was hashed.

        Raises EvidenceError: as :meth:`read` but TOO_LARGE, SIZE_MISMATCH, DIGEST_MISMATCH.
        """
        with self._open(file.path) as source:
            _check_size(file, os.fstat(source.fileno()).st_size)
            data = source.read(file.size_bytes + 1)
        check_content(file, len(data), hashlib.sha256(data).hexdigest())
        return data

    def check(self, file: PackFile) -> None:
        """Compare size and hash in constant memory, reading no further than the size allows.

        Raises EvidenceError: as :meth:`read_verified`.
        """
        hasher, left = hashlib.sha256(), file.size_bytes + 1
        with self._open(file.path) as source:
            _check_size(file, os.fstat(source.fileno()).st_size)
            while left and (chunk := source.read(min(left, _CHUNK_BYTES))):
                hasher.update(chunk)
                left -= len(chunk)
        check_content(file, file.size_bytes + 1 - left, hasher.hexdigest())

    def _walk(self, directory: int, prefix: str, found: list[Entry]) -> None:
        if prefix.count("/") > MAX_SEGMENTS or len(prefix) > 2 * MAX_PATH_LENGTH:
            raise _error("BAD_PATH", "directories are nested too deeply")
        with os.scandir(directory) as entries:
            for entry in entries:
                # Directories count too: empty ones would cost as much, and show nowhere.
                self._n_seen += 1
                if self._n_seen > 2 * MAX_FILES:
                    raise _error("TOO_MANY_FILES", "the directory holds more files than a pack may")
                status = entry.stat(follow_symlinks=False)
                path = prefix + entry.name
                if stat.S_ISDIR(status.st_mode):
                    with _directory(entry.name, directory) as inner:
                        self._walk(inner, f"{path}/", found)
                    continue
                mode, links = status.st_mode, status.st_nlink
                found.append(Entry(path, stat.S_ISLNK(mode), stat.S_ISREG(mode), links))

    @contextmanager
    def _open(self, path: str) -> Iterator[BinaryIO]:
        try:
            with self._parent(path) as (parent, name):
                # Asked before opening: opening a device can have effects.
                _check_regular(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode, path)
                descriptor = os.open(name, _FILE_FLAGS, dir_fd=parent)
        except FileNotFoundError as error:
            raise _error("MISSING_FILE", f"{path} is missing") from error
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _error("SYMLINK", f"{path} is a symbolic link") from error
            raise _unreadable(path, error) from error
        with os.fdopen(descriptor, "rb") as file:
            _check_regular(os.fstat(descriptor).st_mode, path)
            try:
                yield file
            except OSError as error:
                raise _unreadable(path, error) from error

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        check_path(path)
        *directories, name = path.split("/")
        opened = [os.dup(self._root)]
        try:
            for directory in directories:
                opened.append(_open_directory(directory, opened[-1]))
            yield opened[-1], name
        finally:
            for descriptor in opened:
                os.close(descriptor)


@contextmanager
def _directory(name: str, parent: int) -> Iterator[int]:
    descriptor = _open_directory(name, parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_directory(name: str, parent: int) -> int:
    try:
        return os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
    except OSError as error:
        # With both flags Linux calls a link "not a directory", macOS "too many links".
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise _error("SYMLINK", f"{name!a} is a link or file, no directory") from error
        raise


def _check_regular(mode: int, path: str) -> None:
    if stat.S_ISLNK(mode):
        raise _error("SYMLINK", f"{path} is a symbolic link")
    if not stat.S_ISREG(mode):
        raise _error("NOT_REGULAR", f"{path} is not a regular file")


def check_content(file: PackFile, n_bytes: int, sha256: str) -> None:
    """Raise EvidenceError (SIZE_MISMATCH, DIGEST_MISMATCH) unless what was read is ``file``."""
    _check_size(file, n_bytes)
    if sha256 != file.sha256:
        raise _error("DIGEST_MISMATCH", "content differs from the SHA-256 stated")


def _check_size(file: PackFile, n_bytes: int) -> None:
    if n_bytes != file.size_bytes:
        longer = "longer" if n_bytes > file.size_bytes else "shorter"
        raise _error("SIZE_MISMATCH", f"is {longer} than the {file.size_bytes} bytes stated")


def _unreadable(path: str, error: OSError) -> EvidenceError:
    return _error("UNREADABLE_FILE", f"{path} cannot be read: {error.strerror}")


def _error(code: str, cause: str) -> EvidenceError:
    return EvidenceError(cause, remedy="take the pack again from its source", code=code)
