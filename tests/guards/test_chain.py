"""The chain: one guard that fails fails it, and no step comes out of turn."""

from __future__ import annotations

from typing import Any

import pytest
from invarlock_guards import GuardAnswerError, GuardChain, GuardResult

from pytest_invarlock.core import api


class Recorder:
    """A guard that notes its calls and answers what it was told to."""

    def __init__(self, name: str, calls: list[str], answer: Any, *, ready: Any = True) -> None:
        self.name, self.calls, self.answer, self.ready = name, calls, answer, ready
        self.last: Any = None

    def prepare(self, model: Any, adapter: Any, calib: Any, policy: Any) -> dict[str, Any]:
        self.calls.append(f"{self.name}.prepare({model}, {adapter}, {calib}, {policy})")
        return {"ready": self.ready}

    def before_edit(self, model: Any) -> None:
        self.calls.append(f"{self.name}.before_edit({model})")

    def after_edit(self, model: Any) -> None:
        self.calls.append(f"{self.name}.after_edit({model})")

    def validate(self, model: Any, adapter: Any, context: Any) -> Any:
        self.calls.append(f"{self.name}.validate({model}, {adapter}, {context})")
        return self.answer

    def finalize(self, model: Any) -> Any:
        self.calls.append(f"{self.name}.finalize({model})")
        return self.last


class OnlyValidates:
    name = "bare"

    def validate(self, model: Any, adapter: Any, context: Any) -> dict[str, Any]:
        return {"passed": True, "action": "continue", "message": "fine"}


def answer(passed: bool, action: str) -> dict[str, Any]:
    return {"passed": passed, "action": action, "message": f"{passed} {action}"}


def chain_of(*answers: tuple[bool, str]) -> GuardChain:
    chain = GuardChain([Recorder(f"g{i}", [], answer(*a)) for i, a in enumerate(answers)])
    chain.prepare_all("baseline", None, None)
    return chain


FINE, WARN, UNDO, ABORT = (
    (True, "continue"), (True, "warn"), (False, "rollback"), (False, "abort"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "status", "action", "passed"),
    [
        ([FINE, UNDO, FINE], "failed", "rollback", False),
        ([UNDO, ABORT], "failed", "abort", False),
        ([ABORT, FINE], "failed", "abort", False),
        ([FINE, (False, "continue")], "failed", "continue", False),
        ([WARN, FINE], "warned", "warn", True),
        ([(False, "warn"), FINE], "warned", "warn", True),
        ([FINE, FINE], "passed", "continue", True),
        ([], "not_evaluated", "continue", False),
    ],
)
def test_the_gravest_answer_decides(
    answers: list[tuple[bool, str]], status: str, action: str, passed: bool
) -> None:
    result = chain_of(*answers).validate_all("subject", None)
    assert (result.status, result.action, result.passed) == (status, action, passed)


def test_the_whole_life_of_an_edit_in_order() -> None:
    calls: list[str] = []
    first, second = (Recorder(name, calls, answer(*FINE)) for name in ("a", "b"))
    chain = api.GuardChain([first, second])
    prepared = chain.prepare_all("base", "adapter", "calib", {"b": {"limit": 1}})
    chain.before_edit_all("base")
    chain.after_edit_all("edited")
    chain.validate_all("edited", "adapter", "context")
    result = chain.finalize_all("edited")
    assert prepared == {"a": {"ready": True}, "b": {"ready": True}}
    assert calls == [
        "a.prepare(base, adapter, calib, {})",
        "b.prepare(base, adapter, calib, {'limit': 1})",
        "a.before_edit(base)", "b.before_edit(base)",
        "a.after_edit(edited)", "b.after_edit(edited)",
        "a.validate(edited, adapter, context)", "b.validate(edited, adapter, context)",
        "a.finalize(edited)", "b.finalize(edited)",
    ]  # fmt: skip
    assert [r.guard for r in result.results] == ["a", "b"]
    assert result.of("b").text == "True continue"
    with pytest.raises(KeyError):
        result.of("c")


def test_nobody_is_asked_after_an_abort_and_their_silence_is_no_pass() -> None:
    calls: list[str] = []
    chain = GuardChain(
        [Recorder("stops", calls, answer(*ABORT)), Recorder("later", calls, answer(*FINE))]
    )
    chain.prepare_all("m", None, None)
    result = chain.validate_all("m", None)
    assert not any(call.startswith("later.validate") for call in calls)
    assert (result.of("later").status, result.of("later").passed) == ("not_evaluated", None)


def test_a_guard_that_is_not_ready_is_not_asked_and_does_not_pass() -> None:
    chain = GuardChain([Recorder("g", [], answer(*FINE), ready=False)])
    chain.prepare_all("m", None, None)
    result = chain.validate_all("m", None)
    assert (result.status, result.passed) == ("not_evaluated", False)
    assert "not ready" in result.of("g").text


