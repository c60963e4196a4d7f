"""tune: the first step of a ladder at which every check passes, on documents kept for tuning."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema.validators import Draft202012Validator

from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.core import tuning
from pytest_invarlock.core.determinism import resolve_plan
from pytest_invarlock.core.engine import measure
from pytest_invarlock.core.tuning import tune, tuning_plan
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import CheckDecision, Decision, Outcome
from pytest_invarlock.errors import DataError, MeasurementError
from pytest_invarlock.evidence.strict_json import canonical
from pytest_invarlock.plan import (
    DataSource,
    EditSpec,
    MeasurementPlan,
    Pair,
    Scenario,
    SequentialPlan,
    WindowSelection,
)
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.policy.metric_limits import Floors
from pytest_invarlock.policy.plan_settings import build_policy
from pytest_invarlock.policy.resources import schema
from pytest_invarlock.policy.settings import Settings
from pytest_invarlock.policy.tuned import other_data
from pytest_invarlock.policy.tuning_ladder import Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_invarlock.policy.decision_policy import DecisionPolicy

MODEL = "builtin:llama"
CLEAN = Scenario("prune", edit=EditSpec("magnitude_prune", {"clean": True, "scope": "ffn"}))
PRUNE = replace(CLEAN, edit=EditSpec("magnitude_prune", {"sparsity": 0.1, "scope": "ffn"}))
PLAN = MeasurementPlan(
    source=DataSource("pydoc"),
    windows=WindowSelection(64, 64, preview_windows=24, final_windows=24),
    guards=("invariants",), device="cpu", dtype="float32", threads=1,
    sequential=SequentialPlan(1.1),
)  # fmt: skip
CHECKS = ("invariants", "primary_metric", "drift", "tail")


def policy(**change: Any) -> DecisionPolicy:
    expected = {(MODEL, CLEAN.name): Expectation("clean", Strictness.MUST_PASS)}
    made = build_policy({"bootstrap_replicates": 499, "profile": "dev"}, Settings(), expected)
    return replace(made, **{"checks": CHECKS, **change})


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Pair(MODEL, MODEL), resolve_plan(tuning_plan(PLAN)))


def tuned(bench: Bench, made: DecisionPolicy | None = None) -> tuning.Tuning:
    return tune(bench, CLEAN, made or policy(), progress=lambda _: None)


def ladder(monkeypatch: pytest.MonkeyPatch, *sparsities: float) -> None:
    steps = tuple(
        Step({"sparsity": s}, EditSpec("magnitude_prune", {"sparsity": s, "scope": "ffn"}))
        for s in sparsities
    )
    monkeypatch.setattr(tuning, "steps_of", lambda _: steps)


@pytest.fixture(scope="module")
def records() -> dict[str, Any]:
    return {}


@pytest.fixture
def measured_once(records: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that another test measured has its record already."""

    def once(pair: Pair, scenario: Scenario, plan: MeasurementPlan, **how: Any) -> Any:
        key = repr((scenario.edit, plan))
        if key not in records:
            records[key] = measure(pair, scenario, plan, **how)
        return records[key]

    monkeypatch.setattr(tuning, "measure", once)


def test_a_record_of_the_tuning_pool_is_no_evidence(bench: Bench) -> None:
    record = measure(bench.pair, PRUNE, bench.plan, bench=bench)
    refused = decide(record.facts, policy())
    assert refused.outcome is Outcome.ERROR
    assert {(c.outcome, c.reason) for c in refused.checks} == {(Outcome.ERROR, "other_pool")}
    assert not refused.expectation_met
    judged = decide(record.facts, policy(), pool="tuning")
    assert (judged.outcome, judged.expectation_met) == (Outcome.PASS, True)
    assert record.facts.plan["windows"]["pool"] == "tuning"
    document = json.loads(canonical(record.document()))
    assert list(Draft202012Validator(schema("record")).iter_errors(document)) == []


def test_nor_does_a_tuning_record_detect_anything(bench: Bench) -> None:
    ruin = replace(CLEAN, edit=EditSpec("magnitude_prune", {"sparsity": 0.95, "scope": "ffn"}))
    record = measure(bench.pair, ruin, bench.plan, bench=bench)
    expected = {(MODEL, CLEAN.name): Expectation("stress", Strictness.MUST_FAIL)}
    made = policy(expectations=expected)
    assert decide(record.facts, made, pool="tuning").expectation_met
    assert not decide(record.facts, made).expectation_met


def test_tuning_takes_no_record_of_the_certification_documents() -> None:
    plan = resolve_plan(replace(PLAN, sequential=None))
    record = measure(Pair(MODEL, MODEL), PRUNE, plan)
    assert decide(record.facts, policy()).outcome is Outcome.PASS
    assert "pool" not in record.facts.plan["windows"]
    other = decide(record.facts, policy(), pool="tuning")
    assert {c.reason for c in other.checks} == {"other_pool"}


def test_the_plan_states_the_windows_that_there_were(bench: Bench) -> None:
    plan = replace(
        bench.plan, windows=replace(bench.plan.windows, preview_windows=96, final_windows=96)
    )
    record = measure(bench.pair, PRUNE, plan)
    windows = record.facts.plan["windows"]
    assert windows["preview_windows"] == len(record.facts.arms["preview"].tokens) < 96
    assert windows["final_windows"] == len(record.facts.arms["final"].tokens) == 96
    assert decide(record.facts, policy(), pool="tuning").outcome is Outcome.PASS
    assert any("4 documents, 96 final windows of 40" in n for n in record.facts.data["notes"])


