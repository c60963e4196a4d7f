"""Faults hit a target that exists, exactly where they say, or tell that there is none."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.errors import EditError
from pytest_invarlock.plan import EditSpec

FIRST = {
    "llama": ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.gate_proj.weight"),
    "gpt2": ("transformer.h.0.attn.c_attn.weight", "transformer.h.0.mlp.c_fc.weight"),
}


def injected(model: torch.nn.Module, name: str, **parameters: Any) -> dict[str, Any]:
    return apply_edit(EditSpec(name, parameters), EditJournal(model, tensor_digests(model)))


@pytest.mark.parametrize(
    "name",
    [
        "nan_injection",
        "inf_injection",
        "scale_explosion",
        "rank_collapse",
        "norm_collapse",
        "zero_layer",
        "rmt_norm_noise",
        "ve_mlp_scale_skew",
        "fold_norm_gain",
    ],
)
def test_a_model_without_blocks_is_an_error(name: str) -> None:
    with pytest.raises(EditError) as caught:
        injected(torch.nn.Sequential(torch.nn.Linear(2, 2)), name)
    assert caught.value.code == "EDIT_NO_TARGET"


def test_a_factor_of_one_is_an_error(tiny_model: Any) -> None:
    with pytest.raises(EditError) as caught:
        injected(tiny_model("llama"), "scale_explosion", factor=1.0)
    assert caught.value.code == "EDIT_PARAMETERS"


def test_an_unknown_fault_names_the_nearest(tiny_model: Any) -> None:
    with pytest.raises(EditError) as caught:
        injected(tiny_model("llama"), "nan_injektion")
    assert caught.value.code == "UNKNOWN_EDIT"
    assert caught.value.remedy == "did you mean 'nan_injection'?"


@pytest.mark.parametrize("kind", FIRST)
def test_nan_injection_sets_one_element(kind: str, tiny_model: Any) -> None:
    before, model = tiny_model(kind), tiny_model(kind)
    coverage = injected(model, "nan_injection")
    weight = model.get_parameter(FIRST[kind][0])
    assert math.isnan(weight[0, 0])
    assert sum(int(p.isnan().sum()) for p in model.parameters()) == 1
    assert torch.equal(weight.flatten()[1:], before.get_parameter(FIRST[kind][0]).flatten()[1:])
    assert coverage["n_parameters_changed"] == coverage["n_tensors_changed"] == 1


@pytest.mark.parametrize("kind", FIRST)
@pytest.mark.parametrize("factor", [{}, {"factor": 7.0}])
def test_scale_explosion_multiplies_the_first_feed_forward_projection(
    kind: str, factor: dict[str, float], tiny_model: Any
) -> None:
    before, model = tiny_model(kind), tiny_model(kind)
    coverage = injected(model, "scale_explosion", **factor)
    for name, parameter in model.named_parameters():
        times = factor.get("factor", 100.0) if name == FIRST[kind][1] else 1.0
        assert torch.equal(parameter, before.get_parameter(name) * times)
    assert coverage["n_tensors_changed"] == 1


@pytest.mark.parametrize("name", ["nan_injection", "scale_explosion"])
def test_a_fault_can_be_undone(name: str, tiny_model: Any) -> None:
    model = tiny_model("gpt2")
    digests = tensor_digests(model)
    journal = EditJournal(model, digests)
    apply_edit(EditSpec(name), journal)
    assert tensor_digests(model) != digests
    journal.undo()
    assert tensor_digests(model) == digests


def test_a_block_that_is_not_there_is_an_error(tiny_model: Any) -> None:
    with pytest.raises(EditError) as caught:
        injected(tiny_model("llama"), "nan_injection", layer=2)
    assert caught.value.code == "EDIT_PARAMETERS"


@pytest.mark.parametrize("kind", FIRST)
def test_inf_injection_sets_one_element_of_attention(kind: str, tiny_model: Any) -> None:
    model = tiny_model(kind)
    injected(model, "inf_injection", layer=1)
    weight = model.get_parameter(FIRST[kind][0].replace(".0.", ".1."))
    assert weight[0, 0] == math.inf
    assert sum(int(p.isinf().sum()) for p in model.parameters()) == 1


def test_extreme_quant_has_four_codes_from_minus_two_to_one(tiny_model: Any) -> None:
    before, model = tiny_model("gpt2"), tiny_model("gpt2")
    coverage = injected(model, "extreme_quant")
    zeros = total = 0
    for name, parameter in model.named_parameters():
        old = before.get_parameter(name)
        if parameter.ndim < 2:
            assert torch.equal(parameter, old)
            continue
        step = float(old.double().abs().max()) / 2
        expected = (old.double() / step).round().clamp(-2, 1) * step
        torch.testing.assert_close(parameter.double(), expected, rtol=1e-6, atol=0)
        zeros += int((parameter == 0).sum())
        total += parameter.numel()
    assert coverage["details"]["zero_share"] == pytest.approx(zeros / total)
    assert coverage["n_tensors_changed"] == 10  # eight projections and both embeddings


def test_extreme_quant_leaves_what_is_not_included(tiny_model: Any) -> None:
    before, model = tiny_model("llama"), tiny_model("llama")
    apply_edit(
        EditSpec("extreme_quant", {"include": []}), EditJournal(model, tensor_digests(model))
    )
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(model.get_parameter(name), before.get_parameter(name))


def test_rank_collapse_keeps_the_norm_and_one_rank(architecture: Any) -> None:
    before, model = architecture("llama"), architecture("llama")
    for each in (before, model):  # what makes the first column and row useless
        each.get_parameter(FIRST["llama"][0])[:, 0] = 0
        each.get_parameter(FIRST["llama"][0])[0] = 0
    coverage = injected(model, "rank_collapse", max_params=5)
    assert coverage["n_tensors_changed"] == 5
    for name, parameter in model.named_parameters():
        old = before.get_parameter(name)
        if not torch.equal(old, parameter):
            assert "self_attn" in name
            assert int(torch.linalg.matrix_rank(parameter, rtol=1e-4)) == 1
            torch.testing.assert_close(parameter.norm(), old.norm(), rtol=1e-5, atol=0)


def test_rank_collapse_of_stacked_experts_is_of_each(architecture: Any) -> None:
    before, model = architecture("mixtral"), architecture("mixtral")
    apply_edit(
        EditSpec("rank_collapse", {"scope": "ffn"}), EditJournal(model, tensor_digests(model))
    )
    name = "model.layers.0.mlp.experts.down_proj"
    new, old = model.get_parameter(name), before.get_parameter(name)
    assert torch.linalg.matrix_rank(new, rtol=1e-4).tolist() == [1] * 4
    norms = torch.linalg.matrix_norm
    torch.testing.assert_close(norms(new), norms(old), rtol=1e-5, atol=0)


def test_norm_collapse_zeroes_the_first_of_attention(tiny_model: Any) -> None:
    model = tiny_model("llama")
    injected(model, "norm_collapse", max_params=4)
    zero = [n for n, p in model.named_parameters() if not p.any()]
    assert zero == [f"model.layers.0.self_attn.{n}_proj.weight" for n in "qkvo"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3", "float8_e5m2"])
def test_dtype_round_trip_is_a_cast_of_every_parameter(dtype: str, tiny_model: Any) -> None:
    before, model = tiny_model("gpt2"), tiny_model("gpt2")
    apply_edit(
        EditSpec("dtype_round_trip", {"dtype": dtype}), EditJournal(model, tensor_digests(model))
    )
    torch_type = getattr(torch, {"float8_e4m3": "float8_e4m3fn"}.get(dtype, dtype))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name).to(torch_type).float())


def test_nan_injection_strikes_a_block_whose_roles_are_unknown() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(1)
    config = MambaConfig(
        vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=2, time_step_rank=2
    )
    model = MambaForCausalLM(config).eval().requires_grad_(False)
    injected(model, "nan_injection", layer=1)
    assert [n.split(".")[2] for n, p in model.named_parameters() if p.isnan().any()] == ["1"]
    for name in ("inf_injection", "fold_norm_gain", "scale_explosion"):
        with pytest.raises(EditError) as caught:
            injected(model, name)
        assert caught.value.code == "EDIT_NO_TARGET"
    with pytest.raises(EditError) as caught:
        injected(model, "nan_injection", layer=2)
    assert caught.value.code == "EDIT_NO_TARGET"
