"""Other packages' guards: made afresh for each scenario, shown both models, and watched.

One whose class says ``reusable = True`` is made and prepared once for a pair and draw.

A guard that cannot be made, raises or answers malformed leaves a problem in place of an answer,
which no policy lets pass. So does one that changes a model, and none is asked about a subject that
another has changed; where the plan keeps no account of that, it ends the measurement.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from invarlock_guards.answers import read_prepared

from pytest_invarlock.bench.function_state import ProcessState
from pytest_invarlock.bench.guard_answer import guard_problem, plain_answer, reading
from pytest_invarlock.bench.guard_side import guard_batches
from pytest_invarlock.bench.guard_sources import called, is_reusable
from pytest_invarlock.bench.model_watch import (
    ModelWatch,
    baseline_watch,
    is_demanded,
    subject_watch,
)
from pytest_invarlock.core.determinism import seeded
from pytest_invarlock.errors import GuardError
from pytest_invarlock.evidence.strict_json import digest
from pytest_invarlock.path_names import without_absolute_paths

if TYPE_CHECKING:
    from pytest_invarlock.bench.resident import Bench
    from pytest_invarlock.bench.subject import Subject
    from pytest_invarlock.plan import ForeignGuard, Scenario

MAX_PROBLEM = 300
ALTERED = "GUARD_ALTERED_MODEL"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PreparedGuard:
    """A guard that has seen the baseline, or why there is none.

    ``step`` is where ``problem`` arose; ``ends`` says that nobody is asked behind its abort;
    ``key`` is what the bench keeps a ``reusable`` one under.
    ``turn`` is what the baseline was before and after, as the record holds it, and ``repeatable``
    whether passes of it have the same bits.
    """

    name: str
    identity: Mapping[str, Any]
    guard: Any = None
    problem: GuardError | None = None
    step: Literal["make", "prepare"] = "make"
    ends: bool = False
    reusable: bool = False
    key: str = ""
    turn: Mapping[str, Any] | None = None
    repeatable: bool = True

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
    """What models are and compute, to be proved after others' code has had them."""

    def __init__(self, *models: ModelWatch) -> None:
        self.models = models
        self._processes = [ProcessState(one.model) for one in models]

    def prove(self, who: str, step: str) -> None:
        """Raise GuardError (GUARD_ALTERED_MODEL) where anything is not what it was.

        What belongs to the whole process is put back.
        """
        found = sorted({change for process in self._processes for change in process.put_back()})
        changed = [one.step((who,), found) for one in self.models]
        if found:
            raise _altered(who, step, f"the process: {', '.join(found)} (put back)")
        what = next(filter(None, changed), None)
        if what is not None:
            raise _altered(who, step, f"the model ({what})")


def _altered(who: str, step: str, what: str) -> GuardError:
    return guard_problem(f"guard {who}: {step} changed {what}", ALTERED)


