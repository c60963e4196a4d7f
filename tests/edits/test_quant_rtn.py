"""Round-to-nearest quantisation, against loops of its own over float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.edits.quant_rtn import clip_quantiles, round_to_nearest
from pytest_invarlock.errors import EditError
from pytest_invarlock.plan import EditSpec

PROPERTY = settings(deadline=None, max_examples=60, database=None, derandomize=True)
WEIGHTS = arrays_of.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 9)),
    elements=st.floats(-8, 8, width=32).map(lambda x: np.float32(0 if abs(x) < 1e-3 else x)),
)


def by_loops(rows: np.ndarray, bits: int, group: int | None) -> np.ndarray:
    done = np.zeros(rows.shape)
    largest = 2 ** (bits - 1) - 1
    for r, row in enumerate(rows.astype(np.float64)):
        size = group or len(row)
        for start in range(0, len(row), size):
            piece = row[start : start + size]
            scale = max(abs(x) for x in piece) / largest
            for offset, x in enumerate(piece):
                done[r, start + offset] = np.rint(x / scale) * scale if scale else 0.0
    return done


def journal(model: Any) -> EditJournal:
    return EditJournal(model, tensor_digests(model))


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"bitwidth": 8, "groups": 4},
        {"bitwidth": 8, "bits": 8},
        {"bitwidth": 1},
        {"bitwidth": 9},
        {"bitwidth": 8, "group_size": 0},
        {"bitwidth": 8, "group_size": 4, "group": 4},
        {"bitwidth": 8, "group_size": 4, "per_channel": False},
        {"bitwidth": 8, "clamp_ratio": 0.6},
        {"bitwidth": 8, "scope": "ffn@layers=1-"},
        {"bitwidth": 8, "scope": "ffn@layers=1", "layers": [1]},
        {"bitwidth": 8, "layers": [2]},
        {"bitwidth": 8, "include": ["router"]},
    ],
    ids=str,
)
def test_wrong_parameters_are_an_edit_error(parameters: dict[str, int], tiny_model: Any) -> None:
    with pytest.raises(EditError) as caught:
        apply_edit(EditSpec("quant_rtn", parameters), journal(tiny_model("llama")))
    assert caught.value.code == "EDIT_PARAMETERS"


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [None, 1, 5, 16, 32, 100])
def test_the_same_numbers_as_loops_in_float64(bits: int, group: int | None) -> None:
    rows = torch.from_numpy(np.random.default_rng(bits).normal(size=(6, 37)).astype(np.float32))
    found = round_to_nearest(rows, bits, group)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), by_loops(rows.numpy(), bits, group), rtol=1e-6)


@PROPERTY
@given(rows=WEIGHTS, bits=st.integers(2, 8), group=st.none() | st.integers(1, 10))
def test_no_weight_moves_further_than_half_a_step(
    rows: np.ndarray, bits: int, group: int | None
) -> None:
    found = round_to_nearest(torch.from_numpy(rows), bits, group).numpy().astype(np.float64)
    size = group or rows.shape[1]
    largest = 2 ** (bits - 1) - 1
    for start in range(0, rows.shape[1], size):
        before = rows[:, start : start + size].astype(np.float64)
        after = found[:, start : start + size]
        scale = np.abs(before).max(axis=1, keepdims=True) / largest
        assert (np.abs(after - before) <= scale / 2 * (1 + 1e-5)).all()
        levels = np.divide(after, scale, out=np.zeros_like(after), where=scale > 0)
        assert np.abs(levels - np.rint(levels)).max() < 1e-3
        assert np.abs(levels).max() <= largest + 1e-3


def test_a_group_of_zeros_stays_zero() -> None:
    rows = torch.zeros(2, 8)
    rows[0, :4] = torch.tensor([1.0, -1.0, 0.5, 0.2])
    found = round_to_nearest(rows, 4, 4)
    assert torch.isfinite(found).all()
    assert (found[0, 4:] == 0).all()
    assert (found[1] == 0).all()


def test_codes_reach_both_ends_and_no_further() -> None:
    rows = torch.tensor([[-1.0, -0.999, 1.0, 0.2]])
    for bits in range(2, 9):
        largest = 2 ** (bits - 1) - 1
        codes = round_to_nearest(rows, bits) * largest
        assert torch.allclose(codes, codes.round(), atol=1e-4)
        assert (codes.min().round(), codes.max().round()) == (-largest, largest)


def test_halves_go_to_even() -> None:
    rows = torch.tensor([[7.0, 0.5, 1.5, 2.5, -0.5, -1.5]])
    assert round_to_nearest(rows, 4).tolist() == [[7.0, 0.0, 2.0, 2.0, -0.0, -2.0]]


def test_one_scale_for_a_matrix_of_each_expert() -> None:
    stacked = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(1))
    found = round_to_nearest(stacked, 4, per_channel=False)
    for expert in range(3):
        flat = stacked[expert].reshape(1, -1).numpy()
        np.testing.assert_allclose(
            found[expert].reshape(1, -1).numpy(), by_loops(flat, 4, None), rtol=1e-6
        )


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5])
def test_clipping_is_at_the_quantiles_numpy_finds(ratio: float) -> None:
    rows = np.random.default_rng(3).normal(size=(2, 5, 37)).astype(np.float32)
    low, high = np.quantile(rows.astype(np.float64), [ratio / 2, 1 - ratio / 2], axis=-1)
    expected = np.clip(rows, low[..., None], high[..., None])
    found = clip_quantiles(torch.from_numpy(rows), ratio).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert (found != rows).any(axis=-1).all()


def test_no_clipping_leaves_the_very_weights() -> None:
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert clip_quantiles(rows, 0.0) is rows


def test_clipping_comes_before_scaling(tiny_model: Any) -> None:
    before, model = tiny_model("llama"), tiny_model("llama")
    spec = EditSpec("quant_rtn", {"bitwidth": 8, "clamp_ratio": 0.2, "scope": "ffn"})
    details = apply_edit(spec, journal(model))["details"]
    name = "model.layers.0.mlp.up_proj.weight"
    old = before.get_parameter(name).numpy().astype(np.float64)
    low, high = np.quantile(old, [0.1, 0.9], axis=1)
    expected = by_loops(np.clip(old, low[:, None], high[:, None]), 8, None)
    np.testing.assert_allclose(model.get_parameter(name).numpy(), expected, rtol=1e-4, atol=1e-6)
    assert 0.15 < details["clipped_share"] < 0.3
    assert details["relative_error"] > 0.05


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_error_figure_is_the_frobenius_ratio(kind: str, tiny_model: Any) -> None:
    before, model = tiny_model(kind), tiny_model(kind)
    found = apply_edit(EditSpec("quant_rtn", {"bits": 4, "group": 8}), journal(model))
    change = weights = 0.0
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and ("proj" in name or "c_" in name):
            old = before.get_parameter(name).double()
            change += float(((parameter.double() - old) ** 2).sum())
            weights += float((old**2).sum())
    assert found["details"]["relative_error"] == pytest.approx((change / weights) ** 0.5, rel=1e-5)


def test_gaussian_weights_lose_what_is_known_of_four_and_eight_bits() -> None:
    rows = torch.randn(64, 4096, generator=torch.Generator().manual_seed(5))
    for bits, group, expected in ((4, 32, 0.097), (8, 128, 0.0065)):
        error = (round_to_nearest(rows, bits, group) - rows).norm() / rows.norm()
        assert float(error) == pytest.approx(expected, rel=0.03)


def test_rows_do_not_touch_each_other() -> None:
    rows = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    louder = torch.cat([rows, 1000 * rows[:1]])
    assert torch.equal(round_to_nearest(louder, 4, 8)[:3], round_to_nearest(rows, 4, 8))


def test_the_dtype_is_kept() -> None:
    rows = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    found = round_to_nearest(rows, 8)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, round_to_nearest(rows.float(), 8).to(torch.bfloat16))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_groups_run_along_the_input_of_either_layout(kind: str, tiny_model: Any) -> None:
    before, model = tiny_model(kind), tiny_model(kind)
    coverage = apply_edit(
        EditSpec("quant_rtn", {"bitwidth": 4, "group_size": 16, "scope": "ffn"}), journal(model)
    )
    name = {"llama": "model.layers.1.mlp.down_proj", "gpt2": "transformer.h.1.mlp.c_proj"}[kind]
    old = before.get_parameter(f"{name}.weight").numpy()
    new = model.get_parameter(f"{name}.weight").numpy()
    rows = old.T if kind == "gpt2" else old
    expected = by_loops(rows, 4, 16)
    np.testing.assert_allclose(new, expected.T if kind == "gpt2" else expected, rtol=1e-6)
    touched = {"llama": 6, "gpt2": 4}[kind]
    assert coverage["n_tensors_touched"] == coverage["n_tensors_changed"] == touched
    assert coverage["parameters"] == {"bitwidth": 4, "group_size": 16, "scope": "ffn"}


def test_only_the_scope_is_changed(tiny_model: Any) -> None:
    before, model = tiny_model("llama"), tiny_model("llama")
    apply_edit(EditSpec("quant_rtn", {"bitwidth": 8, "scope": "attn"}), journal(model))
    changed = {
        n for n, p in model.named_parameters() if not torch.equal(p, before.get_parameter(n))
    }
    assert changed == {n for n, _ in model.named_parameters() if "self_attn" in n}


def test_quantising_twice_changes_nothing_the_second_time(tiny_model: Any) -> None:
    model = tiny_model("llama")
    for name, parameter in model.named_parameters():
        if "proj" in name:
            # Whole numbers with the largest at 127: exactly what 8 bits hold.
            parameter.data = (parameter.data * 50).round().clamp(-127, 127)
            parameter.data[:, 0] = 127
    with pytest.raises(EditError) as caught:
        apply_edit(EditSpec("quant_rtn", {"bitwidth": 8}), journal(model))
    assert caught.value.code == "EDIT_CHANGED_NOTHING"
