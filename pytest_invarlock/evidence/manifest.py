"""``manifest.json``: what the run was, what was planned, and every file with size and SHA-256.

The manifest's own SHA-256 is the pack's digest: it fixes every file but the envelope, and exists
for unsigned packs too. Times are the signer's own claim.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.layout import (
    CHECKSUMS,
    CONTROL_FILES,
    FORMAT,
    MAX_FILES,
    PackFile,
    check_paths,
)
from pytest_invarlock.evidence.limits import MAX_MANIFEST_BYTES
from pytest_invarlock.evidence.strict_json import loads, pretty
from pytest_invarlock.plan import PlannedScenario
from pytest_invarlock.policy.quick_schema import Predicate, quick_accept
from pytest_invarlock.policy.resources import schema, strict_validator

DEFAULT_REFERENCES: Mapping[str, str] = {
    "environment": "metadata/environment.json",
    "scenarios": "metadata/scenarios.json",
    "policy": "metadata/policy.json",
}


@dataclass(frozen=True, slots=True)
class ToolIdentity:
    """The program that made the pack; ``code_digest`` (``sha256:<hex>``) covers its files."""

    name: str
    version: str
    code_digest: str


@dataclass(frozen=True, slots=True)
class ManifestHeader:
    """What a manifest says besides its files.

    ``verdict`` is PASS, FAIL or INCONCLUSIVE; times are UTC as ``YYYY-MM-DDTHH:MM:SSZ``; digests
    are ``sha256:<hex>``. ``references`` maps environment, scenarios and policy (required),
    source_repo and model_revisions (optional) to paths of files in the pack.
    """

    run_id: str
    suite: str
    started_at: str
    finished_at: str
    created_at: str
    tool: ToolIdentity
    verdict: str
    planned: tuple[PlannedScenario, ...]
    plan_digest: str
    policy_digest: str
    references: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_REFERENCES))


@dataclass(frozen=True, slots=True)
class Manifest:
    """A header, the files it speaks of, and the signer's fingerprint (None: unsigned).

    ``files`` holds every file but the three control files, sorted by path;
    ``checksums_sha256`` is the SHA-256 of ``checksums.sha256`` in hex.
    """

    header: ManifestHeader
    files: tuple[PackFile, ...]
    checksums_sha256: str
    signer: str | None

    def encode(self) -> bytes:
        """The bytes of ``manifest.json``.

        Raises EvidenceError: MANIFEST_SCHEMA, BAD_PATH, DUPLICATE_SUBJECT, or MANIFEST_REFERENCE
        for a reference to a file that is not in the pack.
        """
        document = self._document()
        _check(document)
        check_paths(file.path for file in self.files)
        return pretty(document)

    def _document(self) -> dict[str, Any]:
        header, hashes = self.header, {file.path: file.sha256 for file in self.files}
        for name, path in header.references.items():
            if path not in hashes:
                raise _error("MANIFEST_REFERENCE", f"{name}: {path} is not in the pack")
        return {
            "format": FORMAT,
            "run": {
                "id": header.run_id,
                "suite": header.suite,
                "started_at": header.started_at,
                "finished_at": header.finished_at,
            },
            "tool": {
                "name": header.tool.name,
                "version": header.tool.version,
                "code_digest": header.tool.code_digest,
            },
            "verdict": header.verdict,
            "planned": [entry.document() for entry in sorted(header.planned)],
            "plan_digest": header.plan_digest,
            "policy_digest": header.policy_digest,
            "created_at": header.created_at,
            "files": [
                {"path": f.path, "bytes": f.size_bytes, "sha256": f.sha256} for f in self.files
            ],
            "checksums_sha256": CHECKSUMS,
            "checksums_sha256_digest": self.checksums_sha256,
            "references": {
                name: {"path": path, "sha256": hashes[path]}
                for name, path in header.references.items()
            },
            "signing": {"fingerprint": self.signer, "unsigned": self.signer is None},
        }


def manifest_digest(data: bytes) -> str:
    """The pack's digest: ``sha256:<hex>`` of the bytes of ``manifest.json``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def parse_manifest(data: bytes) -> Manifest:
    """Read the bytes of ``manifest.json``.

    Raises EvidenceError: TOO_LARGE; MALFORMED_JSON; MANIFEST_SCHEMA (the first violation, by path);
    BAD_PATH, DUPLICATE_SUBJECT; MANIFEST_LISTING where planned or files are not sorted or repeat,
    or files names a control file;
    MANIFEST_REFERENCE for a reference that no file of the manifest answers.
    """
    document = loads(data, max_bytes=MAX_MANIFEST_BYTES, what="manifest.json")
    _check(document)
    if sum(entry["draws"] for entry in document["planned"]) > MAX_FILES:
        # Each draw has files of its own; what is planned is counted out one by one later.
        raise _error("TOO_LARGE", f"planned holds more draws than a pack has files, {MAX_FILES}")
    manifest = _from_document(document)
    check_paths(file.path for file in manifest.files)
    planned = manifest.header.planned
    scenarios = {(item.model, item.scenario) for item in planned}
    paths = [file.path for file in manifest.files]
    if list(planned) != sorted(planned) or len(scenarios) != len(planned) or paths != sorted(paths):
        raise _error("MANIFEST_LISTING", "planned and files must be sorted, each entry once")
    if any(item.draws != len(item.runs) for item in planned):
        raise _error("MANIFEST_LISTING", "planned must name as many draws as it counts")
    if CONTROL_FILES.intersection(paths):
        raise _error("MANIFEST_LISTING", "files must not name a control file")
    hashes = {file.path: file.sha256 for file in manifest.files}
    for name, reference in document["references"].items():
        if hashes.get(reference["path"]) != reference["sha256"]:
            raise _error("MANIFEST_REFERENCE", f"references.{name} is not a file of the manifest")
    return manifest


def _from_document(document: dict[str, Any]) -> Manifest:
    run = document["run"]
    header = ManifestHeader(
        run_id=run["id"],
        suite=run["suite"],
        started_at=run["started_at"],
        finished_at=run["finished_at"],
        created_at=document["created_at"],
        tool=ToolIdentity(**document["tool"]),
        verdict=document["verdict"],
        planned=tuple(PlannedScenario.read(item) for item in document["planned"]),
        plan_digest=document["plan_digest"],
        policy_digest=document["policy_digest"],
        references={name: entry["path"] for name, entry in document["references"].items()},
    )
    return Manifest(
        header=header,
        files=tuple(PackFile(f["path"], f["bytes"], f["sha256"]) for f in document["files"]),
        checksums_sha256=document["checksums_sha256_digest"],
        signer=document["signing"]["fingerprint"],
    )


@cache
def _checks() -> tuple[Predicate, Any]:
    """The quick look, and the validator that alone refuses: a manifest lists every file."""
    return quick_accept(schema("manifest")), strict_validator()(schema("manifest"))


def _check(document: Any) -> None:
    accepts, validator = _checks()
    if accepts(document):
        return
    error = next(iter(validator.iter_errors(document)), None)
    if error is not None:
        # A message may quote the whole document, whose text is the pack's author's.
        raise _error("MANIFEST_SCHEMA", f"{error.json_path}: {ascii(error.message)[1:-1][:200]}")


def _error(code: str, cause: str) -> EvidenceError:
    return EvidenceError(
        f"manifest.json: {cause}", remedy="take the pack again from its source", code=code
    )
