"""Other packages' guards: made afresh for each scenario, shown both models, and watched.

One whose class says ``reusable = True`` is made and prepared once for a pair and draw.

A guard that cannot be made, raises or answers malformed leaves a problem in place of an answer,
which no policy lets pass. One that changes a model ends the measurement: no number beside it could
be trusted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from invarlock_guards.answers import read_prepared
from invarlock_guards.measure.invariants import read_structure
from invarlock_guards.measure.watched_forward import one_window

from pytest_invarlock.bench.baseline_side import vocabulary
from pytest_invarlock.bench.function_state import ProcessState, function_state
from pytest_invarlock.bench.guard_answer import guard_problem, plain_answer, reading
from pytest_invarlock.bench.guard_side import guard_batches
from pytest_invarlock.bench.guard_sources import called, is_reusable
from pytest_invarlock.bench.tensor_digest import tensor_digest, tensor_digests
from pytest_invarlock.core.determinism import seeded
from pytest_invarlock.errors import GuardError
from pytest_invarlock.evidence.strict_json import digest
from pytest_invarlock.path_names import without_absolute_paths

if TYPE_CHECKING:
    from pytest_invarlock.adapters import LoadedModel
    from pytest_invarlock.bench.resident import Bench
    from pytest_invarlock.bench.subject import Subject
    from pytest_invarlock.plan import ForeignGuard, Scenario

MAX_PROBLEM = 300


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PreparedGuard:
    """A guard that has seen the baseline, or why there is none.

    ``step`` is where ``problem`` arose; ``ends`` says that nobody is asked behind its abort;
    ``key`` is what the bench keeps a ``reusable`` one under.
    """

    name: str
    identity: Mapping[str, Any]
    guard: Any = None
    problem: GuardError | None = None
    step: Literal["make", "prepare"] = "make"
    ends: bool = False
    reusable: bool = False
    key: str = ""

    def entry(self, answer: Any = None, problem: GuardError | None = None) -> dict[str, Any]:
        """What the record holds of it: who answered, and the answer or the problem."""
        told = None
        if problem is not None:
            text = without_absolute_paths(" ".join(problem.cause.split()))[:MAX_PROBLEM]
            # An exception may say what no record can hold (a lone surrogate).
            text = text.encode(errors="backslashreplace").decode()
            told = {"code": problem.code, "text": text}
            if problem is self.problem and self.step == "prepare":
                told["step"] = self.step
        return {**self.identity, "answer": answer, "problem": told}


class _Watch:
    """What models are and compute, to be proved after others' code has had them.

    Each model comes with the digests of its tensors and a forward pass's keyword arguments.
    """

    def __init__(
        self, *models: tuple[torch.nn.Module, Mapping[str, str], Mapping[str, Any]]
    ) -> None:
        # First, for a pass may settle what a module keeps between passes.
        self._computed = [_computed_twice(model, inputs) for model, _, inputs in models]
        self._models = models
        self._parts = [
            {"a tensor": digests}
            | {part: read(model) for part, read in _PARTS.items() if part != "a tensor"}
            for model, digests, _ in models
        ]
        self._processes = [ProcessState(model) for model, _, _ in models]

    def prove(self, who: str, step: str) -> None:
        """Raise GuardError (GUARD_ALTERED_MODEL) where anything is not what it was.

        What belongs to the whole process is put back.
        """
        found = {change for process in self._processes for change in process.put_back()}
        if found:
            what = f"the process: {', '.join(sorted(found))} (put back)"
            raise _altered(who, step, what)
        try:
            changed = self._changed()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise _altered(who, step, "the model: it cannot be read any more") from error
        if changed is not None:
            raise _altered(who, step, f"the model ({changed})")

    def _changed(self) -> str | None:
        for (model, _, inputs), parts, computed in zip(
            self._models, self._parts, self._computed, strict=True
        ):
            for part, read in _PARTS.items():
                if read(model) != parts[part]:
                    return part
            if computed is not None and all(_computed(model, inputs) != computed for _ in range(3)):
                return "what it computes"
        return None


def _numbers(model: torch.nn.Module) -> dict[str, str]:
    """Numbers beside the tensors that decide what is computed, such as scales and epsilons."""
    return {
        f"{name}.{key}": repr(value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, float)
    }


def _attention(model: torch.nn.Module) -> dict[str, Any]:
    configs = ((name, getattr(module, "config", None)) for name, module in model.named_modules())
    return {name: getattr(config, "_attn_implementation", None) for name, config in configs}


_PARTS: Mapping[str, Callable[[torch.nn.Module], Any]] = {
    "a tensor": tensor_digests,
    "a hook, a mode, a method or a buffer": function_state,
    "its configuration": lambda model: read_structure(model, None).config,
    "its attention implementation": _attention,
    "a number of a module": _numbers,
    "requires_grad": lambda model: {n: p.requires_grad for n, p in model.named_parameters()},
}


def _computed(model: torch.nn.Module, inputs: Mapping[str, Any]) -> str:
    """A digest of the bits of the model's logits on one window, or why there are none."""

    def forward() -> str:
        # No inference mode: what a module keeps of the pass is then of no use for gradients.
        with torch.no_grad():
            output = model(**inputs)
        return tensor_digest(output.logits if hasattr(output, "logits") else output)

    try:
        return str(called("a forward pass", forward))
    except GuardError as error:
        # A subject of another kind cannot read the baseline's windows: before and after alike.
        return type(error.__cause__).__name__


