"""Guard evidence that contradicts its record, or itself, supports no pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pytest_invarlock.checks.guard_consistency import guard_contradiction
from pytest_invarlock.core.engine import measure
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import Outcome
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

GUARDS = ("invariants", "spectral", "rmt", "variance")
PLAN = MeasurementPlan(
    source=DataSource("pydoc"),
    windows=WindowSelection(64, 64, preview_windows=10, final_windows=10, guard_windows=3),
    device="cpu", dtype="float32", threads=1, batch_tokens=512,
)  # fmt: skip


@pytest.fixture(scope="module")
def measured(thin: str) -> Facts:
    scenario = Scenario("rtn", edit=EditSpec("quant_rtn", {"bitwidth": 8}), kind="quantize8")
    return measure(Pair("thin", thin), scenario, PLAN).facts


def outcomes(facts: Facts) -> dict[str, tuple[Outcome, str]]:
    expected = {(facts.model, facts.scenario): Expectation("clean", Strictness.MUST_PASS)}
    policy = build_policy({"profile": "dev"}, Settings(), expected)
    decision = decide(facts, replace(policy, checks=GUARDS))
    return {check.check: (check.outcome, check.reason) for check in decision.checks}


def forged(facts: Facts, change: Callable[[dict[str, Any]], object]) -> Facts:
    guards = copy.deepcopy(dict(facts.guards))
    change(guards)
    return replace(facts, guards=guards)


def test_an_honest_record_contradicts_nothing(measured: Facts) -> None:
    assert [guard_contradiction(name, measured) for name in GUARDS] == [None] * 4
    assert {outcome for outcome, _ in outcomes(measured).values()} == {Outcome.PASS}


def hide_changes(guards: dict[str, Any]) -> None:
    guards["spectral"]["changes"] = []
    for row in guards["spectral"]["covered"].values():
        row["changed"] = 0
    guards["rmt"].update(edge_of_change={}, change_size={})


def uncompare(guards: dict[str, Any]) -> None:
    for change in guards["spectral"]["changes"]:
        change["reason"] = "shape"


def call_vectors(guards: dict[str, Any]) -> None:
    for change in guards["spectral"]["changes"]:
        change["type"] = "vector"


def drop_change(guards: dict[str, Any]) -> None:
    guards["spectral"]["changes"].pop()


def leave_out(guards: dict[str, Any]) -> None:
    for name in ("rmt", "variance"):
        guards[name]["left_out"] = ["model.layers.0.mlp"]


@pytest.mark.parametrize(
    ("guard", "change", "said"),
    [
        ("spectral", hide_changes, "none is listed"),
        ("spectral", uncompare, "more parameters of"),
        ("spectral", call_vectors, "changes of"),
        ("spectral", drop_change, "changes of"),
        ("rmt", lambda g: g["rmt"].update(edge_of_change={}), "its edge_of_change"),
        ("rmt", lambda g: g["rmt"]["change_size"].update({"x": 0.0}), "its change_size"),
        ("rmt", lambda g: g["rmt"].update(n_windows=1), "different n windows"),
        ("variance", lambda g: g["variance"].update(n_tokens=1), "different n tokens"),
        ("variance", lambda g: g["variance"].update(branches=[]), "different branches"),
        ("variance", leave_out, "was left out"),
        ("rmt", lambda g: g["rmt"].update(outlier_factor=9.0), "outliers beyond 9 of an edge"),
        ("rmt", lambda g: [g[n].update(n_windows=2) for n in ("rmt", "variance")], "were measured"),
        ("rmt", lambda g: [g[n].update(n_windows=4) for n in ("rmt", "variance")], "were measured"),
    ],
)
def test_evidence_against_itself_is_an_error(
    guard: str, change: Callable[[dict[str, Any]], object], said: str, measured: Facts
) -> None:
    found = forged(measured, change)
    assert said in str(guard_contradiction(guard, found))
    assert outcomes(found)[guard] == (Outcome.ERROR, "contradictory")


@pytest.mark.parametrize("key", ["l", "c", "e", "log_rms"])
def test_numbers_that_are_missing_beside_others_do_not_pass(key: str, measured: Facts) -> None:
    def blank(guards: dict[str, Any]) -> None:
        for name in ("rmt", "variance"):
            for row in guards[name]["branches"]:
                row[key] = None

    found = outcomes(forged(measured, blank))
    assert found["rmt"][0] is found["variance"][0] is Outcome.ERROR


def test_a_plan_of_another_model_or_edit_is_an_error_for_every_guard(measured: Facts) -> None:
    for plan, edit in (
        ({**measured.plan, "baseline_tensors": "sha256:" + "1" * 64}, measured.edit),
        ({**measured.plan, "data_digest": "sha256:" + "1" * 64}, measured.edit),
        (dict(measured.plan), None),
    ):
        found = outcomes(replace(measured, plan=plan, edit=edit))
        assert set(found.values()) == {(Outcome.ERROR, "contradictory")}


def test_without_canon_weights_pass_only_beside_the_guards_of_activations(measured: Facts) -> None:
    def unknown(guards: dict[str, Any]) -> None:
        guards["spectral"]["canon"] = {"available": False, "reason": "unknown architecture"}
        guards["spectral"]["changes"][0]["relative_change"] = 3.0
        guards["rmt"]["change_size"][guards["spectral"]["changes"][0]["name"]] = 3.0

    found = replace(forged(measured, unknown), kind="any")
    expected = {(found.model, found.scenario): Expectation("clean", Strictness.MUST_PASS)}
    policy = build_policy({"profile": "dev"}, Settings(), expected)
    for checks, outcome in ((GUARDS, Outcome.WARN), (GUARDS[:2], Outcome.ERROR)):
        decision = decide(found, replace(policy, checks=checks))
        assert decision.check("spectral").outcome is outcome
        assert decision.check("spectral").reason == "canon_unavailable"


def test_more_guard_windows_than_were_planned_are_an_error(measured: Facts) -> None:
    windows = {**measured.plan["windows"], "guard_windows": 2}
    found = replace(measured, plan={**measured.plan, "windows": windows})
    assert "3 guard windows are said to be drawn, 2 were planned" in str(
        guard_contradiction("rmt", found)
    )
