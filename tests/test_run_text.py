"""A run as text: amounts in their units, and what stands behind each row."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from pytest_invarlock.decide import decide
from pytest_invarlock.plan import PlannedScenario
from pytest_invarlock.records import Facts, Record
from pytest_invarlock.run_summary import RunSummary
from pytest_invarlock.run_text import details, markdown, rows
from pytest_invarlock.verdict import decide_run

from .checks.made import accuracy_facts, facts, policy, spread


def summary(of: Facts) -> RunSummary:
    demanded = policy()
    decided = decide(of, demanded)
    planned = (PlannedScenario("m", "s", 1),)
    run = cast("Any", SimpleNamespace(run_id="r", path=Path()))
    return RunSummary(
        run=run, plans=[{"name": "mine"}], policies={("m", "s"): demanded}, planned=planned,
        records=(Record(of, {"seconds_subject": 1.25}),), decisions=(decided,),
        status="complete", verdict=decide_run(planned, [decided], {("m", "s"): demanded}),
        verdict_node=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("of", "amounts"),
    [
        (facts(np.zeros(64)), ("1.0000", "1.0000", "1.1000")),
        (accuracy_facts(400, 12, 4), ("+2.00 pp", "+3.87 pp", "+1.00 pp")),
        (facts(arms={}), ("-", "-", "-")),
    ],
)
def test_amounts_carry_their_unit(of: Facts, amounts: tuple[str, ...]) -> None:
    assert rows(summary(of))[0].cells[3:6] == amounts


def test_what_stands_behind_a_ratio_is_told() -> None:
    (line,) = details(summary(facts(spread(0.01, 0.02))))
    assert line.startswith("m s: 64 documents, 64.0 effective, design effect 1.00, detects a ratio")
    assert line in markdown(summary(facts(spread(0.01, 0.02))))


def test_what_stands_behind_an_accuracy_is_told() -> None:
    (line,) = details(summary(accuracy_facts(400, 12, 4)))
    assert "400 examples" in line
    assert "12 examples flipped to wrong, 4 to right, McNemar p 0.0768" in line


def test_nothing_stands_behind_what_was_not_measured() -> None:
    assert details(summary(facts(arms={}))) == []
    assert "m s: 64" not in markdown(summary(facts(arms={})))


@pytest.mark.parametrize("status", ["partial", "incomplete"])
def test_a_run_without_a_verdict_has_no_alarms(status: Any) -> None:
    cut = summary(facts())
    cut.verdict, cut.status = None, status
    document = cut.verdict_document()
    assert (document["verdict"], document["alarms"]) == (None, [])


def test_the_alarms_of_a_whole_run_stand_in_its_document() -> None:
    document = summary(facts(spread(0.01, 0.02))).verdict_document()
    assert [alarm["check"] for alarm in document["alarms"]] == ["drift", "tail"]
