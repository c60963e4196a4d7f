"""Guards beside both models: one that alters a model FAILs by name, and no later number is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_invarlock.bench import guard_side
from pytest_invarlock.bench.guard_sources import CallersGuards
from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.certificate import make_certificate
from pytest_invarlock.core.engine import measure
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import Decision, Outcome
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.plan import (
    DataSource,
    EditSpec,
    ForeignGuard,
    MeasurementPlan,
    Pair,
    Scenario,
    WindowSelection,
)
from pytest_invarlock.policy.decision_policy import DecisionPolicy, Expectation, Strictness
from pytest_invarlock.policy.plan_settings import build_policy
from pytest_invarlock.policy.resources import schema, strict_validator
from pytest_invarlock.policy.settings import Settings
from pytest_invarlock.records import record_from_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_invarlock.records import Facts, Record

NOOP = Scenario("noop", edit=EditSpec("noop"))
ITSELF = Scenario("itself", subject="the baseline")
PLAN = MeasurementPlan(
    source=DataSource("pydoc"),
    windows=WindowSelection(64, 64, preview_windows=2, final_windows=2, guard_windows=1),
    device="cpu", dtype="float32", threads=1, batch_tokens=512,
)  # fmt: skip
CHECK = "guard_overhead"
FINE = {"passed": True, "action": "continue", "message": "fine"}


def write(model: Any) -> None:
    model.lm_head.weight.data[0, 0] += 1


def hook(model: Any) -> None:
    model.model.norm.register_forward_hook(lambda _m, _i, output: output * 1.01)


def train(model: Any) -> None:
    model.train()


def activation(model: Any) -> None:
    """Another function under the name of the one that was there: only what it computes shows it."""
    mlp = model.model.layers[0].mlp
    mlp.act_fn = type(type(mlp.act_fn).__name__, (torch.nn.GELU,), {})().eval()


class Mine:
    name = "mine"

    def __init__(self, when: str = "", how: Callable[[Any], None] | None = None) -> None:
        self.when, self.how = when, how

    def prepare(self, model: Any, adapter: Any, calib: Any, policy: Any) -> dict[str, Any]:
        if self.when == "prepare" and self.how:
            self.how(model)
        return {"ready": True}

    def validate(self, model: Any, adapter: Any, context: Any) -> dict[str, Any]:
        if self.when == "validate" and self.how:
            self.how(model)
        return FINE


@pytest.fixture(scope="module")
def clean(thin: str) -> Bench:
    return Bench(Pair("thin", thin), PLAN)


@pytest.fixture
def bench(clean: Bench) -> Bench:
    clean.plan = PLAN
    # Loaded, whichever test comes first: some count loads.
    _ = clean.baseline
    # What the guards took of the baseline is taken anew in every test.
    clean._recorded.clear()
    return clean


def policy(facts: Facts) -> DecisionPolicy:
    expected = {(facts.model, facts.scenario): Expectation("clean", Strictness.MUST_PASS)}
    made = build_policy({"profile": "dev"}, Settings(), expected)
    return replace(
        made, checks=(*made.checks, *facts.attested), modes={**made.modes, "mine": "gate"}
    )


def taken(bench: Bench, scenario: Scenario, *guards: Mine) -> tuple[Record, Decision]:
    if scenario is ITSELF:
        scenario = replace(scenario, subject=bench.pair.baseline)
    named = {f"mine{n or ''}": guard for n, guard in enumerate(guards)}
    bench.guard_source = CallersGuards(named)
    bench.plan = replace(PLAN, foreign_guards=tuple(map(ForeignGuard, named)))
    record = measure(bench.pair, scenario, bench.plan, bench=bench)
    broken = next(strict_validator()(schema("record")).iter_errors(record.document()), None)
    assert broken is None, broken
    return record, decide(record.facts, policy(record.facts))


def after(name: str, how: Callable[[Any], None], at: int, patch: pytest.MonkeyPatch) -> None:
    """Let one of the built-in guards' measurements alter the model that it is given."""
    real = getattr(guard_side, name)

    def altering(*given: Any, **named: Any) -> Any:
        found = real(*given, **named)
        how(given[at])
        return found

    patch.setattr(guard_side, name, altering)


