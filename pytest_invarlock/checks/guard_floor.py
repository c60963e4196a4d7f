"""Statistics of activations below the floor of guard windows: neither PASS nor FAIL."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from invarlock_guards.judge.branch_judging import sentence

from pytest_invarlock.checks.floors import guard_windows_short
from pytest_invarlock.decision import CheckDecision, Outcome

if TYPE_CHECKING:
    from invarlock_guards.contract import GuardResult

    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.records import Facts

ACTIVATIONS = ("rmt", "variance")
"""Guards whose statistics rest on windows."""
NEED_NO_WINDOWS = ("non_finite_activation", "change_contradicts_kind")
"""A NaN is one wherever it is seen, and the edge of a change is one of weights."""


def below_guard_floor(
    result: GuardResult, check: CheckDecision, facts: Facts, policy: DecisionPolicy
) -> CheckDecision | None:
    """What stands in place of ``check`` where ``result`` rests on too few windows; None elsewhere.

    What needs no window to be seen fails all the same, and alone. Where the guard only monitors,
    the outcome is WARN.
    """
    short = guard_windows_short(facts, facts.guards[result.guard], policy)
    if short is None:
        return None
    broken = tuple(found for found in result.violations if found.kind in NEED_NO_WINDOWS)
    if broken:
        return replace(
            check,
            reason=broken[0].kind,
            text=f"{sentence(broken)}; all else is not judged: {short}",
            violations=tuple(found.document() for found in broken),
        )
    gates = policy.modes[result.guard] != "monitor"
    return replace(
        check,
        outcome=Outcome.INCONCLUSIVE if gates else Outcome.WARN,
        reason="below_floor",
        text=f"{'INCONCLUSIVE: ' if gates else ''}{short}",
    )
