"""Which checks a plan asked for."""

from __future__ import annotations

from pytest_invarlock.checks.planned import is_planned, unplanned

from .made import ALL_CHECKS, facts

PLAN = {**facts().plan, "guards": ["invariants", "rmt"], "foreign_guards": {"mine": {}}}


def test_a_guard_that_is_demanded_and_left_out_of_the_plan_is_named() -> None:
    demanded = (*ALL_CHECKS, "rmt", "variance", "guard_overhead", "mine", "yours")
    assert unplanned(demanded, facts(plan=PLAN)) == ("variance", "guard_overhead", "yours")


def test_evidence_does_not_make_up_for_the_plan() -> None:
    assert unplanned(("variance",), facts(plan=PLAN, guards={"variance": {}})) == ("variance",)


def test_a_measurement_that_ended_with_an_error_says_so_itself() -> None:
    assert unplanned(("variance",), facts(plan=PLAN, error="OOM")) == ()


def test_a_plan_without_a_list_asked_for_everything() -> None:
    assert is_planned("variance", facts())
