"""The perplexity ratio in sequential mode: decided on the documents measured before stopping."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_invarlock.checks.floors import documents_short
from pytest_invarlock.checks.loss_sums import loss_sums
from pytest_invarlock.checks.ratio_numbers import exp, finite, point_numbers, spread_numbers
from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.errors import ConfigError, DataError
from pytest_invarlock.stats.sequential import (
    FIRST_LOOK,
    RHO,
    SequentialRule,
    SequentialStatistics,
    running_bounds,
    sequential,
)
from pytest_invarlock.stats.tail import TailRule, document_means

if TYPE_CHECKING:
    from pytest_invarlock.checks.divergence import Numbers
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.policy.metric_limits import TailLimits
    from pytest_invarlock.records import ArmLosses, Facts
    from pytest_invarlock.stats import DocumentSums
    from pytest_invarlock.stats.clusters import FloatArray

CHECK = "primary_metric"
# Documents measured between two looks: those after the first that decides are fewer.
DOCUMENTS_BETWEEN_LOOKS = 8


def sequential_ratio(facts: Facts, policy: DecisionPolicy) -> CheckDecision:
    """Walk the final arm's documents in the order drawn, at the policy's limit.

    The plan's limit only said when measuring might stop. Under another limit what was measured is
    judged again: a verdict is as valid as before, because the sequence holds at every document,
    and without one more would have to be measured. Replaces floors of windows and tokens; those
    of documents hold, on the documents that the verdict rests on. Documents measured after that
    one add nothing to a PASS but may forbid it.
    """
    if policy.primary_metric.direction == "equivalence":
        return _inconclusive(
            "sequential_one_sided",
            "sequential mode tests one direction only; equivalence needs a fixed number of windows",
        )
    final = facts.arms["final"]
    planned = facts.data.get("n_documents_planned", {}).get("final", 0)
    if planned > facts.plan["windows"]["final_windows"]:
        return CheckDecision(
            CHECK, Outcome.ERROR, "contradictory",
            f"{planned} documents are said to be planned in "
            f"{facts.plan['windows']['final_windows']} windows of the final arm",
        )  # fmt: skip
    if len(np.unique(final.documents)) > planned:
        return CheckDecision(
            CHECK, Outcome.ERROR, "incomplete",
            f"the final arm has more documents than the {planned} that are said to be planned",
        )  # fmt: skip
    try:
        sums = loss_sums(final)
        means = document_means(final.window_difference, final.documents)
        rule = _decisive_rule(facts, policy)
        found = sequential(
            sums,
            document_means=means,
            limit_delta=math.log(policy.primary_metric.ratio_limit),
            rule=rule,
        )
    except DataError as error:
        return _inconclusive(error.code.lower(), error.cause)
    except ConfigError as error:
        few = error.code == "MAXIMUM_DOCUMENTS"
        reason = "sequential_too_few_documents" if few else error.code.lower()
        return _inconclusive(reason, f"{error.cause}; {error.remedy}")
    untimely = _untimely(facts, sums, means)
    return untimely or _judge(facts, policy, sums, means, found, rule)


def tail_rule(limits: TailLimits) -> TailRule:
    """The rule that the policy's tail limits state."""
    return TailRule(**{each.name: getattr(limits, each.name) for each in fields(TailRule)})


def decided_arm(arm: ArmLosses, n_documents: int) -> ArmLosses:
    """The windows of the first ``n_documents`` documents, in the order drawn."""
    kept = np.isin(arm.documents, np.unique(arm.documents)[:n_documents])
    return replace(arm, **{name: array[kept] for name, array in arm.arrays().items()})


def _planned_rule(facts: Facts) -> SequentialRule:
    """The rule by which measuring stopped."""
    planned = facts.plan["sequential"]
    return SequentialRule(
        maximum_documents=facts.data["n_documents_planned"]["final"],
        first_look=planned["first_look"],
        rho=planned["rho"],
        alpha=planned["alpha"],
    )


def _decisive_rule(facts: Facts, policy: DecisionPolicy) -> SequentialRule:
    """The planned rule at the policy's level and tail, the default tuning, no earlier first look.

    A plan says what is measured; how sure a verdict must be is not its business.
    """
    planned = _planned_rule(facts)
    return replace(
        planned,
        first_look=max(planned.first_look, FIRST_LOOK),
        rho=RHO,
        alpha=policy.primary_metric.alpha,
        tail=tail_rule(policy.tail),
    )


