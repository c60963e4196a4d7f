"""The variance judge: sizes of outputs gate, proposals are reported."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from invarlock_guards.judge.variance import judge_gain, judge_variance
from invarlock_guards.judge.variance_policy import VariancePolicy

from pytest_invarlock.evidence.strict_json import canonical

_RMT = runpy.run_path(str(Path(__file__).with_name("test_judge_rmt.py")))
branch, whole_evidence = _RMT["branch"], _RMT["evidence"]
POLICY = VariancePolicy()


def evidence(branches: Any = None, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = whole_evidence(branches, [], **{"proposals": None} | changes)
    return made


def norm(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = branch("norm", **{"kind": "norm", "family": "other"} | changes)
    return made


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        *((kind, 0.015) for kind in ("cast", "quantize8")),
        *((kind, 0.06) for kind in ("quantize4", "prune", "finetune", "merge", "any")),
    ],
)
def test_each_kind_has_its_limit(kind: str, limit: float) -> None:
    at = judge_variance(evidence([branch(l=limit)]), kind=kind, policy=POLICY)
    assert at.passed is True
    result = judge_variance(evidence([branch(l=limit * 1.01)]), kind=kind, policy=POLICY)
    assert (result.passed, result.reason, result.action) == (False, "branch_variance", "abort")
    assert result.violations[0].threshold == limit


@pytest.mark.parametrize("kind", ["cast", "prune", "any"])
def test_a_norm_of_its_own_has_one_limit_for_all_kinds(kind: str) -> None:
    assert judge_variance(evidence([branch(), norm(l=0.03)]), kind=kind, policy=POLICY).passed
    result = judge_variance(evidence([branch(), norm(l=0.031)]), kind=kind, policy=POLICY)
    assert (result.passed, result.reason) == (False, "norm_variance")
    assert result.violations[0].module == "norm"
    assert result.metrics["largest_norm_log_rms"] == 0.031


def test_the_worst_branch_comes_first() -> None:
    rows = [branch("a", l=0.1), branch("b", l=0.2), norm(l=0.3)]
    result = judge_variance(evidence(rows), kind="any", policy=POLICY)
    assert [v.module for v in result.violations] == ["norm", "b", "a"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"n_windows": 0}, "not_evaluated"),
        ({"n_branches_compared": 0}, "not_evaluated"),
        ({"n_branches": 9}, "branches_left_out"),
        ({"parameter_share": 0.5}, "coverage"),
    ],
)
def test_what_was_not_measured_does_not_pass(changes: dict[str, Any], reason: str) -> None:
    result = judge_variance(evidence(**changes), kind="any", policy=POLICY)
    assert (result.passed, result.reason) == (None, reason)
    assert judge_variance({}, kind="any", policy=POLICY).passed is None


def test_numbers_that_are_not_finite_fail() -> None:
    rows = [branch(l=None, e=None, c=None, n_non_finite=1)]
    result = judge_variance(evidence(rows), kind="any", policy=POLICY)
    assert (result.passed, result.reason) == (False, "non_finite_activation")


GAINS = {
    "documents": [0, 1, 2, 3], "gains": [1.0, 1.2, 0.8, 1.1], "tokens": [100.0] * 4,
}  # fmt: skip


def proposals(ab: Any = GAINS, **changes: Any) -> dict[str, Any]:
    return {
        "rules": POLICY.proposal_rules(), "n_eligible": 2, "reason": None,
        "scales": {"layers.0.mlp.down": 0.97}, "ab": ab, "ab_reason": None, "remediation": None,
    } | changes  # fmt: skip


def test_proposals_are_reported_and_decide_nothing() -> None:
    result = judge_variance(evidence(proposals=proposals()), kind="any", policy=POLICY)
    assert result.passed is True
    assert result.metrics["gain"] == pytest.approx(0.01025)
    assert result.metrics["gain_lower"] == pytest.approx(0.0082, abs=2e-4)
    assert (result.metrics["repairable"], result.metrics["n_proposed"]) == (True, 1)
    assert canonical(dict(result.metrics))
    assert result.metrics["reading"].startswith("repairable: ")
    harmful = proposals({"documents": [0, 1], "gains": [-1.0, -2.0], "tokens": [10.0, 10.0]})
    result = judge_variance(evidence(proposals=harmful), kind="any", policy=POLICY)
    assert (result.passed, result.metrics["repairable"]) == (True, False)
    assert result.metrics["reading"].startswith("not repairable: ")


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"tap": ("o",), "scope": "attn"}, "tap ['down'] was measured, ['o'] is asked for; scope"),
        ({"max_adjusted_modules": 0}, "max_adjusted_modules 1 was measured, 0 is asked for"),
        ({"clamp": (0.5, 2.0)}, "clamp [0.85, 1.12] was measured, [0.5, 2.0] is asked for"),
    ],
)
def test_proposals_by_other_rules_say_nothing_under_a_policy(
    rules: dict[str, Any], said: str
) -> None:
    made = evidence(proposals=proposals())
    before = judge_variance(made, kind="any", policy=POLICY)
    result = judge_variance(made, kind="any", policy=VariancePolicy(**rules))
    assert result.metrics["proposals"] == "not_measured"
    assert str(result.metrics["proposals_reason"]).startswith(f"not under this policy: {said}")
    assert not {"gain", "repairable", "n_proposed"} & set(result.metrics)
    assert (result.passed, result.text) == (before.passed, before.text)


@pytest.mark.parametrize(
    ("limits", "bounds", "repairable"),
    [
        ({}, (True, False), True),
        ({"predictive_one_sided": False}, (True, True), True),
        ({"min_effect_lognll": 0.008}, (True, False), True),
        ({"min_effect_lognll": 0.008, "predictive_one_sided": False}, (True, True), False),
        ({"min_effect_lognll": 0.02}, (True, False), False),
    ],
)
def test_sidedness_and_least_effect_are_the_policys(
    limits: dict[str, Any], bounds: tuple[bool, bool], repairable: bool
) -> None:
    made = evidence(proposals=proposals())
    metrics = judge_variance(made, kind="any", policy=VariancePolicy(**limits)).metrics
    assert (metrics["gain_lower"] is not None, metrics["gain_upper"] is not None) == bounds
    assert metrics["repairable"] is repairable


def test_a_remediation_is_reported_beside() -> None:
    done = {"tensors": {}, "ab": GAINS, "reason": None}
    metrics = judge_variance(
        evidence(proposals=proposals(remediation=done)), kind="any", policy=POLICY
    ).metrics
    assert (metrics["remediation"], metrics["remediation_gain"]) == ("measured", metrics["gain"])
    none = proposals(remediation={"tensors": {}, "ab": None, "reason": "it is shared"})
    metrics = judge_variance(evidence(proposals=none), kind="any", policy=POLICY).metrics
    assert (metrics["remediation"], metrics["remediation_reason"]) == (
        "not_applicable", "it is shared",
    )  # fmt: skip


def test_a_remediation_has_the_interval_of_its_policy_where_nothing_is_eligible_too() -> None:
    two_sided = VariancePolicy(predictive_one_sided=False)
    gain = judge_gain(GAINS, two_sided)
    for n_eligible in (0, 2):
        done = proposals(remediation={"ab": GAINS, "reason": None}, n_eligible=n_eligible)
        found = judge_variance(evidence(proposals=done), kind="any", policy=two_sided).metrics
        assert {key: value for key, value in found.items() if key.startswith("remed")} == {
            "remediation": "measured", "remediation_gain": gain.mean,
            "remediation_gain_lower": gain.lower, "remediation_gain_upper": gain.upper,
        }  # fmt: skip


def test_one_document_leaves_the_gain_open() -> None:
    one = proposals({"documents": [0], "gains": [1.0], "tokens": [10.0]})
    metrics = judge_variance(evidence(proposals=one), kind="any", policy=POLICY).metrics
    assert (metrics["gain"], metrics["gain_lower"], metrics["repairable"]) == (0.1, None, None)
    assert metrics["reading"] == "open: fewer than two documents have no interval"


def test_no_eligible_target_is_not_applicable_with_its_reason() -> None:
    none = proposals(None, n_eligible=0, reason="no branch was edited", scales={})
    metrics = judge_variance(evidence(proposals=none), kind="any", policy=POLICY).metrics
    assert (metrics["proposals"], metrics["proposals_reason"]) == (
        "not_applicable", "no branch was edited",
    )  # fmt: skip
    unmeasured = judge_variance(evidence(), kind="any", policy=POLICY).metrics
    assert unmeasured["proposals"] == "not_measured"
    untried = proposals(None, reason="no branch is off by more than the deadband", scales={})
    metrics = judge_variance(evidence(proposals=untried), kind="any", policy=POLICY).metrics
    assert (metrics["proposals"], "gain" in metrics) == ("measured", False)


def test_the_interval_is_students_over_documents() -> None:
    one = judge_gain(GAINS, VariancePolicy(alpha=0.05))
    values = np.array([0.010, 0.012, 0.008, 0.011])
    error = values.std(ddof=1) / 2
    # Student's t of 3 degrees of freedom at .95 and .975.
    assert one.lower == pytest.approx(values.mean() - 2.353363 * error, rel=1e-6)
    assert one.upper is None
    two = judge_gain(GAINS, VariancePolicy(predictive_one_sided=False))
    assert two.lower == pytest.approx(values.mean() - 3.182446 * error, rel=1e-6)
    assert two.upper == pytest.approx(values.mean() + 3.182446 * error, rel=1e-6)
    weighted = judge_gain({"gains": [1.0, 9.0], "tokens": [100.0, 300.0]}, POLICY)
    assert weighted.mean == 0.025


def test_the_sign_and_the_least_effect_tell_what_can_be_repaired() -> None:
    assert judge_gain(GAINS, POLICY).repairable is True
    assert judge_gain(GAINS, VariancePolicy(min_effect_lognll=0.009)).repairable is False
    lost = {"gains": [-1.0, -1.2, -0.8], "tokens": [100.0] * 3}
    assert judge_gain(lost, VariancePolicy(min_effect_lognll=0)).repairable is False
    alone = judge_gain({"gains": [1.0], "tokens": [10.0]}, POLICY)
    assert (alone.repairable, alone.lower) == (None, None)


def test_a_policy_is_read_from_the_seeds_blocks() -> None:
    policy = VariancePolicy.from_mapping(
        {
            "tap": "post mlp.c_proj (pre-residual)",
            "targets": "edited_modules_only",
            "discovery": {"deadband": 0.02, "min_abs_adjust": 0.012, "max_scale_step": 0.03},
            "gating": {"sided": "two-sided", "min_effect_lognll": 9e-4},
        }
    )
    assert policy == VariancePolicy(predictive_one_sided=False)
    several = VariancePolicy.from_mapping({"tap": ["mlp.c_proj", "attn.c_proj"], "clamp": [0.3, 3]})
    assert (several.tap, several.clamp) == (("down", "o"), (0.3, 3.0))
    assert VariancePolicy.from_mapping({"log_rms": 0.1}).log_rms.strict == 0.1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"scop": "ffn"}, "scop"),
        ({"scope": "mlp"}, "scope"),
        ({"targets": "some"}, "targets"),
        ({"tap": "mlp"}, "tap"),
        ({"tap": []}, "tap"),
        ({"log_rms": 0}, "log_rms"),
        ({"norm_log_rms": 0}, "norm_log_rms"),
        ({"max_scale_step": 0}, "max_scale_step"),
        ({"deadband": -1}, "deadband"),
        ({"min_abs_adjust": "x"}, "min_abs_adjust"),
        ({"clamp": 2}, "clamp"),
        ({"clamp": [1.1, 1.2]}, "clamp"),
        ({"clamp": [0.5]}, "clamp"),
        ({"topk_backstop": 1.5}, "topk_backstop"),
        ({"max_adjusted_modules": -1}, "max_adjusted_modules"),
        ({"alpha": 0.7}, "alpha"),
        ({"predictive_one_sided": "yes"}, "predictive_one_sided"),
        ({"gating": {"sided": "both"}}, "sided"),
        ({"gating": 3}, "gating"),
        ({"deadband": 0.1, "discovery": {"deadband": 0.2}}, "given twice"),
        ({"min_parameter_share": 2}, "min_parameter_share"),
    ],
)
def test_a_policy_names_what_it_cannot_read(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VariancePolicy.from_mapping(values)
