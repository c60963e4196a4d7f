"""DD-VE's proposals: which branches, by which scales. They follow from a comparison and the rules.

No model is looked at, so that whoever holds the evidence can derive them again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invarlock_guards.contract import GuardEvidence
    from invarlock_guards.judge.variance_policy import ProposalRules

_KINDS = {"down": ("feed_forward",), "o": ("attention", "cross_attention")}
_MOST = 700.0
_SCOPES = {"ffn": ("ffn",), "attn": ("attn",), "both": ("ffn", "attn")}


def propose(comparison: GuardEvidence, rules: ProposalRules) -> dict[str, Any]:
    """What is proposed for a subject, before anything is tried.

    Args:
        comparison: of its forced branches.
        rules: tap, scope, targets and the sizes of steps.

    Returns:
        The ``rules``, ``n_eligible`` branches, the ``reason`` where nothing is proposed, and
        ``scales`` by module; nothing tried yet (``ab``, ``remediation``: None), with ``ab_reason``.
    """
    rows = eligible(comparison, rules)
    scales = proposed_scales(rows, rules)
    reason = None
    if not rows:
        reason = _why_none(comparison, rules)
    elif not scales:
        reason = "no branch is off by more than the deadband"
    return {
        "rules": rules.proposal_rules(),
        "n_eligible": len(rows),
        "reason": reason,
        "scales": scales,
        "ab": None,
        "ab_reason": reason,
        "remediation": None,
    }


def not_applicable(rules: ProposalRules, reason: str) -> dict[str, Any]:
    """The same where nothing was looked for, and why."""
    return {
        "rules": rules.proposal_rules(),
        "n_eligible": None,
        "reason": reason,
        "scales": {},
        "ab": None,
        "ab_reason": reason,
        "remediation": None,
    }


def eligible(comparison: GuardEvidence, rules: ProposalRules) -> list[Mapping[str, Any]]:
    """The branches that ``rules`` let be rescaled: by tap, scope and, if they say so, edit."""
    kinds = {kind for tap in rules.tap for kind in _KINDS[tap]}
    return [
        row
        for row in comparison["branches"]
        if row["kind"] in kinds
        and row["family"] in _SCOPES[rules.scope]
        and row["log_rms"] is not None
        and (rules.targets == "all" or row["e"] != 0)
    ]


def _why_none(comparison: GuardEvidence, rules: ProposalRules) -> str:
    place = f"output at tap {' and '.join(rules.tap)} in scope {rules.scope}"
    if rules.targets == "all":
        return f"no branch has its {place}"
    if any(row["e"] != 0 for row in comparison["branches"]):
        return f"no edited branch has its {place}"
    return "no branch was edited"


def proposed_scales(rows: Sequence[Mapping[str, Any]], rules: ProposalRules) -> dict[str, float]:
    """The scale of each output module in ``rows`` that is worth one, largest step first."""
    low, high = rules.clamp
    # Bounded, as exp overflows; every clamp lies within.
    raw = {
        row["output"]: min(max(math.exp(min(-row["log_rms"], _MOST)), low), high) for row in rows
    }
    steps = sorted(raw, key=lambda name: -abs(raw[name] - 1))
    least = max(rules.deadband, rules.min_abs_adjust)
    kept = [name for name in steps if abs(raw[name] - 1) >= least]
    if not kept:
        kept = [name for name in steps if abs(raw[name] - 1) >= least / 2][: rules.topk_backstop]
    if rules.max_adjusted_modules:
        kept = kept[: rules.max_adjusted_modules]
    step = rules.max_scale_step
    return {name: min(max(raw[name], 1 - step), 1 + step) for name in kept}
