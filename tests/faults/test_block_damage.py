"""Faults of one block, matrix, bias, norm, head or expert strike that and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.errors import EditError
from pytest_invarlock.plan import EditSpec

UP = "model.layers.1.mlp.up_proj.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"


def injected(model: Any, name: str, **parameters: Any) -> dict[str, Any]:
    return apply_edit(EditSpec(name, parameters), EditJournal(model, tensor_digests(model)))


def changed(before: Any, model: Any) -> set[str]:
    return {
        name
        for name, parameter in model.named_parameters()
        if not torch.equal(parameter, before.get_parameter(name))
    }


@pytest.mark.parametrize(
    ("kind", "name", "parameters"),
    [
        ("llama", "sign_flip", {"role": "qkv"}),
        ("llama", "drop_bias", {}),
        ("llama", "kill_expert", {}),
        ("mixtral", "kill_expert", {"expert": 4}),
        ("gpt2", "redraw_matrix", {"role": "gate"}),
        ("llama", "swap_layers", {"first": 1, "second": 1}),
        ("t5", "swap_layers", {"first": 0, "second": 2}),
    ],
)
def test_what_the_model_has_not_is_an_error(
    kind: str, name: str, parameters: dict[str, Any], architecture: Any
) -> None:
    model = architecture(kind)
    before = tensor_digests(model)
    with pytest.raises(EditError) as caught:
        injected(model, name, **parameters)
    assert caught.value.code == "EDIT_NO_TARGET"
    assert tensor_digests(model) == before


def test_a_block_that_is_not_there_is_an_error(architecture: Any) -> None:
    for name in ("zero_layer", "sign_flip", "scale_norm_gain"):
        with pytest.raises(EditError) as caught:
            injected(architecture("llama"), name, layer=9)
        assert caught.value.code == "EDIT_PARAMETERS"
    with pytest.raises(EditError):
        injected(architecture("llama"), "swap_layers", second=9)


@pytest.mark.parametrize(
    ("kind", "prefix"), [("gpt2", "transformer.h.1."), ("bert", "bert.encoder.layer.1.")]
)
def test_zero_layer_silences_projections_and_biases(
    kind: str, prefix: str, architecture: Any
) -> None:
    before, model = architecture(kind), architecture(kind)
    injected(model, "zero_layer", layer=1)
    struck = changed(before, model)
    assert struck == {
        n for n, _ in model.named_parameters()
        if n.startswith(prefix) and "ln_" not in n and "LayerNorm" not in n
    }  # fmt: skip
    assert not any(model.get_parameter(name).any() for name in struck)


def test_swap_layers_exchanges_two_blocks(architecture: Any) -> None:
    before, model = architecture("bart"), architecture("bart")
    injected(model, "swap_layers")
    for name in changed(before, model):
        partner = name.replace(".0.", ".9.").replace(".1.", ".0.").replace(".9.", ".1.")
        assert name.startswith("model.encoder.layers.")
        assert torch.equal(model.get_parameter(name), before.get_parameter(partner))
    assert len(changed(before, model)) == 32


def test_sign_flip_permute_rows_and_redraw_strike_one_matrix(architecture: Any) -> None:
    before = architecture("llama")
    model = architecture("llama")
    injected(model, "sign_flip", role="up", layer=1)
    assert changed(before, model) == {UP}
    assert torch.equal(model.get_parameter(UP), -before.get_parameter(UP))

    model = architecture("llama")
    injected(model, "permute_rows", role="up", layer=1, seed=3)
    assert changed(before, model) == {UP}
    new, old = model.get_parameter(UP), before.get_parameter(UP)
    assert sorted(map(tuple, new.tolist())) == sorted(map(tuple, old.tolist()))

    model = architecture("llama")
    injected(model, "redraw_matrix")
    assert changed(before, model) == {DOWN}
    new, old = model.get_parameter(DOWN), before.get_parameter(DOWN)
    torch.testing.assert_close(new.norm(), old.norm(), rtol=1e-5, atol=0)
    assert abs(float((new * old).sum() / old.norm() ** 2)) < 0.2


def test_permute_rows_permutes_outputs_of_conv1d(architecture: Any) -> None:
    before, model = architecture("gpt2"), architecture("gpt2")
    injected(model, "permute_rows", role="up")
    name = "transformer.h.0.mlp.c_fc.weight"  # (inputs, outputs)
    new, old = model.get_parameter(name).T, before.get_parameter(name).T
    assert sorted(map(tuple, new.tolist())) == sorted(map(tuple, old.tolist()))


def test_drop_bias_of_a_block_and_scope(architecture: Any) -> None:
    before, model = architecture("gpt2"), architecture("gpt2")
    injected(model, "drop_bias", layer=1, scope="ffn")
    assert changed(before, model) == {f"transformer.h.1.mlp.{n}.bias" for n in ("c_fc", "c_proj")}
    assert not model.get_parameter("transformer.h.1.mlp.c_fc.bias").any()


@pytest.mark.parametrize(("kind", "offset"), [("llama", 0.0), ("gemma", 1.0)])
def test_scale_norm_gain_scales_what_activations_meet(
    kind: str, offset: float, architecture: Any
) -> None:
    before, model = architecture(kind), architecture(kind)
    injected(model, "scale_norm_gain", factor=2.0, layer=1)
    struck = changed(before, model)
    assert struck == {f"model.layers.1.{n}_layernorm.weight" for n in ("input", "post_attention")}
    for name in struck:
        gain = before.get_parameter(name) + offset
        torch.testing.assert_close(model.get_parameter(name) + offset, 2 * gain)


def test_zero_head_takes_a_tied_embedding_with_it(architecture: Any) -> None:
    tied, untied = architecture("gpt2"), architecture("llama")
    injected(tied, "zero_head")
    injected(untied, "zero_head")
    assert not tied.lm_head.weight.any()
    assert not tied.transformer.wte.weight.any()
    assert not untied.lm_head.weight.any()
    assert untied.model.embed_tokens.weight.any()


def test_kill_expert_zeroes_one_slice(architecture: Any) -> None:
    before, model = architecture("mixtral"), architecture("mixtral")
    injected(model, "kill_expert", expert=2, layer=1)
    name = "model.layers.1.mlp.experts.down_proj"
    assert changed(before, model) == {name}
    dead = [not expert.any() for expert in model.get_parameter(name)]
    assert dead == [False, False, True, False]


def test_kill_expert_finds_the_first_block_with_listed_experts() -> None:
    from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

    torch.manual_seed(1)
    config = SwitchTransformersConfig(
        vocab_size=64, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, num_experts=3,
        num_sparse_encoder_layers=1, num_sparse_decoder_layers=1,
    )  # fmt: skip
    model = SwitchTransformersForConditionalGeneration(config).eval().requires_grad_(False)
    injected(model, "kill_expert", expert=1)
    dead = [name for name, p in model.named_parameters() if p.ndim == 2 and not p.any()]
    assert len(dead) == 1
    assert "expert_1.wo" in dead[0]
