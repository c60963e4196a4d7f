"""Judge of the variance guard: sizes of branch outputs, and what rescaling them would gain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import stdtrit

from invarlock_guards.contract import GuardResult
from invarlock_guards.judge.branch_judging import (
    beyond,
    branch_counts,
    concluded,
    incomplete,
    largest,
    measured_nothing,
    not_finite,
    shown,
)
from invarlock_guards.judge.kinds import group_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from invarlock_guards.contract import GuardEvidence
    from invarlock_guards.judge.variance_policy import VariancePolicy


def judge_variance(evidence: GuardEvidence, *, kind: str, policy: VariancePolicy) -> GuardResult:
    """Judge the sizes of forced branches' outputs; proposals are reported and decide nothing.

    Args:
        evidence: of `invarlock_guards.measure.variance.measure_variance`.
        kind: the declared kind of change; it chooses the limits.
        policy: the limits.
    """
    group_of(kind)
    nothing = measured_nothing("variance", evidence)
    if nothing is not None:
        return nothing
    norms = [row for row in evidence["branches"] if row["kind"] == "norm"]
    layers = [row for row in evidence["branches"] if row["kind"] != "norm"]
    limit = policy.log_rms.of(kind)
    findings = not_finite(evidence)
    findings += beyond("branch_variance", layers, "l", limit)
    findings += beyond("norm_variance", norms, "l", policy.norm_log_rms)
    metrics = {
        **branch_counts(evidence),
        **largest("log_rms", layers, "l"),
        **largest("norm_log_rms", norms, "l"),
        **proposal_metrics(evidence, policy),
    }
    sound = (
        f"{evidence['n_branches']} branches over {evidence['n_windows']} windows: |ln rms| at most "
        f"{shown(metrics['largest_log_rms'])}, allowed {limit:g}"
    )
    lacking = incomplete(evidence, policy.min_parameter_share)
    return concluded("variance", findings, lacking, metrics, sound)


@dataclass(frozen=True, slots=True)
class Gain:
    """What the proposals gain, in nats per token, with its interval over documents.

    ``upper`` is None for a one-sided interval. ``repairable`` is whether the gain is above the
    least effect with confidence: the damage is one of scale, not of rank; None where the interval
    could not be computed.
    """

    mean: float
    lower: float | None
    upper: float | None
    n_documents: int
    repairable: bool | None


def judge_gain(ab: Mapping[str, Any], policy: VariancePolicy) -> Gain:
    """The gain of an A/B, ``gains`` (summed nats) and ``tokens`` by document, and its interval.

    The mean is weighted by tokens; its standard error is the cluster-robust one of a ratio, over
    documents, with Student's t.
    """
    gains = np.asarray(ab["gains"], dtype=np.float64)
    tokens = np.asarray(ab["tokens"], dtype=np.float64)
    count = len(gains)
    mean = float(gains.sum() / tokens.sum())
    if count < 2:
        return Gain(mean, None, None, count, None)
    residuals = gains - mean * tokens
    error = math.sqrt(count / (count - 1) * float(np.square(residuals).sum())) / float(tokens.sum())
    tail = policy.alpha if policy.predictive_one_sided else policy.alpha / 2
    reach = float(stdtrit(count - 1, 1 - tail)) * error
    lower, upper = mean - reach, mean + reach
    repairable = lower > 0 and mean > 0 and lower >= policy.min_effect_lognll
    return Gain(mean, lower, None if policy.predictive_one_sided else upper, count, repairable)


SCALE = "repairable: a scale alone wins loss back"
NOT_SCALE = "not repairable: no scale wins loss back, as where rank is lost or nothing is"
OPEN = "open: fewer than two documents have no interval"


def proposal_metrics(
    evidence: GuardEvidence, policy: VariancePolicy
) -> dict[str, float | int | str | None]:
    """The seeds' numbers of DD-VE: proposals, targets, and the gain of the A/B.

    Proposals that were made by other rules than the policy's say nothing under it.
    """
    proposals = evidence.get("proposals")
    if proposals is None:
        return {"proposals": "not_measured", "proposals_reason": "no proposal was looked for"}
    other = _other_rules(proposals["rules"], policy)
    if other:
        return {"proposals": "not_measured", "proposals_reason": f"not under this policy: {other}"}
    if not proposals["n_eligible"]:
        return {
            "proposals": "not_applicable",
            "proposals_reason": proposals["reason"],
            **_remediation(proposals["remediation"], policy),
        }
    metrics: dict[str, float | int | str | None] = {
        "proposals": "measured",
        "proposals_reason": proposals["reason"] or proposals["ab_reason"],
        "n_eligible": proposals["n_eligible"],
        "n_proposed": len(proposals["scales"]),
        **_remediation(proposals["remediation"], policy),
    }
    gain = _gain(proposals["ab"], policy)
    if gain is None:
        return metrics
    return metrics | {
        "gain": gain.mean,
        "gain_lower": gain.lower,
        "gain_upper": gain.upper,
        "gain_documents": gain.n_documents,
        "repairable": gain.repairable,
        "reading": {True: SCALE, False: NOT_SCALE, None: OPEN}[gain.repairable],
    }


def _other_rules(measured: Mapping[str, Any], policy: VariancePolicy) -> str:
    """The keys in which the measured rules are not the policy's, with both values."""
    return "; ".join(
        f"{key} {measured.get(key)} was measured, {value} is asked for"
        for key, value in policy.proposal_rules().items()
        if measured.get(key) != value
    )


def _gain(ab: Mapping[str, Any] | None, policy: VariancePolicy) -> Gain | None:
    if ab is None or len({len(ab[key]) for key in ("documents", "gains", "tokens")}) != 1:
        return None
    return judge_gain(ab, policy)


def _remediation(
    stated: Mapping[str, Any] | None, policy: VariancePolicy
) -> dict[str, float | int | str | None]:
    """What the scales did to the loss of the windows the verdict rests on, while they stood."""
    if stated is None:
        return {}
    gain = _gain(stated["ab"], policy)
    if gain is None:
        return {"remediation": "not_applicable", "remediation_reason": stated["reason"]}
    return {
        "remediation": "measured",
        "remediation_gain": gain.mean,
        "remediation_gain_lower": gain.lower,
        "remediation_gain_upper": gain.upper,
    }