def _computed_twice(model: torch.nn.Module, inputs: Mapping[str, Any]) -> str | None:
    """`_computed`; None where it does not come out twice alike (relaxed determinism)."""
    once = _computed(model, inputs)
    return once if _computed(model, inputs) == once else None


def _altered(who: str, step: str, what: str) -> GuardError:
    return guard_problem(f"guard {who}: {step} changed {what}", "GUARD_ALTERED_MODEL")


@contextmanager
def _watched(bench: Bench, watch: _Watch, who: str, step: str) -> Iterator[None]:
    """Run others' code, then prove that all is as it was; else the resident is dropped.

    Raises:
        GuardError: ``GUARD_ALTERED_MODEL``.
    """
    try:
        try:
            yield
        except torch.OutOfMemoryError:
            # The models are used again, with smaller batches.
            watch.prove(who, step)
            raise
        watch.prove(who, step)
    except torch.OutOfMemoryError:
        raise
    except BaseException:
        # Interrupted, nothing is proved: the next use loads it afresh.
        bench.drop()
        raise


def prepare_guards(bench: Bench, draw: int) -> tuple[PreparedGuard, ...]:
    """A fresh instance of every guard of the plan, prepared on the unedited baseline.

    Raises:
        GuardError: ``GUARD_ALTERED_MODEL``; then the resident is dropped.
        ConfigError: a guard is not installed.
    """
    if not bench.plan.foreign_guards:
        return ()
    loaded = bench.unedited()
    windows = bench.windows(draw).content_digest()
    watch: _Watch | None = None
    prepared = []
    for guard in bench.plan.foreign_guards:
        identity = bench.guard_source.identity(guard)
        asked = {"name": guard.name, "draw": draw, "windows": windows, "ends": guard.gates}
        key = digest({**asked, **identity})
        one = bench.kept_guards.get(key)
        if one is None:
            watch = watch or _Watch((loaded.model, bench.digests, _window(bench, draw)))
            one = PreparedGuard(guard.name, identity, ends=guard.gates, key=key)
            # What it draws from the generators shifts nothing of what comes after it.
            with (
                seeded(bench.plan.for_draw(draw)),
                _watched(bench, watch, guard.name, "prepare()"),
            ):
                one = _made(one, guard, bench, draw)
            if one.reusable:
                bench.kept_guards[key] = one
        prepared.append(one)
    return tuple(prepared)


def _made(one: PreparedGuard, guard: ForeignGuard, bench: Bench, draw: int) -> PreparedGuard:
    """``one`` with an instance that has seen the baseline, or with what went wrong."""
    try:
        instance = bench.guard_source.make(guard)
        reusable = is_reusable(guard.name, instance)
    except GuardError as error:
        return replace(one, problem=error)
    try:
        _prepare(instance, guard, bench, draw)
    except GuardError as error:
        return replace(one, problem=error, step="prepare")
    return replace(one, guard=instance, reusable=reusable)


