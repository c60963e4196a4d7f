"""Other packages' guards beside a subject: one that says nothing usable never lets it pass."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_invarlock.bench import foreign_guards, model_watch
from pytest_invarlock.bench.foreign_guards import attested_answers, prepare_guards
from pytest_invarlock.bench.guard_sources import CallersGuards
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
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.policy.metric_limits import Mode
from pytest_invarlock.policy.plan_settings import build_policy
from pytest_invarlock.policy.resources import schema, strict_validator
from pytest_invarlock.policy.settings import Settings
from pytest_invarlock.records import record_from_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_invarlock.records import Facts
    from tests.conftest import Installer

NOOP = Scenario("noop", edit=EditSpec("noop"))
RTN = Scenario("rtn", edit=EditSpec("quant_rtn", {"bitwidth": 8}))
ITSELF = Scenario("itself", subject="the baseline")
PLAN = MeasurementPlan(
    source=DataSource("pydoc"),
    windows=WindowSelection(64, 64, preview_windows=4, final_windows=4, guard_windows=2),
    guards=("invariants",), device="cpu", dtype="float32", threads=1, batch_tokens=512,
)  # fmt: skip
CODE = '''
import sys

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


class Keeps(Base):
    """Prepared once for all scenarios of a draw; counts it."""

    reusable = True
    prepared = []
    wrong = None

    def prepare(self, model, adapter, calib, policy):
        self.prepared.append(self)
        if self.wrong == "prepare()":
            model.lm_head.weight.data[0, 0] += 1
        return {"ready": True}

    def validate(self, model, adapter, context):
        if self.wrong == "raises":
            raise KeyError
        if self.wrong == "validate()":
            model.lm_head.weight.data[0, 0] += 1
        return FINE | {"metrics": {"drawn": torch.rand(()).item(), "me": self.prepared.index(self)}}


class Fresh(Keeps):
    reusable = False
    prepared = []


class Aborts(Base):
    def validate(self, model, adapter, context):
        return {"passed": False, "action": "abort", "message": "enough"}


class WritesBaseline(Base):
    def prepare(self, model, adapter, calib, policy):
        self.baseline = model
        return {"ready": True}

    def validate(self, model, adapter, context):
        self.baseline.lm_head.weight.data[0, 0] += 1
        return FINE


class Mute: ...


class Skips(Base):
    def validate(self, model, adapter, context):
        import pytest
        pytest.skip("not today")


class SkipsEarly(Base):
    def prepare(self, model, adapter, calib, policy):
        import pytest
        pytest.skip("not today")


class Exits(Base):
    def validate(self, model, adapter, context):
        sys.exit("enough")


class ExitsWhenMade(Base):
    def __init__(self):
        sys.exit(3)


class Unspeakable(Base):
    def validate(self, model, adapter, context):
        class Odd(Exception):
            def __str__(self):
                raise ValueError
        raise Odd


class OddText(Base):
    def validate(self, model, adapter, context):
        raise ValueError("a\\ud800")


class Result(Base):
    """Answers with a result object some field of which is malformed."""

    def __init__(self, field, value):
        values = {
            "array": torch.zeros(2).numpy(), "dicts": ({"module": 3},), "texts": "none",
            "None": None, "number": 3, "mapping": {}, "text": "False",
        }
        given = {"passed": False, "action": "rollback", "reason": "r", "text": "t"}
        self.answer = GuardResult("mine", **given | {field: values[value]})

    def validate(self, model, adapter, context):
        return self.answer


class Interrupted(Base):
    def validate(self, model, adapter, context):
        raise KeyboardInterrupt


class Trap(dict):
    def __contains__(self, key):
        sys.exit(0)


class Traps(Base):
    def validate(self, model, adapter, context):
        return Trap(FINE)


class Alters(Base):
    """Changes what a model computes, or the process it computes in, in one of many ways."""

    def __init__(self, how, when="validate"):
        self.how, self.when = how, when

    def prepare(self, model, adapter, calib, policy):
        if self.when == "prepare":
            getattr(self, self.how)(model)
        return {"ready": True}

    def validate(self, model, adapter, context):
        if self.when == "validate":
            getattr(self, self.how)(model)
        return FINE

    def scales(self, model):
        model.model.layers[0].self_attn.scaling *= 3

    def epsilon(self, model):
        model.model.norm.variance_epsilon = 10

    def attention(self, model):
        model.set_attn_implementation("eager")

    def gradients(self, model):
        model.lm_head.weight.requires_grad_(True)

    def activation(self, model):
        mlp = model.model.layers[0].mlp
        mlp.act_fn = type(type(mlp.act_fn).__name__, (torch.nn.GELU,), {})().eval()

    def method(self, model):
        cls = type(model.model.norm)
        cls.forward = lambda self, states: states

    def inherited(self, model):
        type(model.model.layers[0].self_attn).__call__ = lambda self, **kept: (0.0, None)

    def function(self, model):
        home = sys.modules[type(model).__module__]
        home.apply_rotary_pos_emb = lambda q, k, *_, **__: (q, k)

    def every_module(self, model):
        torch.nn.modules.module.register_module_forward_hook(lambda m, i, o: None)

    def dtype(self, model):
        torch.set_default_dtype(torch.float64)

    def grad(self, model):
        torch.set_grad_enabled(False)

    def threads(self, model):
        torch.set_num_threads(torch.get_num_threads() + 1)

    def determinism(self, model):
        torch.set_deterministic_debug_mode("warn")

    def autocast(self, model):
        torch.set_autocast_enabled("cpu", True)
        raise ValueError("and then it breaks")
'''


@pytest.fixture(scope="module")
def resident(thin: str) -> Bench:
    made = Bench(Pair("thin", thin), PLAN)
    # Loaded, whichever test comes first: some count loads.
    _ = made.baseline
    return made


def taken_of(resident: Bench, scenario: Scenario, draw: int = 0) -> Facts:
    if scenario is ITSELF:
        scenario = replace(scenario, subject=resident.pair.baseline)
    return measure(resident.pair, scenario, resident.plan.for_draw(draw), bench=resident).facts


@pytest.fixture
def taken(resident: Bench, install: Installer) -> Any:
    """Measures a scenario with a class of `CODE` as guard ``mine``."""

    def take(cls: str, scenario: Scenario = NOOP, **parameters: Any) -> Facts:
        install("my-guards", CODE, mine=cls)
        resident.plan = replace(PLAN, foreign_guards=(ForeignGuard("mine", parameters),))
        return taken_of(resident, scenario)

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
        ("Skips", "GUARD_RAISED", "validate() raised Skipped: not today"),
        ("SkipsEarly", "GUARD_RAISED", "prepare() raised Skipped: not today"),
        ("Exits", "GUARD_RAISED", "validate() raised SystemExit: enough"),
        ("ExitsWhenMade", "GUARD_RAISED", "making it raised SystemExit: 3"),
        ("Unspeakable", "GUARD_RAISED", "validate() raised Odd"),
        ("OddText", "GUARD_RAISED", "validate() raised ValueError: a"),
        ("Traps", "GUARD_ANSWER", "its answer cannot be read: SystemExit: 0"),
    ],
)
def test_a_guard_without_a_usable_answer_is_an_error_in_either_mode(
    cls: str, code: str, told: str, taken: Any
) -> None:
    facts = taken(cls)
    entry = facts.attested["mine"]
    assert entry["answer"] is None
    assert entry["problem"]["code"] == code
    unprepared = cls in ("RaisesEarly", "NotReady", "Unprepared", "SkipsEarly")
    assert entry["problem"].get("step") == ("prepare" if unprepared else None)
    # The record holds it.
    assert facts.digest.startswith("sha256:")
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


# One state is read around prepare and validate alike: each change is made in one of the two.
@pytest.mark.parametrize(
    ("how", "told", "when", "scenario"),
    [
        ("scales", "a number of a module", "prepare", RTN),
        ("scales", "a number of a module", "validate", ITSELF),
        ("epsilon", "a number of a module", "validate", ITSELF),
        ("activation", "what it computes", "prepare", RTN),
        ("activation", "what it computes", "validate", ITSELF),
        ("attention", "its attention implementation", "prepare", RTN),
        ("gradients", "requires_grad", "validate", ITSELF),
    ],
)
def test_what_else_decides_what_a_model_computes_is_watched_too(
    how: str, told: str, when: str, scenario: Scenario, taken: Any, resident: Bench,
    undisturbed: list[Facts],
) -> None:  # fmt: skip
    if not undisturbed:
        undisturbed.append(taken("Base", RTN))
    _ = resident.baseline
    with pytest.raises(GuardError, match=rf"{when}\(\) changed the model \({told}\)") as caught:
        taken("Alters", scenario, how=how, when=when)
    assert caught.value.code == "GUARD_ALTERED_MODEL"
    # Loaded afresh, it is the model that it was.
    loads = resident.counters.baseline_loads
    facts = taken("Base", scenario)
    assert resident.counters.baseline_loads == loads + 1
    assert facts.noise_floor == undisturbed[0].noise_floor
    assert mine(facts).outcome is not Outcome.ERROR


@pytest.fixture(scope="module")
def undisturbed() -> list[Facts]:
    """The facts that no guard has disturbed, once they were measured."""
    return []


@pytest.mark.parametrize(
    ("how", "told", "when"),
    [
        ("method", "LlamaRMSNorm.forward", "prepare"),
        ("method", "LlamaRMSNorm.forward", "validate"),
        ("inherited", "LlamaAttention.__call__", "validate"),
        ("function", "modeling_llama.apply_rotary_pos_emb", "prepare"),
        ("every_module", "hooks on every module", "validate"),
        ("dtype", "the default dtype", "prepare"),
        ("dtype", "the default dtype", "validate"),
        ("grad", "grad mode", "prepare"),
        ("threads", "the number of threads", "validate"),
        ("determinism", "the determinism mode", "prepare"),
        ("autocast", "autocast", "validate"),
    ],
)
def test_what_a_guard_changes_of_the_process_is_told_and_put_back(
    how: str, told: str, when: str, taken: Any, undisturbed: list[Facts]
) -> None:
    if not undisturbed:
        undisturbed.append(taken("Base", RTN))
    with pytest.raises(GuardError, match=r"changed the process: .*put back") as caught:
        taken("Alters", RTN, how=how, when=when)
    assert told in caught.value.cause
    assert caught.value.code == "GUARD_ALTERED_MODEL"
    assert taken("Base", RTN).digest == undisturbed[0].digest


def test_a_model_whose_bits_do_not_come_out_twice_alike_is_not_accused(
    taken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = itertools.count()
    monkeypatch.setattr(model_watch, "tensor_digest", lambda _: str(next(passes)))
    assert mine(taken("Base")).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("passed", "text", "passed is str"),
        ("action", "array", "action of type ndarray"),
        ("text", "None", "text is NoneType"),
        ("metrics", "number", "metrics is no mapping"),
        ("violations", "dicts", "violations[0].module is not text"),
        ("violations", "number", "violations is no list"),
        ("warnings", "texts", "warnings is no list"),
    ],
)
def test_a_malformed_result_object_is_the_guards_error(
    field: str, value: str, told: str, taken: Any
) -> None:
    check = mine(taken("Result", field=field, value=value))
    assert (check.outcome, check.reason) == (Outcome.ERROR, "guard_answer")
    assert told in check.text


def test_an_interruption_in_a_guard_is_an_interruption(taken: Any, resident: Bench) -> None:
    resident.unedited()
    loads = resident.counters.baseline_loads
    with pytest.raises(KeyboardInterrupt):
        taken("Interrupted")
    assert mine(taken("Base")).outcome is Outcome.PASS
    assert resident.counters.baseline_loads == loads + 1


def test_a_baseline_that_a_guard_made_unreadable_is_loaded_again(
    taken: Any, resident: Bench
) -> None:
    with pytest.raises(GuardError, match="cannot be read any more") as caught:
        taken("Destroys")
    assert caught.value.code == "GUARD_ALTERED_MODEL"
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
    assert check.text == "rollback: compared (attested by my-guards 1.2)"
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
    with resident.checkpoint(resident.pair.baseline) as subject:
        broken = replace(subject, load_failure="a tensor is missing")
        (entry,) = attested_answers(resident, ITSELF, 0, broken, prepared).values()
    assert entry["answer"] is None
    assert entry["problem"] == {
        "code": "NOT_EVALUATED",
        "text": "not evaluated: a tensor is missing",
    }


@pytest.mark.parametrize("fault", ["dtype_change", "missing_tensors"])
def test_a_checkpoint_that_loads_as_something_else_was_not_altered_by_a_guard(
    fault: str, install: Installer, checkpoints: dict[str, Path]
) -> None:
    install("my-guards", CODE, mine="Base")
    # Of two blocks: one is dropped.
    bench = Bench(
        Pair("tiny", str(checkpoints["llama"])),
        replace(PLAN, foreign_guards=(ForeignGuard("mine"),)),
    )
    facts = taken_of(bench, Scenario(fault, edit=EditSpec(fault)))
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


@pytest.fixture
def keeping(resident: Bench, install: Installer) -> Any:
    """Measures scenarios with one class of `CODE`, imported once, which is given with the facts."""

    def take(cls: str, *asked: tuple[Scenario, int]) -> tuple[Any, list[Facts]]:
        install("my-guards", CODE, mine=cls)
        resident.kept_guards.clear()
        resident.plan = replace(PLAN, foreign_guards=(ForeignGuard("mine"),))
        facts = [taken_of(resident, scenario, draw) for scenario, draw in asked]
        return getattr(sys.modules["my_guards"], cls), facts

    return take


def test_a_reusable_guard_is_prepared_once_for_each_draw(keeping: Any) -> None:
    asked = ((NOOP, 0), (RTN, 0), (ITSELF, 0), (NOOP, 1), (RTN, 0))
    kept, of_kept = keeping("Keeps", *asked)
    assert len(kept.prepared) == 2
    answers = [facts.attested["mine"]["answer"]["metrics"] for facts in of_kept]
    assert [answer["me"] for answer in answers] == [0, 0, 0, 1, 0]
    # That it was not prepared anew changes nothing else, what it draws among it.
    assert of_kept[1].digest == of_kept[4].digest
    fresh, of_fresh = keeping("Fresh", *asked[:3])
    assert len(fresh.prepared) == 3
    assert [f.attested["mine"]["answer"]["metrics"]["drawn"] for f in of_fresh] == [
        answer["drawn"] for answer in answers[:3]
    ]


def test_other_windows_are_shown_to_a_reusable_guard_anew(keeping: Any, resident: Bench) -> None:
    kept, _ = keeping("Keeps", (NOOP, 0))
    drawn = resident.windows(0)
    resident.use_windows(0, replace(drawn, calibration=drawn.preview[:1]))
    try:
        measure(resident.pair, NOOP, resident.plan, bench=resident)
    finally:
        resident.use_drawn_windows(0)
    assert len(kept.prepared) == 2
    assert not resident.kept_guards


@pytest.mark.parametrize("raises", [True, False])
def test_where_memory_ran_out_in_the_proof_the_baseline_is_loaded_again(
    raises: bool, resident: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hungry:
        name = "mine"

        def prepare(self, model: Any, *_: Any) -> dict[str, bool]:
            model.lm_head.register_forward_hook(lambda *given: given[-1] * 1.05)
            if raises:
                raise torch.OutOfMemoryError("prepare")
            return {"ready": True}

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("proof")

    monkeypatch.setattr(resident, "guard_source", CallersGuards({"mine": Hungry()}))
    monkeypatch.setattr(foreign_guards._Watch, "prove", full)
    resident.plan = replace(PLAN, foreign_guards=(ForeignGuard("mine"),))
    loads = resident.counters.baseline_loads
    with pytest.raises(torch.OutOfMemoryError):
        foreign_guards.prepare_guards(resident, 0)
    assert not resident.baseline.model.lm_head._forward_hooks
    assert resident.counters.baseline_loads == loads + 1


@pytest.mark.parametrize("wrong", ["prepare()", "validate()", "raises"])
def test_a_reusable_guard_that_went_wrong_is_not_used_again(
    wrong: str, keeping: Any, resident: Bench
) -> None:
    kept, _ = keeping("Keeps", (NOOP, 0))
    if wrong == "prepare()":
        resident.kept_guards.clear()
    kept.wrong = wrong
    if wrong == "raises":
        facts = measure(resident.pair, NOOP, resident.plan, bench=resident).facts
        assert mine(facts).reason == "guard_raised"
    else:
        with pytest.raises(GuardError, match="changed the model") as caught:
            measure(resident.pair, NOOP, resident.plan, bench=resident)
        assert caught.value.code == "GUARD_ALTERED_MODEL"
    before, kept.wrong = len(kept.prepared), None
    facts = measure(resident.pair, NOOP, resident.plan, bench=resident).facts
    assert mine(facts).outcome is Outcome.PASS
    assert len(kept.prepared) == before + 1


@pytest.mark.parametrize("gates", [True, False])
def test_behind_a_gating_abort_nobody_is_asked(
    gates: bool, resident: Bench, install: Installer
) -> None:
    install("my-guards", CODE, stops="Aborts", mine="Base", unready="NotReady")
    guards = (
        ForeignGuard("stops", gates=gates), ForeignGuard("mine", gates=True),
        ForeignGuard("unready"),
    )  # fmt: skip
    resident.plan = replace(PLAN, foreign_guards=guards)
    record = measure(resident.pair, NOOP, resident.plan, bench=resident)
    assert not list(strict_validator()(schema("record")).iter_errors(record.document()))
    facts = record_from_bytes(record.document(), record.array_bytes()).facts
    assert facts.plan["ends_on_abort"] == (["stops", "mine"] if gates else ["mine"])
    assert facts.attested["unready"]["problem"]["code"] == "GUARD_NOT_READY"
    if gates:
        told = {"code": "ABORTED", "text": "not asked: guard stops aborted before"}
        assert facts.attested["mine"]["problem"] == told
        assert (mine(facts).outcome, mine(facts).reason) == (Outcome.ERROR, "aborted")
    else:
        assert mine(facts).outcome is Outcome.PASS