def _untimely(facts: Facts, sums: DocumentSums, means: FloatArray) -> CheckDecision | None:
    """ERROR unless measuring stopped in the block in which the plan's own rule decided."""
    limit_delta = math.log(facts.plan["sequential"]["ratio_limit"])
    rule, n = _planned_rule(facts), sums.n_documents
    planned = sequential(sums, document_means=means, limit_delta=limit_delta, rule=rule)
    if planned.classification == "continue":
        return CheckDecision(
            CHECK, Outcome.ERROR, "incomplete",
            f"measuring stopped after {n} of {rule.maximum_documents} documents, "
            "which decided nothing",
        )  # fmt: skip
    if n - planned.n_documents >= DOCUMENTS_BETWEEN_LOOKS:
        return CheckDecision(
            CHECK, Outcome.ERROR, "contradictory",
            f"measuring went on to {n} documents where {planned.n_documents} decided",
        )  # fmt: skip
    return None


def _contradicted(
    sums: DocumentSums, means: FloatArray, found: SequentialStatistics, policy: DecisionPolicy
) -> str:
    """What documents measured after a PASS say against it; empty where nothing does."""
    after = sums.n_documents - found.n_documents
    threshold = policy.tail.threshold_nats
    harmed = int((means[found.n_documents :] > threshold).sum())
    if harmed:
        return (
            f"{harmed} of the {after} documents measured after that lost more than "
            f"{threshold:.3g} nats"
        )
    if after and sums.delta > math.log(policy.primary_metric.ratio_limit):
        return (
            f"with the {after} documents measured after that the ratio is {_shown(exp(sums.delta))}"
        )
    return ""


def _judge(
    facts: Facts,
    policy: DecisionPolicy,
    sums: DocumentSums,
    means: FloatArray,
    found: SequentialStatistics,
    rule: SequentialRule,
) -> CheckDecision:
    limits = policy.primary_metric
    used = replace(
        sums,
        weighted_difference=sums.weighted_difference[: found.n_documents],
        weight=sums.weight[: found.n_documents],
    )
    numbers = _numbers(facts, policy, used, found, rule)
    interval = (
        f"ratio {_shown(exp(used.delta))}, bound {_shown(numbers['ratio_upper'])}, limit "
        f"{limits.ratio_limit:g}, decided after {found.n_documents} of "
        f"{rule.maximum_documents} documents"
    )
    short = documents_short(found.n_documents, used.effective_documents, policy)
    if short is not None:
        return _inconclusive("below_floor", f"{short}; {interval}", numbers)
    if used.delta > math.log(limits.catastrophic_ratio):
        text = f"{interval}: beyond {limits.catastrophic_ratio:g} times the baseline's perplexity"
        return CheckDecision(CHECK, Outcome.FAIL, "catastrophic_spike", text, numbers)
    if found.classification == "pass":
        against = _contradicted(sums, means, found, policy)
        if against:
            return _inconclusive("contradicted_later", f"{interval}; {against}", numbers)
        return CheckDecision(CHECK, Outcome.PASS, "within_limit", interval, numbers)
    if found.classification == "fail":
        return CheckDecision(CHECK, Outcome.FAIL, "beyond_limit", interval, numbers)
    undecided = interval.replace("decided after", "undecided after")
    if found.classification == "inconclusive":
        return _inconclusive("sequence_exhausted", undecided, numbers)
    planned = facts.plan["sequential"]["ratio_limit"]
    return _inconclusive(
        "measured_for_another_limit",
        f"{undecided}: measured only until limit {planned:g} decided",
        numbers,
    )


def _numbers(
    facts: Facts,
    policy: DecisionPolicy,
    used: DocumentSums,
    found: SequentialStatistics,
    rule: SequentialRule,
) -> Numbers:
    final = decided_arm(facts.arms["final"], found.n_documents)
    lower, upper = running_bounds(used, rule)
    return finite(
        {
            **point_numbers(facts, final, policy.primary_metric),
            **spread_numbers(final, used, policy.primary_metric),
            "rule": "sequential",
            "ratio_upper": exp(upper),
            "ratio_lower": exp(lower),
            "delta_upper_nats_per_token": upper,
            "delta_lower_nats_per_token": lower,
            "n_documents_maximum": rule.maximum_documents,
            "n_documents_above_tail": found.n_above,
            "mean_excess_nats_per_document": found.mean_excess,
            "half_width_nats_per_document": found.half_width,
        }
    )


def _shown(value: float | str | None) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "unbounded"


def _inconclusive(reason: str, text: str, numbers: Numbers | None = None) -> CheckDecision:
    return CheckDecision(
        CHECK, Outcome.INCONCLUSIVE, reason, f"INCONCLUSIVE: {text}", numbers or {}
    )
