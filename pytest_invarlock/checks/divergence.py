"""How much the two models' distributions and first choices differ: printed, never gated on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.records import ArmLosses

Numbers = dict[str, float | int | str | None]


def divergence_numbers(arm: ArmLosses, by_token: Mapping[str, Any] | None) -> Numbers:
    """Mean KL(baseline ‖ subject), agreement of first choices and flips; None where not measured.

    ``kl_mean_nats`` is per predicted token; ``top1_agreement`` a share of tokens; a harmful flip
    is a token whose right first choice only the baseline has, a beneficial one the reverse.
    ``by_token`` are the record's statistics of the arm, to be used where windows weigh their words
    and the arrays do not tell the tokens; None elsewhere.
    """
    if by_token is None:
        tokens = int(arm.tokens.sum())
        mean = None if arm.kl_nats is None else math.fsum(arm.kl_nats) / tokens
        same = None if arm.top1_same is None else int(arm.top1_same.sum()) / tokens
    else:
        mean, same = by_token.get("kl_nats_mean"), by_token.get("top1_same_share")
    harmful, beneficial = (
        None if flips is None else int(flips.sum())
        for flips in (arm.top1_harmful, arm.top1_beneficial)
    )
    return {
        "kl_mean_nats": mean if mean is not None and math.isfinite(mean) else None,
        "top1_agreement": same,
        "flips_harmful": harmful,
        "flips_beneficial": beneficial,
        "flips": None if harmful is None or beneficial is None else harmful + beneficial,
    }
