"""Every line of the tamper table gives the code and the exit status that it states."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.plan import PlannedScenario

from .attacks_on_records import SCENARIOS
from .synthetic import errors
from .tamper import TABLE, Line

if TYPE_CHECKING:
    from pytest_invarlock.evidence.findings import VerifyReport

    from .honest import HonestRun

ROOT = Path(__file__).parents[2]


def named(lines: list[Line]) -> list[Any]:
    return [pytest.param(line, id=f"{line.row}-{line.attack}"[:60]) for line in lines]


def check(report: VerifyReport, line: Line) -> None:
    found = [finding.code for finding in report.findings if finding.level != "note"]
    if line.code == "-":
        assert found == []
    elif line.status:
        assert errors(report)[0] == line.code, report.findings
    else:
        assert found == [line.code]
    assert (report.exit_status, report.ok) == (line.status, line.status == 0), report.findings


@pytest.mark.parametrize("line", named([line for line in TABLE if line.tamper]))
def test_tampering_is_found(pack: Any, line: Line) -> None:
    assert line.tamper is not None
    options = line.tamper(pack) or {}
    check(pack.verify(**options), line)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("line", named([line for line in TABLE if line.edit]))
def test_a_contradiction_is_found_though_the_trusted_key_sealed_it(
    honest: HonestRun, tmp_path: Path, line: Line
) -> None:
    assert line.edit is not None
    changed = line.edit(honest.files)
    told = json.loads(changed.get(SCENARIOS) or honest.files[SCENARIOS])["planned"]
    planned = tuple(PlannedScenario.read(entry) for entry in told)
    check(honest.sealed_with(tmp_path / "pack", changed, planned=planned), line)


def test_an_honest_run_verifies(honest: HonestRun, tmp_path: Path) -> None:
    report = honest.sealed_with(tmp_path / "pack", {})
    assert (report.ok, report.exit_status, report.verdict) == (True, 0, "PASS")


def test_the_table_is_whole_and_names_tests_that_exist() -> None:
    assert sorted({line.row for line in TABLE}) == list(range(1, 44))
    for line in TABLE:
        assert [line.tamper, line.edit, line.test].count(None) == 2
        if line.test is not None:
            path, _, name = line.test.partition("::")
            text = (ROOT / path).read_text()
            assert re.search(rf"def {name or 'test_'}", text), line.test


def test_the_table_of_the_docs_is_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # The script puts the checkout on the path, for itself.
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    script = runpy.run_path(str(ROOT / "scripts" / "tamper_table.py"))
    assert script["main"](["--check"]) == 0
