"""Findings: what a preflight says, how bad it is, where it stands, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pytest_invarlock.policy.schema_check import dotted

if TYPE_CHECKING:
    from pytest_invarlock.errors import InvarlockError
    from pytest_invarlock.policy.yaml_document import KeyPath, YamlDocument

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_PLACE = re.compile(r"^(?P<file>[^\n]*?\.(?:ya?ml|json)):(?P<line>\d+): (?P<rest>.*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found.

    Attributes:
        code: stable upper-case word; that of the error which a run would end with, where it would.
        severity: an ``error`` keeps the run from measuring what the file says; a ``warning`` lets
            it run otherwise than one may think; a ``note`` is to know.
        message: what is the matter, without the place.
        remedy: what to do about it; an imperative phrase, or empty.
        file: the file it stands in, as it was named.
        line: its line there, from 1.
        key: the dotted key, setting or variable.
    """

    code: str
    severity: Severity
    message: str
    remedy: str = ""
    file: str | None = None
    line: int | None = None
    key: str | None = None

    def document(self) -> dict[str, Any]:
        """The finding as plain JSON values."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "remedy": self.remedy,
            "file": self.file,
            "line": self.line,
            "key": self.key,
        }

    def text(self) -> str:
        """The finding in one line: ``ERROR: [CODE] file:line: message (remedy)``."""
        place = "" if self.file is None else f"{self.file}: "
        if self.file is not None and self.line is not None:
            place = f"{self.file}:{self.line}: "
        message = " ".join(self.message.split())
        if self.key is not None and self.key not in message:
            message = f"{self.key}: {message}"
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{self.severity.upper()}: [{self.code}] {place}{message}{remedy}"


def at(document: YamlDocument, path: KeyPath) -> dict[str, Any]:
    """The place of a key as `Finding` takes it: file, line and key."""
    return {
        "file": document.seen_from(path).name,
        "line": document.line_of(path),
        "key": dotted(path),
    }


def of_error(
    error: InvarlockError,
    document: YamlDocument | None = None,
    path: KeyPath | None = None,
    severity: Severity = "error",
) -> Finding:
    """``error`` as a finding.

    Its place is that of ``path``; without one, what the error itself names: file and line, or a
    dotted key of ``document``.
    """
    found = _PLACE.match(error.cause)
    message = found["rest"] if found else error.cause
    place: dict[str, Any] = {}
    if document is not None and path is not None:
        place = at(document, path)
    elif found:
        key = _named_key(message, document)
        place = {"file": found["file"], "line": int(found["line"])}
        place["key"] = dotted(key) if key else None
    elif document is not None:
        key = _named_key(message, document)
        place = at(document, key) if key else {"file": document.name}
    return Finding(error.code, severity, message, error.remedy, **place)


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Errors first, then warnings, then notes; each as found, and once."""
    unique = list(dict.fromkeys(findings))
    return [one for severity in SEVERITIES for one in unique if one.severity == severity]


def _named_key(message: str, document: YamlDocument | None) -> KeyPath | None:
    """The deepest key of ``document`` whose dotted name stands in ``message``."""
    if document is None:
        return None
    named = [
        path
        for path in document.lines
        if len(path) > 1 and re.search(rf"(?<![\w.]){re.escape(dotted(path))}(?![\w\[])", message)
    ]
    return max(named, key=len, default=None)
