"""Proposals of the variance guard: who is eligible, by which scale, and why there is none."""

from __future__ import annotations

import math
from typing import Any

import pytest
from invarlock_guards.judge.proposals import eligible, not_applicable, propose, proposed_scales
from invarlock_guards.judge.variance_policy import ProposalRules

NEVER = 1e308
"""Of a step or a clamp: none that a test of something else could meet."""


def row(output: str = "a", log_rms: float | None = 0.5, **changes: Any) -> dict[str, Any]:
    return {
        "output": output, "kind": "feed_forward", "family": "ffn", "log_rms": log_rms, "e": 0.25,
    } | changes  # fmt: skip


def of_scale(output: str, scale: float) -> dict[str, Any]:
    """A branch whose size a rescaling by ``scale`` makes up for."""
    return row(output, -math.log(scale))


def rules(**changes: Any) -> ProposalRules:
    """Rules that keep every scale as it is, but for ``changes``."""
    wide: dict[str, Any] = {
        "deadband": 0.0, "min_abs_adjust": 0.0, "max_scale_step": NEVER, "clamp": (1e-9, NEVER),
        "topk_backstop": 0, "max_adjusted_modules": 0,
    }  # fmt: skip
    return ProposalRules(**wide | changes)


def names(found: Any) -> list[str]:
    return [each["output"] for each in found]


# Who is eligible.

BRANCHES = [
    row("ffn"),
    row("attention", kind="attention", family="attn"),
    row("cross", kind="cross_attention", family="attn"),
    row("norm", kind="norm", family="ffn"),
    row("mixed", kind="feed_forward", family="attn"),
    row("odd", kind="attention", family="ffn"),
    row("other", kind="feed_forward", family="other"),
]


@pytest.mark.parametrize(
    ("tap", "scope", "expected"),
    [
        (("down",), "ffn", ["ffn"]),
        (("down",), "attn", ["mixed"]),
        (("down",), "both", ["ffn", "mixed"]),
        (("o",), "ffn", ["odd"]),
        (("o",), "attn", ["attention", "cross"]),
        (("o",), "both", ["attention", "cross", "odd"]),
        (("down", "o"), "ffn", ["ffn", "odd"]),
        (("down", "o"), "both", ["ffn", "attention", "cross", "mixed", "odd"]),
    ],
)
def test_tap_and_scope_choose_the_branches(tap: Any, scope: str, expected: list[str]) -> None:
    found = eligible({"branches": BRANCHES}, rules(tap=tap, scope=scope))
    assert names(found) == expected


def test_only_edited_branches_are_eligible_unless_all_are_asked_for() -> None:
    of = {"branches": [row("same", e=0), row("whole", e=1), row("part"), row("worse", e=1.5)]}
    assert names(eligible(of, rules())) == ["whole", "part", "worse"]
    assert names(eligible(of, rules(targets="all"))) == ["same", "whole", "part", "worse"]


@pytest.mark.parametrize("targets", ["all", "edited_modules_only"])
def test_a_branch_of_unknown_size_is_not_eligible(targets: str) -> None:
    of = {"branches": [row("unknown", None), row("known", 0.0)]}
    assert names(eligible(of, rules(targets=targets))) == ["known"]


# By which scale.


def test_a_scale_undoes_the_change_of_size() -> None:
    found = proposed_scales([row("larger", math.log(2)), row("smaller", -math.log(2))], rules())
    assert found == {"larger": pytest.approx(0.5), "smaller": pytest.approx(2.0)}
    assert proposed_scales([row(log_rms=0.0)], rules()) == {"a": 1.0}
    assert proposed_scales([], rules()) == {}


def test_the_largest_step_comes_first_whatever_its_sign_is() -> None:
    rows = [of_scale("a", 1.15), of_scale("c", 0.6), of_scale("b", 1.3), of_scale("d", 0.9)]
    assert list(proposed_scales(rows, rules())) == ["c", "b", "a", "d"]


def test_a_scale_is_clamped_and_bounded_before_it_overflows() -> None:
    rows = [of_scale("low", 0.25), of_scale("high", 8), of_scale("within", 1.5)]
    found = proposed_scales(rows, rules(clamp=(0.5, 4.0)))
    assert found == {"high": 4.0, "low": 0.5, "within": pytest.approx(1.5)}
    assert proposed_scales([row(log_rms=-1e9)], rules()) == {"a": math.exp(700)}
    assert proposed_scales([row(log_rms=1e9)], rules()) == {"a": 1e-9}


@pytest.mark.parametrize("clamp", [(0.875, 4.0), (0.25, 1.125)])
@pytest.mark.parametrize("key", ["deadband", "min_abs_adjust"])
def test_a_step_of_the_deadband_is_proposed_and_a_smaller_one_is_not(clamp: Any, key: str) -> None:
    # The clamp makes the step exactly an eighth.
    rows = [row(log_rms=9.0 if clamp[0] == 0.875 else -9.0)]
    assert abs(proposed_scales(rows, rules(clamp=clamp, **{key: 0.125}))["a"] - 1) == 0.125
    assert proposed_scales(rows, rules(clamp=clamp, **{key: 0.126})) == {}


def test_the_larger_of_deadband_and_least_adjustment_holds() -> None:
    rows = [of_scale("a", 1.1)]
    assert proposed_scales(rows, rules(deadband=0.3, min_abs_adjust=0.01)) == {}
    assert proposed_scales(rows, rules(deadband=0.01, min_abs_adjust=0.3)) == {}
    assert list(proposed_scales(rows, rules(deadband=0.09, min_abs_adjust=0.01))) == ["a"]


