"""The spectral judge: each limit can fail, and what was not measured never passes."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from invarlock_guards.judge.kinds import GROUP_OF
from invarlock_guards.judge.policy_values import GroupLimits
from invarlock_guards.judge.spectral import judge_spectral
from invarlock_guards.judge.spectral_policy import SpectralPolicy

LIMITS = {
    "strict": {"ln_sigma": 0.01, "ln_stable_rank": 0.015, "ln_frobenius": 0.006, "relative_change": 0.08},
    "compression": {"ln_sigma": 0.03, "ln_stable_rank": 0.05, "ln_frobenius": 0.02, "relative_change": 0.20},
    "open": {"ln_sigma": 0.10, "ln_stable_rank": 0.20, "ln_frobenius": 0.05, "relative_change": 0.20},
}  # fmt: skip


def change(name: str = "a", family: str = "ffn", **values: Any) -> dict[str, Any]:
    canon = values.pop("canon", 0.0)
    return {
        "name": name, "role": "up", "family": family, "n_parameters": 100, "type": "matrix",
        "bitwise_equal": False, "ln_sigma": 0.0, "ln_frobenius": 0.0, "ln_stable_rank": 0.0,
        "relative_change": 0.0, "edge_of_change": 1.0, "sigma": 1.0, "reason": None,
        "canon": {"value": canon, "part": "up", "reason": None},
    } | values  # fmt: skip


def evidence(*changes: dict[str, Any], available: bool = True, **covered: Any) -> dict[str, Any]:
    row = {"matrices": 10, "parameters": 1000, "compared": 1000, "changed": len(changes)}
    return {
        "covered": {"ffn": row, "attn": row | {"changed": 0}} | covered,
        "changes": list(changes),
        "canon": {
            "available": available,
            "reason": None if available else "unknown architecture x",
        },
    }


def test_changes_that_are_counted_and_not_stated_are_an_error() -> None:
    hidden = evidence(change())
    hidden["changes"] = []
    result = judge_spectral(hidden, kind="any")
    assert (result.passed, result.reason) == (None, "coverage")
    assert "1 tensors changed, and 0 changes are stated" in result.text


def test_a_subject_all_of_whose_matrices_are_broken_fails_with_finite_numbers() -> None:
    nothing = dict.fromkeys(
        ("ln_sigma", "ln_stable_rank", "ln_frobenius", "relative_change", "sigma")
    )
    found = [change(name=f"w{n}", reason="non_finite_subject", **nothing) for n in range(20)]
    result = judge_spectral(evidence(*found), kind="any")
    assert (result.passed, result.reason) == (False, "non_finite")
    assert result.metrics["z_quantile"] is None


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.95, 1.0])
def test_the_quantile_counts_unchanged_matrices_as_zero(share: float) -> None:
    scores = [change(name=f"w{n}", ln_sigma=n / 1000) for n in range(1, 8)]
    policy = SpectralPolicy(sigma_quantile=share)
    result = judge_spectral(evidence(*scores), kind="any", policy=policy)
    z = [2.5 * n / 1000 / 0.10 for n in range(1, 8)] + [0.0] * 13
    assert result.metrics["z_quantile"] == pytest.approx(np.quantile(z, share))


@pytest.mark.parametrize("kind", sorted(GROUP_OF))
@pytest.mark.parametrize("statistic", sorted(LIMITS["open"]))
def test_each_statistic_fails_beyond_its_limit_and_passes_at_it(kind: str, statistic: str) -> None:
    limit = LIMITS[GROUP_OF[kind]][statistic]
    for sign in (1, -1) if statistic != "relative_change" else (1,):
        beyond = change(**{statistic: sign * limit * 1.001, "canon": 0.5})
        failed = judge_spectral(evidence(beyond), kind=kind)
        assert (failed.passed, failed.action, failed.reason) == (False, "abort", statistic)
        first = failed.violations[0]
        assert (first.module, first.family, first.threshold) == ("a", "ffn", limit)
        assert failed.metrics["caps_applied"] == failed.metrics["caps_exceeded"] == 1
        within = change(**{statistic: sign * limit, "canon": 0.5})
        passed = judge_spectral(evidence(within), kind=kind)
        assert (passed.passed, passed.action, passed.reason) == (True, "continue", "ok")


@pytest.mark.parametrize("kind", ["finetune", "merge", "any"])
def test_open_kinds_warn_where_only_the_basis_changed(kind: str) -> None:
    moved = change(relative_change=1.4, ln_sigma=-1.0, canon=0.22)
    result = judge_spectral(evidence(moved), kind=kind)
    assert (result.passed, result.action, result.reason) == (True, "warn", "basis_changed")
    assert [v.kind for v in result.warnings] == ["ln_sigma", "relative_change"]
    assert result.violations == ()
    assert judge_spectral(evidence(moved | {"canon": {"value": 0.2201, "part": "up", "reason": None}}),
                          kind=kind).passed is False  # fmt: skip


def test_another_basis_is_what_a_declared_reparametrization_leads_one_to_expect() -> None:
    moved = change(relative_change=1.4, ln_sigma=-1.0, canon=0.22)
    result = judge_spectral(evidence(moved), kind="reparametrized")
    assert (result.passed, result.action, result.reason) == (True, "continue", "basis_changed")
    assert [v.kind for v in result.expected_changes] == ["ln_sigma", "relative_change"]
    assert result.violations == result.warnings == ()
    beyond = moved | {"canon": {"value": 0.2201, "part": "up", "reason": None}}
    assert judge_spectral(evidence(beyond), kind="reparametrized").passed is False


@pytest.mark.parametrize("canon", [None, {"value": None, "part": "up", "reason": "zero_baseline"}])
def test_a_canonical_change_without_a_value_is_no_excuse(canon: Any) -> None:
    moved = change(relative_change=0.3) | {"canon": canon}
    result = judge_spectral(evidence(moved), kind="any")
    assert result.passed is False
    assert [(v.kind, v.value) for v in result.violations] == [
        ("relative_change", 0.3),
        ("canon", None),
    ]


def test_an_unknown_architecture_warns_and_asks_for_the_other_guards() -> None:
    moved = change(relative_change=0.3) | {"canon": None}
    result = judge_spectral(evidence(moved, available=False), kind="any")
    assert (result.passed, result.action, result.reason) == (True, "warn", "canon_unavailable")
    assert "rmt and variance must be measured" in result.text
    assert "unknown architecture x" in result.text
    assert result.metrics["canon"] is None
    # The other kinds need no canonical change.
    assert judge_spectral(evidence(moved, available=False), kind="quantize4").passed is False


@pytest.mark.parametrize("kind", sorted(GROUP_OF))
def test_broken_numbers_fail_under_every_kind_and_scope(kind: str) -> None:
    for type_, family in (("matrix", "attn"), ("table", "embed"), ("vector", "other")):
        broken = change(reason="non_finite_subject", type=type_, family=family, relative_change=None,
                        ln_sigma=None)  # fmt: skip
        policy = SpectralPolicy(scope="ffn", max_caps=99)
        result = judge_spectral(evidence(broken), kind=kind, policy=policy)
        assert (result.passed, result.reason) == (False, "non_finite")
        assert result.violations[0].module == "a"


def test_a_broken_baseline_supports_no_judgement() -> None:
    broken = change(reason="non_finite_baseline", relative_change=None)
    result = judge_spectral(evidence(broken), kind="any")
    assert (result.passed, result.action, result.reason) == (None, "abort", "baseline_non_finite")


def test_nothing_measured_is_no_pass() -> None:
    empty = {"covered": {}, "changes": [], "canon": {"available": True, "reason": None}}
    assert judge_spectral(empty, kind="any").passed is None
    assert judge_spectral({}, kind="any").reason == "nothing_measured"
    tables = {"embed": {"matrices": 0, "parameters": 50, "compared": 50, "changed": 0}}
    assert judge_spectral(empty | {"covered": tables}, kind="any").passed is None
    attention = SpectralPolicy(scope="attn")
    only_ffn = {
        "covered": {"ffn": evidence()["covered"]["ffn"]},
        "changes": [],
        "canon": {"available": True, "reason": None},
    }
    assert judge_spectral(only_ffn, kind="any").passed is True
    assert judge_spectral(only_ffn, kind="any", policy=attention).reason == "nothing_measured"


def test_too_small_a_coverage_is_no_pass() -> None:
    row = {"matrices": 10, "parameters": 1000, "compared": 899, "changed": 0}
    result = judge_spectral(evidence(ffn=row), kind="any")
    assert (result.passed, result.reason) == (None, "coverage")
    assert "95.0%" in result.text
    assert judge_spectral(evidence(ffn=row | {"compared": 900}), kind="any").passed is True
    assert (
        judge_spectral(evidence(ffn=row), kind="any", policy=SpectralPolicy(scope="attn")).passed
        is True
    )
    vector = {"vector": {"matrices": 0, "parameters": 900, "compared": 0, "changed": 0}}
    assert judge_spectral(evidence(**vector), kind="any").passed is True
    assert judge_spectral(evidence(**vector), kind="cast").reason == "coverage"


def test_a_tensor_that_could_not_be_compared_is_counted_not_judged() -> None:
    absent = change(reason="missing_subject", ln_sigma=None, relative_change=None)
    row = {"matrices": 10, "parameters": 1000, "compared": 980, "changed": 1}
    result = judge_spectral(evidence(absent, ffn=row), kind="cast")
    assert result.passed is True
    assert result.metrics["coverage"] == pytest.approx(0.99)


def test_a_matrix_to_or_from_zero_fails() -> None:
    gone = change(reason="zero_subject", ln_sigma=None, ln_frobenius=None, ln_stable_rank=None,
                  relative_change=1.0, canon=1.0)  # fmt: skip
    for kind in ("cast", "prune", "any"):
        result = judge_spectral(evidence(gone), kind=kind)
        assert result.passed is False
        assert result.violations[0].value is None


@pytest.mark.parametrize("type_", ["table", "vector"])
def test_vectors_and_embeddings_stay_under_the_strict_kinds(type_: str) -> None:
    moved = change("norm", "other", type=type_, relative_change=0.0051, ln_sigma=None) | {
        "canon": None
    }
    for kind in ("cast", "quantize8"):
        result = judge_spectral(evidence(moved), kind=kind)
        assert [(v.kind, v.module, v.threshold) for v in result.violations] == [
            ("outer_change", "norm", 0.005)
        ]
        still = moved | {"relative_change": 0.005}
        assert judge_spectral(evidence(still), kind=kind).passed is True
        born = moved | {"relative_change": None, "reason": "zero_baseline"}
        assert judge_spectral(evidence(born), kind=kind).passed is False
    for kind in ("quantize4", "any"):
        reported = judge_spectral(evidence(moved), kind=kind)
        assert reported.passed is True
        assert reported.metrics["outer_change"] == 0.0051


def test_the_worst_module_comes_first() -> None:
    found = [
        change("mild", relative_change=0.30, canon=0.3), change("worst", "attn", relative_change=0.9, canon=0.9),
        change("shape", ln_stable_rank=0.5, relative_change=0.21, canon=0.3), change("fine", relative_change=0.1),
    ]  # fmt: skip
    result = judge_spectral(evidence(*found), kind="any")
    modules = list(dict.fromkeys(v.module for v in result.violations))
    assert modules == ["worst", "shape", "mild"]
    assert [v.kind for v in result.violations if v.module == "shape"] == [
        "ln_stable_rank",
        "relative_change",
        "canon",
    ]
    assert result.text.startswith("worst (attn): relative change 0.9, limit 0.2")
    assert result.text.endswith("and 2 more")


def test_scopes_leave_other_families_alone() -> None:
    moved = change("a", "attn", relative_change=0.9, canon=0.9)
    assert judge_spectral(evidence(moved), kind="any").passed is False
    assert (
        judge_spectral(evidence(moved), kind="any", policy=SpectralPolicy(scope="ffn")).passed
        is True
    )
    assert (
        judge_spectral(evidence(moved), kind="any", policy=SpectralPolicy(scope="attn")).passed
        is False
    )


def test_max_caps_allows_as_many_matrices() -> None:
    found = [change(name, relative_change=0.3, canon=0.3) for name in "abc"]
    for n, passed in ((3, True), (2, False)):
        result = judge_spectral(evidence(*found), kind="any", policy=SpectralPolicy(max_caps=n))
        assert result.passed is passed
        assert (result.metrics["caps_applied"], result.metrics["caps_exceeded"]) == (
            3,
            int(not passed),
        )
        assert result.action == ("warn" if passed else "abort")
    assert {
        v.module
        for v in judge_spectral(
            evidence(*found), kind="any", policy=SpectralPolicy(max_caps=3)
        ).warnings
    } == set("abc")


def test_the_largest_spectral_norm_is_kept_where_it_is_set() -> None:
    moved = change(relative_change=0.01, sigma=5.0)
    assert judge_spectral(evidence(moved), kind="any").passed is True
    policy = SpectralPolicy(max_spectral_norm=4.0, max_caps=9)
    result = judge_spectral(evidence(moved), kind="any", policy=policy)
    assert (result.passed, result.reason) == (False, "max_spectral_norm")


@pytest.mark.parametrize(("family", "kappa"), [("ffn", 2.5), ("attn", 2.8), ("other", 3.0)])
def test_z_is_beyond_its_cap_exactly_outside_the_deadband(family: str, kappa: float) -> None:
    covered = {"other": {"matrices": 1, "parameters": 1, "compared": 1, "changed": 0}}
    for ln_sigma, beyond in ((0.0999, False), (-0.1001, True)):
        found = change("a", family, ln_sigma=ln_sigma, canon=0.9)
        result = judge_spectral(evidence(found, **covered), kind="any")
        z = result.metrics[f"z_max.{family}"]
        assert z == pytest.approx(kappa * abs(ln_sigma) / 0.1)
        assert (z > kappa) is beyond
        assert (result.passed is False) is beyond
        assert result.metrics[f"family_caps.{family}"] == kappa


def test_a_narrower_deadband_is_a_narrower_limit() -> None:
    found = change(ln_sigma=0.06, canon=0.9)
    assert judge_spectral(evidence(found), kind="any").passed is True
    policy = SpectralPolicy.from_mapping({"deadband": {"ffn": 0.05}})
    assert (
        judge_spectral(evidence(found), kind="any", policy=policy).violations[0].threshold == 0.05
    )
    wide = SpectralPolicy.from_mapping({"deadband": 0.15})
    assert (
        judge_spectral(evidence(change(ln_sigma=0.101, canon=1)), kind="any", policy=wide).passed
        is False
    )


def test_the_seeds_keys_are_reported() -> None:
    found = [change(str(n), ln_sigma=0.05) for n in range(2)]
    metrics = judge_spectral(evidence(*found), kind="any").metrics
    assert metrics["multiple_testing"] is not None
    assert str(metrics["multiple_testing"]).startswith("not applicable")
    assert (metrics["sigma_quantile"], metrics["max_caps"], metrics["max_spectral_norm"]) == (
        0.95,
        0,
        None,
    )
    # Two of twenty matrices have z = 1.25: the 95 % quantile lies among them.
    assert metrics["z_quantile"] == pytest.approx(1.25)
    for value in metrics.values():
        assert value is None or isinstance(value, (str, int)) or math.isfinite(value)


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="any"):
        judge_spectral(evidence(), kind="other")


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"kapa": 1}, "kapa"), ({"ln_sigma": -1}, "ln_sigma"), ({"ln_sigma": {"strict": 1}}, "ln_sigma"),
        ({"canon_limit": 0}, "canon_limit"), ({"scope": "mlp"}, "scope"), ({"max_caps": -1}, "max_caps"),
        ({"max_caps": 1.5}, "max_caps"), ({"min_coverage": 0}, "min_coverage"),
        ({"min_coverage": 1.1}, "min_coverage"), ({"sigma_quantile": 2}, "sigma_quantile"),
        ({"family_caps": {"router": 1}}, "family_caps"), ({"family_caps": 3}, "family_caps"),
        ({"family_caps": {"ffn": math.nan}}, "family_caps.ffn"), ({"deadband": 0}, "deadband"),
        ({"deadband": {"ffn": True}}, "deadband.ffn"), ({"max_spectral_norm": "big"}, "max_spectral_norm"),
        ({"outer_change": math.inf}, "outer_change"),
    ],
)  # fmt: skip
def test_a_bad_policy_names_its_key(values: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        SpectralPolicy.from_mapping(values)


def test_the_seeds_block_is_read() -> None:
    block = {
        "sigma_quantile": 0.9, "deadband": 0.05, "scope": "ffn", "max_caps": 3, "max_spectral_norm": None,
        "family_caps": {"ffn": {"kappa": 3.849}, "attn": 2.6},
        "multiple_testing": {"method": "bh", "alpha": 0.05, "m": 4},
    }  # fmt: skip
    policy = SpectralPolicy.from_mapping(block)
    assert policy.family_caps == {"ffn": 3.849, "attn": 2.6, "embed": 3.0, "other": 3.0}
    assert set(policy.deadband.values()) == {0.05}
    assert SpectralPolicy.from_mapping({}) == SpectralPolicy()
    one = SpectralPolicy.from_mapping(
        {"ln_sigma": {"strict": 0.1, "compression": 0.2, "open": 0.3}}
    )
    assert one.ln_sigma == GroupLimits(0.1, 0.2, 0.3)


def test_judging_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from invarlock_guards.judge.spectral import judge_spectral\n"
        "print(judge_spectral({}, kind='any').reason)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "nothing_measured", ran.stderr
