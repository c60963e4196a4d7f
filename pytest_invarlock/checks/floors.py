"""The least evidence on which PASS or FAIL may rest: of the primary metric, and of activations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.records import Facts

TOKEN_FLOOR_SHARE = 0.8
PREDICTED_SHARE = {"llama.cpp-512": 0.5, "lm-eval-word": 0.5}
"""Of a window's tokens, what a convention scores; words are fewer than tokens."""


def documents_short(n_documents: int, effective: float, policy: DecisionPolicy) -> str | None:
    """Which floor of documents the final arm does not meet; None where it meets both."""
    floors = policy.floors
    if n_documents < floors.documents:
        return f"{n_documents} documents, {floors.documents} are needed"
    if effective < floors.effective_documents:
        return f"{effective:.1f} effective documents, {floors.effective_documents:g} are needed"
    return None


def tokens_short(facts: Facts, policy: DecisionPolicy) -> str | None:
    """Whether both arms together hold fewer tokens than the floor in force."""
    tokens = sum(int(arm.tokens.sum()) for arm in facts.arms.values())
    needed = token_floor(facts, policy)
    if needed is not None and tokens < needed:
        return f"{tokens} tokens, {needed} are needed"
    return None


def token_floor(facts: Facts, policy: DecisionPolicy) -> int | None:
    """The token floor in force: never more than .8 of what the planned windows can hold.

    What they hold depends on the convention, and for masked models is their masked tokens. None
    where the profile only prints the floor; in sequential mode, which replaces it; for accuracy,
    whose floor counts examples; and for encoder-decoder models, whose targets are as long as the
    data makes them.
    """
    if policy.floors.tokens is None or facts.plan.get("sequential") is not None:
        return None
    if facts.plan["metric"] in ("accuracy", "ppl_seq2seq"):
        return None
    windows = facts.plan["windows"]
    planned = windows["preview_windows"] + windows["final_windows"]
    predicted = PREDICTED_SHARE.get(windows["convention"], 1.0)
    if facts.plan["metric"] == "ppl_mlm":
        predicted = facts.plan["mask_probability"]
    reachable: float = TOKEN_FLOOR_SHARE * predicted * planned * (facts.data["seq_len"] - 1)
    return min(policy.floors.tokens, math.floor(reachable))


def guard_windows_short(
    facts: Facts, evidence: Mapping[str, Any], policy: DecisionPolicy
) -> str | None:
    """Whether ``evidence`` of activations rests on fewer windows than the floor in force."""
    used = min(evidence["n_windows"], facts.data.get("n_guard_windows", evidence["n_windows"]))
    needed = guard_window_floor(facts, policy)
    if needed is None or used >= needed:
        return None
    planned = facts.plan["windows"]["guard_windows"]
    return f"{used} of {planned} planned guard windows, {needed} are needed"


def guard_window_floor(facts: Facts, policy: DecisionPolicy) -> int | None:
    """The floor of guard windows in force, of choices in examples.

    None where none was planned, and of the other pools, whose counts are the most that is taken.
    """
    windows = facts.plan.get("windows", {})
    planned: int | None = windows.get("guard_windows")
    if planned is None or windows.get("pool", "certification") != "certification":
        return None
    return math.ceil(policy.floors.guard_window_share * planned)
