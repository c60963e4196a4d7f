"""A guard's answer, read strictly: what is malformed is an error and never a pass.

Standard library only. Guards may answer with a `GuardResult` or, as those written for InvarLock do,
with a mapping of ``passed``, ``action``, ``message``, ``metrics``, ``violations``, ``warnings``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from invarlock_guards.contract import Action, GuardResult, Violation

ACTIONS: tuple[Action, ...] = get_args(Action)
"""What a guard may ask for, from the mildest to the gravest."""
UNDOING = ("rollback", "abort")
"""Actions that take an edit back."""
_LISTS = ("violations", "expected_changes", "warnings")


class GuardAnswerError(ValueError):
    """A guard answered something that is no answer; the text names the key that is wrong."""


def read_result(guard: str, answer: object) -> GuardResult:
    """The answer of ``validate`` or ``finalize`` as a `GuardResult` of ``guard``.

    Of a mapping ``passed`` (bool) and ``action`` are required; keys that are not named above carry
    no meaning and are left out. A list of ``warnings`` may hold texts. The fields of a
    `GuardResult` are read as those keys are, but its ``passed`` may be None.

    Raises:
        GuardAnswerError: something is missing, of another kind, or contradicts itself.
    """
    if isinstance(answer, GuardResult):
        return _checked(guard, answer)
    if not isinstance(answer, Mapping):
        raise GuardAnswerError(f"{guard} answered {type(answer).__name__}, not a mapping")
    for key in ("passed", "action"):
        if key not in answer:
            raise GuardAnswerError(f"{guard}: {key} is missing")
    passed, action = answer["passed"], answer["action"]
    if not isinstance(passed, bool):
        raise GuardAnswerError(f"{guard}: passed is {type(passed).__name__}, not true or false")
    _check_verdict(guard, passed, action)
    message = _text(guard, "message", answer.get("message", ""))
    return GuardResult(
        guard=guard,
        passed=passed,
        action=action,
        reason="passed" if passed else "failed",
        text=message or f"{guard} says that it {'passed' if passed else 'failed'}",
        metrics=_mapping(guard, answer, "metrics"),
        violations=_findings(guard, answer, "violations"),
        warnings=_findings(guard, answer, "warnings"),
    )


def read_prepared(guard: str, answer: object) -> dict[str, Any]:
    """The answer of ``prepare``; GuardAnswerError unless it says ``ready``, true or false."""
    if not isinstance(answer, Mapping) or not isinstance(answer.get("ready"), bool):
        raise GuardAnswerError(f"{guard}: prepare gave no mapping with ready true or false")
    return dict(answer)


def _checked(guard: str, given: GuardResult) -> GuardResult:
    passed, action = given.passed, given.action
    if passed is not None and not isinstance(passed, bool):
        raise GuardAnswerError(
            f"{guard}: passed is {type(passed).__name__}, not true, false or None"
        )
    _check_verdict(guard, passed, action)
    fields = {key: getattr(given, key) for key in ("metrics", *_LISTS)}
    return GuardResult(
        guard=guard,
        passed=passed,
        action=action,
        reason=_text(guard, "reason", given.reason),
        text=_text(guard, "text", given.text),
        metrics=_mapping(guard, fields, "metrics"),
        **{key: _findings(guard, fields, key) for key in _LISTS},
    )


def _text(guard: str, key: str, value: object) -> str:
    if not isinstance(value, str):
        raise GuardAnswerError(f"{guard}: {key} is {type(value).__name__}, not text")
    return value


def _check_verdict(guard: str, passed: bool | None, action: object) -> None:
    if not isinstance(action, str) or action not in ACTIONS:
        given = repr(action) if isinstance(action, str) else f"of type {type(action).__name__}"
        raise GuardAnswerError(f"{guard}: action {given} is none of {', '.join(ACTIONS)}")
    if passed and action in UNDOING:
        raise GuardAnswerError(f"{guard}: passed is true, and action is {action}")


def _mapping(guard: str, answer: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = answer.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise GuardAnswerError(f"{guard}: {key} is no mapping of names to values")
    return dict(value)


def _findings(guard: str, answer: Mapping[str, Any], key: str) -> tuple[Violation, ...]:
    value = answer.get(key)
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise GuardAnswerError(f"{guard}: {key} is no list")
    return tuple(_finding(guard, f"{key}[{i}]", key, entry) for i, entry in enumerate(value))


def _finding(guard: str, where: str, key: str, entry: object) -> Violation:
    if isinstance(entry, Violation):
        entry = entry.document()
    if isinstance(entry, str) and key == "warnings":
        return Violation("warning", entry)
    if not isinstance(entry, Mapping):
        raise GuardAnswerError(f"{guard}: {where} is {type(entry).__name__}, not a mapping")
    texts: dict[str, str] = {}
    for name, default in (("kind", key.removesuffix("s")), ("module", "")):
        texts[name] = entry.get(name, default)
        if not isinstance(texts[name], str):
            raise GuardAnswerError(f"{guard}: {where}.{name} is not text")
    family = entry.get("family")
    if not isinstance(family, str | None):
        raise GuardAnswerError(f"{guard}: {where}.family is not text")
    return Violation(
        **texts,
        family=family,
        value=_plain(guard, f"{where}.value", entry.get("value")),
        threshold=_plain(guard, f"{where}.threshold", entry.get("threshold")),
    )


def _plain(guard: str, where: str, value: object) -> str | float | int | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or isinstance(value, str):
        return value
    if not is_number or not math.isfinite(value):  # type: ignore[arg-type]
        raise GuardAnswerError(f"{guard}: {where} is neither text nor a finite number")
    return value  # type: ignore[return-value]
