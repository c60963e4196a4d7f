"""Whether a record's plan asked for what a check rests on: what nobody measured is no defect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.policy.decision_policy import GUARD_OVERHEAD, KNOWN_GUARDS, METRIC_CHECKS
from pytest_invarlock.policy.deploy_limits import DEPLOYABLE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_invarlock.records import Facts

NOT_PLANNED = "not_planned"


def is_planned(name: str, facts: Facts) -> bool:
    """Whether the plan asked for the evidence of check ``name``.

    A plan that does not list its guards counts as one that asked for them all: absent evidence is
    then an error. A deployment is the subject itself, not a guard that could be left out.
    """
    if name in (*METRIC_CHECKS, DEPLOYABLE) or "guards" not in facts.plan:
        return True
    if name in (*KNOWN_GUARDS, GUARD_OVERHEAD):
        return name in facts.plan["guards"]
    return name in facts.plan.get("foreign_guards", {})


def not_planned(name: str, facts: Facts) -> CheckDecision | None:
    """INCONCLUSIVE where the plan did not ask for check ``name``; None where it did.

    Evidence that is there all the same is judged: a plan that does not own up to it hides nothing.
    That the plan of a run asks for everything its policy demands is for the pack's verification to
    say: of one record it cannot be told.
    """
    if is_planned(name, facts) or name in facts.guards or name in facts.attested:
        return None
    return CheckDecision(
        name, Outcome.INCONCLUSIVE, NOT_PLANNED,
        f"INCONCLUSIVE: the policy demands {name}, and the plan did not measure it",
    )  # fmt: skip


def unplanned(demanded: Iterable[str], facts: Facts) -> tuple[str, ...]:
    """Which of the checks that are ``demanded`` the plan did not ask for.

    None where the measurement ended with an error: every check says so.
    """
    if facts.error is not None:
        return ()
    return tuple(name for name in demanded if not is_planned(name, facts))
