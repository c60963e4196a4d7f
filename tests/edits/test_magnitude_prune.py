"""Magnitude pruning: an exact count of zeros, the smallest first, the lower index at a tie."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.edits.magnitude_prune import pruned
from pytest_invarlock.errors import EditError
from pytest_invarlock.plan import EditSpec

PROPERTY = settings(deadline=None, max_examples=80, database=None, derandomize=True)


def by_loops(weight: np.ndarray, sparsity: float) -> np.ndarray:
    flat = [float(x) for x in weight.reshape(-1)]
    order = sorted(range(len(flat)), key=lambda i: (abs(flat[i]), i))
    for i in order[: math.floor(len(flat) * Fraction(str(sparsity)))]:
        flat[i] = 0.0
    return np.array(flat).reshape(weight.shape)


def journal(model: Any) -> EditJournal:
    return EditJournal(model, tensor_digests(model))


def test_a_share_too_small_to_zero_a_weight_is_an_error(tiny_model: Any) -> None:
    with pytest.raises(EditError) as caught:
        apply_edit(EditSpec("magnitude_prune", {"sparsity": 1e-9}), journal(tiny_model("llama")))
    assert caught.value.code == "EDIT_CHANGED_NOTHING"


def test_an_unknown_scope_is_an_error(tiny_model: Any) -> None:
    spec = EditSpec("magnitude_prune", {"sparsity": 0.5, "scope": "embedding"})
    with pytest.raises(EditError) as caught:
        apply_edit(spec, journal(tiny_model("llama")))
    assert caught.value.code == "EDIT_PARAMETERS"


@PROPERTY
@given(
    values=st.lists(st.integers(-9, 9).filter(bool), min_size=1, max_size=40),
    sparsity=st.floats(0.0, 1.0),
)
def test_the_same_as_loops_ties_included(values: list[int], sparsity: float) -> None:
    weight = np.array(values, dtype=np.float32).reshape(1, -1)
    found = pruned(torch.from_numpy(weight), sparsity).numpy()
    np.testing.assert_array_equal(found, by_loops(weight, sparsity))
    assert (found == 0).sum() == math.floor(len(values) * Fraction(str(sparsity)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("sparsity", [0.1, 0.29, 0.5, 0.7, 1.0])
def test_the_count_of_zeros_is_exact_in_every_dtype(dtype: torch.dtype, sparsity: float) -> None:
    weight = torch.randn(20, 31, generator=torch.Generator().manual_seed(3)).to(dtype)
    weight[weight == 0] = 1
    found = pruned(weight, sparsity)
    assert found.dtype == dtype
    assert int((found == 0).sum()) == 620 * round(100 * sparsity) // 100
    kept = found != 0
    assert torch.equal(found[kept], weight[kept])


def test_the_lower_index_goes_first_at_a_tie() -> None:
    weight = torch.tensor([[2.0, -1.0, 1.0], [1.0, -1.0, 3.0]])
    assert pruned(weight, 0.5).tolist() == [[2.0, 0.0, 0.0], [0.0, -1.0, 3.0]]


def test_magnitudes_that_only_float64_tells_apart_are_told_apart() -> None:
    weight = torch.tensor([[1 + 1e-12, 1.0]], dtype=torch.float64)
    assert pruned(weight, 0.5).tolist() == [[1 + 1e-12, 0.0]]


def test_the_weight_itself_is_left() -> None:
    weight = torch.tensor([[2.0, 1.0]])
    pruned(weight, 0.5)
    assert weight.tolist() == [[2.0, 1.0]]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_each_projection_loses_its_exact_share(kind: str, tiny_model: Any) -> None:
    before, model = tiny_model(kind), tiny_model(kind)
    coverage = apply_edit(EditSpec("magnitude_prune", {"sparsity": 0.7}), journal(model))
    touched = 0
    for name, parameter in model.named_parameters():
        old = before.get_parameter(name)
        if parameter.ndim == 2 and ("proj" in name or "c_" in name):
            np.testing.assert_array_equal(parameter.numpy(), by_loops(old.numpy(), 0.7))
            touched += 1
        else:
            assert torch.equal(parameter, old)
    assert coverage["n_tensors_touched"] == touched
    assert coverage["n_parameters_changed"] == sum(
        p.numel() * 7 // 10
        for n, p in model.named_parameters()
        if p.ndim == 2 and ("proj" in n or "c_" in n)
    )


def test_each_expert_loses_its_own_share(architecture: Any) -> None:
    before, model = architecture("mixtral"), architecture("mixtral")
    # One loud expert would keep all its weights if the stack were pruned as one.
    name = "model.layers.0.mlp.experts.down_proj"
    for each in (before, model):
        each.get_parameter(name)[2] *= 100
    found = apply_edit(EditSpec("magnitude_prune", {"sparsity": 0.3}), journal(model))
    for expert in range(4):
        old = before.get_parameter(name)[expert].numpy()
        np.testing.assert_array_equal(model.get_parameter(name)[expert].numpy(), by_loops(old, 0.3))
    assert found["details"]["zero_share"] == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_the_largest(bad: float) -> None:
    weight = torch.tensor([[bad, 1.0, -2.0, 3.0]])
    assert (pruned(weight, 0.5)[0, 1:] == torch.tensor([0.0, 0.0, 3.0])).all()


def test_the_share_is_the_decimal_one_not_its_binary_neighbour() -> None:
    weight = torch.arange(1.0, 101.0).reshape(10, 10)
    for percent in range(1, 101):
        assert int((pruned(weight, percent / 100) == 0).sum()) == percent
    assert int((pruned(torch.ones(1000, 1000), 0.29) == 0).sum()) == 290_000
