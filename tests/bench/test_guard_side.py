"""What the guards see of a pair: how often it is looked at, and what is never a pass."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from invarlock_guards.measure.watched_forward import BranchError
from transformers import AutoModelForCausalLM

from pytest_invarlock.bench import guard_side
from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.core.engine import measure
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import CheckDecision, Outcome
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

if TYPE_CHECKING:
    from pytest_invarlock.records import Facts

NOOP = Scenario("noop", edit=EditSpec("noop"))
RTN = Scenario("rtn", edit=EditSpec("quant_rtn", {"bitwidth": 8}), kind="quantize8")
GUARDS = ("spectral", "rmt", "variance")
PLAN = MeasurementPlan(
    source=DataSource("pydoc"),
    windows=WindowSelection(64, 64, preview_windows=4, final_windows=4, guard_windows=3),
    device="cpu", dtype="float32", threads=1, batch_tokens=512,
)  # fmt: skip


@pytest.fixture
def bench(thin: str) -> Bench:
    return Bench(Pair("thin", thin), PLAN)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counted: Counter[str] = Counter()

    def counting(name: str, real: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            counted[name] += 1
            return real(*given, **named)

        return call

    for name in ("record_branches", "compare_branches", "measure_models"):
        monkeypatch.setattr(guard_side, name, counting(name, getattr(guard_side, name)))
    return counted


def taken(bench: Bench, scenario: Scenario, draw: int = 0) -> Facts:
    return measure(bench.pair, scenario, bench.plan.for_draw(draw), bench=bench).facts


def checks(facts: Facts) -> dict[str, CheckDecision]:
    expected = {(facts.model, facts.scenario): Expectation("clean", Strictness.MUST_PASS)}
    policy = build_policy({"profile": "dev"}, Settings(), expected)
    decision = decide(facts, policy)
    return {name: decision.check(name) for name in GUARDS}


def test_the_baseline_is_passed_once_per_draw_and_each_subject_once(
    bench: Bench, passes: Counter[str]
) -> None:
    for scenario in (NOOP, RTN):
        taken(bench, scenario)
    assert passes == {"record_branches": 1, "compare_branches": 2, "measure_models": 2}
    taken(bench, NOOP, draw=1)
    assert passes == {"record_branches": 2, "compare_branches": 3, "measure_models": 3}


def test_an_identical_subject_differs_by_exactly_nothing_and_passes(bench: Bench) -> None:
    for scenario in (NOOP, Scenario("itself", subject=bench.pair.baseline)):
        facts = taken(bench, scenario)
        assert facts.guards["spectral"]["changes"] == []
        for name in ("rmt", "variance"):
            evidence = facts.guards[name]
            assert (evidence["n_windows"], evidence["n_branches_compared"] > 0) == (3, True)
            assert {row[key] for row in evidence["branches"] for key in "elc"} == {0.0}
        assert {row["fedge"] for row in facts.guards["rmt"]["sites"]} == {0.0}
        assert {check.outcome for check in checks(facts).values()} == {Outcome.PASS}


def test_a_change_is_seen_by_all_three(bench: Bench) -> None:
    before = tensor_digests(bench.baseline.model)
    facts = taken(bench, Scenario("zero", edit=EditSpec("zero_layer")))
    assert {check.outcome for check in checks(facts).values()} == {Outcome.FAIL}
    assert tensor_digests(bench.baseline.model) == before


def test_nothing_is_written_to_either_model(bench: Bench) -> None:
    model = bench.baseline.model
    before = tensor_digests(model)
    recorded = bench.recorded_baseline(0)
    assert tensor_digests(model) == before
    with bench.edited(EditSpec("quant_rtn", {"bitwidth": 4})) as subject:
        edited = tensor_digests(model)
        assert edited != before
        guard_side.guard_evidence(
            bench.baseline, bench.structure, recorded, subject, PLAN.guards, reads_alike=True
        )
        assert tensor_digests(model) == edited
    assert tensor_digests(model) == before


def test_a_subject_of_another_architecture_never_passes(bench: Bench) -> None:
    facts = taken(bench, Scenario("other", subject="builtin:gpt2"))
    judged = checks(facts)
    assert Outcome.PASS not in {check.outcome for check in judged.values()}
    assert {judged[name].outcome for name in ("rmt", "variance")} == {Outcome.ERROR}
    assert "not_evaluated" in facts.guards["rmt"]
    assert judged["spectral"].outcome is Outcome.ERROR


def test_a_subject_with_fewer_layers_never_passes(bench: Bench) -> None:
    source = bench.baseline
    model = AutoModelForCausalLM.from_config(copy.deepcopy(source.model.config))
    model.load_state_dict(source.model.state_dict())
    del model.model.layers[-1]
    model.config.num_hidden_layers -= 1
    recorded = bench.recorded_baseline(0)
    with bench.checkpoint(bench.pair.baseline) as subject:
        fewer = replace(subject, loaded=replace(subject.loaded, model=model.eval()))
        evidence = guard_side.guard_evidence(
            source, bench.structure, recorded, fewer, PLAN.guards, reads_alike=True
        )
    assert set(evidence["rmt"]) == set(evidence["variance"]) == {"not_evaluated"}


def test_one_that_cannot_be_loaded_is_not_evaluated(bench: Bench) -> None:
    with bench.checkpoint(bench.pair.baseline) as subject:
        broken = replace(subject, load_failure="a tensor is missing")
        evidence = guard_side.guard_evidence(
            bench.baseline, bench.structure, bench.recorded_baseline(0), broken, PLAN.guards,
            reads_alike=True,
        )  # fmt: skip
    assert {name: evidence[name] for name in GUARDS} == {
        name: {"not_evaluated": "a tensor is missing"} for name in GUARDS
    }


@pytest.mark.parametrize("guards", [("invariants",), ("invariants", "spectral"), ("rmt",)])
def test_guards_that_the_plan_leaves_out_are_not_measured(
    guards: tuple[str, ...], passes: Counter[str], thin: str
) -> None:
    bench = Bench(Pair("thin", thin), replace(PLAN, guards=guards))
    facts = taken(bench, NOOP)
    assert set(facts.guards) == {"invariants", *guards}
    activations = int("rmt" in guards)
    assert passes["record_branches"] == passes["compare_branches"] == activations
    assert passes["measure_models"] == int(guards != ("invariants",))


def test_without_a_document_left_activations_are_not_evaluated(bench: Bench) -> None:
    none_left = replace(bench.drawn_windows(0), calibration=())
    recorded = guard_side.record_baseline(bench.baseline, none_left, PLAN, given=False)
    assert recorded.record is None
    with bench.edited(NOOP.edit) as subject:
        evidence = guard_side.guard_evidence(
            bench.baseline, bench.structure, recorded, subject, PLAN.guards, reads_alike=True
        )
    assert {name: set(evidence[name]) for name in ("rmt", "variance")} == {
        "rmt": {"not_evaluated"}, "variance": {"not_evaluated"},
    }  # fmt: skip
    assert evidence["spectral"]["changes"] == []


def test_a_baseline_whose_branches_cannot_be_read_is_no_crash(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object, **__: object) -> None:
        raise BranchError("the output of a.b is not (windows, tokens, features)")

    monkeypatch.setattr(guard_side, "record_branches", unreadable)
    judged = checks(taken(bench, NOOP))
    assert judged["spectral"].outcome is Outcome.PASS
    for name in ("rmt", "variance"):
        assert (judged[name].outcome, judged[name].reason) == (Outcome.ERROR, "not_evaluated")
        assert "a.b" in judged[name].text


def test_windows_given_ready_made_lend_those_of_the_preview(bench: Bench) -> None:
    drawn = bench.drawn_windows(0)
    assert len(drawn.calibration) == 3
    bench.use_windows(0, replace(drawn, calibration=()))
    given = bench.recorded_baseline(0)
    ids = [row.tolist() for batch in given.batches for row in batch["input_ids"]]
    assert len(ids) == 3
    preview = {tuple(window.tokens.tolist()) for window in drawn.preview[:3]}
    assert {tuple(row) for row in ids} == preview
    assert torch.is_tensor(given.batches[0]["input_ids"])


def test_outliers_are_counted_beyond_what_the_plan_says(thin: str) -> None:
    found = {}
    for factor in (0.01, 1.65):
        bench = Bench(Pair("thin", thin), replace(PLAN, guards=("rmt",), outlier_factor=factor))
        facts = taken(bench, NOOP)
        assert facts.plan["outlier_factor"] == facts.guards["rmt"]["outlier_factor"] == factor
        found[factor] = sum(row["n_outliers_baseline"] for row in facts.guards["rmt"]["sites"])
    assert found[0.01] > found[1.65]
