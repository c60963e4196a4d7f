"""Statistics of a changed weight: exact to the stated accuracy, by the laws that they obey."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from invarlock_guards.measure import singular_values
from invarlock_guards.measure.row_blocks import bitwise_equal, is_finite
from invarlock_guards.measure.singular_values import matrix_norms
from invarlock_guards.measure.weight_change import WeightPair, compare, weight_pairs

TOLERANCE = 1e-6


def drawn(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def change(baseline: torch.Tensor, subject: torch.Tensor, role: str = "up") -> Any:
    found = compare(WeightPair("w", role, "ffn", baseline, subject))
    assert len(found) == 1
    return found[0]


def reference(matrix: torch.Tensor) -> np.ndarray[Any, Any]:
    return np.linalg.svd(matrix.double().numpy(), compute_uv=False)


SHAPES = [(1, 1), (1, 40), (40, 1), (8, 300), (300, 8), (60, 60)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_norms_agree_with_the_decomposition(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = drawn(*shape).to(dtype)
    spectrum = reference(matrix)
    found = matrix_norms(matrix)
    assert found.sigma == pytest.approx(spectrum[0], rel=TOLERANCE)
    assert found.frobenius == pytest.approx(math.sqrt((spectrum**2).sum()), rel=TOLERANCE)
    assert found.stable_rank == pytest.approx((spectrum**2).sum() / spectrum[0] ** 2, rel=1e-5)
    assert found.sigma_error <= TOLERANCE


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_norms_of_very_small_and_large_matrices(scale: float) -> None:
    matrix = (drawn(30, 50).double() * scale).float()
    assert matrix_norms(matrix).sigma == pytest.approx(reference(matrix)[0], rel=TOLERANCE)


def test_norms_of_doubles_whose_squares_overflow() -> None:
    for scale in (1e-200, 1e200):
        matrix = drawn(20, 30).double() * scale
        assert matrix_norms(matrix).sigma == pytest.approx(reference(matrix)[0], rel=TOLERANCE)


@pytest.mark.parametrize("rank", [1, 2, 7])
def test_norms_of_rank_deficient_matrices(rank: int) -> None:
    matrix = drawn(40, rank) @ drawn(rank, 90, 1)
    found = matrix_norms(matrix)
    assert found.sigma == pytest.approx(reference(matrix)[0], rel=TOLERANCE)
    assert found.stable_rank <= rank * (1 + 1e-6)


def test_a_zero_matrix_has_norms_of_zero() -> None:
    found = matrix_norms(torch.zeros(4, 7))
    assert (found.sigma, found.frobenius, found.stable_rank) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_broken_numbers_have_no_norm(number: float) -> None:
    matrix = drawn(4, 7)
    matrix[1, 2] = number
    with pytest.raises(ValueError, match="NaN or infinite"):
        matrix_norms(matrix)


def test_only_matrices_have_norms() -> None:
    with pytest.raises(ValueError, match="two axes"):
        matrix_norms(torch.zeros(3))


@pytest.mark.parametrize("decay", [0.0, 2.0])
@pytest.mark.parametrize("shape", [(400, 260), (260, 400)])
def test_the_iteration_for_large_matrices_keeps_its_bound(
    shape: tuple[int, int], decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(singular_values, "GRAM_SIDE", 100)
    matrix = drawn(*shape) * torch.logspace(0, -decay, shape[1])
    exact = reference(matrix)[0]
    found = matrix_norms(matrix)
    assert abs(found.sigma / exact - 1) <= found.sigma_error <= 1.1 * TOLERANCE
    coarse = matrix_norms(matrix, torch.zeros_like(matrix))
    assert abs(coarse.sigma / exact - 1) <= coarse.sigma_error <= 1.1 * 1e-3


def test_an_iteration_that_does_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(singular_values, "GRAM_SIDE", 100)
    monkeypatch.setattr(singular_values, "KRYLOV_STEPS", 1)
    matrix = drawn(400, 260)
    assert matrix_norms(matrix).sigma_error > 1e-3
    found = change(matrix, matrix * 1.5)
    assert (found.reason, found.ln_sigma, found.compared) == ("not_converged", None, False)


def test_rows_are_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from invarlock_guards.measure import row_blocks

    matrix, other = drawn(50, 33), drawn(50, 33, 1)
    whole = change(matrix, other)
    monkeypatch.setattr(row_blocks, "BLOCK_ELEMENTS", 70)
    pieces = change(matrix, other)
    for key in ("ln_sigma", "ln_frobenius", "relative_change", "edge_of_change"):
        assert getattr(pieces, key) == pytest.approx(getattr(whole, key), rel=1e-9, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 30), columns=st.integers(1, 30), seed=st.integers(0, 99),
    factor=st.floats(1e-3, 1e3),
)  # fmt: skip
def test_scaling_by_c_moves_ln_sigma_by_ln_c(
    rows: int, columns: int, seed: int, factor: float
) -> None:
    matrix = drawn(rows, columns, seed).double()
    found = change(matrix, matrix * factor)
    if factor == 1:
        assert found.bitwise_equal
        return
    assert found.ln_sigma == pytest.approx(math.log(factor), abs=1e-9)
    assert found.ln_frobenius == pytest.approx(math.log(factor), abs=1e-9)
    assert found.ln_stable_rank == pytest.approx(0, abs=1e-8)
    assert found.relative_change == pytest.approx(abs(factor - 1), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(2, 30), columns=st.integers(2, 30), seed=st.integers(0, 99))
def test_permutation_rotation_and_sign_keep_sizes_and_are_seen_by_the_relative_change(
    rows: int, columns: int, seed: int
) -> None:
    matrix = drawn(rows, columns, seed).double()
    turned = torch.linalg.qr(drawn(rows, rows, seed + 1).double()).Q @ matrix
    for subject in (matrix.flip(0), turned, -matrix):
        found = change(matrix, subject)
        for key in ("ln_sigma", "ln_frobenius", "ln_stable_rank"):
            assert getattr(found, key) == pytest.approx(0, abs=1e-7)
        assert found.relative_change > 1e-3


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 30), columns=st.integers(1, 30), seed=st.integers(0, 99))
def test_a_transposed_layout_has_the_same_statistics(rows: int, columns: int, seed: int) -> None:
    one, other = drawn(rows, columns, seed), drawn(rows, columns, seed + 100)
    here, there = change(one, other), change(one.T, other.T)
    for key in ("ln_sigma", "ln_frobenius", "ln_stable_rank", "relative_change", "edge_of_change"):
        assert getattr(here, key) == pytest.approx(getattr(there, key), rel=1e-6, abs=1e-9)


def test_the_edge_tells_a_change_with_structure() -> None:
    matrix = drawn(128, 160)
    noise = change(matrix, matrix + 0.01 * drawn(128, 160, 1))
    assert 0.9 < noise.edge_of_change < 1.1
    update = drawn(128, 1, 2) @ drawn(1, 160, 3)
    lowrank = change(matrix, matrix + 0.001 * update)
    bound = math.sqrt(128 * 160) / (math.sqrt(128) + math.sqrt(160))
    assert lowrank.edge_of_change == pytest.approx(bound, rel=0.01)


def test_the_balanced_edge_sees_structure_and_not_the_sizes_of_rows_and_columns() -> None:
    matrix, noise = drawn(128, 160), 0.01 * drawn(128, 160, 1)
    sizes = torch.logspace(0, -2, 128)[:, None] * torch.logspace(-1, 1, 160)
    uneven = change(matrix, matrix + noise * sizes)
    assert uneven.edge_of_change > 1.75
    assert 0.9 < uneven.balanced_edge < 1.1
    update = drawn(128, 1, 2) @ drawn(1, 160, 3)
    hidden = change(matrix, matrix + noise + 0.004 * update)
    assert hidden.balanced_edge > 1.5
    for key in ("edge_of_change", "balanced_edge"):
        turned = change(matrix.T, (matrix + noise + 0.004 * update).T)
        assert getattr(turned, key) == pytest.approx(getattr(hidden, key), rel=0.01)


def test_rows_and_columns_that_did_not_change_have_no_size() -> None:
    matrix = drawn(20, 30)
    subject = matrix.clone()
    subject[3, 4] += 1
    found = change(matrix, subject)
    assert found.balanced_edge == pytest.approx(found.edge_of_change)


def test_equal_tensors_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr("invarlock_guards.measure.weight_change.matrix_norms", refuse)
    matrix = drawn(5, 6)
    found = change(matrix, matrix.clone())
    assert found.bitwise_equal
    assert (found.ln_sigma, found.relative_change, found.edge_of_change) == (0, 0, 0)
    with pytest.raises(AssertionError, match="computed"):
        change(matrix, matrix + 1)


def test_the_sign_of_a_zero_and_another_dtype_are_differences_of_bits_alone() -> None:
    matrix = drawn(5, 6).bfloat16().float()
    matrix[0, 0] = 0.0
    signed = matrix.clone()
    signed[0, 0] = -0.0
    for subject in (signed, matrix.bfloat16()):
        found = change(matrix, subject)
        assert not found.bitwise_equal
        assert (found.ln_sigma, found.relative_change, found.reason) == (0, 0, None)
    assert bitwise_equal(matrix, matrix.clone())


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_broken_numbers_are_named_on_their_side(number: float) -> None:
    matrix = drawn(5, 6)
    broken = matrix.clone()
    broken[2, 3] = number
    assert change(matrix, broken).reason == "non_finite_subject"
    assert change(broken, matrix).reason == "non_finite_baseline"
    # Equal bits that are broken are not a clean bill.
    assert change(broken, broken.clone()).reason == "non_finite_baseline"
    for role in ("norm", "bias"):
        pair = WeightPair("w", role, "other", matrix[2], broken[2])
        assert compare(pair)[0].reason == "non_finite_subject"


def test_eight_bit_floats_are_read() -> None:
    matrix = drawn(8, 9)
    small = matrix.to(torch.float8_e4m3fn)
    found = change(matrix, small)
    exact = float((small.float() - matrix).norm() / matrix.norm())
    assert found.relative_change == pytest.approx(exact, rel=1e-5)
    small[1, 1] = math.nan
    assert not is_finite(small)
    assert change(matrix, small).reason == "non_finite_subject"


def test_ratios_to_and_from_zero_have_no_value_but_a_reason() -> None:
    matrix, zero = drawn(5, 6), torch.zeros(5, 6)
    gone = change(matrix, zero)
    assert (gone.reason, gone.ln_sigma, gone.relative_change) == ("zero_subject", None, 1.0)
    born = change(zero, matrix)
    assert (born.reason, born.ln_sigma, born.relative_change) == ("zero_baseline", None, None)


def test_tensors_that_cannot_be_compared_say_why() -> None:
    matrix = drawn(5, 6)
    cases = [
        (matrix, None, "missing_subject"),
        (None, matrix, "missing_baseline"),
        (matrix, drawn(6, 5), "shape"),
        (matrix, matrix.to(torch.int8), "dtype"),
    ]
    for baseline, subject, reason in cases:
        (found,) = compare(WeightPair("w", "up", "ffn", baseline, subject))
        assert (found.reason, found.compared, found.n_parameters) == (reason, False, 30)


def test_experts_are_compared_one_by_one() -> None:
    stack = torch.stack([drawn(5, 6, seed) for seed in range(3)])
    damaged = stack.clone()
    damaged[1] *= 2
    found = compare(WeightPair("experts.up", "gate_up", "ffn", stack, damaged))
    assert [c.name for c in found] == ["experts.up[0]", "experts.up[1]", "experts.up[2]"]
    assert [c.bitwise_equal for c in found] == [True, False, True]
    assert found[1].ln_sigma == pytest.approx(math.log(2))


@pytest.mark.parametrize(("role", "family"), [("embedding", "embed"), ("norm", "other")])
def test_tables_and_vectors_are_compared_by_size_alone(
    role: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("invarlock_guards.measure.weight_change.matrix_norms")
    matrix = drawn(9, 6) if family == "embed" else drawn(9, 6)[0]
    (found,) = compare(WeightPair("w", role, family, matrix, matrix * 1.5))
    assert found.relative_change == pytest.approx(0.5)
    assert found.ln_frobenius == pytest.approx(math.log(1.5))
    assert found.ln_sigma is None
    assert found.reason is None


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "t5", "bert", "gpt_oss", "mamba"])
def test_every_parameter_of_a_model_is_a_pair_once(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    tensors = dict(model.named_parameters())
    pairs = list(weight_pairs(model, tensors, tensors))
    assert [pair.name for pair in pairs] == list(tensors)
    matrices = [pair for pair in pairs if pair.is_matrix]
    assert all(pair.baseline.ndim > 1 for pair in matrices)
    embedding = model.get_input_embeddings().weight
    assert not any(pair.baseline is embedding for pair in matrices)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e300])
def test_doubles_near_the_ends_of_their_range_have_the_statistics_of_others(scale: float) -> None:
    matrix = drawn(20, 30).double()
    subject = matrix + 0.1 * drawn(20, 30, 1).double()
    plain, found = change(matrix, subject), change(matrix * scale, subject * scale)
    for key in (
        "ln_sigma", "ln_frobenius", "ln_stable_rank", "relative_change", "edge_of_change",
        "balanced_edge",
    ):  # fmt: skip
        assert getattr(found, key) == pytest.approx(getattr(plain, key), rel=1e-6), key
    vector = change(matrix[0] * scale, subject[0] * scale, "norm")
    plain = change(matrix[0], subject[0], "norm")
    for key in ("relative_change", "ln_frobenius"):
        assert getattr(vector, key) == pytest.approx(getattr(plain, key), rel=1e-9), key


@pytest.mark.parametrize("role", ["up", "norm"])
def test_what_float64_cannot_hold_is_not_measured(role: str) -> None:
    matrix = drawn(20, 30).double()
    sizes = (1e-300, 1e300, 1.7e308 / float(matrix.abs().max()), 5e-324)
    for one in sizes:
        for other in sizes:
            found = change(matrix * one, -matrix * other, role)
            values = [v for v in found.document().values() if isinstance(v, float)]
            assert all(math.isfinite(value) for value in values)
            if {one, other} == {1e-300, 1e300}:
                assert found.relative_change in (None, 1.0)
                assert (found.reason == "not_converged") == (role == "up" or one == 1e-300)


def test_equal_integers_were_compared_and_others_were_not() -> None:
    matrix = drawn(5, 6).mul(10).to(torch.int8)
    same = change(matrix, matrix.clone())
    assert (same.bitwise_equal, same.compared, same.n_parameters) == (True, True, 30)
    moved = change(matrix, matrix + 1)
    assert (moved.bitwise_equal, moved.compared, moved.reason) == (False, False, "dtype")
