"""The files of a pack, each opened once: the bytes that were hashed are the bytes that are judged.

What was read is kept up to a fixed budget, whatever the pack states. A file beyond it is read again
when it is asked for, and hashed again as it is read: a file swapped in between is found.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pytest_invarlock.evidence.limits import MAX_KEPT_BYTES
from pytest_invarlock.evidence.pack_directory import check_content

if TYPE_CHECKING:
    from pytest_invarlock.evidence.layout import PackFile
    from pytest_invarlock.evidence.pack_directory import PackDirectory


class Content:
    """Bytes by path, of one open `PackDirectory`; ``last_read`` is the path asked for last."""

    __slots__ = ("_directory", "_kept", "_left", "last_read")

    def __init__(self, directory: PackDirectory, budget: int = MAX_KEPT_BYTES) -> None:
        self._directory = directory
        self._kept: dict[str, tuple[bytes, str]] = {}
        self._left = budget
        self.last_read = ""

    def first(self, path: str, max_bytes: int) -> bytes:
        """The bytes of a file whose hash is not known yet; :meth:`check` then opens nothing.

        Raises EvidenceError: as :meth:`PackDirectory.read`.
        """
        data = self._directory.read(path, max_bytes)
        self._keep(path, data, hashlib.sha256(data).hexdigest())
        return data

    def check(self, file: PackFile) -> None:
        """Compare size and hash, and keep the bytes while the budget lasts.

        Raises EvidenceError: as :meth:`PackDirectory.read_verified`.
        """
        if file.path in self._kept:
            data, sha256 = self._kept[file.path]
            check_content(file, len(data), sha256)
        elif file.size_bytes > self._left:
            self._directory.check(file)
        else:
            self._keep(file.path, self._directory.read_verified(file), file.sha256)

    def read(self, file: PackFile) -> bytes:
        """The bytes of ``file``, of the size and hash it states.

        Raises EvidenceError: as :meth:`PackDirectory.read_verified`.
        """
        self.last_read = file.path
        if file.path not in self._kept:
            return self._directory.read_verified(file)
        data, sha256 = self._kept[file.path]
        check_content(file, len(data), sha256)
        return data

    def _keep(self, path: str, data: bytes, sha256: str) -> None:
        if len(data) <= self._left and path not in self._kept:
            self._kept[path] = (data, sha256)
            self._left -= len(data)
