"""Casting to 8-bit floating point, against tables of the formats made by hand and torch's cast."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.edits.fp8_quant import FORMATS, LARGEST, fp8_round_trip
from pytest_invarlock.errors import EditError
from pytest_invarlock.plan import EditSpec

LAYOUT = {"e4m3": (4, 3, 7), "e5m2": (5, 2, 15)}  # exponent bits, mantissa bits, bias


def table(name: str) -> list[float]:
    """All finite non-negative values of a format, from its definition."""
    exponents, mantissas, bias = LAYOUT[name]
    values = []
    for exponent in range(2**exponents):
        for mantissa in range(2**mantissas):
            if name == "e5m2" and exponent == 31:
                continue  # infinity and NaN
            if name == "e4m3" and exponent == 15 and mantissa == 7:
                continue  # NaN
            share = mantissa / 2**mantissas
            values.append(
                share * 2.0 ** (1 - bias)
                if exponent == 0
                else (1 + share) * 2.0 ** (exponent - bias)
            )
    return values


def nearest(x: float, values: list[float]) -> float:
    """The closest value, the one of even code at a tie, the largest beyond the range."""
    code = min(range(len(values)), key=lambda i: (abs(values[i] - abs(x)), i % 2))
    return math.copysign(values[code], x)


def journal(model: Any) -> EditJournal:
    return EditJournal(model, tensor_digests(model))


@pytest.mark.parametrize("name", FORMATS)
def test_beyond_the_range_it_saturates_infinity_included(name: str) -> None:
    most = LARGEST[name]
    values = torch.tensor([[most, most * 1.01, 1e30, -1e30, math.inf, -math.inf]])
    assert fp8_round_trip(values, name).tolist() == [[most, most, most, -most, most, -most]]


@pytest.mark.parametrize("name", FORMATS)
def test_nan_stays(name: str) -> None:
    found = fp8_round_trip(torch.tensor([[math.nan, 1.0]]), name)
    assert found.isnan().tolist() == [[True, False]]


@pytest.mark.parametrize("name", FORMATS)
def test_the_largest_and_smallest_are_those_of_the_table(name: str) -> None:
    assert max(table(name)) == LARGEST[name]
    values = torch.tensor([table(name)])
    assert torch.equal(fp8_round_trip(values, name), values)  # subnormals too


@pytest.mark.parametrize("name", FORMATS)
def test_every_value_goes_to_the_nearest_of_the_table(name: str) -> None:
    values = table(name)
    between = [(a + b) / 2 for a, b in itertools.pairwise(values)]
    drawn = np.random.default_rng(2).normal(size=300) * np.exp(
        np.random.default_rng(3).uniform(-12, 6, 300)
    )
    tried = np.concatenate([between, np.negative(between), drawn]).astype(np.float32)
    found = fp8_round_trip(torch.from_numpy(tried)[None], name)[0]
    assert found.tolist() == [nearest(float(x), values) for x in tried]


@pytest.mark.parametrize("name", FORMATS)
def test_inside_the_range_it_is_torchs_cast(name: str) -> None:
    rows = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fp8_round_trip(rows, name), rows.to(FORMATS[name]).float())


@pytest.mark.parametrize("name", FORMATS)
def test_scaled_each_rows_largest_weight_is_kept(name: str) -> None:
    rows = torch.randn(8, 32, generator=torch.Generator().manual_seed(4)) * 1e-6
    rows[3] = 0
    found = fp8_round_trip(rows, name, scaled=True)
    torch.testing.assert_close(found.abs().amax(dim=1), rows.abs().amax(dim=1), rtol=1e-6, atol=0)
    assert (found[3] == 0).all()
    # Without a scale all of these are below the smallest e4m3 number.
    assert name == "e5m2" or (fp8_round_trip(rows, name) == 0).all()


def test_experts_have_rows_of_their_own() -> None:
    stacked = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(6))
    together = fp8_round_trip(stacked, "e4m3", scaled=True)
    for expert in range(3):
        assert torch.equal(together[expert], fp8_round_trip(stacked[expert], "e4m3", scaled=True))


def test_an_unknown_format_is_an_error(tiny_model: Any) -> None:
    with pytest.raises(EditError) as caught:
        apply_edit(EditSpec("fp8_quant", {"format": "e3m4"}), journal(tiny_model("llama")))
    assert caught.value.code == "EDIT_PARAMETERS"


def test_a_model_in_that_format_already_is_unchanged(tiny_model: Any) -> None:
    model = tiny_model("gpt2")
    apply_edit(EditSpec("fp8_quant", {"format": "e5m2"}), journal(model))
    with pytest.raises(EditError) as caught:
        apply_edit(EditSpec("fp8_quant", {"format": "e5m2"}), journal(model))
    assert caught.value.code == "EDIT_CHANGED_NOTHING"


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_scales_are_of_output_channels_in_either_layout(
    kind: str, scaled: bool, tiny_model: Any
) -> None:
    before, model = tiny_model(kind), tiny_model(kind)
    spec = EditSpec("fp8_quant", {"format": "e4m3", "scaled": scaled, "scope": "ffn"})
    details = apply_edit(spec, journal(model))["details"]
    name = {"llama": "model.layers.1.mlp.down_proj", "gpt2": "transformer.h.1.mlp.c_proj"}[kind]
    old = before.get_parameter(f"{name}.weight")
    rows = old.T if kind == "gpt2" else old
    expected = fp8_round_trip(rows, "e4m3", scaled)
    new = model.get_parameter(f"{name}.weight")
    assert torch.equal(new, expected.T if kind == "gpt2" else expected)
    assert 0.01 < details["mean_relative_error"] < 0.04
    assert details["saturated_share"] == 0


def test_saturation_and_flushing_are_counted(tiny_model: Any) -> None:
    model = tiny_model("llama")
    weight = model.get_parameter("model.layers.0.mlp.up_proj.weight")
    weight[0, 0], weight[0, 1] = 1e6, 1e-9
    spec = EditSpec("fp8_quant", {"scope": "ffn", "layers": "0"})
    found = apply_edit(spec, journal(model))
    n = found["n_parameters_touched"]
    assert found["details"]["saturated_share"] == pytest.approx(1 / n)
    assert found["details"]["flushed_to_zero_share"] >= 1 / n
    assert weight[0, :2].tolist() == [448.0, 0.0]
