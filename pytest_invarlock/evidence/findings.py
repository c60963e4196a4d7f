"""What verification found, stage by stage, and the exit status that follows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Literal

from pytest_invarlock.errors import InvarlockError


class Stage(StrEnum):
    """The stages, in the order in which they run."""

    USAGE = "usage"
    PRESENCE = "presence"
    SIGNATURE = "signature"
    STATEMENT = "statement"
    FILES = "files"
    CONTENT = "content"
    SCHEMA = "schema"
    SEMANTICS = "semantics"


STAGES = tuple(Stage)
# An error fails its stage; a warning or a note is only told.
Level = Literal["error", "warning", "note"]


class ExitStatus(IntEnum):
    """Exit status of ``invarlock verify``."""

    PASS = 0
    NOT_PASS = 1
    USAGE = 2
    MISSING = 3
    MALFORMED = 4
    SIGNATURE = 5
    INTEGRITY = 6
    DOES_NOT_FOLLOW = 7


STAGE_STATUS: Mapping[Stage, ExitStatus] = {
    Stage.USAGE: ExitStatus.USAGE,
    Stage.PRESENCE: ExitStatus.MISSING,
    Stage.SIGNATURE: ExitStatus.SIGNATURE,
    Stage.STATEMENT: ExitStatus.MALFORMED,
    Stage.FILES: ExitStatus.INTEGRITY,
    Stage.CONTENT: ExitStatus.INTEGRITY,
    Stage.SCHEMA: ExitStatus.MALFORMED,
    Stage.SEMANTICS: ExitStatus.DOES_NOT_FOLLOW,
}
HOSTILE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What documents that satisfy their schemas may still provoke in the code that judges them."""
# Codes whose meaning is not that of the stage in which they can turn up.
CODE_STATUS: Mapping[str, ExitStatus] = {
    "TRUST_STORE_MISSING": ExitStatus.MISSING,
    # What DSSE allows and only the strict profile refuses is left to its stage, the signature's.
    "TOO_LARGE": ExitStatus.MALFORMED,
    "MALFORMED_JSON": ExitStatus.MALFORMED,
    "MALFORMED_ENVELOPE": ExitStatus.MALFORMED,
    "BAD_BASE64": ExitStatus.MALFORMED,
    "SIGNATURE_STRIPPED": ExitStatus.SIGNATURE,
    "STALE_PACK": ExitStatus.SIGNATURE,
    "OTHER_RUN": ExitStatus.SIGNATURE,
    "SYMLINK": ExitStatus.INTEGRITY,
    "NOT_REGULAR": ExitStatus.INTEGRITY,
    "UNREADABLE_FILE": ExitStatus.INTEGRITY,
    "SIZE_MISMATCH": ExitStatus.INTEGRITY,
    "DIGEST_MISMATCH": ExitStatus.INTEGRITY,
    "CHECKSUMS_MISMATCH": ExitStatus.INTEGRITY,
    "MANIFEST_MISMATCH": ExitStatus.INTEGRITY,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a report.

    ``code`` is stable; ``path`` is a file of the pack, empty where it is about the whole.
    """

    code: str
    stage: Stage
    path: str
    message: str
    level: Level = "error"

    @property
    def exit_status(self) -> ExitStatus:
        """The exit status where this is the first error of the first failing stage."""
        return CODE_STATUS.get(self.code, STAGE_STATUS[self.stage])


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The outcome of verifying one pack.

    ``verdict`` is what the pack says, and to be relied on only where ``ok``. ``reached`` maps each
    stage that ran to what it established. ``digest`` is the pack's, ``signer`` the fingerprint of
    the key that signed; ``trusted`` says whether the caller trusts it (False for unsigned packs).
    """

    findings: tuple[Finding, ...]
    reached: Mapping[Stage, str]
    verdict: str | None
    digest: str | None
    signer: str | None
    trusted: bool

    @property
    def ok(self) -> bool:
        """Whether the evidence is valid, whatever its verdict: every stage ran and none failed."""
        return not self._errors() and STAGES[-1] in self.reached

    @property
    def exit_status(self) -> ExitStatus:
        """The first failing stage decides; a valid pack gives PASS or NOT_PASS."""
        errors = self._errors()
        if errors:
            return errors[0].exit_status
        return ExitStatus.PASS if self.verdict == "PASS" else ExitStatus.NOT_PASS

    def failed(self, stage: Stage) -> bool:
        """Whether ``stage`` has an error."""
        return any(finding.stage is stage for finding in self._errors())

    def _errors(self) -> list[Finding]:
        errors = [finding for finding in self.findings if finding.level == "error"]
        return sorted(errors, key=lambda finding: STAGES.index(finding.stage))


class StageFailed(Exception):  # noqa: N818 - ends a verification, is no error of the program
    """Raised at the end of a stage with errors: later stages must not start."""


@dataclass(slots=True)
class StageLog:
    """Collects findings while the stages run."""

    findings: list[Finding] = field(default_factory=list)
    reached: dict[Stage, str] = field(default_factory=dict)

    @contextmanager
    def run(self, stage: Stage, path: str = "", *, go_on: bool = False) -> Iterator[None]:
        """Run a stage; an error of this package in it becomes a finding about ``path``.

        So does what else hostile input may provoke, as UNDECIDABLE.

        Raises StageFailed at its end where the stage has errors, unless ``go_on``.
        """
        self.reached.setdefault(stage, "")
        before = len(self.findings)
        try:
            yield
        except InvarlockError as error:
            self.add(error.code, stage, path, error.cause)
        except HOSTILE as error:
            self.undecidable(stage, path, error)
        failed = any(finding.level == "error" for finding in self.findings[before:])
        if failed and not go_on:
            raise StageFailed

    def add(self, code: str, stage: Stage, path: str, message: str, level: Level = "error") -> None:
        """Note a finding."""
        self.findings.append(Finding(code, stage, path, message, level))

    def undecidable(self, stage: Stage, path: str, error: Exception) -> None:
        """Note that judging ``path`` ended with ``error``, whose type the finding names."""
        said = f"cannot be judged: {type(error).__name__}: {str(error)[:200]}"
        self.add("UNDECIDABLE", stage, path, said)
