"""The plan that measures what a policy demands: its guards, their rules, its sequence."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_invarlock.policy.decision_policy import GUARD_OVERHEAD, KNOWN_GUARDS
from pytest_invarlock.policy.guard_limits import with_outlier_factor
from pytest_invarlock.policy.plan_settings import build_plan, with_foreign_guards
from pytest_invarlock.policy.rescaling_settings import with_rescaling
from pytest_invarlock.policy.sequential_settings import with_sequence

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pytest_invarlock.plan import MeasurementPlan
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.policy.settings import Settings


def demanded_plan(
    value: Mapping[str, Any],
    settings: Settings,
    folder: Path,
    policy: DecisionPolicy,
    probes: Iterable[str] = (),
) -> MeasurementPlan:
    """The plan of a suite document (or of ``{}``), with the evidence that ``policy`` rests on.

    ``probes`` names guards that a scenario wants a summary of, whether or not they are checks.
    """
    guards = demanded_guards(policy, probes)
    plan = with_sequence(build_plan(value, settings, folder), policy, settings)
    plan = with_foreign_guards(plan, value, settings, folder if value else None)
    # Rules of a guard that is not measured would only tell equal plans apart.
    if "rmt" in guards:
        plan = with_outlier_factor(plan, policy.guards)
    if "variance" in guards:
        plan = with_rescaling(plan, policy)
    return replace(plan, guards=guards)


def demanded_guards(policy: DecisionPolicy, probes: Iterable[str] = ()) -> tuple[str, ...]:
    """The built-in guards whose evidence a check, a detector or a probe needs, in their order."""
    needed = {"invariants", *policy.checks, *probes}
    for expected in policy.expectations.values():
        needed |= {*expected.detectors_any, *expected.detectors_all}
    return tuple(name for name in (*KNOWN_GUARDS, GUARD_OVERHEAD) if name in needed)
