"""Whether the divergence a record states is the one of its own arrays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.records import ArmLosses, Facts

TOLERANCE = 1e-6
"""Statistics and arrays are sums of the same numbers in another order."""


def divergence_contradiction(facts: Facts) -> str | None:
    """What the stated statistics and the arrays disagree on; None where they agree."""
    words = facts.plan["windows"]["convention"] == "lm-eval-word"
    for arm, losses in facts.arms.items():
        stated = facts.divergence.get(arm)
        if (stated is None) is not (losses.kl_nats is None):
            return f"{arm} arm: divergence stands in the arrays or the statistics only"
        if stated is not None:
            found = _disagreement(losses, stated, words=words)
            if found is not None:
                return f"{arm} arm: {found}"
    return None


def _disagreement(losses: ArmLosses, stated: Mapping[str, Any], *, words: bool) -> str | None:
    scored, tokens = int(losses.tokens.sum()), stated.get("n_tokens")
    if tokens is None or (scored > tokens if words else scored != tokens):
        return f"divergence is stated of {tokens} tokens, {scored} were scored"
    if losses.top1_same is not None and not _agree(
        int(losses.top1_same.sum()) / tokens, stated.get("top1_same_share")
    ):
        return "the stated agreement of first choices is not that of the arrays"
    if losses.kl_nats is None:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        mean = float(losses.kl_nats.sum()) / tokens
    if not _agree(mean, stated.get("kl_nats_mean")):
        return "the stated mean divergence is not that of the arrays"
    return None


def _agree(computed: float, stated: Any) -> bool:
    """Whether two numbers agree; one that is not finite is stated as None."""
    if stated is None or not math.isfinite(computed):
        return stated is None and not math.isfinite(computed)
    return math.isclose(computed, stated, rel_tol=TOLERANCE, abs_tol=1e-9)
