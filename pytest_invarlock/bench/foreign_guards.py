"""Other packages' guards: made afresh for each scenario, shown both models, and watched.

A guard that cannot be made, raises or answers malformed leaves a problem in place of an answer,
which no policy lets pass. One that changes a model ends the measurement: no number beside it could
be trusted.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from invarlock_guards.answers import GuardAnswerError, read_prepared
from invarlock_guards.measure.invariants import read_structure

from pytest_invarlock.bench.function_state import function_state
from pytest_invarlock.bench.guard_answer import guard_problem, plain_answer
from pytest_invarlock.bench.guard_side import guard_batches
from pytest_invarlock.bench.guard_sources import called
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.errors import GuardError
from pytest_invarlock.path_names import without_absolute_paths

if TYPE_CHECKING:
    import torch

    from pytest_invarlock.bench.resident import Bench
    from pytest_invarlock.bench.subject import Subject
    from pytest_invarlock.plan import ForeignGuard, Scenario

MAX_PROBLEM = 300


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PreparedGuard:
    """A guard that has seen the baseline, or why there is none."""

    name: str
    identity: Mapping[str, Any]
    guard: Any = None
    problem: GuardError | None = None

    def entry(self, answer: Any = None, problem: GuardError | None = None) -> dict[str, Any]:
        """What the record holds of it: who answered, and the answer or the problem."""
        told = None
        if problem is not None:
            text = without_absolute_paths(" ".join(problem.cause.split()))[:MAX_PROBLEM]
            told = {"code": problem.code, "text": text}
        return {**self.identity, "answer": answer, "problem": told}


@dataclass(slots=True, repr=False)
class _Watch:
    """What a model is, to be proved after others' code has had it."""

    model: torch.nn.Module
    digests: Mapping[str, str]
    state: str = field(init=False)
    config: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.state = function_state(self.model)
        self.config = read_structure(self.model, None).config

    def prove(self, who: str, step: str) -> None:
        """Raise GuardError (GUARD_ALTERED_MODEL) where the model is not what it was."""
        if (
            tensor_digests(self.model) != self.digests
            or function_state(self.model) != self.state
            or read_structure(self.model, None).config != self.config
        ):
            raise guard_problem(f"guard {who}: {step} changed the model", "GUARD_ALTERED_MODEL")


def prepare_guards(bench: Bench, draw: int) -> tuple[PreparedGuard, ...]:
    """A fresh instance of every guard of the plan, prepared on the unedited baseline.

    Raises:
        GuardError: ``GUARD_ALTERED_MODEL``; then the resident is dropped.
        ConfigError: a guard is not installed.
    """
    if not bench.plan.foreign_guards:
        return ()
    loaded = bench.unedited()
    watch = _Watch(loaded.model, bench.digests)
    prepared = []
    for guard in bench.plan.foreign_guards:
        identity = bench.guard_source.identity(guard)
        try:
            instance = bench.guard_source.make(guard)
            _prepare(instance, guard, bench, draw)
        except GuardError as error:
            prepared.append(PreparedGuard(guard.name, identity, problem=error))
        else:
            prepared.append(PreparedGuard(guard.name, identity, instance))
        try:
            watch.prove(guard.name, "prepare()")
        except Exception:
            # Also where it cannot be read any more.
            bench.drop()
            raise
    return tuple(prepared)


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
    watches = [_Watch(model, subject.digests if subject.in_place else tensor_digests(model))]
    if model is not bench.baseline.model:
        watches.append(_Watch(bench.baseline.model, bench.digests))
    answers = {}
    for one in prepared:
        context = {
            "model": bench.pair.name,
            "scenario": scenario.name,
            "draw": draw,
            "edit": copy.deepcopy(subject.edit),
            "calib": _calibration(bench, draw),
        }
        answers[one.name] = _asked(one, model, bench.adapter, context)
        for watch in watches:
            try:
                watch.prove(one.name, "validate()")
            except Exception:
                # An edited resident is undone, proved and dropped by who edited it.
                if watch.model is not model:
                    bench.drop()
                raise
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
    try:
        ready = read_prepared(guard.name, answer)["ready"]
    except GuardAnswerError as error:
        raise guard_problem(f"guard {error}", "GUARD_ANSWER") from error
    if not ready:
        raise guard_problem(f"guard {guard.name} says that it is not ready", "GUARD_NOT_READY")


def _calibration(bench: Bench, draw: int) -> list[dict[str, Any]]:
    """Fresh batches for each guard: one that writes into them spoils no other's."""
    return guard_batches(bench.baseline, bench.windows(draw), bench.plan)
