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
from pytest_invarlock.run_text import details, markdown, rows, what_fired
from pytest_invarlock.verdict import decide_run

from .checks.made import accuracy_facts, facts, policy, spread
from .test_run_requirements import GREEN, LOOK, SUITE, judged, shown


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


def test_a_run_that_nobody_signs_says_so() -> None:
    one = summary(facts(np.zeros(64)))
    assert "**UNSIGNED**" in markdown(one)
    one.signed = True
    assert "UNSIGNED" not in markdown(one)


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


def test_what_fired_stands_in_the_page_and_without_a_verdict_only_what_flickers() -> None:
    runs = [shown("look", LOOK, "spectral"), shown("look", LOOK, draw=1)]
    told = summary(facts())
    told.decisions, told.verdict = tuple(runs), judged(runs, {"look": LOOK}, draws=2)
    assert [line.split(":")[0] for line in what_fired(told)] == [
        "informational stress", "unconfirmed", "flaky",
    ]  # fmt: skip
    told.verdict, told.status = None, "partial"
    (flaky,) = what_fired(told)
    assert flaky.startswith("flaky: m look: run 0 FAIL (spectral); run 1 PASS (nothing fired)")


def test_the_page_holds_the_guards_error_rates() -> None:
    told = summary(facts())
    told.verdict = judged(GREEN, SUITE)
    page = markdown(told)
    assert "| check | fired on clean | fired on damaged |" in page
    assert "| primary_metric | 0 of 1 [0.000, 0.793] | 1 of 2 [0.095, 0.905] |" in page
