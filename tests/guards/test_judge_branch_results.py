"""What the judges of branch comparisons answer, to the word and the number."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from invarlock_guards.contract import GuardResult, Violation
from invarlock_guards.judge.policy_values import GroupLimits
from invarlock_guards.judge.rmt import RMTPolicy, judge_rmt
from invarlock_guards.judge.variance import Gain, judge_gain, judge_variance
from invarlock_guards.judge.variance_policy import VariancePolicy

_RMT = runpy.run_path(str(Path(__file__).with_name("test_judge_rmt.py")))
branch, site, evidence = _RMT["branch"], _RMT["site"], _RMT["evidence"]
LOOSE = RMTPolicy(edge_of_change_required=False)
COUNTS = {
    "n_branches": 1, "n_branches_compared": 1, "n_windows": 16, "n_tokens": 2048,
    "parameter_share": 1.0,
}  # fmt: skip
UNKNOWN = dict.fromkeys(("e", "l", "c", "log_rms"))


def rmt(found: Any, kind: str = "any", **limits: Any) -> GuardResult:
    policy = RMTPolicy(**{"edge_of_change_required": False} | limits)
    return judge_rmt(found, kind=kind, policy=policy)


def variance(found: Any, kind: str = "any") -> GuardResult:
    return judge_variance({"proposals": None} | found, kind=kind, policy=VariancePolicy())


def test_all_that_rmt_answers_of_sound_branches() -> None:
    rows = [branch(e=0.125, c=0.001), branch("layers.1.mlp", e=0.01, c=-0.002)]
    sites = [
        site(fedge=-0.05, n_newly_dead=3),
        site("layers.1.mlp.down", branch="layers.1.mlp", fedge=0.04, n_newly_dead=4),
    ]
    result = rmt(evidence(rows, sites), "merge")
    assert result == GuardResult(
        "rmt", True, "continue", "ok",
        "2 branches over 16 windows: error at most 0.125, allowed 0.4",
        COUNTS | {
            "n_branches": 2, "n_branches_compared": 2,
            "largest_error": 0.125, "largest_error_module": "layers.0.mlp",
            "largest_angle": -0.002, "largest_angle_module": "layers.1.mlp",
            "largest_feature_edge": -0.05, "largest_feature_edge_module": "layers.0.mlp.down",
            "n_newly_dead": 7, "outliers": "measured", "outlier_factor": 1.5 * 1.10,
            "outliers_bare_ffn": 20, "outliers_guarded_ffn": 20,
            "outliers_delta_ffn": 0, "epsilon_ffn": 0.1, "stable": True,
        },
    )  # fmt: skip


def test_all_that_variance_answers_of_sound_branches() -> None:
    rows = [
        branch(l=0.03), branch("layers.1.mlp", l=-0.05), branch("norm", kind="norm", l=-0.01),
    ]  # fmt: skip
    result = variance(evidence(rows, []))
    assert result == GuardResult(
        "variance", True, "continue", "ok",
        "3 branches over 16 windows: |ln rms| at most -0.05, allowed 0.06",
        COUNTS | {
            "n_branches": 3, "n_branches_compared": 3, "largest_log_rms": -0.05,
            "largest_log_rms_module": "layers.1.mlp", "largest_norm_log_rms": -0.01,
            "largest_norm_log_rms_module": "norm", "proposals": "not_measured",
            "proposals_reason": "no proposal was looked for",
        },
    )  # fmt: skip
    alone = variance(evidence([branch()], []))
    assert alone.metrics["largest_norm_log_rms"] is None
    assert alone.metrics["largest_norm_log_rms_module"] is None


@pytest.mark.parametrize(("judge", "guard"), [(rmt, "rmt"), (variance, "variance")])
@pytest.mark.parametrize("key", ["n_branches_compared", "n_windows", "n_tokens"])
def test_each_count_of_nothing_is_nothing_measured(judge: Any, guard: str, key: str) -> None:
    result = judge(evidence(**{key: 0}))
    text = "not evaluated: no branch was compared"
    assert result == GuardResult(guard, None, "abort", "not_evaluated", text, COUNTS | {key: 0})
    said = judge(evidence(**{key: 0, "reason": "no window"}))
    assert said.text == "not evaluated: no window"
    empty = dict.fromkeys(COUNTS, 0)
    assert judge({}).metrics == empty


@pytest.mark.parametrize(
    ("changes", "reason", "text"),
    [
        (
            {"n_branches": 2, "n_branches_compared": 1},
            "branches_left_out", "1 of 2 branches were not compared",
        ),
        (
            {"n_branches": 2, "n_branches_compared": 2},
            "branches_left_out", "1 of 2 branches are stated",
        ),
        (
            {"parameter_share": 0.9499, "left_out": ["a", "b", "c", "d"]},
            "coverage",
            "branches hold 95.0% of the blocks' parameters, 95.0% are demanded; "
            "left out: a, b, c",
        ),
        (
            {"branches": [branch(e=None)]},
            "branches_left_out", "of the outputs of layers.0.mlp some numbers are missing",
        ),
        (
            {"branches": [branch(log_rms=None)]},
            "branches_left_out", "of the outputs of layers.0.mlp some numbers are missing",
        ),
        (
            {"branches": [branch(c=None)]},
            "branches_left_out", "of the outputs of layers.0.mlp some numbers are missing",
        ),
        (
            {"branches": [branch(l=None)]},
            "branches_left_out", "of the outputs of layers.0.mlp some numbers are missing",
        ),
        (
            {"branches": [branch(**UNKNOWN)]},
            "branches_left_out", "nothing could be computed of the outputs of layers.0.mlp",
        ),
        (
            {"branches": [branch(**UNKNOWN, n_baseline_non_finite=2)]},
            "baseline_non_finite",
            "the baseline itself gives NaN or infinities in layers.0.mlp: "
            "nothing can be compared",
        ),
    ],
)  # fmt: skip
def test_what_is_lacking_is_named(changes: dict[str, Any], reason: str, text: str) -> None:
    for judge in (rmt, variance):
        result = judge(evidence() | changes)
        assert (result.passed, result.action) == (None, "abort")
        assert (result.reason, result.text) == (reason, text)
        assert result.metrics["n_windows"] == 16
        assert result.violations == ()


def test_of_several_that_lack_the_first_is_named_by_itself() -> None:
    rows = [branch("sound"), branch("first", e=None), branch("second", c=None)]
    assert rmt(evidence(rows)).text == "of the outputs of first some numbers are missing"
    rows = [branch("sound"), branch("first", **UNKNOWN), branch("second", **UNKNOWN)]
    assert rmt(evidence(rows)).text == "nothing could be computed of the outputs of first"
    broken = [branch(name, **UNKNOWN, n_baseline_non_finite=1) for name in ("first", "second")]
    assert "infinities in first:" in rmt(evidence([branch("sound"), *broken])).text


def test_the_least_share_of_parameters_suffices() -> None:
    assert rmt(evidence(parameter_share=0.95)).passed is True
    assert rmt(evidence(parameter_share=0.5), min_parameter_share=0.5).passed is True


def test_a_branch_broken_in_the_baseline_too_is_no_finding() -> None:
    both = branch("both", **UNKNOWN, n_non_finite=3, n_baseline_non_finite=3)
    rows = [both, branch("subject", **UNKNOWN, n_non_finite=4)]
    sites = [
        site("a", branch="both", finite=False), site("b", branch="subject", finite=False),
        site("c", branch="third", finite=False, family="attn"),
        site("d", branch="third", finite=False), site("e", branch="fourth", finite=True),
    ]  # fmt: skip
    result = rmt(evidence(rows, sites))
    assert result.violations == (
        Violation("non_finite_activation", "subject", 4, 0, "ffn"),
        Violation("non_finite_activation", "third", None, 0, "attn"),
    )
    assert (result.passed, result.action, result.reason) == (
        False, "abort", "non_finite_activation",
    )  # fmt: skip
    assert result.text == "non finite activation in subject: 4, allowed 0; 1 more modules"


def test_a_sentence_counts_other_modules_once() -> None:
    alone = rmt(evidence([branch(e=0.5, c=0.07)]))
    assert alone.text == "branch error in layers.0.mlp: 0.5, allowed 0.4"
    unvalued = rmt(evidence(sites=[site(finite=False)]))
    assert unvalued.text == "non finite activation in layers.0.mlp"
    rows = [branch("a", e=0.9, c=0.07), branch("b", e=0.5, c=0.07), branch("c", e=0.50123)]
    assert rmt(evidence(rows)).text == "branch error in a: 0.9, allowed 0.4; 2 more modules"


def test_findings_are_ordered_by_their_multiples_of_limits() -> None:
    found = evidence(
        [branch("a", e=0.72), branch("b", e=1.0)],
        [site("dead", n_newly_dead=80, n_features=800), site("empty", n_features=0)],
        edge_of_change={"w": 2.76, "none": None, "at": 1.2},
    )
    result = rmt(found, "prune", error=LOOSE.error)
    # Of a prune: 0.72/0.2, 1.0/0.2, 0.1/0.05 and 2.76/1.2.
    assert [v.module for v in result.violations] == ["b", "a", "w", "dead"]
    assert result.violations[2:] == (
        Violation("change_contradicts_kind", "w", 2.76, 1.2),
        Violation("dead_features", "dead", 0.1, 0.05, "ffn"),
    )
    none_allowed = rmt(found, "any", newly_dead_share=0.0)
    assert none_allowed.violations[0] == Violation("dead_features", "dead", 0.1, 0.0, "ffn")


@pytest.mark.parametrize("value", [0.08, -0.08])
def test_an_edge_at_its_band_is_within_it(value: float) -> None:
    assert rmt(evidence(sites=[site(fedge=value)])).passed is True
    result = rmt(evidence(sites=[site(fedge=value * 1.01)]))
    assert result.violations == (
        Violation("feature_edge", "layers.0.mlp.down", 0.08 * 1.01, 0.08, "ffn"),
    )


def test_dead_features_at_their_share_are_allowed() -> None:
    assert rmt(evidence(sites=[site(n_newly_dead=40)])).passed is True
    assert rmt(evidence(sites=[site(n_newly_dead=1)]), newly_dead_share=0.0).passed is False
    one = [site(n_newly_dead=1, n_features=1)]
    assert rmt(evidence(sites=one)).violations[0].value == 1.0


def test_a_sub_layer_without_an_edge_is_named() -> None:
    rows = [branch(), branch("layers.1.mlp")]
    other = site("x", branch="layers.1.mlp", fedge=None)
    result = rmt(evidence(rows, [site(), other]))
    assert (result.passed, result.reason, result.text) == (
        None, "edges_left_out", "no edge was measured of the outputs of layers.1.mlp",
    )  # fmt: skip
    # Dead in the baseline in part is not dead, and no feature at all is no death.
    for n_dead, n_features in ((799, 800), (0, 0)):
        part = other | {"n_dead_baseline": n_dead, "n_features": n_features}
        assert rmt(evidence(rows, [site(), part])).reason == "edges_left_out"


def test_an_unproved_kind_says_what_to_do() -> None:
    result = judge_rmt(evidence(), kind="prune", policy=RMTPolicy())
    assert (result.passed, result.action, result.reason, result.text) == (
        None, "abort", "edge_of_change_missing",
        "whether the change is a prune was not measured: give edge_of_change, or declare any",
    )  # fmt: skip
    for kind in ("any", "finetune"):
        assert judge_rmt(evidence(), kind=kind, policy=RMTPolicy()).passed is True
    known = evidence(edge_of_change={})
    assert judge_rmt(known, kind="prune", policy=RMTPolicy()).passed is True


def test_outliers_are_counted_by_family_and_banded_by_it() -> None:
    sites = [
        site("q", family="attn", n_outliers_baseline=100, n_outliers_subject=108),
        site("k", family="attn", n_outliers_baseline=50, n_outliers_subject=54),
        site("x", family="other", n_outliers_baseline=10, n_outliers_subject=11),
        site(n_outliers_baseline=0, n_outliers_subject=0),
    ]
    metrics = rmt(evidence(sites=sites)).metrics
    assert {key: value for key, value in metrics.items() if "attn" in key} == {
        "outliers_bare_attn": 150, "outliers_guarded_attn": 162, "outliers_delta_attn": 12,
        "epsilon_attn": 0.08,
    }  # fmt: skip
    assert metrics["stable"] is True
    assert metrics["epsilon_other"] == 0.12
    assert "epsilon_embed" not in metrics
    narrower = rmt(evidence(sites=sites), epsilon_by_family={"attn": 0.0799}).metrics
    assert (narrower["stable"], narrower["epsilon_other"]) == (False, 0.10)
    # One family outside its band is enough, wherever it stands among them.
    early = [site(n_outliers_subject=12), *sites[:3]]
    assert rmt(evidence(sites=early)).metrics["stable"] is False


def test_a_sub_layer_is_judged_by_its_own_limit_and_a_norm_by_its_own() -> None:
    rows = [branch("a", l=0.07), branch("n", kind="norm", family="other", l=0.06)]
    result = variance(evidence(rows, []))
    assert result.violations == (
        Violation("norm_variance", "n", 0.06, 0.03, "other"),
        Violation("branch_variance", "a", 0.07, 0.06, "ffn"),
    )
    assert result.text == "norm variance in n: 0.06, allowed 0.03; 1 more modules"
    broken = variance(evidence([branch(**UNKNOWN, n_non_finite=1)], []))
    assert broken.reason == "non_finite_activation"
    assert broken.guard == "variance"


def test_a_gain_and_its_interval_to_the_number() -> None:
    ab = {"gains": [2.0, 4.0], "tokens": [100.0, 100.0]}
    # Residuals of 1 nat either way over 200 tokens: an error of sqrt(2 * 2) / 200.
    reach = 6.313751514675041 * 0.01
    one = judge_gain(ab, VariancePolicy())
    assert one == Gain(0.03, pytest.approx(0.03 - reach), None, 2, False)
    two = judge_gain(ab, VariancePolicy(predictive_one_sided=False))
    wide = 12.706204736432095 * 0.01
    assert two == Gain(0.03, pytest.approx(0.03 - wide), pytest.approx(0.03 + wide), 2, False)
    sure = judge_gain({"gains": [3.0, 3.0], "tokens": [100.0, 100.0]}, VariancePolicy())
    assert sure == Gain(0.03, 0.03, None, 2, True)
    assert judge_gain({"gains": [3.0], "tokens": [100.0]}, VariancePolicy()) == Gain(
        0.03, None, None, 1, None
    )


def test_the_least_effect_is_an_effect_and_none_is_not() -> None:
    sure = {"gains": [1.0, 1.0], "tokens": [2.0, 2.0]}
    assert judge_gain(sure, VariancePolicy(min_effect_lognll=0.5)).repairable is True
    assert judge_gain(sure, VariancePolicy(min_effect_lognll=0.51)).repairable is False
    nothing = {"gains": [0.0, 0.0], "tokens": [2.0, 2.0]}
    assert judge_gain(nothing, VariancePolicy(min_effect_lognll=0.0)).repairable is False


def test_every_number_of_proposals_is_reported() -> None:
    made = {
        "rules": VariancePolicy().proposal_rules(), "remediation": None,
        "n_eligible": 3, "reason": "r", "scales": {"a": 0.97, "b": 1.02}, "ab_reason": None,
        "ab": {"documents": [0, 1], "gains": [3.0, 3.0], "tokens": [100.0, 100.0]},
    }  # fmt: skip
    said = {
        "proposals": "measured", "proposals_reason": "r", "n_eligible": 3, "n_proposed": 2,
    }  # fmt: skip
    whole = COUNTS | {
        "largest_log_rms": 0.0, "largest_log_rms_module": "layers.0.mlp",
        "largest_norm_log_rms": None, "largest_norm_log_rms_module": None,
    }  # fmt: skip
    found = evidence([branch()], [], proposals=made)
    assert variance(found).metrics == whole | said | {
        "gain": 0.03, "gain_lower": 0.03, "gain_upper": None, "gain_documents": 2,
        "repairable": True, "reading": "repairable: a scale alone wins loss back",
    }  # fmt: skip
    untested = made | {"ab": None}
    assert variance(found | {"proposals": untested}).metrics == whole | said
    uneven = made | {"ab": {"documents": [0, 1], "gains": [3.0], "tokens": [1.0, 2.0]}}
    assert variance(found | {"proposals": uneven}).metrics == whole | said
    unsaid = made | {"reason": None, "ab": None, "ab_reason": "a"}
    assert variance(found | {"proposals": unsaid}).metrics == whole | said | {
        "proposals_reason": "a"
    }
    other = made | {"rules": made["rules"] | {"scope": "attn", "deadband": 0.5}}
    assert variance(found | {"proposals": other}).metrics == whole | {
        "proposals": "not_measured",
        "proposals_reason": "not under this policy: scope attn was measured, ffn is asked for; "
        "deadband 0.5 was measured, 0.02 is asked for",
    }
    none = made | {"n_eligible": 0}
    assert variance(found | {"proposals": none}).metrics == whole | {
        "proposals": "not_applicable", "proposals_reason": "r",
    }  # fmt: skip


def test_an_interval_that_reaches_nothing_is_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("invarlock_guards.judge.variance.stdtrit", lambda n, share: 3.0)
    found = judge_gain(
        {"gains": [2.0, 4.0], "tokens": [100, 100]}, VariancePolicy(min_effect_lognll=0)
    )
    assert (found.lower, found.repairable) == (0.0, False)


def test_the_worst_multiple_leads_whatever_its_unit_is() -> None:
    dead = [site("dead", n_newly_dead=240, n_features=800)]
    found = evidence([branch("x", e=1.1)], [site(), *dead], edge_of_change={"w": 6.24})
    # 0.3/0.05, 1.1/0.2 and 6.24/1.2.
    assert [v.module for v in rmt(found, "prune").violations] == ["dead", "x", "w"]


def test_a_sentence_rounds_what_is_no_whole_number() -> None:
    result = rmt(evidence([branch(e=0.501234)]), error=GroupLimits(1, 1, 0.123456))
    assert result.text == "branch error in layers.0.mlp: 0.501, allowed 0.123"
    assert rmt(evidence([branch(e=0.0123456)])).text.endswith("at most 0.0123, allowed 0.4")


@pytest.mark.parametrize(("judge", "guard"), [(rmt, "rmt"), (variance, "variance")])
def test_a_result_names_its_guard_where_something_lacks(judge: Any, guard: str) -> None:
    assert judge(evidence(parameter_share=0.1)).guard == guard
