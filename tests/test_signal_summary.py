"""Summaries of what fired: counts by category, guard and scenario, and the guards' error rates."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from jsonschema.validators import Draft202012Validator

from pytest_invarlock.certificate.verdict_text import verdict_file_text
from pytest_invarlock.decision import Decision, Outcome
from pytest_invarlock.plan import PlannedScenario
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.policy.resources import schema
from pytest_invarlock.signal_summary import SUMMARIES, GuardRow
from pytest_invarlock.stats.wilson import wilson
from pytest_invarlock.verdict import decide_run

from .checks.made import DRIFT, policy
from .test_run_requirements import CLEAN, CUT, FAULT, GREEN, HALF, LOOK, SUITE, judged, shown


def row(
    name: str, decisions: list[Decision], suite: dict[str, Expectation], draws: int
) -> GuardRow:
    rows = judged(decisions, suite, draws=draws).signals.guards
    return next(row for row in rows if row.check == name)


def documents(decisions: list[Decision], **change: Any) -> dict[str, Any]:
    return judged(decisions, SUITE, **change).signals.documents()


def changed_check(decision: Decision, name: str, **change: Any) -> Decision:
    checks = tuple(replace(c, **change) if c.check == name else c for c in decision.checks)
    return replace(decision, checks=checks)


@pytest.mark.parametrize("decisions", [[], GREEN, GREEN[1:]])
def test_every_summary_fits_its_schema_and_is_plain_json(decisions: list[Decision]) -> None:
    made = documents(decisions, fractions=HALF)
    assert tuple(made) == SUMMARIES
    for name, document in made.items():
        rules = Draft202012Validator(schema(name.removesuffix(".json")))
        assert list(rules.iter_errors(json.loads(json.dumps(document)))) == []
        assert list(rules.iter_errors({**document, "more": 1}))


def test_categories_count_reports_and_flags() -> None:
    categories = documents(GREEN, fractions=HALF)["category_summary.json"]
    assert categories["categories"]["stress"] == {
        "scenarios": 2, "reports": 2, "primary_metric_fail": 1, "invariants_fail": 0,
        "invariants_warn": 0, "any_flag": 1,
    }  # fmt: skip
    assert categories["categories"]["error"]["invariants_fail"] == 1
    assert categories["informational"] == {
        "stress": {
            "scenarios": 1, "confirmed": 0, "unconfirmed": 0, "fraction": 0.0, "minimum": 0.5,
        }
    }  # fmt: skip


def test_a_warning_of_invariants_is_counted_apart() -> None:
    warned = changed_check(shown("clean", CLEAN), "invariants", outcome=Outcome.WARN)
    (one,) = (
        judged([warned], {"clean": CLEAN})
        .signals.documents()["category_summary.json"]["categories"]
        .values()
    )
    assert (one["invariants_warn"], one["invariants_fail"], one["any_flag"]) == (1, 0, 0)


def test_unique_is_the_only_guard_that_fired() -> None:
    decisions = [
        shown("cut", CUT, "primary_metric", "spectral"),
        shown("cut", CUT, "primary_metric", draw=1),
    ]
    rows = {r.check: r for r in judged(decisions, {"cut": CUT}, draws=2).signals.guards}
    assert (rows["primary_metric"].flagged, rows["primary_metric"].unique) == (2, 1)
    assert (rows["spectral"].flagged, rows["spectral"].unique) == (1, 0)


def test_the_table_counts_scenarios_fired_and_not() -> None:
    suite = {"a": CLEAN, "b": CLEAN, "c": CUT, "d": FAULT, "e": LOOK}
    decisions = [
        shown("a", CLEAN),
        shown("b", CLEAN, "primary_metric"),
        shown("c", CUT, "primary_metric"),
        shown("d", FAULT, "invariants"),
        shown("e", LOOK, "primary_metric"),
    ]
    one = row("primary_metric", decisions, suite, 1)
    assert (one.clean.fired, one.clean.quiet, one.damaged.fired, one.damaged.quiet) == (1, 1, 1, 1)
    assert one.clean.interval == wilson(1, 2)
    assert one.flagged == 3


def test_of_several_runs_one_alarm_is_enough_and_one_silence_too() -> None:
    suite = {"a": CLEAN, "c": CUT}
    decisions = [
        shown("a", CLEAN), shown("a", CLEAN, "spectral", draw=1),
        shown("c", CUT, "spectral", "primary_metric"), shown("c", CUT, "primary_metric", draw=1),
    ]  # fmt: skip
    one = row("spectral", decisions, suite, 2)
    assert (one.clean.fired, one.clean.quiet, one.damaged.fired, one.damaged.quiet) == (1, 0, 0, 1)


@pytest.mark.parametrize(
    "change",
    [{"outcome": Outcome.ERROR}, {"reason": "not_applicable"}, {"reason": "not_prepared"}],
)
def test_what_was_not_judged_is_neither_fired_nor_quiet(change: dict[str, Any]) -> None:
    for name, expected in (("clean", CLEAN), ("cut", CUT)):
        unjudged = changed_check(shown(name, expected), "spectral", **change)
        one = row("spectral", [unjudged], {name: expected}, 1)
        share = one.clean if expected is CLEAN else one.damaged
        assert (share.judged, share.not_judged, share.interval) == (0, 1, (0.0, 1.0))


def test_nothing_that_fires_on_an_altered_model_counts() -> None:
    altered = shown("cut", CUT, "primary_metric", "guard_overhead", outcome=Outcome.ERROR)
    assert row("primary_metric", [altered], {"cut": CUT}, 1).damaged.not_judged == 1
    assert row("guard_overhead", [altered], {"cut": CUT}, 1).damaged.fired == 1


def test_a_compared_checkpoint_is_no_clean_control() -> None:
    compared = Expectation("compare", Strictness.MUST_PASS)
    verdict = judged([shown("a", compared, "spectral")], {"a": compared})
    assert all(r.clean.judged == r.clean.not_judged == 0 for r in verdict.signals.guards)
    assert "fired on clean" not in verdict_file_text(verdict)


def test_the_table_is_printed_with_its_intervals() -> None:
    text = verdict_file_text(judged(GREEN, SUITE))
    assert "check           fired on clean" in text
    assert "primary_metric  0 of 1 [0.000, 0.793]  1 of 2 [0.095, 0.905]" in text


def test_rows_of_scenarios_count_their_runs() -> None:
    named = replace(CUT, primary_guard="spectral")
    decisions = [
        shown("cut", named, "primary_metric", "spectral"),
        shown("cut", named, draw=1),
    ]
    (one,) = judged(decisions, {"cut": named}, draws=2).signals.documents()[
        "scenario_signal_summary.json"
    ]["scenarios"]
    assert one == {
        "model": "m", "id": "cut", "category": "stress", "strictness": "must_fail",
        "primary_guard": "spectral", "primary_guard_required": False, "reports": 2, "passed": 1,
        "failed": 1, "inconclusive": 0, "errors": 0, "detector_hits": 1, "signaled": 1,
        "primary_guard_hits": 1, "confirmed": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("count", "n", "expected"), [(0, 0, (0.0, 1.0)), (3, 1000, (0.001021, 0.008783))]
)
def test_wilson(count: int, n: int, expected: tuple[float, float]) -> None:
    assert wilson(count, n) == pytest.approx(expected, abs=2e-6)


def test_a_check_that_only_monitors_is_marked_and_its_warning_is_no_alarm() -> None:
    warned = changed_check(shown("clean", CLEAN), "drift", outcome=Outcome.WARN)
    rules = policy(
        checks=("invariants", "primary_metric", "drift", "spectral"),
        modes={"invariants": "gate", "spectral": "monitor"},
        drift=replace(DRIFT, mode="monitor"),
        expectations={("m", "clean"): CLEAN},
    )
    verdict = decide_run([PlannedScenario("m", "clean", 1)], [warned], {("m", "clean"): rules})
    rows = {row.check: row for row in verdict.signals.guards}
    gates = {name: row.gates for name, row in rows.items()}
    assert gates == {"invariants": True, "primary_metric": True, "drift": False, "spectral": False}
    assert (rows["drift"].clean.fired, rows["drift"].clean.quiet) == (0, 1)
    assert "drift (monitors)" in verdict_file_text(verdict)
    assert not rules.gates("rmt")
