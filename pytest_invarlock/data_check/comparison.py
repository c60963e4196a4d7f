"""Every record of a pack beside its windows drawn again, and the findings that come of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_invarlock.data_check.differences import (
    DIGEST,
    HASHES,
    Hashes,
    compared_hashes,
    differing_parts,
)
from pytest_invarlock.data_check.drawn_again import UNCHECKED, DrawingAgain
from pytest_invarlock.errors import InvarlockError
from pytest_invarlock.evidence.findings import Finding, Level, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_invarlock.policy.suite import Suite
    from pytest_invarlock.records import Record


class _Compared(NamedTuple):
    path: str
    parts: list[str]
    hashes: Hashes


class Comparison:
    """What the records that were added state, beside what the data of ``suite`` gives.

    Only names of what differs are kept. Records of one model are best added one after another.
    """

    def __init__(self, suite: Suite, salts: Sequence[bytes]) -> None:
        self._drawing = DrawingAgain(suite)
        self._salts = salts
        self._unchecked: list[Finding] = []
        self._compared: list[_Compared] = []

    def add(self, path: str, record: Record) -> None:
        """Compare one record; one that ended before windows were drawn has none to compare."""
        facts = record.facts
        if not (facts.data or facts.arms or record.observations.get("window_hmacs")):
            return
        try:
            drawn = self._drawing.drawn(facts)
        except InvarlockError as error:
            told = error.cause if error.code == UNCHECKED else f"{error.code}: {error}"
            self._cannot(path, told)
            return
        except (ImportError, OSError) as error:
            self._cannot(path, f"{type(error).__name__}: {error}")
            return
        parts = differing_parts(facts, drawn)
        if parts and facts.baseline.get("tokenizer_fingerprint") != drawn.tokenizer:
            # By itself it is no difference of the data, but it may be why there is one.
            parts.append("baseline.tokenizer_fingerprint")
        hashes = compared_hashes(record, drawn.windows, self._salts)
        self._compared.append(_Compared(path, parts, hashes))

    def _cannot(self, path: str, reason: str) -> None:
        self._unchecked.append(_finding(UNCHECKED, path, f"windows are not drawn again: {reason}"))

    def findings(self) -> list[Finding]:
        """All findings; where there is no error, a note says what was compared."""
        found = list(self._unchecked)
        other_salt = self._is_other_salt()
        if other_salt:
            text = "no window's keyed hash agrees, though the data does: the salt is another run's"
            found.append(_finding("SALT_MISMATCH", "", text))
        for path, parts, hashes in self._compared:
            wrong = hashes in (Hashes.DIFFER, Hashes.FOREIGN) and not other_salt
            told = [*parts, *([HASHES] if wrong else [])]
            if told:
                text = f"drawn again from the data, these differ: {', '.join(told)}"
                if not parts and hashes is Hashes.FOREIGN:
                    text += ", unless the salt of its run was not given"
                found.append(_finding("DATA_MISMATCH", path, text))
            if hashes is Hashes.NONE:
                text = "was measured without a salt, and holds no keyed hashes of windows"
                found.append(_finding("DATA_WITHOUT_HASHES", path, text, "note"))
        if not self._compared and not found:
            found.append(_finding(UNCHECKED, "", "no record of the pack has windows"))
        if self._compared and self._drawing.otherwise:
            keys = ", ".join(sorted(self._drawing.otherwise))
            text = f"drawn as the records state, and the suite states otherwise: {keys}"
            found.append(_finding("DATA_OTHER_SETTINGS", "", text, "note"))
        if all(one.level != "error" for one in found):
            found.append(_finding("DATA_CHECKED", "", self._told(), "note"))
        return found

    def _is_other_salt(self) -> bool:
        keyed = [one for one in self._compared if one.hashes is not Hashes.NONE]
        return bool(keyed) and all(
            one.hashes is Hashes.FOREIGN and DIGEST not in one.parts for one in keyed
        )

    def _told(self) -> str:
        keyed = any(one.hashes is Hashes.AGREE for one in self._compared)
        what = ["digest", *(["keyed hashes"] if keyed else []), "overlap", "documents", "tokens"]
        return f"data: windows of {len(self._compared)} records drawn again: {', '.join(what)}"


def _finding(code: str, path: str, text: str, level: Level = "error") -> Finding:
    return Finding(code, Stage.SEMANTICS, path, text, level)
