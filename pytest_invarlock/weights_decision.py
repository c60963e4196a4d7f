"""What a policy says of two checkpoints by their files alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_invarlock.decide import decide
from pytest_invarlock.decision import Outcome
from pytest_invarlock.policy.edit_names import kind_of
from pytest_invarlock.records import Facts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from invarlock_guards.contract import GuardEvidence

    from pytest_invarlock.bench.resident import Bench
    from pytest_invarlock.decision import CheckDecision, Decision
    from pytest_invarlock.plan import Scenario
    from pytest_invarlock.policy.decision_policy import DecisionPolicy


def decide_weights(
    guards: Mapping[str, GuardEvidence],
    policy: DecisionPolicy,
    *,
    model: str,
    scenario: str,
    kind: str,
) -> Decision:
    """The decision on those checks of ``policy`` that ``guards`` hold evidence for.

    Args:
        guards: evidence by the guard's name.
        policy: with an expectation of ``scenario`` of ``model``.
        model: the pair's name.
        scenario: its scenario's.
        kind: the declared kind of change.
    """
    facts = Facts(
        model=model, scenario=scenario, draw=0, kind=kind, plan={"metric": None}, baseline={},
        subject={}, edit=None, data={}, arms={}, guards=guards,
    )  # fmt: skip
    checks = tuple(name for name in policy.checks if name in guards)
    return decide(facts, replace(policy, checks=checks))


def first_failure(bench: Bench, scenario: Scenario, policy: DecisionPolicy) -> CheckDecision | None:
    """The first check that FAILs by the files of the pair's checkpoints; nothing is loaded.

    Returns:
        None where none does, and where files cannot tell.
    """
    look = None if scenario.subject is None else bench.first_look(scenario.subject)
    if look is None or not set(look.evidence()) & set(policy.checks):
        return None
    decision = decide_weights(
        look.evidence(), policy,
        model=bench.pair.name, scenario=scenario.name, kind=kind_of(scenario),
    )  # fmt: skip
    return next((c for c in decision.checks if c.outcome is Outcome.FAIL), None)
