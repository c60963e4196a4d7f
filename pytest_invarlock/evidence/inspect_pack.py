"""What a pack says of itself, for a first look: nothing here is verified."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import EvidenceError, InvarlockError
from pytest_invarlock.evidence.keys import fingerprint, parse_public_key
from pytest_invarlock.evidence.layout import CONTROL_FILES, ENVELOPE, MANIFEST, SIGNER_KEY
from pytest_invarlock.evidence.limits import MAX_MANIFEST_BYTES
from pytest_invarlock.evidence.manifest import manifest_digest, parse_manifest
from pytest_invarlock.evidence.pack_directory import PackDirectory
from pytest_invarlock.evidence.plain_text import plain

if TYPE_CHECKING:
    from pytest_invarlock.evidence.manifest import Manifest

FORMAT = "invarlock-inspect-v1"
NOT_VERIFIED = "NOT VERIFIED: this is what the pack says of itself; `invarlock verify` checks it"
_KEY_BYTES = 16 * 2**10
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class InspectedPack:
    """A pack's own words, and what lies in its directory.

    ``signer`` is the fingerprint that the manifest names, ``key`` that of the public key in the
    pack (None: none that can be read), ``has_envelope`` whether there is anything like a signature.
    ``missing`` are paths that only the manifest lists, ``unlisted`` those that only the directory
    holds.
    """

    manifest: Manifest
    digest: str
    key: str | None
    has_envelope: bool
    missing: tuple[str, ...]
    unlisted: tuple[str, ...]

    @property
    def signer(self) -> str | None:
        """The fingerprint of the signer that the manifest names; None: it says unsigned."""
        return self.manifest.signer

    def folders(self) -> dict[str, tuple[int, int]]:
        """By first folder, how many files the manifest lists and how many bytes they have."""
        files: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for file in self.manifest.files:
            head, slash, _ = file.path.partition("/")
            files[head + slash] += 1
            sizes[head + slash] += file.size_bytes
        return {name: (files[name], sizes[name]) for name in sorted(files)}

    def count(self, folder: str, suffix: str) -> int:
        """How many of the listed files stand in ``folder`` and end in ``suffix``."""
        return sum(
            file.path.startswith(folder) and file.path.endswith(suffix)
            for file in self.manifest.files
        )


def inspect_pack(path: Path) -> InspectedPack:
    """Read the manifest of the pack in the directory ``path``, and the names of its files.

    Nothing but regular files is opened, and no link is followed inside.

    Raises:
        EvidenceError: MISSING_PACK, MISSING_FILE (no manifest), SYMLINK, NOT_REGULAR,
            UNREADABLE_FILE, TOO_MANY_FILES, or a code of `manifest.parse_manifest`.
    """
    try:
        directory = PackDirectory(path)
    except OSError as error:
        raise EvidenceError(
            f"no such pack directory: {error.strerror}",
            remedy="name the directory of a pack",
            code="MISSING_PACK",
        ) from error
    with directory:
        data = directory.read(MANIFEST, MAX_MANIFEST_BYTES)
        manifest = parse_manifest(data)
        listed = {file.path for file in manifest.files}
        there = {entry.path for entry in directory.entries()}
        return InspectedPack(
            manifest=manifest,
            digest=manifest_digest(data),
            key=_key(directory),
            has_envelope=directory.exists(ENVELOPE),
            missing=tuple(sorted(listed - there)),
            unlisted=tuple(sorted(there - listed - CONTROL_FILES)),
        )


def _key(directory: PackDirectory) -> str | None:
    try:
        return fingerprint(parse_public_key(directory.read(SIGNER_KEY, _KEY_BYTES), SIGNER_KEY))
    except InvarlockError:
        return None


def inspected_lines(found: InspectedPack) -> list[str]:
    """What the pack says, for people."""
    header = found.manifest.header
    draws = sum(entry.draws for entry in header.planned)
    models = len({entry.model for entry in header.planned})
    total = sum(size for _, size in found.folders().values())
    lines = [
        NOT_VERIFIED,
        f"run      {header.run_id} (suite {header.suite}), sealed {header.created_at}",
        f"made by  {header.tool.name} {header.tool.version}",
        f"verdict  {header.verdict}",
        f"signer   {_signed(found)}",
        f"digest   {found.digest}",
        f"plan     {header.plan_digest}",
        f"policy   {header.policy_digest}",
        f"planned  {len(header.planned)} scenarios of {models} models, {draws} records",
        f"holds    {found.count('records/', '.record.json')} records, "
        f"{found.count('reports/', '/evaluation.report.json')} certificates, "
        f"{len(found.manifest.files)} files, {total} bytes",
        *(f"  {name:<14} {n} files, {size} bytes" for name, (n, size) in found.folders().items()),
    ]
    for word, paths in (("missing", found.missing), ("unlisted", found.unlisted)):
        lines += [f"{word}: {path}" for path in paths[:_SHOWN]]
        if len(paths) > _SHOWN:
            lines.append(f"{word}: {len(paths) - _SHOWN} more")
    return [plain(line) for line in lines]


def inspected_object(found: InspectedPack) -> dict[str, Any]:
    """The same as a JSON object."""
    header = found.manifest.header
    return {
        "format": FORMAT,
        "verified": False,
        "run_id": header.run_id,
        "suite": header.suite,
        "created_at": header.created_at,
        "tool": {
            "name": header.tool.name,
            "version": header.tool.version,
            "code_digest": header.tool.code_digest,
        },
        "stated_verdict": header.verdict,
        "stated_signer": found.signer,
        "packed_key": found.key,
        "has_envelope": found.has_envelope,
        "pack_digest": found.digest,
        "plan_digest": header.plan_digest,
        "policy_digest": header.policy_digest,
        "planned": [entry.document() for entry in header.planned],
        "records": found.count("records/", ".record.json"),
        "certificates": found.count("reports/", "/evaluation.report.json"),
        "folders": {
            name: {"files": n, "bytes": size} for name, (n, size) in found.folders().items()
        },
        "missing": [plain(path) for path in found.missing],
        "unlisted": [plain(path) for path in found.unlisted],
    }


def _signed(found: InspectedPack) -> str:
    if found.signer is None:
        return "unsigned" + (", and yet it holds an envelope" if found.has_envelope else "")
    if not found.has_envelope:
        return f"says {found.signer}, but holds no signature"
    if found.key != found.signer:
        return f"says {found.signer}, and holds another key or none"
    return f"says {found.signer}"
