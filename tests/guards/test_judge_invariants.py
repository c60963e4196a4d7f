"""The invariants judge: every difference fails, and only a cast of all alike may be expected."""

from __future__ import annotations

from typing import Any

import pytest
from invarlock_guards.contract import GuardResult, Violation
from invarlock_guards.judge.invariants import judge_invariants

KINDS = {
    "missing": "missing_tensor", "unexpected": "unexpected_tensor",
    "shape_changes": "shape_change", "non_finite": "non_finite", "ties_broken": "tie_broken",
    "ties_added": "tie_added", "config_changes": "config_change",
    "tokenizer_changes": "tokenizer_change", "dtype_changes": "dtype_change",
}  # fmt: skip
CLEAN: dict[str, Any] = {"n_tensors": 2, "n_floating_tensors": 2, "n_parameters": 30} | {
    key: [] for key in KINDS
}
COUNTS = {"n_tensors": 2, "n_parameters": 30} | {f"n_{key}": 0 for key in KINDS}


def entry(name: str, baseline: Any = "b", subject: Any = "s") -> dict[str, Any]:
    return {"name": name, "baseline": baseline, "subject": subject}


@pytest.mark.parametrize(("key", "kind"), KINDS.items())
def test_each_difference_fails_and_is_named(key: str, kind: str) -> None:
    result = judge_invariants(CLEAN | {key: [entry("w")]}, kind="prune")
    said = f"{kind.replace('_', ' ')} in w (s, baseline b)"
    assert result == GuardResult(
        "invariants", False, "abort", kind, said, COUNTS | {f"n_{key}": 1},
        (Violation(kind, "w", "s", "b"),), (),
    )  # fmt: skip


def test_all_that_is_answered_where_nothing_differs() -> None:
    said = "2 tensors: finite, same names, shapes, dtypes and ties"
    assert judge_invariants(CLEAN, kind="any") == GuardResult(
        "invariants", True, "continue", "ok", said, COUNTS, (), ()
    )


@pytest.mark.parametrize("evidence", [{}, CLEAN | {"n_tensors": 0}])
def test_no_tensor_is_no_pass(evidence: dict[str, Any]) -> None:
    assert judge_invariants(evidence, kind="any") == GuardResult(
        "invariants", None, "abort", "nothing_measured", "no tensor of the model was compared"
    )


@pytest.mark.parametrize("kind", ["any", "cast"])
def test_a_cast_of_all_alike_is_expected_where_the_kind_allows_it(kind: str) -> None:
    cast = CLEAN | {"dtype_changes": [entry("v", "f32", "f16"), entry("w", "f32", "f16")]}
    result = judge_invariants(cast, kind=kind)
    assert result == GuardResult(
        "invariants", True, "continue", "ok",
        "2 tensors: finite, same names, shapes and ties; all cast alike",
        COUNTS | {"n_dtype_changes": 2}, (),
        (Violation("dtype_change", "v", "f16", "f32"), Violation("dtype_change", "w", "f16", "f32")),
    )  # fmt: skip
    beside = judge_invariants(cast | {"missing": [entry("u")]}, kind=kind)
    assert [v.kind for v in beside.violations] == ["missing_tensor"]
    assert len(beside.expected_changes) == 2
    assert beside.text == "missing tensor in u (s, baseline b)"


@pytest.mark.parametrize("kind", ["quantize8", "quantize4", "prune", "finetune", "merge", "reparametrized"])  # fmt: skip
def test_no_other_kind_expects_a_cast(kind: str) -> None:
    cast = CLEAN | {"dtype_changes": [entry("v", "f32", "f16"), entry("w", "f32", "f16")]}
    result = judge_invariants(cast, kind=kind)
    assert (result.passed, result.reason, len(result.violations)) == (False, "dtype_change", 2)
    assert result.text == "dtype change in v (f16, baseline f32) and 1 more"


@pytest.mark.parametrize(
    "changes",
    [
        [entry("v", "f32", "f16")],
        [entry("v", "f32", "f16"), entry("w", "f32", "bf16")],
        [entry("v", "f32", "f16"), entry("w", "bf16", "f16")],
    ],
)
def test_a_cast_of_some_or_to_several_is_not_expected(changes: list[dict[str, Any]]) -> None:
    result = judge_invariants(CLEAN | {"dtype_changes": changes}, kind="cast")
    assert (result.passed, result.reason) == (False, "dtype_change")
    assert result.expected_changes == ()


def test_a_sentence_names_the_first_and_counts_the_rest() -> None:
    several = CLEAN | {
        "missing": [entry("a", "x", None), entry("b", "x", None)], "ties_added": [entry("c")],
    }  # fmt: skip
    result = judge_invariants(several, kind="any")
    assert result.text == "missing tensor in a and 2 more"
    assert [v.module for v in result.violations] == ["a", "b", "c"]
    alone = judge_invariants(CLEAN | {"missing": [entry("a", "x", None)]}, kind="any")
    assert alone.text == "missing tensor in a"
