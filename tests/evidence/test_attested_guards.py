"""Attested answers: their guards' code runs where a user asks for it, and nowhere else."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.evidence.attested_guards import attested_notes, judged_again
from pytest_invarlock.records import Record
from pytest_invarlock.registered import GUARDS, registered
from tests.checks import made

if TYPE_CHECKING:
    from tests.conftest import Installer

CODE = """
class Base:
    def __init__(self, limit=1.0):
        self.limit = limit

    def validate(self, model, adapter, context): ...


class Judges(Base):
    def judge(self, metrics, policy):
        print("said on stdout")
        assert policy == {"limit": self.limit}
        passed = metrics.pop("worst") <= self.limit
        return {"passed": passed, "action": "continue" if passed else "rollback"}


class Raises(Base):
    def judge(self, metrics, policy):
        raise ZeroDivisionError


class Exits(Base):
    def judge(self, metrics, policy):
        raise SystemExit(0)


class Wrong(Base):
    def judge(self, metrics, policy):
        return {"passed": "yes", "action": "continue"}


class Unmade(Base):
    def __init__(self, **_):
        raise OSError("no licence")
"""


def recorded(worst: float = 0.5, limit: float = 1.0, **change: Any) -> Record:
    """A record in which the installed guard ``mine`` answered ``continue``."""
    one = registered(GUARDS)["mine"][0]
    entry = {
        "distribution": one.distribution, "version": one.version, "entry_point": one.value,
        "code": one.code_digest(), "parameters": {"limit": limit}, "problem": None,
        "answer": {"passed": True, "action": "continue", "metrics": {"worst": worst}},
    }  # fmt: skip
    return Record(made.facts(attested={"mine": entry | change}), {})


def codes(*records: Record) -> list[tuple[str, str]]:
    return [(found.code, found.level) for found in judged_again(records)]


def test_a_judge_that_says_otherwise_is_an_error(install: Installer) -> None:
    install("my-guards", CODE, mine="Judges")
    mismatch, note = judged_again([recorded(worst=2.0)])
    assert (mismatch.code, mismatch.level) == ("GUARD_MISMATCH", "error")
    assert mismatch.message == (
        "m::s, run 0: guard mine recorded passed True, action continue, and its judge() says "
        "passed False, action rollback"
    )
    assert "gave 0 recorded answers" in note.message
    # The same word, and another action.
    warned = {"passed": True, "action": "warn", "metrics": {"worst": 0.5}}
    assert codes(recorded(answer=warned))[0] == ("GUARD_MISMATCH", "error")


def test_a_judge_that_says_the_same_is_noted(
    install: Installer, capsys: pytest.CaptureFixture[str]
) -> None:
    install("my-guards", CODE, mine="Judges")
    record = recorded()
    (note,) = judged_again([record, recorded(worst=0.7)])
    assert (note.code, note.level) == ("GUARD_JUDGED", "note")
    assert "gave 2 recorded answers" in note.message
    # Nothing that a judge does to its arguments, or prints, is seen.
    assert record.facts.attested["mine"]["answer"]["metrics"] == {"worst": 0.5}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("cls", "told"),
    [
        ("Raises", "judge() raised ZeroDivisionError"),
        ("Exits", "judge() raised SystemExit: 0"),
        ("Wrong", "judge() raised GuardAnswerError: mine: passed is str"),
        ("Unmade", "making it raised OSError: no licence"),
        ("Absent", "cannot be imported: AttributeError"),
    ],
)
def test_whatever_a_guard_raises_is_an_error_with_its_type(
    cls: str, told: str, install: Installer
) -> None:
    install("my-guards", CODE, mine=cls)
    found = judged_again([recorded()])[0]
    assert (found.code, found.level) == ("GUARD_JUDGE_RAISED", "error")
    assert told in found.message


def test_a_guard_without_a_judge_is_attested_still(install: Installer) -> None:
    install("my-guards", CODE, mine="Base")
    (found,) = judged_again([recorded()])
    assert (found.code, found.level) == ("GUARD_ATTESTED", "note")
    assert "guard mine cannot be re-run" in found.message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": "1.1"}, "version 1.2, recorded 1.1"),
        ({"distribution": "other"}, "distribution my-guards, recorded other"),
        ({"code": "sha256:" + "0" * 64}, "recorded sha256:0000"),
        ({"code": None}, "recorded None"),
        ({"entry_point": "my_guards:Base"}, "entry_point my_guards:Judges, recorded"),
    ],
)
def test_other_code_than_was_recorded_is_not_run(
    change: dict[str, Any], told: str, install: Installer
) -> None:
    install("my-guards", CODE + "raise AssertionError('imported')", mine="Judges")
    (found,) = judged_again([recorded(**change)])
    assert (found.code, found.level) == ("GUARD_OTHER_CODE", "error")
    assert told in found.message
    assert "my_guards" not in sys.modules


def test_a_guard_that_is_not_installed_is_an_error(install: Installer) -> None:
    install("my-guards", CODE, mine="Judges")
    entry = dict(recorded().facts.attested["mine"])
    record = Record(made.facts(attested={"gone": entry}), {})
    assert codes(record) == [("GUARD_NOT_INSTALLED", "error")]


def test_an_answer_that_is_none_is_not_judged(install: Installer) -> None:
    install("my-guards", CODE, mine="Judges")
    problem = {"code": "GUARD_RAISED", "text": "it raised"}
    assert codes(recorded(answer=None, problem=problem)) == [("GUARD_JUDGED", "note")]
    assert codes(recorded(answer={"passed": "yes"})) == [("GUARD_JUDGED", "note")]


def test_listing_imports_nothing_of_a_guard(install: Installer) -> None:
    install("my-guards", "raise AssertionError('imported')", mine="Judges")
    (note,) = attested_notes([recorded(), recorded()])
    assert (note.code, note.level) == ("GUARD_ATTESTED", "note")
    assert "guard mine of my-guards 1.2 (my_guards:Judges, code sha256:" in note.message
    assert "my_guards" not in sys.modules


def test_neither_needs_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pytest_invarlock.evidence.attested_guards import judged_again\n"
        "assert judged_again([]) == []"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
