"""Sections under the original's names restate the decision: nothing in them holds by default."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from pytest_invarlock.certificate import make_certificate
from pytest_invarlock.certificate.guard_sections import guard_sections
from pytest_invarlock.certificate.sections import confidence
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import CheckDecision, Decision, Outcome
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.policy.resources import schema

from .test_build import ERROR_RECORD, POLICY, accuracy, certificate, record, sequential

GUARDS = ("invariants", "spectral", "rmt", "variance", "guard_overhead")


def decision(*checks: CheckDecision) -> Decision:
    return Decision(
        "m", "s", 0, "clean", "must_pass", checks, (), Outcome.PASS, True, "fine"
    )  # fmt: skip


def check(name: str, outcome: Outcome, **numbers: Any) -> CheckDecision:
    return CheckDecision(name, outcome, "reason", "text", numbers)


@pytest.mark.parametrize("name", GUARDS)
def test_a_guard_that_was_not_demanded_says_nothing(name: str) -> None:
    section = guard_sections(decision())[name]
    assert section["evaluated"] is False
    assert section["status"] is section["passed"] is None
    assert section["reason"] == "not_demanded"


@pytest.mark.parametrize("name", GUARDS)
@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Outcome.ERROR, "not_evaluated"),
        (Outcome.INCONCLUSIVE, "not_planned"),
        (Outcome.PASS, "not_applicable"),
    ],
)
def test_a_guard_that_judged_nothing_has_not_passed(
    name: str, outcome: Outcome, reason: str
) -> None:
    judged = CheckDecision(name, outcome, reason, "text", {"caps_applied": 0, "stable": 1})
    section = guard_sections(decision(judged))[name]
    assert section["evaluated"] is False
    assert section["passed"] is None
    assert section.get("caps_applied") is None
    assert section.get("stable") is None


@pytest.mark.parametrize("outcome", [Outcome.PASS, Outcome.WARN, Outcome.FAIL])
def test_a_guard_states_what_was_decided(outcome: Outcome) -> None:
    judged = check("spectral", outcome, caps_applied=3, caps_exceeded=1)
    section = guard_sections(decision(judged))["spectral"]
    assert section["evaluated"] is True
    assert section["status"] == outcome.value.lower()
    assert section["passed"] is outcome.acceptable
    assert (section["caps_applied"], section["caps_exceeded"]) == (3, True)


def test_rmt_is_as_stable_as_its_check_and_outliers_are_information() -> None:
    judged = check("rmt", Outcome.PASS, stable=0, epsilon_ffn=0.1, outliers_bare_ffn=3)
    section = guard_sections(decision(judged))["rmt"]
    assert section["stable"] is True
    assert section["outliers_within_epsilon"] is False
    assert section["families"] == {
        "ffn": {"epsilon": 0.1, "outliers_bare": 3, "outliers_guarded": None}
    }


@pytest.mark.parametrize(
    ("outcomes", "label"),
    [
        ((Outcome.PASS, Outcome.PASS), "High"),
        ((Outcome.PASS, Outcome.WARN), "Medium"),
        ((Outcome.PASS, Outcome.INCONCLUSIVE), "Low"),
        ((Outcome.PASS, Outcome.FAIL), "Low"),
        ((Outcome.ERROR, Outcome.PASS), "Low"),
        ((), "Low"),
    ],
)
def test_confidence_restates_outcomes(outcomes: tuple[Outcome, ...], label: str) -> None:
    checks = [check(f"c{n}", outcome) for n, outcome in enumerate(outcomes)]
    assert confidence(None, decision(*checks))["label"] == label


def test_the_metric_is_told_under_the_original_names() -> None:
    metric = certificate(record())["primary_metric"]
    lower, upper = metric["ci"]
    assert metric["display_ci"] == pytest.approx([math.exp(lower), math.exp(upper)], rel=1e-12)
    assert metric["final"] == metric["subject_perplexity"]
    assert metric["preview_final_ratio"] == pytest.approx(metric["final"] / metric["preview"])
    assert metric["ratio_vs_baseline"] == metric["ratio"]
    assert (metric["degraded"], metric["invalid"]) == (False, False)


@pytest.mark.parametrize(
    ("of", "degraded", "invalid"),
    [
        (record(0.3), True, False),
        (record(0.09, 0.2), False, False),
        (record(arms={}), False, True),
        (record(**ERROR_RECORD), False, True),
    ],
    ids=["fails", "undecided", "no losses", "error"],
)
def test_a_degraded_metric_failed_and_an_invalid_one_has_no_number(
    of: Any, degraded: bool, invalid: bool
) -> None:
    metric = certificate(of)["primary_metric"]
    assert (metric["degraded"], metric["invalid"]) == (degraded, invalid)
    if invalid:
        assert metric["preview"] is metric["final"] is metric["display_ci"] is None


def test_accuracy_has_its_interval_in_points() -> None:
    metric = certificate(accuracy(60, 5))["primary_metric"]
    assert metric["unit"] == "percentage points"
    assert metric["display_ci"] == [metric["drop_lower_pp"], metric["drop_upper_pp"]]
    assert metric["ci"] is None
    assert metric["final"] == metric["accuracy_subject"]
    assert metric["preview"] == metric["preview_accuracy_subject"]


def test_a_sequential_interval_is_the_one_of_the_rule() -> None:
    metric = certificate(sequential())["primary_metric"]
    assert metric["display_ci"] == [metric["ratio_lower"], metric["ratio_upper"]]
    assert metric["ci"][1] == metric["delta_upper_nats_per_token"]


CHANGES = [
    {"name": f"model.layers.{block}.mlp.{part}.weight", "n_parameters": 10}
    for block in (3, 3, 11)
    for part in ("up", "down")
] + [{"name": "model.embed_tokens.weight", "n_parameters": 100}]


def test_a_compared_checkpoint_counts_what_the_weights_show() -> None:
    from pytest_invarlock.certificate.sections import structure

    facts = replace(record().facts, edit=None, guards={"spectral": {"changes": CHANGES}})
    assert structure(facts) == {
        "tensors_changed": 7, "params_changed": None, "params_in_changed_tensors": 160,
        "layers_modified": 2,
    }  # fmt: skip
    unread = replace(facts, guards={"spectral": {"not_evaluated": "the pair has no common names"}})
    assert set(structure(unread).values()) == {None}


def test_floors_that_were_not_met_are_named_as_decided() -> None:
    few = replace(POLICY, floors=replace(POLICY.floors, documents=1000))
    made = certificate(record(), few)
    assert made["floors"]["not_met_by"] == ["primary_metric"]
    assert certificate(record())["floors"]["not_met_by"] == []


def test_seeds_and_determinism_come_from_plan_and_process() -> None:
    observed = {
        "mode": "strict", "seed": 7, "threads": 1, "interop_threads": 1,
        "deterministic_algorithms": True, "cudnn_benchmark": False, "tf32_matmul": False,
        "tf32_cudnn": False, "cublas_workspace": None,
    }  # fmt: skip
    of = replace(record(), observations={"determinism": observed})
    made = certificate(of)
    assert made["seeds"] == {
        "dataset": 0, "draw": 0, "process": 7, "resampling": of.facts.digest,
    }  # fmt: skip
    assert made["determinism"] == {"requested": "strict", "threads": 1, "observed": observed}
    unwatched = certificate(record())
    assert unwatched["seeds"]["process"] is unwatched["determinism"]["observed"] is None


def test_a_decision_that_was_made_already_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    of = record()
    made = decide(of.facts, POLICY)
    expected = certificate(of)

    def refuse(*_: object) -> Decision:
        raise AssertionError("decided again")

    monkeypatch.setattr("pytest_invarlock.certificate.build.decide", refuse)
    assert make_certificate(of, POLICY, run_id="demo-1", decision=made) == expected
    with pytest.raises(AssertionError):
        certificate(of)


def test_a_caller_may_answer_for_the_schema_but_not_for_the_identities() -> None:
    of = replace(record(), observations={"machine": "none"})
    with pytest.raises(EvidenceError, match="environment/machine"):
        certificate(of)
    assert make_certificate(of, POLICY, run_id="r", validate=False)["run_id"] == "r"
    made = decide(of.facts, POLICY)
    metric = made.check("primary_metric")
    forged = replace(made, checks=(replace(metric, numbers={**metric.numbers, "ratio": 1.0}),))
    with pytest.raises(EvidenceError, match="do not follow from the losses"):
        make_certificate(of, POLICY, run_id="r", decision=forged, validate=False)


def test_every_key_of_the_schema_is_required() -> None:
    shown = schema("certificate")
    assert sorted(shown["required"]) == sorted(shown["properties"])
    assert sorted(json.loads(json.dumps(certificate(record())))) == shown["required"]
