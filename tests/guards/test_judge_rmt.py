"""The RMT judge: every limit can be broken, and what was not measured never passes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from invarlock_guards.judge.kinds import GROUP_OF
from invarlock_guards.judge.policy_values import GroupLimits
from invarlock_guards.judge.rmt import RMTPolicy, judge_rmt

from pytest_invarlock.evidence.strict_json import canonical

LOOSE = RMTPolicy(edge_of_change_required=False)


def branch(module: str = "layers.0.mlp", **changes: Any) -> dict[str, Any]:
    return {
        "module": module, "kind": "feed_forward", "family": "ffn", "block": 0, "stack": None,
        "norms": [], "output": f"{module}.down", "log_rms": 0.0, "e": 0.0, "l": 0.0, "c": 0.0,
        "n_non_finite": 0, "n_baseline_non_finite": 0,
    } | changes  # fmt: skip


def site(module: str = "layers.0.mlp.down", **changes: Any) -> dict[str, Any]:
    return {
        "module": module, "branch": "layers.0.mlp", "family": "ffn", "role": "down", "fedge": 0.0,
        "n_windows": 8, "n_features": 800, "n_dead_baseline": 0, "n_dead_subject": 0,
        "n_newly_dead": 0, "n_outliers_baseline": 10, "n_outliers_subject": 10, "finite": True,
    } | changes  # fmt: skip


def evidence(branches: Any = None, sites: Any = None, **changes: Any) -> dict[str, Any]:
    branches = [branch()] if branches is None else branches
    return {
        "reason": None, "n_windows": 16, "n_edge_windows": 8, "n_tokens": 2048,
        "n_branches": len(branches), "n_branches_compared": len(branches), "parameter_share": 1.0,
        "left_out": [], "outlier_factor": 1.65, "branches": branches,
        "sites": [site()] if sites is None else sites, "edge_of_change": None, "change_size": {},
    } | changes  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "e", "c"),
    [
        ("cast", 0.083, 0.003),
        ("quantize8", 0.083, 0.003),
        ("quantize4", 0.20, 0.016),
        ("prune", 0.20, 0.016),
        *((kind, 0.40, 0.06) for kind in ("finetune", "merge", "reparametrized", "any")),
    ],
)
@pytest.mark.parametrize("key", ["e", "c"])
def test_each_kind_has_its_limits(kind: str, e: float, c: float, key: str) -> None:
    limit = {"e": e, "c": c}[key]
    at = judge_rmt(evidence([branch(**{key: limit})]), kind=kind, policy=LOOSE)
    assert at.passed is True
    beyond = judge_rmt(evidence([branch(**{key: limit * 1.01})]), kind=kind, policy=LOOSE)
    assert (beyond.passed, beyond.action) == (False, "abort")
    (violation,) = beyond.violations
    assert violation.kind == {"e": "branch_error", "c": "branch_angle"}[key] == beyond.reason
    assert (violation.module, violation.family) == ("layers.0.mlp", "ffn")
    assert (violation.value, violation.threshold) == (limit * 1.01, limit)
    assert "layers.0.mlp" in beyond.text


@pytest.mark.parametrize("sign", [1, -1])
def test_the_edge_is_banded_on_both_sides(sign: int) -> None:
    inside = judge_rmt(evidence(sites=[site(fedge=sign * 0.079)]), kind="any", policy=LOOSE)
    assert inside.passed is True
    assert inside.metrics["largest_feature_edge"] == sign * 0.079
    outside = judge_rmt(evidence(sites=[site(fedge=sign * 0.081)]), kind="any", policy=LOOSE)
    assert outside.passed is False
    assert [(v.kind, v.module) for v in outside.violations] == [
        ("feature_edge", "layers.0.mlp.down")
    ]


@pytest.mark.parametrize("role", ["v", "qkv", "kv", "kv_b"])
def test_the_edge_of_what_a_head_may_turn_is_judged_where_no_turn_is_declared(role: str) -> None:
    turned = evidence(sites=[site(), site("a.v_proj", role=role, fedge=0.09)])
    for kind in ("any", "reparametrized"):
        result = judge_rmt(turned, kind=kind, policy=LOOSE)
        assert (result.passed, result.metrics["largest_feature_edge"]) == (True, 0.0)
    for kind in ("cast", "quantize8", "quantize4", "prune", "finetune", "merge"):
        (violation,) = judge_rmt(turned, kind=kind, policy=LOOSE).violations
        assert (violation.kind, violation.module) == ("feature_edge", "a.v_proj")
    alone = judge_rmt(evidence(sites=[site(role=role)]), kind="any", policy=LOOSE)
    assert (alone.passed, alone.reason) == (None, "edges_left_out")


def test_features_that_stop_varying_are_no_edge_but_fail_by_their_share() -> None:
    few = judge_rmt(evidence(sites=[site(n_newly_dead=40)]), kind="any", policy=LOOSE)
    assert (few.passed, few.metrics["n_newly_dead"]) == (True, 40)
    many = judge_rmt(evidence(sites=[site(n_newly_dead=41, fedge=None)]), kind="any", policy=LOOSE)
    assert many.reason == "dead_features"
    assert many.violations[0].value == pytest.approx(41 / 800)
    strict = RMTPolicy(newly_dead_share=0.0)
    assert judge_rmt(evidence(sites=[site(n_newly_dead=1)]), kind="any", policy=strict).passed is (
        False
    )


@pytest.mark.parametrize("kind", ["cast", "quantize8", "quantize4", "prune"])
def test_a_change_with_structure_contradicts_an_elementwise_kind(kind: str) -> None:
    edges = {"layers.0.mlp.down": 1.2, "layers.0.mlp.up": 1.21, "layers.1.mlp.up": None}
    result = judge_rmt(evidence(edge_of_change=edges), kind=kind, policy=RMTPolicy())
    assert result.passed is False
    assert [(v.kind, v.module, v.value) for v in result.violations] == [
        ("change_contradicts_kind", "layers.0.mlp.up", 1.21)
    ]
    small = judge_rmt(evidence(edge_of_change={"a": 1.20}), kind=kind, policy=RMTPolicy())
    assert small.passed is True


def test_the_structure_of_a_change_of_next_to_nothing_contradicts_no_kind() -> None:
    for size, passed in ((0.00099, True), (0.001, False), (None, False)):
        found = evidence(edge_of_change={"a": 7.0}, change_size={"a": size})
        assert judge_rmt(found, kind="cast", policy=RMTPolicy()).passed is passed
    unsized = evidence(edge_of_change={"a": 7.0})
    assert judge_rmt(unsized, kind="cast", policy=RMTPolicy()).passed is False
    strict = RMTPolicy(edge_change_floor=0.0)
    found = evidence(edge_of_change={"a": 7.0}, change_size={"a": 1e-9})
    assert judge_rmt(found, kind="cast", policy=strict).passed is False


@pytest.mark.parametrize("kind", ["finetune", "merge", "reparametrized", "any"])
def test_other_kinds_may_change_weights_with_structure(kind: str) -> None:
    result = judge_rmt(evidence(edge_of_change={"a": 6.0}), kind=kind, policy=RMTPolicy())
    assert result.passed is True


@pytest.mark.parametrize("kind", ["cast", "prune"])
def test_an_elementwise_kind_that_was_not_checked_does_not_pass(kind: str) -> None:
    result = judge_rmt(evidence(), kind=kind, policy=RMTPolicy())
    assert (result.passed, result.reason) == (None, "edge_of_change_missing")
    # What is seen to be broken fails, whatever else was not measured.
    broken = judge_rmt(evidence([branch(e=0.9)]), kind=kind, policy=RMTPolicy())
    assert broken.passed is False


@pytest.mark.parametrize(
    "empty",
    [
        {},
        evidence([]),
        evidence(n_windows=0),
        evidence([], reason="there are no calibration windows"),
    ],
)
def test_without_windows_or_branches_nothing_is_evaluated(empty: Any) -> None:
    result = judge_rmt(empty, kind="any", policy=LOOSE)
    assert (result.passed, result.reason, result.action) == (None, "not_evaluated", "abort")
    assert (empty.get("reason") or "no branch") in result.text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"n_branches": 2}, "branches_left_out"),
        ({"parameter_share": 0.94, "left_out": ["layers.0.adapter.weight"]}, "coverage"),
        ({"branches": [branch(e=None, l=None, c=None)]}, "branches_left_out"),
        ({"sites": []}, "edges_left_out"),
        ({"sites": [site(fedge=None, n_windows=0)]}, "edges_left_out"),
    ],
)
def test_what_leaves_too_much_out_does_not_pass(changes: dict[str, Any], reason: str) -> None:
    result = judge_rmt(evidence() | changes, kind="any", policy=LOOSE)
    assert (result.passed, result.reason) == (None, reason)
    if reason == "coverage":
        assert "layers.0.adapter.weight" in result.text


def test_a_branch_that_is_not_finite_fails_first_of_all() -> None:
    broken = branch("layers.1.mlp", e=None, l=None, c=None, n_non_finite=3)
    result = judge_rmt(evidence([branch(e=5.0), broken]), kind="any", policy=LOOSE)
    assert result.passed is False
    assert [(v.kind, v.module) for v in result.violations] == [
        ("non_finite_activation", "layers.1.mlp"),
        ("branch_error", "layers.0.mlp"),
    ]
    inside = judge_rmt(evidence(sites=[site(fedge=None, finite=False)]), kind="any", policy=LOOSE)
    assert (inside.passed, inside.violations[0].module) == (False, "layers.0.mlp")


def test_a_site_that_was_dead_in_the_baseline_has_no_edge_to_compare() -> None:
    dead = site(fedge=None, n_windows=0, n_dead_baseline=800, n_dead_subject=800)
    assert judge_rmt(evidence(sites=[dead]), kind="any", policy=LOOSE).passed is True


def test_a_norm_of_its_own_has_no_edge() -> None:
    rows = [branch(), branch("norm", kind="norm", family="other")]
    assert judge_rmt(evidence(rows), kind="any", policy=LOOSE).passed is True


def test_a_baseline_that_is_not_finite_leaves_nothing_to_compare() -> None:
    unknown = dict.fromkeys(("e", "l", "c", "log_rms"))
    rows = [branch(**unknown, n_non_finite=3, n_baseline_non_finite=3)]
    result = judge_rmt(evidence(rows), kind="any", policy=LOOSE)
    assert (result.passed, result.reason) == (None, "baseline_non_finite")
    assert "layers.0.mlp" in result.text


def test_the_worst_comes_first_by_its_multiple_of_the_limit() -> None:
    rows = [branch("a", e=0.5), branch("b", e=0.9), branch("c", c=0.12)]
    result = judge_rmt(evidence(rows, [site("d", fedge=-0.4)]), kind="any", policy=LOOSE)
    assert [v.module for v in result.violations] == ["d", "b", "c", "a"]
    assert "3 more modules" in result.text


def test_the_seeds_outliers_are_reported_and_decide_nothing() -> None:
    sites = [
        site(n_outliers_baseline=10, n_outliers_subject=12),
        site("layers.0.q", family="attn", n_outliers_baseline=100, n_outliers_subject=108),
    ]
    result = judge_rmt(evidence(sites=sites), kind="any", policy=LOOSE)
    assert result.passed is True
    metrics = result.metrics
    assert (metrics["outliers_bare_ffn"], metrics["outliers_guarded_ffn"]) == (10, 12)
    assert (metrics["outliers_delta_ffn"], metrics["epsilon_ffn"]) == (2, 0.10)
    assert metrics["stable"] is False
    within = judge_rmt(evidence(sites=sites[1:]), kind="any", policy=LOOSE)
    assert (within.metrics["stable"], within.metrics["epsilon_attn"]) == (True, 0.08)
    assert "outliers_bare_ffn" not in within.metrics
    assert canonical(dict(metrics))


def test_outliers_beyond_another_edge_are_not_those_of_the_policy() -> None:
    one = evidence(sites=[site(n_outliers_subject=99)])
    assert judge_rmt(one, kind="any", policy=LOOSE).metrics["outliers"] == "measured"
    for policy in (RMTPolicy(margin=1.8), RMTPolicy(deadband=0.0)):
        metrics = judge_rmt(one, kind="any", policy=policy).metrics
        assert (metrics["outliers"], metrics["stable"]) == ("not_measured", None)
        assert f"1.65 of the edge, this policy asks for {policy.outlier_factor:g}" in str(
            metrics["outliers_reason"]
        )
        assert not any(key.startswith(("outliers_bare", "outliers_guarded")) for key in metrics)
    same = judge_rmt(one, kind="any", policy=RMTPolicy(margin=1.65, deadband=0.0)).metrics
    assert (same["outliers"], same["outliers_guarded_ffn"]) == ("measured", 99)


def test_without_an_edge_nothing_is_stable() -> None:
    metrics = judge_rmt(evidence(sites=[]), kind="any", policy=LOOSE).metrics
    assert (metrics["outliers"], metrics["stable"]) == ("not_measured", None)


def test_a_policy_is_read_from_a_file() -> None:
    policy = RMTPolicy.from_mapping(
        {
            "error": {"strict": 0.1, "compression": 0.2, "open": 0.3},
            "angle": 0.05,
            "epsilon_by_family": {"ffn": 0.2},
            "margin": 1.3,
            "deadband": 0.05,
        }
    )
    assert policy.error == GroupLimits(0.1, 0.2, 0.3)
    assert policy.angle == GroupLimits(0.05, 0.05, 0.05)
    assert policy.outlier_factor == pytest.approx(1.365)
    assert RMTPolicy.from_mapping({}) == RMTPolicy()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"eror": 1}, "eror"),
        ({"error": {"strict": 1}}, "error"),
        ({"error": {"strict": 0.1, "compression": 0.2, "open": -1}}, r"error\.open"),
        ({"error": "much"}, "error"),
        ({"angle": 0}, "angle"),
        ({"angle": math.nan}, "angle"),
        ({"feature_edge_band": True}, "feature_edge_band"),
        ({"edge_of_change": math.inf}, "edge_of_change"),
        ({"edge_of_change_required": 1}, "edge_of_change_required"),
        ({"margin": -1}, "margin"),
        ({"margin": 1e300, "deadband": 1e300}, "margin"),
        ({"deadband": -0.1}, "deadband"),
        ({"newly_dead_share": 1.1}, "newly_dead_share"),
        ({"min_parameter_share": -0.1}, "min_parameter_share"),
        ({"epsilon_default": "x"}, "epsilon_default"),
        ({"epsilon_by_family": 0.1}, "epsilon_by_family"),
        ({"epsilon_by_family": {"mlp": 0.1}}, "mlp"),
        ({"epsilon_by_family": {"ffn": -0.1}}, r"epsilon_by_family\.ffn"),
    ],
)
def test_a_policy_names_what_it_cannot_read(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RMTPolicy.from_mapping(values)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lowrank.*finetune"):
        judge_rmt(evidence(), kind="lowrank", policy=LOOSE)
    assert set(GROUP_OF) >= {"any", "cast", "prune"}
