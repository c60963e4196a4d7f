"""Verify an evidence pack, from its signature to its verdict.

Each stage trusts only what the stages before it established; nothing of the payload is looked at
before the signature stage. What is not checked: that the run was honest. A signature proves who
says so, and ``rederive`` proves that the verdict follows from the records they signed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_invarlock.errors import EvidenceError, InvarlockError
from pytest_invarlock.evidence import binding, demands
from pytest_invarlock.evidence.content import Content
from pytest_invarlock.evidence.counts import uncounted
from pytest_invarlock.evidence.dsse import VerifiedPayload
from pytest_invarlock.evidence.findings import (
    HOSTILE,
    Finding,
    Level,
    Stage,
    StageFailed,
    StageLog,
    VerifyReport,
)
from pytest_invarlock.evidence.layout import (
    CHECKSUMS,
    ENVELOPE,
    MANIFEST,
    PackFile,
    check_sizes,
    checksums_text,
)
from pytest_invarlock.evidence.limits import MAX_MANIFEST_BYTES
from pytest_invarlock.evidence.manifest import parse_manifest
from pytest_invarlock.evidence.pack_directory import Entry, PackDirectory
from pytest_invarlock.evidence.signature import check_signature
from pytest_invarlock.evidence.statement import Statement, parse_statement
from pytest_invarlock.evidence.trust import Trust, load_trust
from pytest_invarlock.evidence.verified import VerifiedPack

PackCheck = Callable[[VerifiedPack], list[Finding]]


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What the caller demands of a pack.

    ``expected_fingerprints`` (``sha256:<hex>`` of SPKI DER) and ``trust_store`` say who may sign;
    with both, a signer must be in both. ``allow_unsigned`` waives the signature of an unsigned
    pack unless a signer is demanded. ``strict`` False turns extra files into warnings;
    ``dsse_lenient`` accepts every envelope DSSE allows. ``expect_policy`` (``sha256:<hex>``),
    ``expect_run`` and ``not_before`` (ISO 8601, UTC) refuse other and older packs of the signer.
    ``profile`` is the one that every policy of the pack must be of. ``report_assurance`` says what
    must stand beside a certificate: ``report``, a runtime manifest of that certificate; ``strict``,
    one that rules out models' own code and other packages' guards; ``off``, nothing.
    """

    expected_fingerprints: tuple[str, ...] = ()
    trust_store: Path | None = None
    allow_unsigned: bool = False
    strict: bool = True
    dsse_lenient: bool = False
    expect_policy: str | None = None
    expect_run: str | None = None
    not_before: str | None = None
    now: dt.datetime | None = None
    report_assurance: Literal["strict", "report", "off"] = "report"
    profile: str | None = None


def verify_pack(
    path: Path,
    options: VerifyOptions,
    rederive: PackCheck,
    check_schemas: PackCheck | None = None,
    check_data: PackCheck | None = None,
) -> VerifyReport:
    """Verify the pack in the directory ``path``.

    Args:
        path: the pack; the path itself may be a link, nothing inside may.
        options: whom to trust and what else to demand.
        rederive: computes reports and verdict again from the records and says what does not
            follow. Called only when every earlier stage has passed, trust in the signer excepted;
            whatever it raises is a finding.
        check_schemas: says which documents of the pack break their schema; called before
            ``rederive``, once the manifest is known to be sound.
        check_data: says which windows are not those of the data that somebody has at hand; called
            last, and only where there is no error, not even of trust.

    Returns:
        Every finding, and through ``exit_status`` what the first failing stage decides. A pack
        by a signer whom nobody named is checked to the end, and fails with NO_TRUSTED_KEY.
    """
    run = _Verification(options)
    with contextlib.suppress(StageFailed):  # the log says which stage failed, and why
        run.all_stages(path, rederive, check_schemas, check_data)
    return VerifyReport(
        findings=tuple(run.log.findings),
        reached=dict(run.log.reached),
        verdict=run.verdict,
        digest=run.digest,
        signer=run.signer,
        trusted=run.trusted,
    )


