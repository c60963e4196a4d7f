"""Other packages' guards beside a subject: one that says nothing usable never lets it pass."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.bench.foreign_guards import attested_answers, prepare_guards
from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.core.engine import measure
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.errors import ConfigError, GuardError
from pytest_invarlock.plan import (
    DataSource,
    EditSpec,
    ForeignGuard,
    MeasurementPlan,
    Pair,
    Scenario,
    WindowSelection,
)
from pytest_invarlock.policy.decision_policy import Expectation, Mode, Strictness
from pytest_invarlock.policy.plan_settings import build_policy
from pytest_invarlock.policy.settings import Settings
from pytest_invarlock.records import record_from_bytes

if TYPE_CHECKING:
    from pytest_invarlock.records import Facts
    from tests.conftest import Installer

MODEL = "builtin:llama"
NOOP = Scenario("noop", edit=EditSpec("noop"))
RTN = Scenario("rtn", edit=EditSpec("quant_rtn", {"bitwidth": 8}))
ITSELF = Scenario("itself", subject=MODEL)
PLAN = MeasurementPlan(
    source=DataSource("pydoc"),
    windows=WindowSelection(64, 64, preview_windows=4, final_windows=4, guard_windows=2),
    guards=("invariants",), device="cpu", dtype="float32", threads=1, batch_tokens=512,
)  # fmt: skip
CODE = '''
import torch
from pytest_invarlock.core.api import Guard, GuardResult, Violation

FINE = {"passed": True, "action": "continue", "message": "fine"}


class Base(Guard):
    name = "mine"

    def validate(self, model, adapter, context):
        return FINE


class Says(Base):
    """Answers as its parameters say."""

    def __init__(self, passed=True, action="continue", **more):
        self.answer = {"passed": passed, "action": action, "message": "told so", **more}

    def validate(self, model, adapter, context):
        return self.answer


class Sees(Base):
    """Compares the subject with what it saw of the baseline, on the calibration windows."""

    def prepare(self, model, adapter, calib, policy):
        self.before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
        self.policy = policy
        return {"ready": len(calib) > 0 and set(calib[0]) >= {"input_ids"}}

    def validate(self, model, adapter, context):
        changed = not torch.equal(self.before, model.model.layers[0].mlp.up_proj.weight)
        described = adapter.describe(model)
        return GuardResult(
            "mine", not changed, "rollback" if changed else "continue", "r", "compared",
            metrics={"scenario": context["scenario"], "batches": len(context["calib"]),
                     "described": len(described), "policy": len(self.policy)},
            violations=(Violation("changed", "lm_head", 1.5, 0.0),) if changed else (),
        )

    def __init__(self, extra=None): ...


class Raises(Base):
    def validate(self, model, adapter, context):
        raise KeyError("no such layer\\nsecond line")


class RaisesEarly(Base):
    def prepare(self, model, adapter, calib, policy):
        raise ZeroDivisionError


class NotReady(Base):
    def prepare(self, model, adapter, calib, policy):
        return {"ready": False}


class Unprepared(Base):
    def prepare(self, model, adapter, calib, policy):
        return None


class NoAnswer(Base):
    def validate(self, model, adapter, context):
        return None


class Tensor(Base):
    def validate(self, model, adapter, context):
        return FINE | {"metrics": {"worst": torch.tensor(1.0)}}


class NaN(Base):
    def validate(self, model, adapter, context):
        return FINE | {"metrics": {"worst": float("nan")}}


class Keys(Base):
    def validate(self, model, adapter, context):
        return FINE | {"notes": {1: 2}}


class Deep(Base):
    def validate(self, model, adapter, context):
        nested = []
        for _ in range(20):
            nested = [nested]
        return FINE | {"notes": nested}


class Surrogate(Base):
    def validate(self, model, adapter, context):
        return FINE | {"message": "\\ud800"}


class Long(Base):
    def validate(self, model, adapter, context):
        return FINE | {"notes": "x" * 70000}


class Writes(Base):
    def validate(self, model, adapter, context):
        model.lm_head.weight.data[0, 0] += 1
        return FINE


class WritesEarly(Base):
    def prepare(self, model, adapter, calib, policy):
        model.lm_head.weight.data[0, 0] += 1
        return {"ready": True}


class Destroys(Base):
    def prepare(self, model, adapter, calib, policy):
        model.to("meta")
        return {"ready": True}


class Scribbles(Base):
    """Writes into everything that it is given but the models."""

    def __init__(self, listed):
        listed.append(1)

    def prepare(self, model, adapter, calib, policy):
        policy["listed"].append(2)
        calib[0]["input_ids"].zero_()
        return {"ready": True}

    def validate(self, model, adapter, context):
        context["edit"].clear()
        context["calib"][0]["input_ids"].zero_()
        return FINE


class Hooks(Base):
    def validate(self, model, adapter, context):
        model.register_forward_hook(lambda *_: None)
        return FINE


class Configures(Base):
    def validate(self, model, adapter, context):
        model.config.rms_norm_eps *= 2
        return FINE


class WritesBaseline(Base):
    def prepare(self, model, adapter, calib, policy):
        self.baseline = model
        return {"ready": True}

    def validate(self, model, adapter, context):
        self.baseline.lm_head.weight.data[0, 0] += 1
        return FINE


class Mute: ...
'''


@pytest.fixture(scope="module")
def resident() -> Bench:
    return Bench(Pair(MODEL, MODEL), PLAN)


@pytest.fixture
def taken(resident: Bench, install: Installer) -> Any:
    """Measures a scenario with a class of `CODE` as guard ``mine``."""

    def take(cls: str, scenario: Scenario = NOOP, **parameters: Any) -> Facts:
        install("my-guards", CODE, mine=cls)
        resident.plan = replace(PLAN, foreign_guards=(ForeignGuard("mine", parameters),))
        return measure(resident.pair, scenario, resident.plan, bench=resident).facts

    return take


def mine(facts: Facts, mode: Mode = "gate") -> CheckDecision:
    expected = {(facts.model, facts.scenario): Expectation("clean", Strictness.MUST_PASS)}
    policy = build_policy({"profile": "dev"}, Settings(), expected)
    policy = replace(policy, checks=(*policy.checks, "mine"), modes={**policy.modes, "mine": mode})
    return decide(facts, policy).check("mine")


@pytest.mark.parametrize(
    ("cls", "code", "told"),
    [
        ("Absent", "GUARD_BROKEN", "my_guards:Absent cannot be imported: AttributeError"),
        ("Mute", "GUARD_BROKEN", "my_guards:Mute has no validate()"),
        ("Raises", "GUARD_RAISED", "validate() raised KeyError: 'no such layer"),
        ("RaisesEarly", "GUARD_RAISED", "prepare() raised ZeroDivisionError"),
        ("NotReady", "GUARD_NOT_READY", "mine says that it is not ready"),
        ("Unprepared", "GUARD_ANSWER", "prepare gave no mapping with ready true or false"),
        ("NoAnswer", "GUARD_ANSWER", "mine answered NoneType, not a mapping"),
        ("Tensor", "GUARD_ANSWER", "answer.metrics.worst is Tensor, which JSON cannot carry"),
        ("NaN", "GUARD_ANSWER", "answer.metrics.worst is nan, which JSON cannot carry"),
        ("Keys", "GUARD_ANSWER", "answer.notes has a key that is int"),
        ("Deep", "GUARD_ANSWER", "is nested deeper than 16"),
        ("Long", "GUARD_ANSWER", "its answer takes 70"),
        ("Surrogate", "GUARD_ANSWER", "answer: value has no canonical JSON form"),
    ],
)
def test_a_guard_without_a_usable_answer_is_an_error_in_either_mode(
    cls: str, code: str, told: str, taken: Any
) -> None:
    facts = taken(cls)
    entry = facts.attested["mine"]
    assert entry["answer"] is None
    assert entry["problem"]["code"] == code
    for mode in ("gate", "monitor"):
        check = mine(facts, mode)  # type: ignore[arg-type]
        assert (check.outcome, check.reason) == (Outcome.ERROR, code.lower())
        assert told in check.text
        assert "\n" not in check.text


def test_arguments_that_a_guard_does_not_take_are_an_error(taken: Any) -> None:
    check = mine(taken("Sees", stric=True))
    assert (check.outcome, check.reason) == (Outcome.ERROR, "guard_raised")
    assert "making it raised TypeError: " in check.text
    assert "stric" in check.text


@pytest.mark.parametrize(
    ("cls", "step", "scenario"),
    [
        ("Writes", "validate()", NOOP),
        ("Writes", "validate()", RTN),
        ("Writes", "validate()", ITSELF),
        ("WritesEarly", "prepare()", NOOP),
        ("WritesBaseline", "validate()", ITSELF),
        ("Hooks", "validate()", NOOP),
        ("Configures", "validate()", NOOP),
    ],
)
def test_a_guard_that_alters_a_model_ends_the_measurement_and_leaves_a_clean_baseline(
    cls: str, step: str, scenario: Scenario, taken: Any, resident: Bench
) -> None:
    before = dict(resident.digests)
    with pytest.raises(
        GuardError, match=rf"guard mine: {step[:-2]}\(\) changed the model"
    ) as caught:
        taken(cls, scenario)
    assert caught.value.code == "GUARD_ALTERED_MODEL"
    assert tensor_digests(resident.unedited().model) == before
    assert resident.unchanged()
    assert mine(taken("Base")).outcome is Outcome.PASS


def test_a_baseline_that_a_guard_made_unreadable_is_loaded_again(
    taken: Any, resident: Bench
) -> None:
    with pytest.raises((NotImplementedError, RuntimeError)):
        taken("Destroys")
    assert mine(taken("Base")).outcome is Outcome.PASS


def test_nothing_that_a_guard_writes_into_its_arguments_is_recorded(taken: Any) -> None:
    plain, facts = taken("Base", RTN), taken("Scribbles", RTN, listed=[])
    assert facts.edit == plain.edit
    assert facts.attested["mine"]["parameters"] == {"listed": []}
    assert facts.plan["foreign_guards"]["mine"]["parameters"] == {"listed": []}
    assert taken("Sees").attested["mine"]["answer"]["passed"] is True


def test_a_guard_sees_baseline_subject_windows_and_its_parameters(taken: Any) -> None:
    same, changed = taken("Sees", NOOP), taken("Sees", RTN, extra=3)
    assert mine(same).outcome is Outcome.PASS
    check = mine(changed)
    assert (check.outcome, check.reason) == (Outcome.FAIL, "attested")
    assert check.text == "compared (attested by my-guards 1.2)"
    assert [dict(v) for v in check.violations] == [
        {"kind": "changed", "module": "lm_head", "family": None, "value": 1.5, "threshold": 0.0}
    ]
    assert check.numbers["action"] == "rollback"
    assert (check.numbers["scenario"], check.numbers["policy"]) == ("rtn", 1)
    assert check.numbers["batches"] > 0
    assert check.numbers["described"] > 0


def test_the_record_says_whose_code_answered_and_survives_a_file(taken: Any) -> None:
    facts = taken("Says", passed=False, action="warn")
    entry = facts.attested["mine"]
    assert (entry["distribution"], entry["version"]) == ("my-guards", "1.2")
    assert entry["entry_point"] == "my_guards:Says"
    assert entry["parameters"] == {"passed": False, "action": "warn"}
    assert entry["code"].startswith("sha256:")
    assert entry["answer"] == {"passed": False, "action": "warn", "message": "told so"}
    assert facts.plan["foreign_guards"]["mine"] == {
        key: entry[key] for key in ("distribution", "version", "entry_point", "code", "parameters")
    }
    assert taken("Base").plan_digest != facts.plan_digest


def test_a_subject_that_does_not_load_is_shown_to_nobody(taken: Any, resident: Bench) -> None:
    taken("Base")
    prepared = prepare_guards(resident, 0)
    with resident.checkpoint(MODEL) as subject:
        broken = replace(subject, load_failure="a tensor is missing")
        (entry,) = attested_answers(resident, ITSELF, 0, broken, prepared).values()
    assert entry["answer"] is None
    assert entry["problem"] == {
        "code": "NOT_EVALUATED",
        "text": "not evaluated: a tensor is missing",
    }


@pytest.mark.parametrize("fault", ["dtype_change", "missing_tensors"])
def test_a_checkpoint_that_loads_as_something_else_was_not_altered_by_a_guard(
    fault: str, taken: Any
) -> None:
    facts = taken("Base", Scenario(fault, edit=EditSpec(fault)))
    assert mine(facts).outcome is Outcome.PASS


def test_a_guard_that_is_not_installed_is_no_measurement(resident: Bench) -> None:
    resident.plan = replace(PLAN, foreign_guards=(ForeignGuard("nowhere"),))
    with pytest.raises(ConfigError, match="no guard is named 'nowhere'"):
        measure(resident.pair, NOOP, resident.plan, bench=resident)


def test_without_other_guards_the_plan_says_nothing_of_them(resident: Bench) -> None:
    resident.plan = PLAN
    record = measure(resident.pair, NOOP, PLAN, bench=resident)
    assert "foreign_guards" not in record.facts.plan
    assert record.facts.attested == {}
    read = record_from_bytes(record.document(), record.array_bytes())
    assert read.facts.digest == record.facts.digest
