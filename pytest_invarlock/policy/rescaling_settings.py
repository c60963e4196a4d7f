"""Rescaling proposals as settings: the rules that a policy holds, in the plan that follows them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from invarlock_guards.judge.variance_policy import ProposalRules, VariancePolicy

from pytest_invarlock.plan import MeasurementPlan, RescalingPlan
from pytest_invarlock.policy.guard_limits import guard_policy
from pytest_invarlock.policy.tiers import load_tier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.policy.decision_policy import DecisionPolicy

GUARD = "variance"


def with_rescaling(plan: MeasurementPlan, policy: DecisionPolicy) -> MeasurementPlan:
    """``plan``, which looks for rescalings by the rules, and with the mode, of ``policy``."""
    return replace(plan, rescaling=_rescaling(policy.guards, policy.modes))


def tier_rescaling(tier: str) -> RescalingPlan:
    """The rules and the mode of a tier, by its name or file."""
    loaded = load_tier(tier)
    return _rescaling(loaded.guards, loaded.modes)


def proposal_rules(guards: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The rules of the limits of ``guards``, as plain JSON values."""
    limits = guard_policy(GUARD, guards.get(GUARD, {}))
    if not isinstance(limits, VariancePolicy):
        raise TypeError(f"the limits of {GUARD} are {type(limits).__name__}")
    return limits.proposal_rules()


def _rescaling(guards: Mapping[str, Mapping[str, Any]], modes: Mapping[str, str]) -> RescalingPlan:
    rules = ProposalRules.of(proposal_rules(guards))
    return RescalingPlan(rules, remediate=modes.get(GUARD) == "remediate")
