"""What other packages' guards answered: listed as attested, and judged again where that is asked.

Nothing of a guard is imported but in `judged_again`, for which a user has to ask: it runs code of
installed packages on what a pack holds.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from invarlock_guards.answers import GuardAnswerError, read_result

from pytest_invarlock.errors import ConfigError, GuardError
from pytest_invarlock.evidence.findings import Finding, Level, Stage
from pytest_invarlock.evidence.strict_json import canonical
from pytest_invarlock.policy.guard_names import registered_guard
from pytest_invarlock.registered import one_line

if TYPE_CHECKING:
    from pytest_invarlock.records import Record

IDENTITY = ("distribution", "version", "entry_point", "code")


def attested_notes(records: Sequence[Record]) -> list[Finding]:
    """What is believed rather than derived: answers of other packages' guards, each code once."""
    told: set[str] = set()
    for name, guard in (entry for record in records for entry in record.facts.attested.items()):
        who = " ".join(filter(None, (guard["distribution"], guard["version"])))
        code = guard["code"] or "unknown"
        told.add(
            f"guard {name} of {who or 'no package'} ({guard['entry_point']}, code {code}, "
            f"parameters {canonical(guard['parameters']).decode()}): its answer is attested by who "
            "measured, and cannot be derived again"
        )
    return [_finding("GUARD_ATTESTED", text, "note") for text in sorted(told)]


def judged_again(records: Sequence[Record]) -> list[Finding]:
    """What ``judge(metrics, policy)`` of the installed guards says of the recorded metrics.

    ``policy`` is the parameters that the guard was made with. Code other than what was recorded
    is not run. Another ``passed`` or ``action`` than recorded, code that is missing or other, and
    whatever a guard raises is an error each; that a guard has no ``judge`` is a note.
    """
    findings: list[Finding] = []
    guards: dict[bytes, _Judge | Finding] = {}
    for record in records:
        for name, entry in record.facts.attested.items():
            key = canonical({"name": name, **{k: entry[k] for k in (*IDENTITY, "parameters")}})
            if key not in guards:
                guards[key] = _judge_of(name, entry)
            judge = guards[key]
            if isinstance(judge, _Judge):
                findings += judge.compared(record, entry)
    findings += [found for found in guards.values() if isinstance(found, Finding)]
    return findings + [judge.note() for judge in guards.values() if isinstance(judge, _Judge)]


class _Judge:
    """The ``judge`` of an installed guard, and how many recorded answers it gave again."""

    def __init__(self, name: str, judge: Callable[..., Any]) -> None:
        self._name, self._judge = name, judge
        self._agreed = 0

    def compared(self, record: Record, entry: Mapping[str, Any]) -> list[Finding]:
        """An error where the judge says other than the recorded answer; of none nothing is said."""
        answer = entry["answer"]
        try:
            recorded = read_result(self._name, answer)
        except GuardAnswerError:
            # None, or malformed: then its check is an error already.
            return []
        facts = record.facts
        where = f"{facts.model}::{facts.scenario}, run {facts.draw}"
        given = copy.deepcopy((answer.get("metrics") or {}, entry["parameters"]))
        try:
            again = _called(
                f"guard {self._name}: judge()",
                lambda: read_result(self._name, self._judge(*given)),
            )
        except GuardError as error:
            return [_finding("GUARD_JUDGE_RAISED", f"{where}: {error.cause}")]
        stated, said = ((one.passed, one.action) for one in (recorded, again))
        if stated == said:
            self._agreed += 1
            return []
        text = (
            f"{where}: guard {self._name} recorded passed {stated[0]}, action {stated[1]}, and its "
            f"judge() says passed {said[0]}, action {said[1]}"
        )
        return [_finding("GUARD_MISMATCH", text)]

    def note(self) -> Finding:
        """How many answers were given again."""
        text = f"guard {self._name}: judge() was run again and gave {self._agreed} recorded answers"
        return _finding("GUARD_JUDGED", text, "note")


def _judge_of(name: str, entry: Mapping[str, Any]) -> _Judge | Finding:
    """The judge of the installed guard that ``entry`` names, or why it is not run."""
    try:
        one = registered_guard(name)
    except ConfigError as error:
        return _finding("GUARD_NOT_INSTALLED", f"guard {name} cannot be run: {error.cause}")
    installed = (one.distribution, one.version, one.value, one.code_digest())
    other = [
        f"{key} {found}, recorded {entry[key]}"
        for key, found in zip(IDENTITY, installed, strict=True)
        if found != entry[key] or (key == "code" and found is None)
    ]
    if other:
        return _finding("GUARD_OTHER_CODE", f"guard {name} is not run: {'; '.join(other)}")
    try:
        factory = _called(f"guard {name}: its import", one.load)
        made = _called(
            f"guard {name}: making it", lambda: factory(**copy.deepcopy(dict(entry["parameters"])))
        )
        judge = _called(f"guard {name}: its judge", lambda: getattr(made, "judge", None))
    except (ConfigError, GuardError) as error:
        return _finding("GUARD_JUDGE_RAISED", error.cause)
    if not callable(judge):
        text = f"guard {name} cannot be re-run: it has no judge(metrics, policy)"
        return _finding("GUARD_ATTESTED", text, "note")
    return _Judge(name, judge)


def _called(what: str, call: Callable[[], Any]) -> Any:
    """What others' code gives; whatever it raises is a GuardError with the exception's type."""
    try:
        # The report alone belongs on stdout.
        with redirect_stdout(sys.stderr):
            return call()
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise GuardError(f"{what} raised {one_line(error)}", remedy="mend its package") from error


def _finding(code: str, text: str, level: Level = "error") -> Finding:
    return Finding(code, Stage.SEMANTICS, "", text, level)
