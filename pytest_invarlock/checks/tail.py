"""The tail: harm to few windows or documents, which the primary metric's mean cannot show."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_invarlock.checks.completeness import unfit
from pytest_invarlock.checks.loss_sums import loss_sums
from pytest_invarlock.checks.same_model import same_model
from pytest_invarlock.checks.sequential import tail_rule
from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.errors import DataError
from pytest_invarlock.stats.tail import TailStatistics, document_means, tail

if TYPE_CHECKING:
    from pytest_invarlock.checks.divergence import Numbers
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.policy.metric_limits import TailLimits
    from pytest_invarlock.records import ArmLosses, Facts
    from pytest_invarlock.stats.clusters import FloatArray

CHECK = "tail"


@dataclass(frozen=True, slots=True)
class _Rule:
    """One of the two rules: its unit, what it found, and whether that decides."""

    unit: Literal["windows", "documents"]
    found: TailStatistics
    gates: bool

    def count(self) -> str:
        return f"{self.found.n_above} of {self.found.n} {self.unit}"


def tail_check(facts: Facts, policy: DecisionPolicy) -> CheckDecision:
    """Count the final arm's windows and documents that lost more than the threshold.

    Either rule gates where it has units enough and the mode says so; else it only monitors. In a
    sequential run the documents' rule only monitors, because the sequential rule holds their
    clause; the windows' rule gates there as elsewhere, on all windows measured. A loss that is
    not finite is beyond any threshold: FAIL, as for the primary metric.
    """
    if facts.plan["metric"] == "accuracy":
        return CheckDecision(
            CHECK, Outcome.PASS, "not_applicable",
            "not applicable: an example is right or wrong, its losses have no tail of their own",
        )  # fmt: skip
    broken = unfit(CHECK, facts) or same_model(CHECK, facts)
    if broken is not None:
        return broken
    limits, sequential = policy.tail, facts.plan.get("sequential") is not None
    try:
        windows, documents = _differences(facts.arms["final"])
    except DataError as error:
        return CheckDecision(
            CHECK, Outcome.INCONCLUSIVE, error.code.lower(), f"INCONCLUSIVE: {error.cause}"
        )
    may_gate = limits.mode == "gate"
    by_document = may_gate and not sequential and len(documents) >= limits.min_documents
    rules = (
        _rule("windows", windows, limits, may_gate and len(windows) >= limits.min_windows),
        _rule("documents", documents, limits, by_document),
    )
    outcome, reason, text = _judge(rules, limits)
    if sequential and outcome is Outcome.PASS:
        reason, text = "sequential", f"{text}; the sequential rule decides on harmed documents"
    return CheckDecision(CHECK, outcome, reason, text, _numbers(rules, limits, sequential))


def _differences(arm: ArmLosses) -> tuple[FloatArray, FloatArray]:
    """Loss differences of windows and means of documents, nats per token."""
    # Refuses what no difference can be taken of.
    loss_sums(arm)
    return arm.window_difference, document_means(arm.window_difference, arm.documents)


def _rule(
    unit: Literal["windows", "documents"], differences: FloatArray, limits: TailLimits, gates: bool
) -> _Rule:
    found = tail(
        differences,
        threshold=limits.threshold_nats,
        benign_rate=limits.benign_rate,
        false_alarm=limits.false_alarm,
        harm_rate=limits.harm_rate,
        alpha=limits.alpha,
    )
    return _Rule(unit, found, gates)


def _judge(rules: tuple[_Rule, _Rule], limits: TailLimits) -> tuple[Outcome, str, str]:
    """Outcome, reason and text: a gating rule first, then what only warns."""
    above = f"above {limits.threshold_nats:.3g} nats"
    for rule in rules:
        if rule.gates and rule.found.classification == "fail":
            allowed = rule.found.critical_count - 1
            text = f"{rule.count()} {above}, at most {allowed} may be"
            return Outcome.FAIL, f"harmed_{rule.unit}", text
    for rule in rules:
        if rule.gates and rule.found.classification == "inconclusive":
            return Outcome.INCONCLUSIVE, f"too_few_{rule.unit}", _more(rule, limits, above)
    for rule in rules:
        if rule.found.classification == "fail":
            text = f"{rule.count()} {above}; the rule only monitors here"
            return Outcome.WARN, f"harmed_{rule.unit}", text
    p95 = rules[0].found.p95_nats
    if p95 > limits.quantile_max:
        text = f"95 % quantile of windows {p95:.3f} nats, above {limits.quantile_max:g}"
        return Outcome.WARN, "quantile_above_maximum", text
    counts = f"{rules[0].count()} and {rules[1].count()} {above}"
    if any(rule.gates for rule in rules):
        return Outcome.PASS, "within_limits", counts
    return Outcome.PASS, "monitored", f"{counts}; too few to gate, or only monitored"


def _more(rule: _Rule, limits: TailLimits, above: str) -> str:
    found = rule.found
    more = tail_rule(limits).units_to_pass(found.n_above, found.n) - found.n
    return (
        f"INCONCLUSIVE: {rule.count()} {above}: up to {100 * found.rate_upper:.1f} % may be, "
        f"{100 * limits.harm_rate:g} % must be excluded; {more} {rule.unit} more with no further "
        "harm would decide it"
    )


def _numbers(rules: tuple[_Rule, _Rule], limits: TailLimits, sequential: bool) -> Numbers:
    windows, documents = rules
    numbers: Numbers = {
        "threshold_nats": limits.threshold_nats,
        "harm_rate": limits.harm_rate,
        "quantile_max_nats": limits.quantile_max,
        "p_value": tail_rule(limits).p_value(windows.found.n_above, windows.found.n),
    }
    for rule, name in ((windows, "window"), (documents, "document")):
        found = rule.found
        replaced = "replaced" if sequential and rule is documents else "monitor"
        numbers |= {
            f"{name}_rule": "gate" if rule.gates else replaced,
            f"n_{name}s": found.n,
            f"n_{name}s_above": found.n_above,
            f"{name}_critical_count": found.critical_count,
            f"{name}_rate_upper": found.rate_upper,
            f"{name}_p95_nats": found.p95_nats,
            f"{name}_p99_nats": found.p99_nats,
            f"{name}_worst_mean_nats": found.worst_mean_nats,
        }
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in numbers.items()
    }