@contextmanager
def _watched(bench: Bench, watch: _Watch, who: str, step: str) -> Iterator[None]:
    """Run others' code, then prove that all is as it was; else the resident is dropped.

    Raises:
        GuardError: ``GUARD_ALTERED_MODEL``.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        # The models are used again, with smaller batches.
        _prove(bench, watch, who, step)
        raise
    except BaseException:
        bench.drop()
        raise
    _prove(bench, watch, who, step)


def _prove(bench: Bench, watch: _Watch, who: str, step: str) -> None:
    try:
        watch.prove(who, step)
    except BaseException:
        # Interrupted or out of memory, nothing is proved: the next use loads it afresh.
        bench.drop()
        raise


def prepare_guards(bench: Bench, draw: int) -> tuple[PreparedGuard, ...]:
    """A fresh instance of every guard of the plan, prepared on the unedited baseline.

    A baseline that one of them changed is dropped, and loaded again for the next.

    Raises:
        GuardError: ``GUARD_ALTERED_MODEL``, where the plan keeps no account of that.
        ConfigError: a guard is not installed.
    """
    if not bench.plan.foreign_guards:
        return ()
    windows = bench.windows(draw).content_digest()
    watch: _Watch | None = None
    prepared: list[PreparedGuard] = []
    for guard in bench.plan.foreign_guards:
        bench.unedited()
        identity = bench.guard_source.identity(guard)
        asked = {"name": guard.name, "draw": draw, "windows": windows, "ends": guard.gates}
        key = digest({**asked, **identity})
        one = bench.kept_guards.get(key)
        if one is None:
            watch = watch or _Watch(baseline_watch(bench, draw))
            one = _prepared(PreparedGuard(guard.name, identity, key=key), guard, bench, draw, watch)
            if one.problem is not None and one.problem.code == ALTERED:
                watch = None
            if one.reusable:
                bench.kept_guards[key] = one
        prepared.append(one)
    return tuple(prepared)


def _prepared(
    new: PreparedGuard, guard: ForeignGuard, bench: Bench, draw: int, watch: _Watch
) -> PreparedGuard:
    """``new`` made and prepared under ``watch``, or with what went wrong."""
    one = replace(new, ends=guard.gates)
    try:
        # What it draws from the generators shifts nothing of what comes after it.
        with seeded(bench.plan.for_draw(draw)), _watched(bench, watch, guard.name, "prepare()"):
            one = _made(one, guard, bench, draw)
    except GuardError as error:
        if not is_demanded(bench.plan):
            raise
        # Without its trace, which would keep the changed model alive.
        one = replace(new, problem=error.with_traceback(None))
    model = watch.models[0]
    return replace(one, turn=model.steps[-1], repeatable=model.repeatable)


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
    watch: ModelWatch | None = None,
) -> dict[str, dict[str, Any]]:
    """What every guard answers about ``subject``, as the record holds it.

    ``watch`` is the subject's, in which their turns are written down beside those of others.

    Raises:
        GuardError: ``GUARD_ALTERED_MODEL``: one changed the subject, or the baseline beside it,
            and no ``watch`` was given.
    """
    if not prepared:
        return {}
    if subject.load_failure is not None:
        return {one.name: _unasked(one, subject.load_failure) for one in prepared}
    watched = _watch_of_both(bench, draw, subject, watch)
    answers: dict[str, dict[str, Any]] = {}
    aborted: str | None = None
    for one in prepared:
        if watch is not None and watch.altered_by is not None:
            answers[one.name] = _unasked(one, f"{watch.altered_by} changed the subject")
            continue
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
        try:
            with (
                seeded(bench.plan.for_draw(draw)),
                _watched(bench, watched, one.name, "validate()"),
            ):
                entry = _asked(one, subject.loaded.model, bench.adapter, context)
        except GuardError as error:
            if watch is None:
                raise
            entry = one.entry(problem=error)
        answers[one.name] = entry
        if entry["problem"] is not None:
            # What broke is in no known state.
            bench.kept_guards.pop(one.key, None)
        elif one.ends and entry["answer"]["action"] == "abort":
            aborted = one.name
    return answers


def _watch_of_both(bench: Bench, draw: int, subject: Subject, watch: ModelWatch | None) -> _Watch:
    """A watch of the subject, and of the baseline where that is another model."""
    if watch is None:
        # The digests of a damaged checkpoint are its files', not of what they load as.
        watch = subject_watch(bench, draw, subject, subject.digests if subject.in_place else None)
    if subject.loaded.model is bench.baseline.model:
        return _Watch(watch)
    beside = baseline_watch(bench, draw, watch.steps)
    watch.repeatable = watch.repeatable and beside.repeatable
    return _Watch(watch, beside)


def _unasked(one: PreparedGuard, why: str) -> dict[str, Any]:
    problem = one.problem or guard_problem(f"not evaluated: {why}", "NOT_EVALUATED")
    return one.entry(problem=problem)


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
