"""The decision function: facts and policy in, outcomes with reasons out. Pure, without torch.

Items, certificates, the final verdict, `verify` and `regate` all call `decide`; nothing else
compares a number with a threshold. The checks on losses stand in `checks`, those on weights and
structure in `invarlock_guards.judge`; what another package's guard answered is taken as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from invarlock_guards.contract import GuardResult
from invarlock_guards.judge.invariants import judge_invariants
from invarlock_guards.judge.rmt import judge_rmt
from invarlock_guards.judge.spectral import judge_spectral
from invarlock_guards.judge.variance import judge_variance

from pytest_invarlock.checks.attested import attested_check
from pytest_invarlock.checks.completeness import unfit
from pytest_invarlock.checks.deployable import deployable, skipped_reason
from pytest_invarlock.checks.drift import drift_check
from pytest_invarlock.checks.guard_consistency import guard_contradiction
from pytest_invarlock.checks.guard_floor import ACTIVATIONS, below_guard_floor
from pytest_invarlock.checks.guard_overhead import CHECK as OVERHEAD
from pytest_invarlock.checks.guard_overhead import guard_overhead
from pytest_invarlock.checks.planned import NOT_PLANNED, not_planned
from pytest_invarlock.checks.primary_metric import primary_metric
from pytest_invarlock.checks.stated_rescaling import with_remediation
from pytest_invarlock.checks.tail import tail_check
from pytest_invarlock.decision import SAYS_NOTHING, SEVERITY, CheckDecision, Decision, Outcome
from pytest_invarlock.policy.decision_policy import (
    KNOWN_GUARDS,
    NO_SIGN,
    DecisionPolicy,
    Expectation,
    Strictness,
)
from pytest_invarlock.policy.deploy_limits import DEPLOYABLE
from pytest_invarlock.records import Facts

if TYPE_CHECKING:
    from pytest_invarlock.plan import Pool

_CHECKS: Mapping[str, Callable[[Facts, DecisionPolicy], CheckDecision]] = {
    "primary_metric": primary_metric,
    "drift": drift_check,
    "tail": tail_check,
}
_JUDGES: Mapping[str, Callable[..., GuardResult]] = {
    "spectral": judge_spectral,
    "rmt": judge_rmt,
    "variance": judge_variance,
}


def decide(facts: Facts, policy: DecisionPolicy, *, pool: Pool = "certification") -> Decision:
    """Judge one record: every check the policy demands, then the scenario's expectation.

    A record of another ``pool`` than the one asked for is an error in every check: what parameters
    were chosen on is no evidence for them.

    Raises ConfigError where the policy holds no expectation for the facts' scenario.
    """
    expected = policy.expectation(facts.model, facts.scenario)
    names = policy.checks_of(expected)
    skipped = skipped_reason(facts, expected)
    if skipped is not None:
        checks = tuple(CheckDecision(n, Outcome.SKIPPED, "skipped", skipped) for n in names)
    else:
        checks = _judged(
            tuple(_of_other_pool(n, facts, pool) or _check(n, facts, policy) for n in names)
        )
    fired = tuple(check.check for check in checks if check.outcome is Outcome.FAIL)
    if skipped is not None:
        outcome, met, text = Outcome.SKIPPED, False, f"skipped: {skipped}"
    else:
        outcome, met, text = _expectation(expected, checks, fired)
    return Decision(
        model=facts.model,
        scenario=facts.scenario,
        draw=facts.draw,
        category=expected.category,
        strictness=expected.strictness.value,
        checks=checks,
        fired=fired,
        outcome=outcome,
        expectation_met=met,
        text=text,
        # Where nothing was measured there is no number to be compared with another draw's.
        metric=None if facts.error is not None else facts.plan.get("metric"),
        convention=(
            None if facts.error is not None else facts.plan.get("windows", {}).get("convention")
        ),
    )


def _judged(checks: tuple[CheckDecision, ...]) -> tuple[CheckDecision, ...]:
    """``checks``, or errors of them all where none of them judged anything."""
    # What guards did to the models says nothing of the subject.
    if any(c.reason not in SAYS_NOTHING for c in checks if c.check != OVERHEAD):
        return checks
    return tuple(
        replace(
            check,
            outcome=Outcome.ERROR,
            reason="not_evaluated",
            text=f"no check of the policy judged anything: {check.text}",
        )
        for check in checks
    )


def _of_other_pool(name: str, facts: Facts, pool: Pool) -> CheckDecision | None:
    found = facts.plan.get("windows", {}).get("pool", "certification")
    if found == pool:
        return None
    return CheckDecision(
        name, Outcome.ERROR, "other_pool",
        f"the record was measured on the {found} documents, and is judged as of {pool}",
    )  # fmt: skip


def _check(name: str, facts: Facts, policy: DecisionPolicy) -> CheckDecision:
    if facts.error is not None:
        return CheckDecision(
            name, Outcome.ERROR, facts.error.lower(), f"the measurement ended with {facts.error}"
        )
    if name in _CHECKS:
        # Before any check may call itself not applicable: a pass needs evidence.
        broken = unfit(name, facts)
        if broken is not None and broken.outcome is Outcome.ERROR:
            return broken
        return _CHECKS[name](facts, policy)
    unasked = not_planned(name, facts)
    if unasked is not None:
        return unasked
    if name == OVERHEAD:
        return guard_overhead(facts, policy)
    if name == DEPLOYABLE:
        return deployable(facts, policy)
    if name not in KNOWN_GUARDS:
        return attested_check(
            name,
            facts,
            policy.modes.get(name, "gate"),
            strict_prepare=policy.strict_guard_prepare,
        )
    return _guard(name, facts, policy)


def _guard(name: str, facts: Facts, policy: DecisionPolicy) -> CheckDecision:
    evidence = facts.guards.get(name)
    if evidence is None:
        return CheckDecision(
            name, Outcome.ERROR, "not_evaluated",
            f"the policy demands {name}, and the record holds no evidence of it",
        )  # fmt: skip
    if "not_evaluated" in evidence:
        return CheckDecision(
            name, Outcome.ERROR, "not_evaluated", f"not evaluated: {evidence['not_evaluated']}"
        )
    against = guard_contradiction(name, facts)
    if against is not None:
        return CheckDecision(
            name, Outcome.ERROR, "contradictory", f"the record contradicts itself: {against}"
        )
    if name == "invariants":
        if evidence["baseline_non_finite"]:
            return CheckDecision(
                name,
                Outcome.ERROR,
                "baseline_non_finite",
                "the baseline itself holds NaN or infinity",
            )
        return _guard_check(judge_invariants(evidence, kind=facts.kind), policy.modes[name])
    result = _JUDGES[name](evidence, kind=facts.kind, policy=policy.guard_limits(name))
    if result.reason == "canon_unavailable" and not {"rmt", "variance"} <= set(policy.checks):
        return CheckDecision(
            name, Outcome.ERROR, result.reason, f"{result.text}, and the policy asks for neither"
        )
    if policy.modes[name] == "remediate" and result.passed is not None:
        result = replace(result, metrics=with_remediation(result.metrics, evidence, facts))
    check = _guard_check(result, policy.modes[name])
    if name not in ACTIVATIONS or result.passed is None:
        return check
    return below_guard_floor(result, check, facts, policy) or check


def _guard_check(result: GuardResult, mode: str) -> CheckDecision:
    found = (*result.violations, *result.warnings)
    if result.passed is None:
        outcome = Outcome.ERROR
    elif not result.passed:
        outcome = Outcome.WARN if mode == "monitor" else Outcome.FAIL
    else:
        outcome = Outcome.WARN if result.action == "warn" else Outcome.PASS
    return CheckDecision(
        result.guard, outcome, result.reason, result.text,
        {key: _stated(value) for key, value in result.metrics.items()},
        tuple(violation.document() for violation in found),
    )  # fmt: skip


def _stated(value: float | str | None) -> float | str | None:
    """A guard's number as a verdict states it: no truth value, and None where not finite."""
    if isinstance(value, bool):
        return int(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _expectation(
    expected: Expectation, checks: tuple[CheckDecision, ...], fired: tuple[str, ...]
) -> tuple[Outcome, bool, str]:
    """The scenario's outcome, whether it met the expectation, and a sentence."""
    if expected.wants_detection:
        return _detection(expected, checks, fired)
    aborting = _aborting(checks)
    if aborting is not None:
        # Who was not asked behind an abort has made no error.
        checks = tuple(check for check in checks if check.reason != "aborted")
    errors = [check for check in checks if check.outcome is Outcome.ERROR]
    if errors:
        return Outcome.ERROR, False, f"ERROR: {errors[0].text}"
    worst = aborting or _worst(checks)
    if expected.strictness is Strictness.INFORMATIONAL:
        unasked = next((check for check in checks if check.reason == NOT_PLANNED), None)
        if unasked is not None:
            # Measured is enough, and this was not.
            return unasked.outcome, False, unasked.text
        signal = ", ".join(fired) if fired else "nothing"
        return worst.outcome, True, f"informational: {signal} fired"
    return worst.outcome, worst.outcome.acceptable, worst.text


def _aborting(checks: tuple[CheckDecision, ...]) -> CheckDecision | None:
    """The guard of another package, if any, that ended the scenario."""
    for check in checks:
        if check.outcome is Outcome.FAIL and check.numbers.get("action") == "abort":
            return check
    return None


def _detection(
    expected: Expectation, checks: tuple[CheckDecision, ...], fired: tuple[str, ...]
) -> tuple[Outcome, bool, str]:
    any_of = expected.detectors_any or (
        () if expected.detectors_all else tuple(c.check for c in checks if c.check not in NO_SIGN)
    )
    named = [*expected.detectors_all, *any_of]
    altered = next((c for c in checks if c.check == OVERHEAD and c.check in fired), None)
    if altered is not None and OVERHEAD not in named:
        # Whatever else fired may be the guard's own doing.
        return Outcome.ERROR, False, f"ERROR: {altered.text}"
    hit = (
        bool(named)
        and all(name in fired for name in expected.detectors_all)
        and (not any_of or any(name in fired for name in any_of))
    )
    reasons = "; ".join(
        f"{check.check} {check.outcome}: {check.text}" for check in checks if check.check in named
    )
    if hit:
        return Outcome.FAIL, True, f"detected by {', '.join(fired)}: {reasons}"
    relevant = [check for check in checks if check.check in named]
    worst = _worst(tuple(relevant)) if relevant else None
    outcome = worst.outcome if worst is not None else Outcome.ERROR
    return outcome, False, reasons or "no declared detector was evaluated"


def _worst(checks: tuple[CheckDecision, ...]) -> CheckDecision:
    if not checks:
        return CheckDecision("none", Outcome.ERROR, "not_evaluated", "the policy demands no check")
    return max(checks, key=lambda check: SEVERITY.index(check.outcome))
