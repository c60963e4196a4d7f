"""A limit below what two measurements of one model differ by is an error of configuration."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_invarlock.decision import CheckDecision, Outcome

if TYPE_CHECKING:
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.records import Facts

CHECK = "primary_metric"


def noise_floor(facts: Facts) -> float | None:
    """What two measurements of the baseline differ by; None where that was not measured.

    Nats per token: the larger of a repetition at the same and at a second batch size. For metric
    accuracy the share of examples whose prediction changed.
    """
    floor = facts.noise_floor
    if facts.plan["metric"] == "accuracy":
        return floor.get("changed_predictions")
    same, second = (floor.get(f"{size}_batch_nats_per_token") for size in ("same", "second"))
    return None if same is None or second is None else max(float(same), float(second))


def limit_below_noise(facts: Facts, policy: DecisionPolicy) -> CheckDecision | None:
    """The decision where the limit lies below the noise floor, or none was measured; else None."""
    floor = noise_floor(facts)
    if floor is None:
        return CheckDecision(
            CHECK, Outcome.ERROR, "not_evaluated",
            "the record holds no noise floor: how far two measurements of the baseline differ",
        )  # fmt: skip
    if facts.plan["metric"] == "accuracy":
        limit = policy.accuracy.drop_limit_pp
        stated, margin = f"accuracy.drop_limit_pp {limit:g} is", limit / 100
        measured = f"the noise floor of {100 * floor:.3g} percentage points"
        remedy = "a larger accuracy.drop_limit_pp"
    else:
        limit = policy.primary_metric.ratio_limit
        margin = math.log(limit)
        stated = f"primary_metric.ratio_limit {limit:g} is {margin:.3g} nats per token,"
        measured = f"the noise floor of {floor:.3g}"
        remedy = "a larger primary_metric.ratio_limit"
    if margin >= floor:
        return None
    return CheckDecision(
        CHECK, Outcome.ERROR, "margin_below_noise_floor",
        f"configuration error: {stated} below {measured} by which two measurements of the baseline "
        f"differ; use {remedy}, float32, or strict determinism",
        {"limit": limit, "margin": margin, "noise_floor": floor},
    )  # fmt: skip
