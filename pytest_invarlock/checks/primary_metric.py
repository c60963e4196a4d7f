"""The primary metric: the perplexity ratio with its bounds, or one of its stand-ins."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_invarlock.checks.accuracy import accuracy
from pytest_invarlock.checks.bounds import judge_interval
from pytest_invarlock.checks.completeness import unfit
from pytest_invarlock.checks.floors import documents_short, tokens_short
from pytest_invarlock.checks.loss_sums import loss_sums
from pytest_invarlock.checks.noise import limit_below_noise
from pytest_invarlock.checks.ratio_numbers import (
    exp,
    finite,
    more_documents,
    point_numbers,
    spread_numbers,
)
from pytest_invarlock.checks.same_model import same_model
from pytest_invarlock.checks.sequential import sequential_ratio
from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.errors import DataError
from pytest_invarlock.plan import METRICS
from pytest_invarlock.stats import ratio_bounds

if TYPE_CHECKING:
    from pytest_invarlock.checks.divergence import Numbers
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.policy.metric_limits import MetricLimits
    from pytest_invarlock.records import ArmLosses, Facts
    from pytest_invarlock.stats import RatioBounds

CHECK = "primary_metric"


def primary_metric(facts: Facts, policy: DecisionPolicy) -> CheckDecision:
    """Judge the loss of perplexity, or of accuracy where the plan measured that.

    In order: not whole or not finite; bitwise identical; a limit below the noise floor; then the
    bounds, below them the floors, the catastrophic ratio and the limit. The first that applies
    decides.
    """
    if facts.plan["metric"] not in METRICS:
        return CheckDecision(
            CHECK, Outcome.ERROR, "unknown_metric",
            f"this version does not judge metric {facts.plan['metric']!r}",
        )  # fmt: skip
    broken = unfit(CHECK, facts)
    if broken is not None:
        return broken
    if facts.plan["metric"] == "accuracy":
        return accuracy(facts, policy)
    final, limits = facts.arms["final"], policy.primary_metric
    same = same_model(CHECK, facts)
    if same is not None:
        passed = same.outcome is Outcome.PASS
        return replace(same, numbers=_identical(facts, final, limits)) if passed else same
    below = limit_below_noise(facts, policy)
    if below is not None:
        return below
    if facts.plan.get("sequential") is not None:
        return sequential_ratio(facts, policy)
    return _bounded(facts, policy, final)


def _identical(facts: Facts, final: ArmLosses, limits: MetricLimits) -> Numbers:
    return {
        **point_numbers(facts, final, limits),
        "ratio_upper": 1.0,
        "ratio_lower": 1.0,
        "delta_upper_nats_per_token": 0.0,
        "delta_lower_nats_per_token": 0.0,
        "degenerate": "identical",
    }


def _bounded(facts: Facts, policy: DecisionPolicy, final: ArmLosses) -> CheckDecision:
    limits = policy.primary_metric
    losses = (final.baseline_nll, final.subject_nll, final.tokens, final.documents)
    try:
        bounds = ratio_bounds(
            *losses,
            seed=facts.digest.encode(),
            replicates=limits.bootstrap_replicates,
            alpha=limits.alpha,
            bootstrap_alpha=limits.bootstrap_alpha,
        )
    except DataError as error:
        return CheckDecision(
            CHECK, Outcome.INCONCLUSIVE, error.code.lower(), f"INCONCLUSIVE: {error.cause}"
        )
    spread = spread_numbers(final, loss_sums(final), limits)
    if bounds.degenerate in ("identical", "constant"):
        # What is left between documents is rounding, which correlates with nothing.
        spread |= {"icc": None, "design_effect": None}
    numbers = finite(
        {
            **point_numbers(facts, final, limits),
            **spread,
            "ratio": exp(bounds.delta),
            "delta_nats_per_token": bounds.delta,
            "ratio_upper": bounds.ratio_upper,
            "ratio_lower": bounds.ratio_lower,
            "delta_upper_nats_per_token": bounds.delta_upper,
            "delta_lower_nats_per_token": bounds.delta_lower,
            "standard_error_nats_per_token": bounds.standard_error,
            "bca_lower_ratio": exp(bounds.bca_lower),
            "bca_upper_ratio": exp(bounds.bca_upper),
            "skewness": bounds.skewness,
            "degenerate": bounds.degenerate,
        }
    )
    return _judge(bounds, numbers, facts, policy)


def _judge(
    bounds: RatioBounds, numbers: Numbers, facts: Facts, policy: DecisionPolicy
) -> CheckDecision:
    limits = policy.primary_metric
    interval = (
        f"ratio {bounds.ratio:.4f}, bound {bounds.ratio_upper:.4f}, limit {limits.ratio_limit:g}"
    )
    effective = bounds.effective_documents
    short = documents_short(bounds.n_documents, effective, policy) or tokens_short(facts, policy)
    if short is not None:
        outcome, reason, text = Outcome.INCONCLUSIVE, "below_floor", f"{short}; {interval}"
    elif bounds.ratio > limits.catastrophic_ratio:
        outcome, reason = Outcome.FAIL, "catastrophic_spike"
        text = f"{interval}: beyond {limits.catastrophic_ratio:g} times the baseline's perplexity"
    else:
        outcome, reason = judge_interval(
            bounds.ratio_lower,
            bounds.ratio_upper,
            worst=limits.ratio_limit,
            best=1 / limits.ratio_limit,
            direction=limits.direction,
        )
        text = interval + _explained(reason, bounds, numbers, limits)
    if outcome is Outcome.INCONCLUSIVE:
        text = f"INCONCLUSIVE: {text}"
    return CheckDecision(CHECK, outcome, reason, text, numbers)


def _explained(reason: str, bounds: RatioBounds, numbers: Numbers, limits: MetricLimits) -> str:
    lower = f"lower bound {bounds.ratio_lower:.4f}"
    if reason == "beyond_limit":
        return f": even the {lower} is beyond the limit"
    if reason == "too_much_better":
        return f": even the upper bound is better than {1 / limits.ratio_limit:.4f}"
    both = limits.direction == "equivalence"
    mirrored = f" (equivalence: at least {1 / limits.ratio_limit:.4f})" if both else ""
    if reason == "within_limit":
        return f", {lower}{mirrored}" if both else ""
    return f", {lower}{mirrored}; {more_documents(numbers)}"
