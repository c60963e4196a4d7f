"""What the spectral judge answers, to the word and the number."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import pytest
from invarlock_guards.contract import GuardResult, Violation
from invarlock_guards.judge.spectral import judge_spectral
from invarlock_guards.judge.spectral_policy import SpectralPolicy

_SPECTRAL = runpy.run_path(str(Path(__file__).with_name("test_judge_spectral.py")))
change, evidence = _SPECTRAL["change"], _SPECTRAL["evidence"]
SEEDS = {
    "family_caps.ffn": 2.5, "family_caps.attn": 2.8, "family_caps.embed": 3.0,
    "family_caps.other": 3.0, "deadband.ffn": 0.1, "deadband.attn": 0.1, "deadband.embed": 0.1,
    "deadband.other": 0.1, "sigma_quantile": 0.95, "max_caps": 0, "max_spectral_norm": None,
    "scope": "all",
    "multiple_testing": "not applicable: two runs give the same weights, so there is no sampling "
    "distribution",
}  # fmt: skip
ROW = {"matrices": 10, "parameters": 1000, "compared": 1000, "changed": 0}


def spectral(*changes: Any, kind: str = "any", **limits: Any) -> GuardResult:
    covered = limits.pop("covered", {})
    found = evidence(*changes, available=limits.pop("available", True), **covered)
    return judge_spectral(found, kind=kind, policy=SpectralPolicy(**limits))


def test_all_that_is_answered_where_nothing_changed() -> None:
    result = spectral(kind="prune")
    assert result == GuardResult(
        "spectral", True, "continue", "ok",
        "20 matrices: none beyond the limits of the declared kind",
        {
            "modules_checked": 20, "modules_changed": 0, "coverage": 1.0, "relative_change": 0.0,
            "ln_sigma": 0.0, "ln_stable_rank": 0.0, "ln_frobenius": 0.0, "edge_of_change": 0.0,
            "canon": 0.0, "outer_change": 0.0, "z_max.ffn": 0.0, "z_max.attn": 0.0,
            "z_max.other": 0.0, "z_quantile": 0.0, "candidates": 0, "caps_applied": 0,
            "caps_exceeded": 0, "kind_group": "compression",
        } | SEEDS,
    )  # fmt: skip
    assert judge_spectral(evidence(), kind="prune") == result


def test_all_that_is_answered_of_matrices_beyond() -> None:
    found = (
        change("a", ln_sigma=-0.2, relative_change=0.3, edge_of_change=-1.5, canon=0.3),
        change("b", "attn", ln_stable_rank=-0.5, ln_frobenius=0.06, relative_change=0.1,
               canon=0.44, edge_of_change=None),
        change("mild", ln_sigma=0.05, canon=None),
        change("basis", relative_change=0.25, canon=0.1),
        change("table", "embed", type="table", relative_change=-0.7, ln_sigma=9.0),
    )  # fmt: skip
    result = spectral(*found)
    assert result == GuardResult(
        "spectral", False, "abort", "ln_stable_rank",
        "b (attn): ln stable rank -0.5, limit 0.2; and 1 more",
        {
            "modules_checked": 20, "modules_changed": 5, "coverage": 1.0, "relative_change": 0.3,
            "ln_sigma": 0.2, "ln_stable_rank": 0.5, "ln_frobenius": 0.06, "edge_of_change": 1.5,
            "canon": 0.44, "outer_change": 0.7, "z_max.ffn": 5.0, "z_max.attn": 0.0,
            "z_max.other": 0.0, "z_quantile": pytest.approx(1.25 + 0.05 * 3.75),
            "candidates": 3, "caps_applied": 2, "caps_exceeded": 1, "kind_group": "open",
        } | SEEDS,
        (
            Violation("ln_stable_rank", "b", -0.5, 0.2, "attn"),
            Violation("ln_frobenius", "b", 0.06, 0.05, "attn"),
            Violation("canon", "b", 0.44, 0.22, "attn"),
            Violation("ln_sigma", "a", -0.2, 0.1, "ffn"),
            Violation("relative_change", "a", 0.3, 0.2, "ffn"),
            Violation("canon", "a", 0.3, 0.22, "ffn"),
        ),
        (), (Violation("relative_change", "basis", 0.25, 0.2, "ffn"),),
    )  # fmt: skip


def test_findings_as_severe_are_ordered_by_name() -> None:
    found = [change(name, relative_change=0.3, canon=0.5) for name in "bca"]
    assert [v.module for v in spectral(*found).violations if v.kind != "canon"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("found", "limits", "reason", "text"),
    [
        (
            [change("a", relative_change=0.3, canon=0.5)], {"max_caps": 1}, "within_max_caps",
            "a (ffn): relative change 0.3, limit 0.2: as many as max_caps allows",
        ),
        (
            [change("a", relative_change=0.3, canon=0.1), change("b", relative_change=0.4)],
            {}, "basis_changed",
            "b (ffn): relative change 0.4, limit 0.2; and 1 more. The basis changed, and the "
            "function by less",
        ),
        (
            [change("a", relative_change=0.3)], {"available": False}, "canon_unavailable",
            "a (ffn): relative change 0.3, limit 0.2. Damage or another basis, that is open "
            "(unknown architecture x): rmt and variance must be measured",
        ),
    ],
)  # fmt: skip
def test_what_passes_with_a_warning_says_why(
    found: Any, limits: Any, reason: str, text: str
) -> None:
    result = spectral(*found, **limits)
    assert (result.passed, result.action) == (True, "warn")
    assert (result.reason, result.text) == (reason, text)
    assert result.violations == result.expected_changes == ()
    assert {v.module for v in result.warnings} == {row["name"] for row in found}


def test_as_many_as_max_caps_are_no_other_basis_under_reparametrized() -> None:
    moved = change(relative_change=0.3, canon=0.5)
    result = spectral(moved, kind="reparametrized", max_caps=1)
    assert (result.action, result.reason) == ("warn", "within_max_caps")
    assert result.expected_changes == ()


def test_fatal_findings_fail_and_those_within_max_caps_warn_beside_them() -> None:
    nothing = dict.fromkeys(("ln_sigma", "ln_stable_rank", "ln_frobenius", "relative_change"))
    found = [
        change("x", relative_change=0.3, canon=0.5),
        change("y", reason="non_finite_subject", **nothing),
        change("z", sigma=8.0),
    ]
    result = spectral(*found, max_caps=1, max_spectral_norm=4.0)
    assert (result.passed, result.action, result.reason) == (False, "abort", "non_finite")
    assert result.violations == (
        Violation("non_finite", "y", None, None, "ffn"),
        Violation("max_spectral_norm", "z", 8.0, 4.0, "ffn"),
    )
    assert [v.module for v in result.warnings] == ["x", "x"]
    assert result.text == "y (ffn): non finite not a finite number; and 1 more"
    metrics = result.metrics
    assert (metrics["candidates"], metrics["caps_applied"], metrics["caps_exceeded"]) == (3, 1, 0)
    alone = spectral(found[2], max_spectral_norm=4.0)
    assert alone.text == "z (ffn): max spectral norm 8, limit 4"


def test_the_largest_norm_may_be_reached_and_needs_a_number() -> None:
    assert spectral(change(sigma=4.0), max_spectral_norm=4.0).passed is True
    assert spectral(change(sigma=None), max_spectral_norm=4.0).passed is True
    # The worst of a module's own comes first.
    both = spectral(change(sigma=6.0, relative_change=0.4, canon=0.5), max_spectral_norm=4.0)
    assert [v.kind for v in both.violations] == ["relative_change", "max_spectral_norm", "canon"]
    within = spectral(change(sigma=6.0, relative_change=0.4, canon=0.1), max_spectral_norm=4.0)
    assert [v.kind for v in within.violations] == ["relative_change", "max_spectral_norm"]


@pytest.mark.parametrize(
    ("covered", "kind", "reason", "text"),
    [
        (
            {"ffn": ROW | {"matrices": 0}, "attn": ROW | {"matrices": 0}},
            "any", "nothing_measured", "no matrix in scope all was compared",
        ),
        (
            {"ffn": ROW | {"changed": 2}}, "any", "coverage",
            "2 tensors changed, and 0 changes are stated",
        ),
        (
            {"ffn": ROW | {"compared": 880}}, "any", "coverage",
            "94.0% of the parameters in scope all were compared, 95.0% are demanded",
        ),
        (
            {"embed": ROW | {"compared": 0}}, "cast", "coverage",
            "66.7% of the parameters in scope all were compared, 95.0% are demanded",
        ),
        (
            {"vector": ROW | {"compared": 0}}, "quantize8", "coverage",
            "66.7% of the parameters in scope all were compared, 95.0% are demanded",
        ),
    ],
)  # fmt: skip
def test_what_supports_no_judgement_is_named(
    covered: Any, kind: str, reason: str, text: str
) -> None:
    result = spectral(kind=kind, covered=covered)
    assert result == GuardResult("spectral", None, "abort", reason, text, SEEDS)


def test_embeddings_and_vectors_count_only_where_they_are_judged() -> None:
    outside = {"embed": ROW | {"compared": 0}, "vector": ROW | {"compared": 0}}
    for kind, limits in (("any", {}), ("prune", {}), ("cast", {"scope": "ffn"})):
        result = spectral(kind=kind, covered=outside, **limits)
        assert (result.passed, result.metrics["coverage"]) == (True, 1.0)


def test_a_broken_baseline_is_named() -> None:
    broken = [change(name, reason="non_finite_baseline", relative_change=None) for name in "ab"]
    result = spectral(change("sound"), *broken)
    said = "the baseline's a holds NaN or infinite numbers"
    assert result == GuardResult("spectral", None, "abort", "baseline_non_finite", said, SEEDS)


def test_the_least_coverage_suffices() -> None:
    row = ROW | {"compared": 500}
    assert spectral(covered={"ffn": row, "attn": row}, min_coverage=0.5).passed is True
    nothing = ROW | {"parameters": 0, "compared": 0}
    empty = spectral(covered={"ffn": nothing, "attn": nothing})
    assert (empty.passed, empty.reason) == (None, "coverage")
    assert empty.text.startswith("0.0% of the parameters")


@pytest.mark.parametrize("statistic", ["ln_sigma", "ln_stable_rank", "ln_frobenius", "relative_change"])  # fmt: skip
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_statistic_without_a_number_is_beyond_every_limit(statistic: str, value: Any) -> None:
    result = spectral(change(**{statistic: value}), kind="prune")
    assert (result.passed, result.reason) == (False, statistic)


@pytest.mark.parametrize("reason", ["zero_baseline", "zero_subject"])
def test_a_matrix_to_or_from_zero_was_compared(reason: str) -> None:
    assert spectral(change(reason=reason, ln_sigma=None), kind="prune").passed is False
    absent = change(reason="missing_subject", ln_sigma=None)
    assert spectral(absent, kind="prune").passed is True
    vector = change(type="vector", reason="missing_subject", relative_change=None)
    assert spectral(vector, kind="cast").passed is True
    zero = change(type="vector", reason=reason, relative_change=0.1)
    assert spectral(zero, kind="cast").violations == (
        Violation("outer_change", "a", 0.1, 0.005, "ffn"),
    )


def test_what_is_outside_the_blocks_is_ordered_with_the_matrices() -> None:
    found = [
        change("m", relative_change=0.24), change("v", type="vector", relative_change=0.02),
        change("t", "embed", type="table", relative_change=0.0125),
    ]  # fmt: skip
    result = spectral(*found, kind="cast")
    assert [v.module for v in result.violations] == ["v", "m", "t"]
    inner = spectral(*found, kind="cast", scope="ffn")
    assert [v.module for v in inner.violations] == ["m"]


@pytest.mark.parametrize("share", [0.5, 0.95, 1.0])
def test_the_quantile_of_one_matrix_is_its_own(share: float) -> None:
    one = {"ffn": ROW | {"matrices": 1, "changed": 1}, "attn": ROW | {"matrices": 0}}
    result = spectral(change(ln_sigma=0.04), covered=one, sigma_quantile=share)
    assert result.metrics["z_quantile"] == pytest.approx(1.0)


def test_scope_keeps_to_its_family_in_every_number() -> None:
    found = [
        change("a", "attn", ln_sigma=0.05, relative_change=0.15, canon=0.2),
        change("f", ln_sigma=0.02, relative_change=0.1, canon=0.05),
    ]
    covered = {"ffn": ROW | {"changed": 1}, "attn": ROW | {"changed": 1, "compared": 990}}
    metrics = spectral(*found, scope="attn", covered=covered).metrics
    assert (metrics["modules_checked"], metrics["modules_changed"]) == (10, 1)
    assert (metrics["coverage"], metrics["ln_sigma"], metrics["canon"]) == (0.99, 0.05, 0.2)
    assert metrics["z_max.attn"] == pytest.approx(1.4)
    assert "z_max.ffn" not in metrics
    assert metrics["scope"] == "attn"


def test_a_narrower_deadband_raises_z() -> None:
    policy = SpectralPolicy.from_mapping({"deadband": {"ffn": 0.05}, "family_caps": {"ffn": 2.0}})
    result = judge_spectral(evidence(change(ln_sigma=-0.04)), kind="any", policy=policy)
    assert result.metrics["z_max.ffn"] == pytest.approx(1.6)
    strict = judge_spectral(evidence(change(ln_sigma=-0.004)), kind="cast")
    assert strict.metrics["z_max.ffn"] == pytest.approx(1.0)


def test_the_largest_of_unchanged_scores_is_zero() -> None:
    assert spectral(sigma_quantile=1.0).metrics["z_quantile"] == 0.0


def test_a_canonical_change_is_listed_only_beside_what_it_lets_fail() -> None:
    result = spectral(change(sigma=8.0, canon=0.5), max_spectral_norm=4.0)
    assert [v.kind for v in result.violations] == ["max_spectral_norm"]
    assert result.metrics["caps_applied"] == 0


def test_all_that_is_answered_of_an_expected_other_basis() -> None:
    moved = change(relative_change=0.3, canon=0.1)
    expected = spectral(moved, kind="reparametrized")
    warned = spectral(moved, kind="any")
    assert expected == GuardResult(
        "spectral", True, "continue", "basis_changed", warned.text, warned.metrics, (),
        warned.warnings,
    )  # fmt: skip
    assert warned.metrics["candidates"] == 1


@pytest.mark.parametrize(
    "values",
    [
        {"reason": "non_finite_subject", "relative_change": None},
        {"type": "table", "family": "embed", "relative_change": 0.01},
    ],
)
def test_tensors_that_are_no_matrices_are_ordered_by_name_too(values: dict[str, Any]) -> None:
    result = spectral(*(change(name, **values) for name in "bca"), kind="cast")
    assert [v.module for v in result.violations] == ["a", "b", "c"]


def test_numbers_of_matrices_are_of_matrices_in_scope_alone() -> None:
    found = [
        change("v", type="vector", ln_sigma=9.0, relative_change=0.5),
        change("m", "attn", ln_sigma=0.05, relative_change=0.15),
        change("own", ln_sigma=0.01, relative_change=0.1),
    ]
    covered = {"ffn": ROW | {"changed": 2}, "attn": ROW | {"changed": 1}}
    metrics = spectral(*found, scope="ffn", covered=covered).metrics
    assert (metrics["ln_sigma"], metrics["relative_change"]) == (0.01, 0.1)
    assert metrics["outer_change"] == 0.5
    assert spectral(found[1]).metrics["outer_change"] == 0.0


def test_a_vector_that_moved_counts_among_max_caps() -> None:
    moved = change("v", type="vector", relative_change=0.02)
    result = spectral(moved, kind="cast", max_caps=1)
    assert (result.passed, result.reason) == (True, "within_max_caps")
    assert result.metrics["caps_applied"] == 1