class _Verification:
    __slots__ = ("digest", "log", "options", "signer", "trusted", "verdict")

    def __init__(self, options: VerifyOptions) -> None:
        self.options = options
        self.log = StageLog()
        self.verdict: str | None = None
        self.digest: str | None = None
        self.signer: str | None = None
        self.trusted = False

    def all_stages(
        self,
        path: Path,
        rederive: PackCheck,
        check_schemas: PackCheck | None,
        check_data: PackCheck | None,
    ) -> None:
        trust = self._usage()
        with self._present(path) as directory:
            content = Content(directory)
            payload = self._signature(directory, content, trust)
            files, statement = self._statement(content, payload)
            self._set_of_files(directory, content, files)
            pack = self._schema(content, files, statement, payload, check_schemas)
            self._semantics(pack, content, rederive)
            if check_data is not None and not self._errors():
                self._add(Stage.SEMANTICS, content, lambda: check_data(pack))

    def _usage(self) -> Trust:
        now = self.options.now or dt.datetime.now(dt.UTC)
        with self.log.run(Stage.USAGE):
            demands.check_options(self.options)
            self.log.reached[Stage.USAGE] = "options understood"
            return load_trust(self.options.expected_fingerprints, self.options.trust_store, now)
        raise StageFailed

    def _present(self, path: Path) -> PackDirectory:
        with self.log.run(Stage.PRESENCE):
            try:
                directory = PackDirectory(path)
            except OSError as error:
                raise _error("MISSING_PACK", f"no such pack directory: {error.strerror}") from error
            missing = [name for name in (MANIFEST, CHECKSUMS) if not directory.exists(name)]
            for name in missing:
                self.log.add("MISSING_FILE", Stage.PRESENCE, name, "is missing")
            if missing:
                directory.close()
            self.log.reached[Stage.PRESENCE] = "directory and control files are there"
            return directory
        raise StageFailed

    def _signature(
        self, directory: PackDirectory, content: Content, trust: Trust
    ) -> VerifiedPayload | None:
        payload: VerifiedPayload | None = None
        with self.log.run(Stage.SIGNATURE, ENVELOPE):
            if not directory.exists(ENVELOPE):
                self._unsigned(trust)
                return None
            strict = not self.options.dsse_lenient
            payload = check_signature(directory, content, trust, strict=strict)
            self.signer, self.trusted = payload.fingerprint, trust.given
            names = (trust.names.get(text, "named by nobody") for text in payload.fingerprints)
            signers = zip(payload.fingerprints, names, strict=True)
            said = ", ".join(f"{text} ({name})" for text, name in signers)
            self.log.reached[Stage.SIGNATURE] = f"signed by {said}"
            if payload.ignored:
                message = f"{payload.ignored} further signatures by keys you do not trust"
                self.log.add("EXTRA_SIGNATURE", Stage.SIGNATURE, ENVELOPE, message, "warning")
        if not trust.given:
            # After the stage: the rest is still worth knowing, though it cannot pass any more.
            message = "name a signer you trust with --expected-fingerprint or --trust-store"
            self.log.add("NO_TRUSTED_KEY", Stage.SIGNATURE, ENVELOPE, message)
        return payload

    def _unsigned(self, trust: Trust) -> None:
        waived = self.options.allow_unsigned and not trust.given
        self.log.add(
            "UNSIGNED",
            Stage.SIGNATURE,
            ENVELOPE,
            "is missing: the pack has no signature, anyone may have written it",
            "warning" if waived else "error",
        )
        self.log.reached[Stage.SIGNATURE] = "unsigned"

    def _statement(
        self, content: Content, payload: VerifiedPayload | None
    ) -> tuple[dict[str, PackFile], Statement | None]:
        with self.log.run(Stage.STATEMENT, MANIFEST if payload is None else ENVELOPE):
            statement = parse_statement(payload.body) if payload else None
            files = binding.signed_files(statement) if statement else _unsigned_files(content)
            check_sizes(files.values())
            self.digest = f"sha256:{files[MANIFEST].sha256}"
            self.log.reached[Stage.STATEMENT] = f"names {len(files)} files"
            return files, statement
        raise StageFailed

    def _set_of_files(
        self, directory: PackDirectory, content: Content, files: dict[str, PackFile]
    ) -> None:
        sound: set[str] = set()
        with self.log.run(Stage.FILES, go_on=True):
            entries = directory.entries()
            for entry in entries:
                self._entry(entry, expected=entry.path in files)
            for path in sorted(files.keys() - {entry.path for entry in entries}):
                self.log.add("MISSING_FILE", Stage.FILES, path, "is missing")
            sound = {entry.path for entry in entries if entry.is_regular} & files.keys()
            self.log.reached[Stage.FILES] = f"{len(sound)} regular files, no other"
        with self.log.run(Stage.CONTENT):
            for path in sorted(sound):
                try:
                    content.check(files[path])
                except EvidenceError as error:
                    self.log.add(error.code, Stage.CONTENT, path, error.cause)
            total = sum(files[path].size_bytes for path in sound)
            self.log.reached[Stage.CONTENT] = f"size and SHA-256 of {total} bytes"
        # Hashes are worth telling beside a wrong set of files; what follows is not.
        if any(finding.stage is Stage.FILES for finding in self._errors()):
            raise StageFailed

    def _errors(self) -> list[Finding]:
        return [finding for finding in self.log.findings if finding.level == "error"]

    def _entry(self, entry: Entry, *, expected: bool) -> None:
        if entry.is_link:
            self.log.add("SYMLINK", Stage.FILES, entry.path, "is a symbolic link")
        elif not entry.is_regular:
            self.log.add("NOT_REGULAR", Stage.FILES, entry.path, "is not a regular file")
        elif not expected and entry.path != ENVELOPE:
            level: Level = "error" if self.options.strict else "warning"
            self.log.add("EXTRA_FILE", Stage.FILES, entry.path, "is not part of the pack", level)
        elif entry.n_links > 1:
            message = "has other hard links, through which it can change"
            self.log.add("HARD_LINK", Stage.FILES, entry.path, message, "warning")

    def _schema(
        self,
        content: Content,
        files: dict[str, PackFile],
        statement: Statement | None,
        payload: VerifiedPayload | None,
        check_schemas: PackCheck | None,
    ) -> VerifiedPack:
        with self.log.run(Stage.SCHEMA, MANIFEST):
            manifest = parse_manifest(content.read(files[MANIFEST]))
            pack = VerifiedPack(manifest, self.signer, files, content)
            if statement is not None and payload is not None:
                binding.check_signed(pack, statement, payload)
            binding.check_checksums(pack)
            self.verdict = manifest.header.verdict
            if check_schemas is not None:
                self._add(Stage.SCHEMA, content, lambda: check_schemas(pack))
            self.log.reached[Stage.SCHEMA] = (
                "documents are well-formed and agree with the statement"
            )
            return pack
        raise StageFailed

    def _semantics(self, pack: VerifiedPack, content: Content, rederive: PackCheck) -> None:
        options = self.options
        with self.log.run(Stage.SEMANTICS):
            for found in (
                lambda: demands.other_than_demanded(pack, options),
                lambda: uncounted(pack),
                lambda: rederive(pack),
                # Last: of a certificate that does not follow, that says more than other bytes do.
                lambda: demands.unassured_reports(pack, options.report_assurance),
            ):
                self._add(Stage.SEMANTICS, content, found)
            self.log.reached[Stage.SEMANTICS] = "reports and verdict follow from the records"

    def _add(self, stage: Stage, content: Content, found: Callable[[], list[Finding]]) -> None:
        """Take up what a check found; one that a document brought to an end is a finding itself."""
        try:
            self.log.findings.extend(found())
        except InvarlockError as error:
            self.log.add(error.code, stage, content.last_read, error.cause)
        except HOSTILE as error:
            self.log.undecidable(stage, content.last_read, error)


def _unsigned_files(content: Content) -> dict[str, PackFile]:
    data = content.first(MANIFEST, MAX_MANIFEST_BYTES)
    manifest = parse_manifest(data)
    if manifest.signer is not None:
        raise _error("SIGNATURE_STRIPPED", "names a signer, but the signature is gone")
    # The list of checksums follows from the manifest, and its size with it.
    size = len(checksums_text(manifest.files))
    own = PackFile(MANIFEST, len(data), hashlib.sha256(data).hexdigest())
    checksums = PackFile(CHECKSUMS, size, manifest.checksums_sha256)
    return {file.path: file for file in (*manifest.files, own, checksums)}


def _error(code: str, cause: str) -> EvidenceError:
    return EvidenceError(cause, remedy="take the pack again from its source", code=code)