def test_a_guard_may_have_nothing_but_validate() -> None:
    chain = GuardChain([OnlyValidates()])  # type: ignore[list-item]
    assert chain.prepare_all("m", None, None) == {"bare": {"ready": True}}
    chain.before_edit_all("m")
    chain.after_edit_all("m")
    assert chain.validate_all("m", None).passed
    assert chain.finalize_all("m").passed


def test_who_never_validated_never_passed() -> None:
    chain = chain_of(FINE)
    chain.before_edit_all("m")
    chain.after_edit_all("m")
    result = chain.finalize_all("m")
    assert (result.status, result.passed) == ("not_evaluated", False)


@pytest.mark.parametrize(
    ("validated", "finalized", "stands"),
    [(UNDO, FINE, UNDO), (FINE, UNDO, UNDO), (FINE, WARN, WARN), (UNDO, ABORT, ABORT)],
)
def test_finalize_may_add_a_failure_and_take_none_back(
    validated: tuple[bool, str], finalized: tuple[bool, str], stands: tuple[bool, str]
) -> None:
    guard = Recorder("g", [], answer(*validated))
    guard.last = answer(*finalized)
    chain = GuardChain([guard])
    chain.prepare_all("m", None, None)
    chain.validate_all("m", None)
    result = chain.finalize_all("m").of("g")
    assert (result.passed, result.action) == stands


@pytest.mark.parametrize("why", ["not ready", "not asked", "behind an abort"])
@pytest.mark.parametrize(
    ("finalized", "status"),
    [
        (FINE, "not_evaluated"), (WARN, "not_evaluated"), ((False, "warn"), "not_evaluated"),
        (UNDO, "failed"), ((False, "continue"), "failed"),
    ],
)  # fmt: skip
def test_a_guard_that_gave_no_answer_may_fail_at_the_end_and_not_pass(
    why: str, finalized: tuple[bool, str], status: str
) -> None:
    guard = Recorder("g", [], answer(*FINE), ready=why != "not ready")
    guard.last = answer(*finalized)
    stops = [Recorder("stops", [], answer(*ABORT))] if why == "behind an abort" else []
    chain = GuardChain([*stops, guard])
    chain.prepare_all("m", None, None)
    if why != "not asked":
        chain.validate_all("m", None)
    result = chain.finalize_all("m")
    assert result.of("g").status == status
    assert not result.passed


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        (["validate_all"], "new cannot validate"),
        (["before_edit_all"], "new cannot become before_edit"),
        (["finalize_all"], "new cannot become finalized"),
        (["prepare_all", "after_edit_all"], "prepared cannot become after_edit"),
        (["prepare_all", "prepare_all"], "prepared cannot become prepared"),
        (["prepare_all", "finalize_all", "validate_all"], "finalized cannot validate"),
        (["prepare_all", "finalize_all", "finalize_all"], "finalized cannot become finalized"),
    ],
)
def test_no_step_comes_out_of_turn(steps: list[str], told: str) -> None:
    chain = GuardChain([Recorder("g", [], answer(*FINE))])
    arguments = {"prepare_all": ("m", None, None), "validate_all": ("m", None)}
    for step in steps[:-1]:
        getattr(chain, step)(*arguments.get(step, ("m",)))
    with pytest.raises(RuntimeError, match=told):
        getattr(chain, steps[-1])(*arguments.get(steps[-1], ("m",)))


def test_names_are_distinct_and_answers_well_formed() -> None:
    with pytest.raises(ValueError, match="two guards of the chain are named 'g'"):
        GuardChain([Recorder("g", [], None), Recorder("g", [], None)])
    chain = GuardChain([Recorder("g", [], None)])
    chain.prepare_all("m", None, None)
    with pytest.raises(GuardAnswerError, match="g answered NoneType"):
        chain.validate_all("m", None)
    with pytest.raises(GuardAnswerError, match="g: prepare gave no mapping with ready"):
        GuardChain([Recorder("g", [], None, ready="yes")]).prepare_all("m", None, None)


def test_built_in_guards_go_through_a_chain(tiny_model: Any) -> None:
    from invarlock_guards import InvariantsGuard, SpectralGuard

    model = tiny_model("llama")
    chain = GuardChain([InvariantsGuard(), SpectralGuard()])
    chain.prepare_all(model, None, None)
    assert chain.validate_all(model, None, None).passed
    model.model.layers[0].mlp.up_proj.weight.data.mul_(3.0)
    assert [r.guard for r in chain.validate_all(model, None, None).results if not r.passed] == [
        "spectral"
    ]
    assert isinstance(chain.finalize_all(model).of("spectral"), GuardResult)