def test_where_no_step_suffices_the_largest_of_half_as_much_are_taken() -> None:
    rows = [of_scale("c", 1.06), of_scale("a", 0.92), of_scale("b", 1.07)]
    half = {"deadband": 0.125, "clamp": (0.25, 1.0625)}
    assert list(proposed_scales(rows, rules(**half, topk_backstop=3))) == ["a", "b"]
    assert list(proposed_scales(rows, rules(**half, topk_backstop=1))) == ["a"]
    assert proposed_scales(rows, rules(**half)) == {}
    # At exactly a half, and just below it.
    assert proposed_scales(rows[2:], rules(**half, topk_backstop=1)) == {"b": 1.0625}
    assert proposed_scales(rows[:1], rules(**half, topk_backstop=1)) == {}
    # Beside one that suffices, none of half as much.
    both = [of_scale("small", 0.92), of_scale("enough", 0.8)]
    assert list(proposed_scales(both, rules(**half, topk_backstop=2))) == ["enough"]


def test_the_largest_steps_are_kept() -> None:
    rows = [of_scale("b", 1.2), of_scale("c", 1.4), of_scale("a", 1.3)]
    assert list(proposed_scales(rows, rules())) == ["c", "a", "b"]
    assert list(proposed_scales(rows, rules(max_adjusted_modules=1))) == ["c"]
    assert list(proposed_scales(rows, rules(max_adjusted_modules=2))) == ["c", "a"]
    few = {"deadband": 0.5, "topk_backstop": 2, "max_adjusted_modules": 1}
    assert list(proposed_scales(rows, rules(**few))) == ["c"]


def test_a_step_is_limited_on_both_sides_after_the_largest_are_chosen() -> None:
    rows = [of_scale("b", 0.5), of_scale("c", 1.9), of_scale("a", 1.125), of_scale("d", 0.875)]
    found = proposed_scales(rows, rules(max_scale_step=0.25))
    small = {"a": pytest.approx(1.125), "d": pytest.approx(0.875)}
    assert found == {"c": 1.25, "b": 0.75} | small
    assert list(found)[:2] == ["c", "b"]


# What is told.


def test_all_that_is_told_of_proposals() -> None:
    by = ProposalRules(max_adjusted_modules=0)
    of = {"branches": [row("a", 0.01), row("b", 0.025), row("c", -0.3), row("d", 0.3, e=0)]}
    assert propose(of, by) == {
        "rules": by.proposal_rules(), "n_eligible": 3, "reason": None,
        "scales": {"c": 1.03, "b": pytest.approx(math.exp(-0.025))},
        "ab": None, "ab_reason": None, "remediation": None,
    }  # fmt: skip


def test_eligible_branches_that_need_no_scale_are_counted() -> None:
    by = ProposalRules()
    said = "no branch is off by more than the deadband"
    assert propose({"branches": [row("a", 0.001), row("b", 0.0)]}, by) == {
        "rules": by.proposal_rules(), "n_eligible": 2, "reason": said, "scales": {},
        "ab": None, "ab_reason": said, "remediation": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("branches", "changes", "said"),
    [
        ([], {}, "no branch was edited"),
        ([row(e=0)], {}, "no branch was edited"),
        ([row(e=0, family="attn")], {}, "no branch was edited"),
        (
            [row(e=0), row(family="attn", e=1)], {},
            "no edited branch has its output at tap down in scope ffn",
        ),
        (
            [row(kind="norm")], {"tap": ("down", "o"), "scope": "both"},
            "no edited branch has its output at tap down and o in scope both",
        ),
        (
            [row(family="attn", e=0)], {"targets": "all", "tap": ("o",)},
            "no branch has its output at tap o in scope ffn",
        ),
    ],
)  # fmt: skip
def test_where_none_is_eligible_the_reason_is_told(
    branches: Any, changes: dict[str, Any], said: str
) -> None:
    by = ProposalRules(**changes)
    assert propose({"branches": branches}, by) == {
        "rules": by.proposal_rules(), "n_eligible": 0, "reason": said, "scales": {},
        "ab": None, "ab_reason": said, "remediation": None,
    }  # fmt: skip


def test_where_nothing_was_looked_for_nothing_is_counted() -> None:
    by = ProposalRules(scope="both")
    assert not_applicable(by, "no losses") == {
        "rules": by.proposal_rules(), "n_eligible": None, "reason": "no losses", "scales": {},
        "ab": None, "ab_reason": "no losses", "remediation": None,
    }  # fmt: skip


# Rules as they are written.


def test_rules_are_read_as_they_were_written() -> None:
    by = ProposalRules(tap=("down", "o"), scope="both", clamp=(0.5, 2.0), topk_backstop=3)
    written = by.proposal_rules()
    assert written == {
        "tap": ["down", "o"], "scope": "both", "targets": "edited_modules_only", "deadband": 0.02,
        "min_abs_adjust": 0.012, "max_scale_step": 0.03, "clamp": [0.5, 2.0], "topk_backstop": 3,
        "max_adjusted_modules": 1,
    }  # fmt: skip
    assert ProposalRules.of(written | {"remediate": True}) == by
    assert ProposalRules.of({}) == ProposalRules()