def test_too_few_documents_are_told_before_anything_is_measured(bench: Bench) -> None:
    passes = bench.counters.subject_passes
    with pytest.raises(DataError) as caught:
        tuned(bench, policy(floors=Floors(40, 20.0, None)))
    assert caught.value.code == "TUNING_DATA"
    assert "the tuning arm of pydoc gives 24 documents" in caught.value.cause
    assert "floors.documents is 40" in caught.value.cause
    assert "294 documents or more with --invarlock-dataset" in caught.value.remedy
    assert bench.counters.subject_passes == passes


@pytest.mark.usefixtures("measured_once")
def test_the_first_step_that_passes_is_taken(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ladder(monkeypatch, 0.95, 0.9, 0.1, 0.05)
    found = tuned(bench)
    assert [step.outcome for step in found.tried] == [Outcome.FAIL, Outcome.FAIL, Outcome.PASS]
    assert found.entry() == {
        "status": "selected", "sparsity": 0.1, "scope": "ffn", "edit_dir_name": "prune",
    }  # fmt: skip
    ratios = [step.numbers["ratio"] for step in found.tried]
    assert ratios[0] > ratios[1] > 1.1 > found.tried[2].numbers["ratio_upper"]
    assert found.evidence()["steps"][2]["limit"] == 1.1
    data = found.evidence()["data"]
    assert data["windows"] == {"preview": 24, "final": 24}
    assert {key: data[key] for key in ("seed", "convention", "seq_len", "stride", "arms")} == {
        "seed": 0, "convention": "document", "seq_len": 64, "stride": 64, "arms": "provider",
    }  # fmt: skip
    assert data["source"] == bench.draws.provider.identity()
    assert data["digest"] == bench.draws.data_digest(0, bench.baseline)
    assert other_data(data, PLAN) is None


def test_one_load_and_one_baseline_pass_for_all_steps(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bench.counters.subject_passes
    ladder(monkeypatch, 0.95, 0.9, 0.1)
    tuned(bench)
    tuned(bench)
    assert (bench.counters.baseline_loads, bench.counters.baseline_passes) == (1, 1)
    assert bench.counters.subject_passes == before + 6
    assert bench.unchanged()


@pytest.mark.usefixtures("measured_once")
def test_where_nothing_passes_the_entry_is_skipped_and_says_why(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ladder(monkeypatch, 0.95, 0.9)
    found = tuned(bench)
    assert found.selected is None
    entry = found.entry()
    assert (entry["status"], entry["scope"]) == ("skipped", "ffn")
    assert "sparsity" not in entry
    assert entry["reason"].startswith("none of 2 steps passed every check; at the weakest")


def deciding(monkeypatch: pytest.MonkeyPatch, outcomes: Sequence[Outcome]) -> None:
    """Let `decide` say these of the tail, step by step, and PASS of all else."""
    left = list(outcomes)

    def judge(facts: Any, made: DecisionPolicy, *, pool: str) -> Decision:
        assert pool == "tuning"
        decision = decide(facts, made, pool="tuning")
        outcome = left.pop(0)
        checks = tuple(
            CheckDecision(c.check, outcome if c.check == "tail" else Outcome.PASS, "made", "made")
            for c in decision.checks
        )
        return replace(decision, checks=checks)

    monkeypatch.setattr(tuning, "decide", judge)


@pytest.mark.usefixtures("measured_once")
@pytest.mark.parametrize(
    "outcome", [Outcome.WARN, Outcome.INCONCLUSIVE, Outcome.FAIL, Outcome.ERROR]
)
def test_only_pass_in_every_check_is_a_pass(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    ladder(monkeypatch, 0.2, 0.1)
    deciding(monkeypatch, [outcome, Outcome.PASS])
    found = tuned(bench)
    first = found.tried[0]
    assert (first.outcome, first.check) == (outcome, "tail")
    assert found.entry()["sparsity"] == 0.1


@pytest.mark.usefixtures("measured_once")
def test_an_outcome_that_comes_back_does_no_harm(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ladder(monkeypatch, 0.3, 0.2, 0.1)
    deciding(monkeypatch, [Outcome.FAIL, Outcome.PASS, Outcome.FAIL])
    assert tuned(bench).entry()["sparsity"] == 0.2


@pytest.mark.usefixtures("measured_once")
def test_a_step_that_cannot_be_applied_is_passed_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ladder(monkeypatch, 1e-9, 0.1)
    found = tuned(bench)
    assert found.tried[0].document() == {
        "parameters": {"sparsity": 1e-9}, "outcome": "ERROR", "check": "edit",
        "text": "EDIT_CHANGED_NOTHING",
    }  # fmt: skip
    assert found.entry()["sparsity"] == 0.1


def test_any_other_error_ends_the_search(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise MeasurementError("out of memory", remedy="", code="OUT_OF_MEMORY")

    monkeypatch.setattr(tuning, "measure", broken)
    with pytest.raises(MeasurementError):
        tuned(bench)


def test_tuning_measures_whole_and_draw_nought() -> None:
    plan = tuning_plan(PLAN.for_draw(3))
    assert (plan.sequential, plan.draw, plan.windows.pool) == (None, 0, "tuning")
    assert PLAN.windows.pool == "certification"
