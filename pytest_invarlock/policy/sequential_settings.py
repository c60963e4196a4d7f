"""Sequential mode as a setting: the plan that may stop as soon as the policy's limit is decided."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import MeasurementPlan, SequentialPlan

if TYPE_CHECKING:
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.policy.settings import Settings

# A document has at least one window: with fewer windows the rule could never be met.
LEAST_WINDOWS = 128


def with_sequence(
    plan: MeasurementPlan, policy: DecisionPolicy, settings: Settings
) -> MeasurementPlan:
    """``plan``, allowed to stop early where the setting ``sequential`` is on.

    Raises ConfigError where no sequential rule exists: for accuracy, for equivalence, and for
    fewer windows than the rule's least maximum of documents.
    """
    if not settings.flag("sequential"):
        return plan
    why, remedy = None, "drop --invarlock-sequential"
    if plan.metric == "accuracy":
        why = "accuracy has no sequential rule"
    elif policy.primary_metric.direction == "equivalence":
        why = "sequential mode tests one direction only, and the policy asks for equivalence"
    elif plan.windows.final_windows < LEAST_WINDOWS:
        why = f"sequential mode over {plan.windows.final_windows} windows"
        remedy = f"allow at least {LEAST_WINDOWS} (preview_n, final_n), or {remedy}"
    if why is not None:
        raise ConfigError(why, remedy=remedy, code="SEQUENTIAL")
    limits = policy.primary_metric
    return replace(
        plan, sequential=SequentialPlan(ratio_limit=limits.ratio_limit, alpha=limits.alpha)
    )