def attested_answers(
    bench: Bench,
    scenario: Scenario,
    draw: int,
    subject: Subject,
    prepared: tuple[PreparedGuard, ...],
) -> dict[str, dict[str, Any]]:
    """What every guard answers about ``subject``, as the record holds it.

    Raises:
        GuardError: ``GUARD_ALTERED_MODEL``: one changed the subject, or the baseline beside it.
    """
    if not prepared:
        return {}
    if subject.load_failure is not None:
        unread = guard_problem(f"not evaluated: {subject.load_failure}", "NOT_EVALUATED")
        return {one.name: one.entry(problem=one.problem or unread) for one in prepared}
    model = subject.loaded.model
    # The digests of a damaged checkpoint are its files', not of what they load as.
    digests = subject.digests if subject.in_place else tensor_digests(model)
    window, resident = _window(bench, draw), bench.baseline.model
    if model is resident:
        watch = _Watch((model, digests, window))
    else:
        watch = _Watch(
            (model, digests, _readable(window, subject.loaded)), (resident, bench.digests, window)
        )
    answers: dict[str, dict[str, Any]] = {}
    aborted: str | None = None
    for one in prepared:
        if aborted is not None and one.problem is None:
            silent = guard_problem(f"not asked: guard {aborted} aborted before", "ABORTED")
            answers[one.name] = one.entry(problem=silent)
            continue
        context = {
            "model": bench.pair.name,
            "scenario": scenario.name,
            "draw": draw,
            "edit": copy.deepcopy(subject.edit),
            "calib": _calibration(bench, draw),
        }
        with (
            seeded(bench.plan.for_draw(draw)),
            _watched(bench, watch, one.name, "validate()"),
        ):
            entry = answers[one.name] = _asked(one, model, bench.adapter, context)
        if entry["problem"] is not None:
            # What broke is in no known state.
            bench.kept_guards.pop(one.key, None)
        elif one.ends and entry["answer"]["action"] == "abort":
            aborted = one.name
    return answers


def _asked(
    one: PreparedGuard, model: Any, adapter: Any, context: Mapping[str, Any]
) -> dict[str, Any]:
    """The record's entry of one guard: its answer, or why there is none."""
    if one.problem is not None:
        return one.entry(problem=one.problem)
    try:
        given = called(
            f"guard {one.name}: validate()", lambda: one.guard.validate(model, adapter, context)
        )
        return one.entry(plain_answer(one.name, given))
    except GuardError as error:
        return one.entry(problem=error)


def _prepare(instance: Any, guard: ForeignGuard, bench: Bench, draw: int) -> None:
    prepare = getattr(instance, "prepare", None)
    if prepare is None:
        return
    model, calib = bench.unedited().model, _calibration(bench, draw)
    answer = called(
        f"guard {guard.name}: prepare()",
        lambda: prepare(model, bench.adapter, calib, copy.deepcopy(dict(guard.parameters))),
    )
    ready = reading(guard.name, lambda: read_prepared(guard.name, answer)["ready"])
    if not ready:
        raise guard_problem(f"guard {guard.name} says that it is not ready", "GUARD_NOT_READY")


def _calibration(bench: Bench, draw: int) -> list[dict[str, Any]]:
    """Fresh batches for each guard: one that writes into them spoils no other's."""
    return guard_batches(bench.baseline, bench.windows(draw), bench.plan)


def _window(bench: Bench, draw: int) -> dict[str, Any]:
    """One of the guards' windows, as a forward pass takes it; of the final arm without any."""
    batches = _calibration(bench, draw)
    if batches:
        return one_window(batches[0])
    first = bench.batches(draw, "final")[0]
    return {**first.first_row(), **first.options}


def _readable(window: Mapping[str, Any], loaded: LoadedModel) -> dict[str, Any]:
    """``window`` within a model's vocabulary and context: a device does not survive others."""
    last = vocabulary(loaded.model) - 1
    return {
        name: value[:, : loaded.context].clamp(max=last)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in window.items()
    }
