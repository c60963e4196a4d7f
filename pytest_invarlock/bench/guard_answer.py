"""Another package's guard's answer in the form that a record keeps: plain JSON, of bounded size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from invarlock_guards.answers import GuardAnswerError, read_result
from invarlock_guards.contract import GuardResult

from pytest_invarlock.errors import EvidenceError, GuardError
from pytest_invarlock.evidence.strict_json import canonical
from pytest_invarlock.registered import one_line

MAX_BYTES = 65536
MAX_DEPTH = 16


INTERRUPTIONS = (KeyboardInterrupt, GeneratorExit, torch.OutOfMemoryError)
"""What no guard is blamed for; out of memory, all is measured again with smaller batches."""


def plain_answer(guard: str, given: Any) -> dict[str, Any]:
    """What ``validate`` gave, verbatim, as plain JSON values.

    Raises:
        GuardError: ``GUARD_ANSWER``: it is malformed, holds what JSON cannot carry (the key is
            named), takes more than `MAX_BYTES`, or raises as it is read.
    """
    kept: dict[str, Any] = reading(guard, lambda: _kept(guard, given))
    return kept


def reading(guard: str, read: Callable[[], Any]) -> Any:
    """What ``read`` makes of an answer of ``guard``; whatever it raises is ``GUARD_ANSWER``."""
    try:
        return read()
    except INTERRUPTIONS:
        raise
    except GuardAnswerError as error:
        raise guard_problem(f"guard {error}", "GUARD_ANSWER") from error
    except BaseException as error:
        if isinstance(error, GuardError) and error.code == "GUARD_ANSWER":
            raise
        # An answer may be any object, and reading it the guard's own code.
        cause = f"guard {guard}: its answer cannot be read: {told(error)}"
        raise guard_problem(cause, "GUARD_ANSWER") from error


def told(error: BaseException) -> str:
    """``error`` in one line, also where it cannot say itself what it is."""
    with suppress(Exception):
        return one_line(error)
    return type(error).__name__


def _kept(guard: str, given: Any) -> Any:
    result = read_result(guard, given)
    answer = _plain(_document(result) if isinstance(given, GuardResult) else given, guard, "", 0)
    try:
        size = len(canonical(answer))
    except EvidenceError as error:
        raise guard_problem(f"guard {guard}: answer: {error.cause}", "GUARD_ANSWER") from error
    if size > MAX_BYTES:
        raise guard_problem(
            f"guard {guard}: its answer takes {size} bytes, at most {MAX_BYTES} are kept",
            "GUARD_ANSWER",
        )
    return answer


def guard_problem(cause: str, code: str) -> GuardError:
    """An error of another package's guard."""
    remedy = "mend the guard's package, or take it out of guards.order"
    return GuardError(cause, remedy=remedy, code=code)


def _document(result: GuardResult) -> dict[str, Any]:
    return {
        "passed": result.passed,
        "action": result.action,
        "message": result.text,
        "metrics": dict(result.metrics),
        "violations": [violation.document() for violation in result.violations],
        "warnings": [violation.document() for violation in result.warnings],
    }


def _plain(value: Any, guard: str, where: str, depth: int) -> Any:
    at = f"guard {guard}: answer{where}"
    if depth > MAX_DEPTH:
        raise guard_problem(f"{at} is nested deeper than {MAX_DEPTH}", "GUARD_ANSWER")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise guard_problem(f"{at} has a key that is {type(key).__name__}", "GUARD_ANSWER")
        return {k: _plain(v, guard, f"{where}.{k}", depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, guard, f"{where}[{i}]", depth + 1) for i, v in enumerate(value)]

    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    told = str(value) if isinstance(value, float) else type(value).__name__
    raise guard_problem(f"{at} is {told}, which JSON cannot carry", "GUARD_ANSWER")
