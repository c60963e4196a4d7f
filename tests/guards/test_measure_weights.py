"""Changes of small weights by hand: every field of what is said of a matrix, a vector, a model."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from invarlock_guards import SpectralGuard
from invarlock_guards.measure import row_blocks as blocks_module
from invarlock_guards.measure import singular_values, spectral
from invarlock_guards.measure.canonical_change import CanonicalChange
from invarlock_guards.measure.row_blocks import as_float64, bitwise_equal, is_finite, row_blocks
from invarlock_guards.measure.singular_values import MatrixNorms, matrix_norms
from invarlock_guards.measure.spectral import measure_spectral
from invarlock_guards.measure.weight_change import (
    WeightChange,
    WeightPair,
    _balance,
    _has_numbers,
    _held,
    _inverse_sizes,
    _unmeasured,
    compare,
    weight_pairs,
)

NUMBERS = (
    "ln_sigma", "ln_frobenius", "ln_stable_rank", "relative_change", "edge_of_change", "sigma",
    "balanced_edge",
)  # fmt: skip


def diagonal(*values: float) -> torch.Tensor:
    return torch.diag(torch.tensor(values))


def pair(
    one: torch.Tensor | None, other: torch.Tensor | None, role: str = "up", family: str = "ffn"
) -> WeightPair:
    return WeightPair("w", role, family, one, other)


def test_every_number_of_a_changed_matrix() -> None:
    (found,) = compare(pair(diagonal(4.0, 3.0), diagonal(4.0, 4.0)))
    sizes = math.sqrt(32) / 5
    assert found.document() == {
        "name": "w", "role": "up", "family": "ffn", "n_parameters": 4, "bitwise_equal": False,
        "ln_sigma": pytest.approx(0, abs=1e-12), "ln_frobenius": pytest.approx(math.log(sizes)),
        "ln_stable_rank": pytest.approx(2 * math.log(sizes)), "relative_change": 1 / 5,
        # A change of one entry: σ = ‖Δ‖ = 1, over ‖Δ‖/√4 · 2√2.
        "edge_of_change": pytest.approx(1 / math.sqrt(2)), "sigma": pytest.approx(4),
        "balanced_edge": pytest.approx(1 / math.sqrt(2)), "reason": None,
    }  # fmt: skip
    assert found.compared


def test_every_number_of_a_changed_vector() -> None:
    (found,) = compare(pair(torch.tensor([3.0, 4.0]), torch.tensor([6.0, 8.0]), "norm", "other"))
    assert found == WeightChange(
        "w", "norm", "other", 2, relative_change=1.0, ln_frobenius=pytest.approx(math.log(2))
    )


@pytest.mark.parametrize("role", ["up", "norm"])
def test_equal_bits_are_no_change_and_other_bits_of_one_value_none_in_size(role: str) -> None:
    one = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    (equal,) = compare(pair(one, one.clone(), role))
    assert equal == WeightChange("w", role, "ffn", 4, True, 0.0, 0.0, 0.0, 0.0, 0.0, None, 0.0)
    signed = one.clone()
    signed[0, 0] = -0.0
    (found,) = compare(pair(one, signed, role))
    if role == "up":
        assert found == WeightChange("w", role, "ffn", 4, False, 0.0, 0.0, 0.0, 0.0, 0.0, None, 0.0)
    else:
        assert found == WeightChange("w", role, "ffn", 4, ln_frobenius=0.0, relative_change=0.0)


def test_a_pair_that_is_known_unchanged_is_not_read() -> None:
    shape = torch.empty(2, 3, device="meta")
    (found,) = compare(WeightPair("w", "up", "ffn", shape, shape, unchanged=True))
    assert (found.bitwise_equal, found.n_parameters, found.balanced_edge) == (True, 6, 0.0)
    packed = torch.empty(2, 3, dtype=torch.int8, device="meta")
    (found,) = compare(WeightPair("w", "up", "ffn", packed, packed, unchanged=True))
    assert (found.bitwise_equal, found.reason) == (True, None)


ONE, ZERO = diagonal(3.0, 4.0), torch.zeros(2, 2)
BROKEN = diagonal(3.0, math.nan)
INTEGERS = ONE.to(torch.int8)


@pytest.mark.parametrize("role", ["up", "norm"])
@pytest.mark.parametrize(
    ("one", "other", "reason", "change", "read"),
    [
        (None, ONE, "missing_baseline", None, False),
        (ONE, None, "missing_subject", None, False),
        (ONE, torch.zeros(2, 1), "shape", None, False),
        (ONE, INTEGERS, "dtype", None, False),
        (INTEGERS, ONE, "dtype", None, False),
        (BROKEN, ONE, "non_finite_baseline", None, False),
        (ONE, BROKEN, "non_finite_subject", None, True),
        (ZERO, ONE, "zero_baseline", None, True),
        (ONE, ZERO, "zero_subject", 1.0, True),
    ],
)
def test_what_has_no_number_says_why(
    one: torch.Tensor | None, other: torch.Tensor | None, reason: str, change: float | None,
    read: bool, role: str,
) -> None:  # fmt: skip
    (found,) = compare(pair(one, other, role))
    assert found == WeightChange("w", role, "ffn", 4, relative_change=change, reason=reason)
    assert found.compared is read


def test_a_pair_of_nothing_is_no_change() -> None:
    assert compare(pair(None, None)) == []
    assert not pair(None, None).is_matrix


def test_numbers_beyond_float64_are_not_converged() -> None:
    one = torch.full((2, 2), 1e-300, dtype=torch.float64)
    for role in ("up", "norm"):
        (found,) = compare(pair(one, one * -1e300 * 1e300, role))
        assert found == WeightChange("w", role, "ffn", 4, reason="not_converged")
    with pytest.raises(OverflowError, match=r"^a number beyond float64's range$"):
        _held(math.inf)
    assert _held(2.5) == 2.5


@pytest.mark.parametrize(
    ("role", "family", "matrix"),
    [("up", "ffn", True), ("q", "attn", True), ("unknown", "other", True), ("up", "embed", False),
     ("norm", "other", False), ("bias", "ffn", False), ("vector", "other", False)],
)  # fmt: skip
def test_what_is_a_matrix(role: str, family: str, matrix: bool) -> None:
    assert pair(ONE, None, role, family).is_matrix is matrix
    assert pair(None, ONE, role, family).is_matrix is matrix
    assert not pair(ONE[0], ONE[0], role, family).is_matrix


def test_stacks_are_split_by_their_role_alone() -> None:
    stack = torch.arange(12.0).reshape(3, 2, 2) + 1
    for role in ("up", "gate", "gate_up", "inner", "down"):
        found = compare(pair(stack, stack * 2, role))
        assert [(c.name, c.n_parameters) for c in found] == [(f"w[{n}]", 4) for n in range(3)]
    (whole,) = compare(pair(stack, stack * 2, "q", "attn"))
    assert (whole.name, whole.n_parameters) == ("w", 12)
    assert whole.ln_sigma == pytest.approx(math.log(2))
    # Of a convolution the first axis stays: rows of four.
    assert whole.edge_of_change == pytest.approx(
        matrix_norms(stack.reshape(3, 4)).sigma
        / (float(stack.norm()) / math.sqrt(12) * (math.sqrt(3) + 2))
    )
    (table,) = compare(pair(stack, stack * 2, "up", "embed"))
    assert table.ln_sigma is None


def test_what_was_not_measured_well_enough() -> None:
    good, bad = MatrixNorms(1.0, 9e-6, 1.0), MatrixNorms(1.0, 1.1e-5, 1.0)
    zero = MatrixNorms(0.0, 0.0, 0.0)
    assert _unmeasured(good, good, MatrixNorms(1.0, 9e-3, 1.0)) is None
    assert _unmeasured(bad, good, good) == "not_converged"
    assert _unmeasured(good, bad, good) == "not_converged"
    assert _unmeasured(good, good, MatrixNorms(1.0, 1.1e-2, 1.0)) == "not_converged"
    assert _unmeasured(zero, good, bad) == "zero_baseline"
    assert _unmeasured(good, zero, bad) == "zero_subject"
    assert _unmeasured(zero, zero, good) == "zero_baseline"


def test_rows_and_then_columns_are_brought_to_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 1.0]]).double()
    rows, columns = _balance(moved, torch.zeros_like(moved))
    first, third = 1 / math.sqrt(12.5), math.sqrt(2)
    assert rows.tolist() == pytest.approx([first, 0.0, third])
    assert columns.tolist() == pytest.approx(
        [1 / (3 * first), 1 / math.sqrt((4 * first) ** 2 + third**2)]
    )
    monkeypatch.setattr(blocks_module, "BLOCK_ELEMENTS", 2)
    in_blocks = _balance(moved + 1, torch.ones_like(moved))
    assert in_blocks[0].tolist() == pytest.approx(rows.tolist())
    assert in_blocks[1].tolist() == pytest.approx(columns.tolist())
    assert _balance(ZERO, ZERO)[1].tolist() == [0.0, 0.0]


def test_rows_near_the_ends_of_float64_have_a_size() -> None:
    for size in (1e-180, 1e-101, 1.0, 1e101, 1e180):
        block = torch.tensor([[size, size], [0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
        assert _inverse_sizes(block).tolist() == pytest.approx([1 / size, 0.0, 1.0])


def test_matrices_are_read_in_blocks_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert blocks_module.BLOCK_ELEMENTS == 1 << 22
    matrix = torch.arange(14.0).reshape(7, 2)
    assert [b.shape for (b,) in row_blocks(matrix)] == [(7, 2)]
    monkeypatch.setattr(blocks_module, "BLOCK_ELEMENTS", 7)
    found = list(row_blocks(matrix, matrix + 1))
    assert [one.shape[0] for one, _ in found] == [3, 3, 1]
    assert torch.equal(torch.cat([one for one, _ in found]), matrix.double())
    assert torch.equal(torch.cat([two for _, two in found]), matrix.double() + 1)
    monkeypatch.setattr(blocks_module, "BLOCK_ELEMENTS", 1)
    assert [b.shape for (b,) in row_blocks(matrix[:2])] == [(1, 2), (1, 2)]
    assert [b.shape for (b,) in row_blocks(torch.zeros(2, 0))] == [(1, 0), (1, 0)]
    assert as_float64(matrix.bfloat16().requires_grad_()).dtype is torch.float64
    assert not as_float64(matrix.bfloat16().requires_grad_()).requires_grad


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
)
def test_bits_are_compared_whatever_the_size_of_a_number(dtype: torch.dtype) -> None:
    one = torch.tensor([[0.5, 0.0], [1.0, 2.0]]).to(dtype)
    negative = torch.tensor([[0.5, -0.0], [1.0, 2.0]]).to(dtype)
    assert bitwise_equal(one, one)
    assert bitwise_equal(one, one.clone())
    assert not bitwise_equal(one, negative)
    assert not bitwise_equal(one, one[:1])
    assert not bitwise_equal(one, one.T)
    assert not bitwise_equal(torch.zeros(2), torch.zeros(2).int())
    nan = torch.tensor([math.nan])
    assert bitwise_equal(nan, nan.clone())


def test_finiteness_of_any_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    for number in (math.nan, math.inf, -math.inf):
        broken = whole.clone()
        broken[1, 2] = number
        assert not is_finite(broken)
        assert not is_finite(broken.T)
    assert is_finite(whole)
    assert is_finite(whole.T)
    assert is_finite(torch.zeros(0))
    assert is_finite(torch.zeros(0, 3).int())
    assert is_finite(torch.arange(3))
    small = whole.to(torch.float8_e4m3fn)
    monkeypatch.setattr(blocks_module, "BLOCK_ELEMENTS", 4)
    assert is_finite(small)
    for place in (0, 5):
        bad = small.float()
        bad.view(-1)[place] = math.nan
        assert not is_finite(bad.to(torch.float8_e4m3fn))


def test_norms_of_small_matrices_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    found = matrix_norms(diagonal(3.0, 4.0))
    assert found == MatrixNorms(pytest.approx(4.0), 2e-14, pytest.approx(5.0))
    assert found.stable_rank == pytest.approx(25 / 16)
    assert matrix_norms(ONE, ONE) == MatrixNorms(0.0, 0.0, 0.0)
    assert matrix_norms(ONE, diagonal(1.0, 4.0)).sigma == pytest.approx(2.0)
    assert matrix_norms(ONE.double() * 1e200).frobenius == pytest.approx(5e200)
    assert matrix_norms(ONE, ONE.double() * 1e200).frobenius == pytest.approx(5e200)
    tall = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    factors = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 1.0]).double()
    scaled = tall.double() * factors[0][:, None] * factors[1]
    for elements in (1 << 22, 2):
        monkeypatch.setattr(blocks_module, "BLOCK_ELEMENTS", elements)
        for one, two in ((tall, factors), (tall.T, factors[::-1])):
            found = matrix_norms(one, None, two)
            assert found.frobenius == pytest.approx(float(scaled.norm()))
            assert found.sigma == pytest.approx(float(torch.linalg.matrix_norm(scaled, 2)))
            assert matrix_norms(one, one / 2, two).sigma == pytest.approx(found.sigma / 2)


def test_norms_refuse_what_is_no_matrix_of_numbers() -> None:
    with pytest.raises(ValueError, match=r"^a matrix has two axes, not 1$"):
        matrix_norms(torch.zeros(3))
    for broken in (BROKEN, BROKEN.double()):
        with pytest.raises(ValueError, match=r"^NaN or infinite elements have no norm$"):
            matrix_norms(broken)
    assert matrix_norms(torch.zeros(0, 3, dtype=torch.float64)).sigma == 0.0


def test_the_limits_of_the_measure_of_singular_values(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (singular_values.GRAM_SIDE, singular_values.TOLERANCE) == (8192, 1e-6)
    assert (singular_values.CHANGE_TOLERANCE, singular_values.ROUNDING) == (1e-3, 1e-14)
    assert (singular_values.KRYLOV_BLOCK, singular_values.KRYLOV_STEPS) == (12, 24)
    monkeypatch.setattr(singular_values, "GRAM_SIDE", 20)
    given: list[tuple[int, float]] = []

    def counted(blocks: Any, side: int, tolerance: float) -> tuple[float, float]:
        del blocks
        given.append((side, tolerance))
        return 2.0, 0.25

    monkeypatch.setattr(singular_values, "_by_krylov", counted)
    matrix = torch.ones(30, 21)
    assert matrix_norms(matrix[:, :20]).sigma == pytest.approx(math.sqrt(600))
    assert given == []
    assert matrix_norms(matrix) == MatrixNorms(2.0, 0.25, pytest.approx(math.sqrt(630)))
    assert matrix_norms(matrix.T * 2, matrix.T).sigma == 2.0
    assert matrix_norms(matrix.double() * 4).sigma == 2.0 * 8
    assert given == [(21, 1e-6), (21, 1e-3), (21, 1e-6)]


def test_blocks_of_a_matrix_add_up() -> None:
    one, two = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    found = singular_values._gram_times(lambda: iter((one, two)), torch.eye(2))
    assert torch.equal(found, one.T @ one + two.T @ two)


def test_packed_numbers_are_none_to_compute_with() -> None:
    for name in ("float8_e8m0fnu", "float4_e2m1fn_x2", "float8_e4m3fn", "float32"):
        tensor: Any = SimpleNamespace(dtype=f"torch.{name}", is_floating_point=lambda: True)
        assert _has_numbers(tensor) is (name in ("float8_e4m3fn", "float32"))
    assert not _has_numbers(torch.ones(1).int())


def test_the_parameters_of_a_model_are_paired_by_name(architecture: Any) -> None:
    model = architecture("gpt2")
    parameters = dict(model.named_parameters())
    found = {p.name: p for p in weight_pairs(model, parameters, {})}
    roles = {name.removeprefix("transformer."): (p.role, p.family) for name, p in found.items()}
    assert list(found) == list(parameters)
    assert roles["wte.weight"] == ("embedding", "embed")
    assert roles["h.1.attn.c_attn.weight"] == ("qkv", "attn")
    assert roles["h.1.attn.c_attn.bias"] == ("bias", "attn")
    assert roles["h.1.mlp.c_proj.bias"] == ("bias", "ffn")
    assert roles["h.1.ln_1.weight"] == roles["h.1.ln_1.bias"] == ("norm", "other")
    one = found["transformer.wte.weight"]
    assert (one.baseline is parameters[one.name], one.subject, one.unchanged) == (True, None, False)
    loose = torch.nn.Module()
    loose.scale = torch.nn.Parameter(torch.ones(2))
    (vector,) = weight_pairs(loose, {}, {"scale": loose.scale})
    assert (vector.name, vector.role, vector.family) == ("scale", "vector", "other")
    assert (vector.baseline, vector.subject is loose.scale) == (None, True)


def test_spectral_evidence_of_a_few_tensors() -> None:
    pairs = [
        WeightPair("a", "up", "ffn", ONE, ONE * 2),
        WeightPair("b", "down", "ffn", ONE, ONE),
        WeightPair("c", "q", "attn", ONE, None),
        WeightPair("d", "embedding", "embed", ONE, ONE * 2),
        WeightPair("e", "norm", "embed", ONE[0], ONE[0] * 2),
        WeightPair("f", "bias", "attn", ONE[0], ONE[0]),
        WeightPair("g", "bias", "embed", ONE[0], ONE[0] * 2),
    ]
    parts = [
        CanonicalChange("small", ("a",), 0.5), CanonicalChange("large", ("a", "c"), 1.0),
        CanonicalChange("less", ("a",), 0.7), CanonicalChange("equal", ("a",), 1.0),
        CanonicalChange("whole unit", ("c",), None, "missing"), CanonicalChange("x", ("c",), 9.0),
        CanonicalChange("table", ("d",), 3.0),
    ]  # fmt: skip
    found = measure_spectral(pairs, parts)
    assert found["covered"] == {
        "ffn": {"matrices": 2, "parameters": 8, "compared": 8, "changed": 1},
        "attn": {"matrices": 1, "parameters": 4, "compared": 0, "changed": 1},
        "embed": {"matrices": 0, "parameters": 4, "compared": 4, "changed": 1},
        "vector": {"matrices": 0, "parameters": 6, "compared": 6, "changed": 2},
    }
    assert found["canon"] == {"available": True, "reason": None}
    assert [(c["name"], c["type"], c["canon"]) for c in found["changes"]] == [
        ("a", "matrix", {"value": 1.0, "part": "large", "reason": None}),
        ("c", "matrix", {"value": None, "part": "whole unit", "reason": "missing"}),
        ("d", "table", None),
        ("e", "vector", None),
        ("g", "vector", None),
    ]
    assert found["changes"][0]["ln_sigma"] == pytest.approx(math.log(2))
    unknown = measure_spectral(pairs[:1], "no architecture")
    assert unknown["canon"] == {"available": False, "reason": "no architecture"}
    assert [c["canon"] for c in unknown["changes"]] == [None]


def test_the_guard_says_that_it_was_not_prepared_and_judges_what_it_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guard = SpectralGuard(kind="quantize8")
    model = torch.nn.Linear(2, 2)
    answer = guard.validate(model, None, None)
    assert (answer.guard, answer.passed, answer.action) == ("spectral", None, "abort")
    assert answer.reason == "not_prepared"
    assert answer.text == "the baseline was never shown to the guard"
    assert guard.prepare(model, None, None, {}) == {"ready": True}
    seen: dict[str, Any] = {}

    def judged(evidence: Any, *, kind: str, policy: Any) -> str:
        seen.update(evidence=evidence, kind=kind, policy=policy)
        return "judged"

    monkeypatch.setattr(spectral, "judge_spectral", judged)
    with torch.no_grad():
        model.weight.mul_(2)
    assert guard.validate(model, None, None) == "judged"
    assert (seen["kind"], seen["policy"]) == ("quantize8", guard._policy)
    assert [c["name"] for c in seen["evidence"]["changes"]] == ["weight"]
    assert seen["evidence"]["canon"] == {"available": False, "reason": "unknown architecture"}
    guard.prepare(model, None, None, {})
    with pytest.raises(ValueError, match="nosuch"):
        guard.prepare(model, None, None, {"nosuch": 1})