@pytest.mark.parametrize(
    ("how", "told", "scenario"),
    [
        (write, "its tensors, what it computes", NOOP),
        (write, "its tensors, what it computes", ITSELF),
        (hook, "its hooks, modes, methods, numbers or buffers, what it computes", NOOP),
        (train, "its hooks, modes, methods, numbers or buffers", ITSELF),
        (activation, "what it computes", NOOP),
    ],
)
def test_a_built_in_guard_that_alters_the_subject_fails_and_nothing_after_it_is_kept(
    how: Any, told: str, scenario: Scenario, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, loads = dict(bench.digests), bench.counters.baseline_loads
    after("compare_branches", how, 0, monkeypatch)
    record, decision = taken(bench, scenario, Mine())
    check = decision.check(CHECK)
    assert (check.outcome, check.reason) == (Outcome.FAIL, "altered_model")
    assert check.text == f"validate of rmt and variance changed the subject: {told}"
    facts = record.facts
    for name in ("rmt", "variance"):
        assert facts.guards[name] == {"not_evaluated": "rmt and variance changed the subject"}
        assert decision.check(name).outcome is Outcome.ERROR
    # What came before is kept: both metric and earlier guards.
    assert decision.check("primary_metric").outcome is Outcome.PASS
    assert decision.check("spectral").outcome is Outcome.PASS
    # Nobody is asked about it any more.
    assert facts.attested["mine"]["problem"]["code"] == "NOT_EVALUATED"
    assert not decision.outcome.acceptable
    assert tensor_digests(bench.unedited().model) == before
    assert bench.counters.baseline_loads == loads + 1


def test_one_that_alters_the_baseline_fails_and_the_subject_is_measured_against_a_clean_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, _ = taken(bench, NOOP)
    bench._recorded.clear()
    after("record_branches", write, 0, monkeypatch)
    record, decision = taken(bench, NOOP)
    check = decision.check(CHECK)
    assert check.outcome is Outcome.FAIL
    assert check.text.startswith("prepare of rmt and variance changed the baseline: its ")
    assert decision.check("rmt").reason == "not_evaluated"
    assert decision.check("primary_metric").outcome is Outcome.PASS
    for arm, losses in record.facts.arms.items():
        assert (losses.subject_nll == honest.facts.arms[arm].subject_nll).all()


@pytest.mark.parametrize(
    ("when", "scenario"), [("prepare", NOOP), ("validate", NOOP), ("validate", ITSELF)]
)
def test_another_packages_guard_that_writes_fails_by_name(
    when: str, scenario: Scenario, bench: Bench
) -> None:
    loads = bench.counters.baseline_loads
    record, decision = taken(bench, scenario, Mine(when, write), Mine())
    which = "baseline" if when == "prepare" else "subject"
    check = decision.check(CHECK)
    assert check.outcome is Outcome.FAIL
    assert check.text == f"{when} of mine changed the {which}: its tensors, what it computes"
    assert decision.check("mine").reason == "guard_altered_model"
    # Of a baseline that was loaded again another guard may still judge.
    other = decision.check("mine1")
    assert (other.outcome is Outcome.PASS) == (when == "prepare")
    for name in ("invariants", "spectral", "rmt", "variance", "primary_metric"):
        assert decision.check(name).outcome is Outcome.PASS
    assert record.facts.digest.startswith("sha256:")
    _ = bench.baseline
    assert bench.counters.baseline_loads == loads + 1
    assert bench.unchanged()


def test_honest_guards_pass_at_one_state_more_than_there_are_turns(bench: Bench) -> None:
    passes = bench.counters.watch_passes
    record, decision = taken(bench, NOOP, Mine())
    check = decision.check(CHECK)
    assert (check.outcome, check.reason) == (Outcome.PASS, "unaltered")
    assert (check.numbers["guarded_ratio"], check.numbers["n_turns"]) == (1.0, 7)
    turns = record.facts.guards[CHECK]
    assert [step["guards"] for step in turns["prepare"]] == [
        ["invariants"], ["rmt", "variance"], ["mine"],
    ]  # fmt: skip
    assert [step["guards"] for step in turns["validate"]] == [
        ["invariants"], ["spectral"], ["rmt", "variance"], ["mine"],
    ]  # fmt: skip
    # Each model twice beforehand, the baseline for each of the two that prepare.
    assert bench.counters.watch_passes - passes == (2 + 2) + (2 + 1) + (2 + 4)


def test_the_check_follows_from_the_record_again(bench: Bench) -> None:
    record, decision = taken(bench, NOOP, Mine("validate", write))
    document = record.document()
    read = record_from_bytes(document, record.array_bytes())
    again = decide(read.facts, policy(read.facts))
    assert again.document() == decision.document()
    certificate = make_certificate(read, policy(read.facts), run_id="r")
    assert certificate["validation"]["guard_overhead_acceptable"] is False
    # A record that hides the turn is another record.
    document["facts"]["guards"][CHECK]["validate"].pop()
    with pytest.raises(EvidenceError):
        record_from_bytes(document, record.array_bytes())


def test_of_a_subject_that_does_not_load_only_the_baseline_is_watched(bench: Bench) -> None:
    broken = Scenario("shape", edit=EditSpec("shape_mismatch", {"update_config": False}))
    record, decision = taken(bench, broken, Mine())
    assert set(record.facts.guards[CHECK]["validate"]) == {"not_evaluated"}
    assert decision.check("invariants").outcome is Outcome.FAIL
    check = decision.check(CHECK)
    assert (check.outcome, check.reason) == (Outcome.ERROR, "not_evaluated")
    assert check.text == decision.check("rmt").text
