"""What another package's guard answered: taken as it stands, for nobody can derive it again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from invarlock_guards.answers import UNDOING, GuardAnswerError, read_result

from pytest_invarlock.checks.guard_overhead import after_alteration
from pytest_invarlock.decision import CheckDecision, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from invarlock_guards.contract import GuardResult

    from pytest_invarlock.policy.decision_policy import GuardMode
    from pytest_invarlock.records import Facts

IDENTITY = ("distribution", "version", "entry_point", "code", "parameters")
"""What of an attested entry says whose code answered, and with which arguments."""
MAX_TEXT = 300


def attested_check(
    name: str, facts: Facts, mode: GuardMode, *, strict_prepare: bool = True
) -> CheckDecision:
    """The check of guard ``name`` by its own answer: only ``mode`` is applied to it.

    Absent, malformed or contradicting itself it is an ERROR, in either mode. A guard that failed
    and asks only for a warning gets one. Without ``strict_prepare`` one that could not be prepared
    and only monitors is a warning, which says that nothing was evaluated.
    """
    entry = facts.attested.get(name)
    if entry is None:
        return _error(
            name,
            "not_evaluated",
            f"the policy demands {name}, and the record holds no answer of it",
        )
    planned = facts.plan.get("foreign_guards", {}).get(name)
    if planned != {key: entry[key] for key in IDENTITY}:
        return _error(
            name, "contradictory", "the record contradicts itself: another guard was planned"
        )
    altered = after_alteration(name, facts) if entry["problem"] is None else None
    if altered is not None:
        return _error(name, "contradictory", f"the record contradicts itself: {altered}")
    if entry["problem"] is not None:
        if entry["problem"].get("step") == "prepare" and mode == "monitor" and not strict_prepare:
            told = _line(f"not evaluated: {entry['problem']['text']}")
            return CheckDecision(name, Outcome.WARN, "not_prepared", told)
        return _error(name, entry["problem"]["code"].lower(), entry["problem"]["text"])
    try:
        result = read_result(name, entry["answer"])
    except GuardAnswerError as error:
        return _error(name, "guard_answer", str(error))
    return _decided(result, mode, entry)


def _decided(result: GuardResult, mode: GuardMode, entry: Mapping[str, Any]) -> CheckDecision:
    fails = result.passed is False and result.action != "warn"
    if fails and mode != "monitor":
        outcome = Outcome.FAIL
    else:
        outcome = Outcome.WARN if fails or result.action == "warn" else Outcome.PASS
    undone = f"{result.action}: " if outcome is Outcome.FAIL and result.action in UNDOING else ""
    who = " ".join(filter(None, (entry["distribution"], entry["version"])))
    found = (*result.violations, *result.warnings)
    return CheckDecision(
        result.guard,
        outcome,
        "attested",
        f"{undone}{_line(result.text)} (attested by {who or entry['entry_point']})",
        {**_numbers(result.metrics), "action": result.action},
        tuple(violation.document() for violation in found),
    )


def _error(name: str, reason: str, text: str) -> CheckDecision:
    return CheckDecision(name, Outcome.ERROR, reason, _line(text))


def _line(text: str) -> str:
    return " ".join(text.split())[:MAX_TEXT]


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float | int | str | None]:
    """What of a guard's metrics a verdict can state; lists and mappings stay in the record."""
    stated: dict[str, float | int | str | None] = {}
    for key, value in metrics.items():
        if isinstance(value, bool):
            stated[key] = int(value)
        elif isinstance(value, str | int | None) or (
            isinstance(value, float) and math.isfinite(value)
        ):
            stated[key] = value
    return stated
