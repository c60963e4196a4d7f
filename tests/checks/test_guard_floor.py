"""On fewer guard windows than the floor, statistics of activations neither pass nor fail."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.core.engine import measure
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import (
    DataSource,
    EditSpec,
    MeasurementPlan,
    Pair,
    Scenario,
    WindowSelection,
)
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.policy.plan_settings import build_policy
from pytest_invarlock.policy.settings import Settings
from pytest_invarlock.records import Facts

ACTIVATIONS = ("rmt", "variance")
PLAN = MeasurementPlan(
    source=DataSource("pydoc"),
    windows=WindowSelection(64, 64, preview_windows=10, final_windows=10, guard_windows=4),
    device="cpu", dtype="float32", threads=1, batch_tokens=512,
)  # fmt: skip


@pytest.fixture(scope="module")
def bench(thin: str) -> Bench:
    return Bench(Pair("thin", thin), PLAN)


def measured(bench: Bench, name: str, n_windows: int) -> Facts:
    """Facts with ``n_windows`` guard windows, where the data held no more."""
    drawn = bench.drawn_windows(0)
    bench.draws._drawn[0] = replace(drawn, calibration=drawn.calibration[:n_windows])
    bench._recorded.clear()
    try:
        scenario = Scenario(name, edit=EditSpec(name))
        return measure(bench.pair, scenario, PLAN, bench=bench).facts
    finally:
        bench.draws._drawn[0] = drawn
        bench._recorded.clear()


@pytest.fixture(scope="module")
def same(bench: Bench) -> Facts:
    return measured(bench, "noop", 1)


@pytest.fixture(scope="module")
def damaged(bench: Bench) -> Facts:
    return measured(bench, "zero_layer", 1)


def judged(facts: Facts, mode: str = "gate", **floors: Any) -> dict[str, CheckDecision]:
    expected = {(facts.model, facts.scenario): Expectation("clean", Strictness.MUST_PASS)}
    guards = {name: {"mode": mode} for name in ACTIVATIONS}
    value = {"profile": "dev", "guards": guards, "floors": floors}
    decision = decide(facts, build_policy(value, Settings(), expected))
    return {name: decision.check(name) for name in ACTIVATIONS}


def test_below_it_neither_a_pass_nor_a_fail_is_told(same: Facts, damaged: Facts) -> None:
    assert judged(damaged, guard_window_share=0.25)["rmt"].outcome is Outcome.FAIL
    assert judged(same, guard_window_share=0.25)["rmt"].outcome is Outcome.PASS
    for facts in (same, damaged):
        assert facts.data["n_guard_windows"] == facts.guards["rmt"]["n_windows"] == 1
        assert facts.plan["windows"]["guard_windows"] == 4
        for check in judged(facts).values():
            assert (check.outcome, check.reason) == (Outcome.INCONCLUSIVE, "below_floor")
            assert check.text == "INCONCLUSIVE: 1 of 4 planned guard windows, 2 are needed"


def test_a_guard_that_only_monitors_warns(damaged: Facts) -> None:
    for check in judged(damaged, mode="monitor").values():
        assert (check.outcome, check.reason) == (Outcome.WARN, "below_floor")
        assert "INCONCLUSIVE" not in check.text


def test_a_guard_that_remediates_gates(damaged: Facts) -> None:
    value = {"profile": "dev", "guards": {"variance": {"mode": "remediate"}}}
    expected = {(damaged.model, damaged.scenario): Expectation("clean", Strictness.MUST_PASS)}
    check = decide(damaged, build_policy(value, Settings(), expected)).check("variance")
    assert (check.outcome, check.reason) == (Outcome.INCONCLUSIVE, "below_floor")


def test_at_the_floor_the_statistics_decide(bench: Bench) -> None:
    facts = measured(bench, "zero_layer", 2)
    assert {check.outcome for check in judged(facts).values()} == {Outcome.FAIL}


def test_what_needs_no_window_fails_all_the_same(damaged: Facts) -> None:
    guards = copy.deepcopy(dict(damaged.guards))
    for name in ACTIVATIONS:
        guards[name]["branches"][0]["n_non_finite"] = 3
    for check in judged(replace(damaged, guards=guards)).values():
        assert (check.outcome, check.reason) == (Outcome.FAIL, "non_finite_activation")
        assert {found["kind"] for found in check.violations} == {"non_finite_activation"}
        assert "1 of 4 planned guard windows" in check.text


def test_the_policy_says_where_the_floor_is_from() -> None:
    plain = build_policy({"profile": "ci"}, Settings(), {})
    own = build_policy({"floors": {"guard_window_share": 0.9}}, Settings(), {})
    key = "floors.guard_window_share"
    assert plain.floors.guard_window_share == 0.5
    assert plain.provenance[key].startswith("convention")
    assert (own.floors.guard_window_share, own.provenance[key]) == (0.9, "suite file")


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ConfigError) as caught:
        build_policy({"floors": {"guard_window_share": share}}, Settings(), {})
    assert caught.value.code == "FLOORS"


@pytest.mark.parametrize("n_calibration", [0, 6])
def test_ready_made_windows_are_held_to_what_they_lend(n_calibration: int, thin: str) -> None:
    own = Bench(Pair("thin", thin), PLAN)
    drawn = own.drawn_windows(0)
    arms = {arm: windows[:1] for arm, windows in drawn.arms.items()}
    lent = (*drawn.calibration, *drawn.preview)[:n_calibration]
    own.use_windows(0, replace(drawn, arms=arms, calibration=lent))
    facts = measure(own.pair, Scenario("noop", edit=EditSpec("noop")), PLAN, bench=own).facts
    n = 4 if n_calibration else 1
    assert facts.plan["windows"]["guard_windows"] == facts.data["n_guard_windows"] == n
    assert {check.outcome for check in judged(facts).values()} == {Outcome.PASS}
