"""What the last stage of verification gets to see: bytes that have the stated hash, by path."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.limits import MAX_DOCUMENT_BYTES
from pytest_invarlock.evidence.strict_json import loads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.evidence.content import Content
    from pytest_invarlock.evidence.layout import PackFile
    from pytest_invarlock.evidence.manifest import Manifest


@dataclass(frozen=True, slots=True)
class VerifiedPack:
    """A pack whose signature (unless unsigned), file set, hashes and manifest have been checked.

    ``signed_by`` is the signer's fingerprint, None for an unsigned pack. It lives only as long as
    the call that was given it: the directory is closed afterwards.
    """

    manifest: Manifest
    signed_by: str | None
    _files: Mapping[str, PackFile] = field(repr=False)
    _content: Content = field(repr=False)
    _names: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_names", tuple(sorted(self._files)))

    def names(self) -> tuple[str, ...]:
        """The sorted paths of all files but the envelope."""
        # Asked for once or more for every file; the files do not change.
        return self._names

    def holds(self, path: str) -> bool:
        """Whether ``path`` is one of the `names`."""
        return path in self._files

    def size_bytes(self, path: str) -> int:
        """The stated (and checked) size of ``path``; raises EvidenceError (MISSING_FILE)."""
        return self._file(path).size_bytes

    def sha256(self, path: str) -> str:
        """The stated (and checked) SHA-256 of ``path`` in hex; raises EvidenceError likewise."""
        return self._file(path).sha256

    def read(self, path: str) -> bytes:
        """The bytes of ``path`` that were hashed when it was checked, or are hashed now.

        Raises EvidenceError: MISSING_FILE for a path the pack does not list; SIZE_MISMATCH,
        DIGEST_MISMATCH, SYMLINK and the like where a file too large to keep has changed since.
        """
        return self._content.read(self._file(path))

    def read_json(self, path: str) -> Any:
        """``path`` as strict JSON.

        Raises EvidenceError: as :meth:`read`, and MALFORMED_JSON, TOO_LARGE.
        """
        return loads(self.read(path), max_bytes=MAX_DOCUMENT_BYTES, what=path)

    def verdict(self) -> str:
        """The verdict the manifest states: PASS, FAIL or INCONCLUSIVE."""
        return self.manifest.header.verdict

    def _file(self, path: str) -> PackFile:
        try:
            return self._files[path]
        except KeyError as error:
            raise EvidenceError(
                f"the pack holds no {path}",
                remedy="take the pack again from its source",
                code="MISSING_FILE",
            ) from error
