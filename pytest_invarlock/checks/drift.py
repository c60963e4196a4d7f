"""Drift: whether preview and final arm tell the same story; a check on the sampling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_invarlock.checks.completeness import unfit
from pytest_invarlock.checks.loss_sums import loss_sums
from pytest_invarlock.checks.ratio_numbers import exp, finite
from pytest_invarlock.checks.same_model import same_model
from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.errors import DataError
from pytest_invarlock.stats.drift import DriftStatistics, drift

if TYPE_CHECKING:
    from pytest_invarlock.checks.divergence import Numbers
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.policy.metric_limits import DriftLimits
    from pytest_invarlock.records import Facts

CHECK = "drift"


def drift_check(facts: Facts, policy: DecisionPolicy) -> CheckDecision:
    """Test whether the arms' ratios differ by more than the band, sampling error included.

    FAIL at the strict level, WARN at the loose one only. A subject whose loss is not finite
    leaves the arms incomparable: INCONCLUSIVE here, so that the failure is counted once, by the
    checks that judge the subject. Equivalence within the band is printed, never required.
    """
    if facts.plan["metric"] == "accuracy":
        return CheckDecision(
            CHECK, Outcome.PASS, "not_applicable",
            "not applicable: the band is one of perplexity ratios, and accuracy was measured",
        )  # fmt: skip
    broken = unfit(CHECK, facts, non_finite=Outcome.INCONCLUSIVE) or same_model(CHECK, facts)
    if broken is not None:
        return broken
    limits = policy.drift
    try:
        found = drift(
            loss_sums(facts.arms["preview"]),
            loss_sums(facts.arms["final"]),
            band_delta=math.log(limits.band),
            fail_alpha=limits.fail_alpha,
            warn_alpha=limits.warn_alpha,
        )
    except DataError as error:
        return CheckDecision(
            CHECK, Outcome.INCONCLUSIVE, error.code.lower(), f"INCONCLUSIVE: {error.cause}"
        )
    return _judge(found, limits)


def _judge(found: DriftStatistics, limits: DriftLimits) -> CheckDecision:
    ratio = exp(found.delta)
    shown = f"preview ÷ final {ratio:.4f}" if ratio is not None else "preview ÷ final beyond e^700"
    text = (
        f"{shown}, band {limits.band:g}, equivalence "
        f"{'shown' if found.equivalence_shown else 'not shown'}"
    )
    outcome, reason = {
        "fail": (Outcome.FAIL, "beyond_band"),
        "warn": (Outcome.WARN, "perhaps_beyond_band"),
        "pass": (Outcome.PASS, "within_band"),
    }[found.classification]
    if outcome is Outcome.FAIL and limits.mode == "monitor":
        outcome = Outcome.WARN
    return CheckDecision(CHECK, outcome, reason, text, _numbers(found, limits))


def _numbers(found: DriftStatistics, limits: DriftLimits) -> Numbers:
    return finite(
        {
            "ratio_of_ratios": exp(found.delta),
            "band": limits.band,
            "delta_nats_per_token": found.delta,
            "standard_error_nats_per_token": found.standard_error,
            "degrees_of_freedom": found.degrees_of_freedom,
            "excess_fail_nats": found.excess_fail,
            "excess_warn_nats": found.excess_warn,
            "equivalence_shown": "yes" if found.equivalence_shown else "no",
            "p_value": found.p_value,
        }
    )
