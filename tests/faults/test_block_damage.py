"""Faults of one block, matrix, bias, norm, head or expert strike that and nothing else."""

from __future__ import annotations

import copy
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


@pytest.mark.parametrize(
    ("kind", "struck"),
    [
        ("gpt_oss", ["down_proj", "down_proj_bias"]),
        ("mixtral", ["down_proj"]),
        ("qwen2_moe", ["down_proj"]),
    ],
)
def test_a_dead_expert_adds_nothing_its_bias_included(
    kind: str, struck: list[str], fresh: Any
) -> None:
    model = fresh(kind)
    for name, parameter in model.named_parameters():
        if name.endswith("_bias"):
            parameter += 1
    before = copy.deepcopy(model)
    injected(model, "kill_expert", expert=1)
    assert changed(before, model) == {f"model.layers.0.mlp.experts.{name}" for name in struck}
    for name in struck:
        value = model.model.layers[0].mlp.experts.get_parameter(name)
        assert [bool(expert.any()) for expert in value[:3]] == [True, False, True]


def outputs(layout: str, role: str, heads: int, width: int) -> list[int]:
    """Which outputs of a fused query-key-value are of ``role``, written out."""
    at = "qkv".index(role)
    if layout == "contiguous":
        return [at * heads * width + n for n in range(heads * width)]
    return [(3 * head + at) * width + n for head in range(heads) for n in range(width)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("role", ["q", "k", "v"])
@pytest.mark.parametrize(
    ("kind", "layout"), [("gpt2", "contiguous"), ("bloom", "grouped"), ("gpt_neox", "grouped")]
)
def test_a_part_of_a_fused_projection_is_struck_alone(
    kind: str, layout: str, role: str, dtype: torch.dtype, fresh: Any
) -> None:
    before, model = fresh(kind).to(dtype), fresh(kind).to(dtype)
    found = injected(model, "sign_flip", role=role, layer=1)
    (name,) = changed(before, model)
    old, new = before.get_parameter(name), model.get_parameter(name)
    if kind == "gpt2":
        old, new = old.T, new.T
    at = outputs(layout, role, 4, 8)
    assert torch.equal(new[at], -old[at])
    rest = [n for n in range(96) if n not in at]
    assert torch.equal(new[rest], old[rest])
    assert found["n_parameters_changed"] == 32 * 32 == int((new != old).sum())


@pytest.mark.parametrize("name", ["permute_rows", "redraw_matrix"])
def test_other_damage_too_strikes_the_part_alone(name: str, fresh: Any) -> None:
    before, model = fresh("phi3"), fresh("phi3")
    injected(model, name, role="up")
    (struck,) = changed(before, model)
    old, new = before.get_parameter(struck), model.get_parameter(struck)
    assert struck.endswith("layers.0.mlp.gate_up_proj.weight")
    assert torch.equal(new[:48], old[:48])  # the gates
    torch.testing.assert_close(new[48:].norm(), old[48:].norm(), rtol=1e-5, atol=0)
    assert not torch.equal(new[48:], old[48:])
    before, model = fresh("phi3"), fresh("phi3")
    injected(model, name, role="gate_up")
    old, new = before.get_parameter(struck), model.get_parameter(struck)
    assert not torch.equal(new[:48], old[:48])


@pytest.mark.parametrize(
    ("kind", "role", "named"),
    [("codegen", "v", "use role: qkv"), ("gpt_oss", "up", "use role: gate_up")],
)
def test_a_part_whose_place_cannot_be_told_is_an_error(
    kind: str, role: str, named: str, fresh: Any
) -> None:
    model = fresh(kind)
    before = tensor_digests(model)
    with pytest.raises(EditError) as caught:
        injected(model, "sign_flip", role=role)
    assert caught.value.code == "EDIT_NO_TARGET"
    assert named in str(caught.value)
    assert tensor_digests(model) == before


def test_a_part_that_fits_two_layouts_is_an_error(fresh: Any) -> None:
    model = fresh("gpt2")
    model.transformer.h[0].attn.c_proj.weight.zero_()  # no value is read: every layout fits
    with pytest.raises(EditError) as caught:
        injected(model, "sign_flip", role="v")
    assert caught.value.code == "EDIT_NO_TARGET"


def test_swap_layers_swaps_a_tensor_with_two_names_once(fresh: Any) -> None:
    model = fresh("llama")
    for block in model.model.layers:
        block.mlp.alias = block.mlp.up_proj
    first, last = (model.model.layers[n].mlp.up_proj.weight for n in (0, -1))
    old = first.clone(), last.clone()
    injected(model, "swap_layers")
    assert torch.equal(first, old[1])
    assert torch.equal(last, old[0])


def test_blocks_that_tie_other_tensors_are_not_swapped(fresh: Any) -> None:
    model = fresh("llama")
    model.model.layers[0].mlp.gate_proj.weight = model.model.layers[0].mlp.up_proj.weight
    with pytest.raises(EditError) as caught:
        injected(model, "swap_layers")
    assert caught.value.code == "EDIT_NO_TARGET"


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("kind", ["qwen3_next", "llama", "mixtral", "gpt_oss", "gpt2", "gemma"])
def test_a_zeroed_layer_adds_nothing_to_the_residual_stream(
    kind: str, layer: int, fresh: Any
) -> None:
    model = fresh(kind, drawn=kind != "gpt_oss")
    injected(model, "zero_layer", layer=layer)
    seen: dict[str, torch.Tensor] = {}
    block = model.transformer.h[layer] if kind == "gpt2" else model.model.layers[layer]
    block.register_forward_hook(lambda _m, args, out: seen.update(before=args[0], after=out))
    model(input_ids=torch.arange(8, 20)[None])
    after = seen["after"] if isinstance(seen["after"], torch.Tensor) else seen["after"][0]
    assert torch.equal(after, seen["before"])


@pytest.mark.parametrize("name", ["scale_norm_gain", "fold_norm_gain"])
def test_a_norm_that_needs_a_gate_is_a_typed_error(name: str, fresh: Any) -> None:
    model = fresh("qwen3_next")
    before = tensor_digests(model)
    with pytest.raises(EditError) as caught:
        injected(model, name)
    assert caught.value.code == "EDIT_NO_TARGET"
    assert "Qwen3NextRMSNormGated" in str(caught.value)
    assert tensor_digests(model) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["sign_flip", "redraw_matrix", "permute_rows"])
def test_zeros_of_another_sign_are_no_damage(name: str, dtype: torch.dtype, fresh: Any) -> None:
    model = fresh("llama").to(dtype)
    model.model.layers[0].mlp.down_proj.weight.zero_()
    with pytest.raises(EditError) as caught:
        injected(model, name)
    assert caught.value.code == "EDIT_CHANGED_NOTHING"


def test_the_sign_of_zeros_is_undone_bit_for_bit(fresh: Any) -> None:
    model = fresh("llama")
    model.model.layers[0].mlp.down_proj.weight[0].zero_()
    before = tensor_digests(model)
    journal = EditJournal(model, before)
    found = apply_edit(EditSpec("sign_flip"), journal)
    assert found["n_parameters_changed"] == found["n_parameters_touched"] - 48
    assert tensor_digests(model) != before
    journal.undo()
    assert tensor_digests(model) == before
