"""Roles of the weights of real architectures: how many of each, and whether they act as named."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from invarlock_guards.families import (
    WeightMatrix,
    all_weight_matrices,
    biases,
    blocks,
    decoder_blocks,
    describe_families,
    norm_weights,
    weight_matrices,
)

ATTENTION = ("q", "k", "v", "o")
GATED = (*ATTENTION, "gate", "up", "down")
# Kind: how many blocks, what each holds, what else the model holds.
SINGLE: dict[str, tuple[int, tuple[str, ...], dict[str, int]]] = {
    "gpt2": (3, ("qkv", "o", "up", "down"), {"embedding": 1, "position": 1}),
    "llama": (2, GATED, {"embedding": 1, "head": 1}),
    "mistral": (2, GATED, {"embedding": 1, "head": 1}),
    "mixtral": (
        2,
        (*ATTENTION, "router", "gate_up", "down"),
        {"embedding": 1, "head": 1},
    ),
    "qwen2": (2, GATED, {"embedding": 1, "head": 1}),
    "qwen2_moe": (
        2,
        (*GATED, "router", "router", "gate_up", "down"),
        {"embedding": 1, "head": 1},
    ),
    "qwen3": (2, GATED, {"embedding": 1, "head": 1}),
    "gpt_oss": (2, (*ATTENTION, "router", "gate_up", "down"), {"embedding": 1, "head": 1}),
    "phi3": (2, ("qkv", "o", "gate_up", "down"), {"embedding": 1, "head": 1}),
    "gpt_neox": (2, ("qkv", "o", "up", "down"), {"embedding": 1, "head": 1}),
    "opt": (
        2,
        (*ATTENTION, "up", "down"),
        {"embedding": 1, "position": 1, "embed_in": 1, "embed_out": 1},
    ),
    "phi": (2, (*ATTENTION, "up", "down"), {"embedding": 1, "head": 1}),
    "gemma": (2, GATED, {"embedding": 1}),
    "bloom": (2, ("qkv", "o", "up", "down"), {"embedding": 1}),
    "falcon": (2, ("qkv", "o", "up", "down"), {"embedding": 1}),
    "bert": (
        2,
        (*ATTENTION, "up", "down"),
        {"embedding": 1, "position": 1, "segment": 1, "transform": 1},
    ),
    "bert_classes": (
        2,
        (*ATTENTION, "up", "down"),
        {"embedding": 1, "position": 1, "segment": 1, "pooler": 1, "head": 1},
    ),
    "roberta": (
        2,
        (*ATTENTION, "up", "down"),
        {"embedding": 1, "position": 1, "segment": 1, "transform": 1},
    ),
}
COUNTS = {
    kind: dict(Counter(roles * depth) + Counter(rest))
    for kind, (depth, roles, rest) in SINGLE.items()
} | {
    # 3 encoder blocks of one attention, 2 decoder blocks of two.
    "t5": {
        "q": 7, "k": 7, "v": 7, "o": 7, "up": 5, "down": 5, "embedding": 1, "position": 2,
    },
    "t5_gated": {
        "q": 7, "k": 7, "v": 7, "o": 7, "gate": 5, "up": 5, "down": 5, "embedding": 1,
        "position": 2,
    },
    "bart": {
        "q": 7, "k": 7, "v": 7, "o": 7, "up": 5, "down": 5, "embedding": 1, "position": 2,
    },
    # 2 and 2 blocks; one of each two has 3 listed experts.
    "switch": {
        "q": 6, "k": 6, "v": 6, "o": 6, "up": 8, "down": 8, "router": 2, "embedding": 1,
        "position": 2,
    },
    # Each block: a fused attention, and one to an encoder with its own query.
    "gpt2_cross": {
        "qkv": 3, "kv": 3, "q": 3, "o": 6, "up": 3, "down": 3, "embedding": 1, "position": 1,
    },
}  # fmt: skip
KINDS = sorted(COUNTS)
ENCODER_DECODER = ("bart", "switch", "t5", "t5_gated")


def run(model: Any) -> Any:
    tokens = torch.arange(3, 12).reshape(1, 9)
    more = {}
    if model.config.is_encoder_decoder:
        more["decoder_input_ids"] = tokens[:, :5]
    if getattr(model.config, "add_cross_attention", False):
        more["encoder_hidden_states"] = torch.ones(1, 4, 32)
    with torch.no_grad():
        return model(input_ids=tokens, **more)


def owner_of(matrix: WeightMatrix, model: Any) -> Any:
    return model.get_submodule(matrix.name.rpartition(".")[0])


def roles_in(model: Any, name: str) -> dict[str, WeightMatrix]:
    """The matrices under ``name`` by role; the last of each."""
    found = all_weight_matrices(model)
    return {matrix.role: matrix for matrix in found if matrix.name.startswith(f"{name}.")}


@pytest.mark.parametrize("kind", KINDS)
def test_each_role_has_its_exact_count(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    assert Counter(matrix.role for matrix in all_weight_matrices(model)) == COUNTS[kind]
    rows = describe_families(model)
    assert {row.role: row.count for row in rows} == COUNTS[kind]
    # Of the model itself: what has two axes, but for the biases of stacked experts.
    assert sum(row.parameters for row in rows) == sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and not name.endswith("_bias")
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_listed_once(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    norms = list(norm_weights(model))
    listed = [matrix.name for matrix in all_weight_matrices(model)]
    listed += [norm.name for norm in norms]
    listed += [norm.bias_name for norm in norms if norm.bias_name]
    listed += [bias.name for bias in biases(model)]
    # A vector of logits beside the heads, which is no matrix, no norm and no bias.
    rest = {f"model.layers.{n}.self_attn.sinks" for n in (0, 1)} if kind == "gpt_oss" else set()
    assert sorted(listed) == sorted({name for name, _ in model.named_parameters()} - rest)


@pytest.mark.parametrize("kind", KINDS)
def test_projections_are_those_of_the_blocks_in_both_families(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    everything = list(weight_matrices(model))
    assert {m.family for m in everything} == {"ffn", "attn"}
    assert {m.block for m in everything} == set(range(len(blocks(model))))
    in_families = [list(weight_matrices(model, scope)) for scope in ("attn", "ffn")]
    assert {m.name for part in in_families for m in part} == {m.name for m in everything}
    assert not any(m.role in ("router", "embedding", "head", "position") for m in everything)
    for matrix in everything:
        name, _ = blocks(model)[matrix.block]
        assert matrix.name.startswith(f"{name}.")
        assert matrix.weight is model.get_parameter(matrix.name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_input_axis_is_the_one_that_meets_the_input(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    matrices = [m for m in all_weight_matrices(model) if m.name.endswith(".weight")]
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def remember(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            # Falcon adds to what a matrix gave in place.
            seen[name] = inputs[0], (output[0] if isinstance(output, tuple) else output).clone()

        return hook

    hooks = [owner_of(m, model).register_forward_hook(remember(m.name)) for m in matrices]
    run(model)
    for hook in hooks:
        hook.remove()
    for matrix in matrices:
        if matrix.role == "position" or matrix.name not in seen:
            continue
        inputs, output = seen[matrix.name]
        if not inputs.is_floating_point():
            inputs = torch.nn.functional.one_hot(inputs, matrix.weight.shape[-2]).float()
        bias = getattr(owner_of(matrix, model), "bias", None)
        weight = matrix.weight if matrix.input_axis == -2 else matrix.weight.T
        expected = inputs.reshape(-1, weight.shape[0]) @ weight
        got = (output if bias is None else output - bias).reshape(expected.shape)
        # BART and Gemma scale what they look up.
        got = got / getattr(owner_of(matrix, model), "embed_scale", 1.0)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-7, msg=matrix.name)
    # Experts that no token chose, and an embedding called under another of its names.
    unseen = {m.role for m in matrices if m.name not in seen}
    assert unseen <= {"embedding"} | ({"up", "down"} if kind == "switch" else set())


@pytest.mark.parametrize(("kind", "axis"), [("mixtral", -1), ("qwen2_moe", -1), ("gpt_oss", -2)])
def test_stacked_experts_are_read_in_their_layout(kind: str, axis: int, architecture: Any) -> None:
    model = architecture(kind)
    name = "model.layers.0.mlp.experts"
    experts = model.get_submodule(name)
    found = roles_in(model, name)
    assert {role: m.input_axis for role, m in found.items()} == {"gate_up": axis, "down": axis}
    assert all(m.family == "ffn" and m.expert is None for m in found.values())

    stream = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    inner, out = (m.weight if axis == -2 else m.weight.mT for m in found.values())
    expert = torch.full((5, 1), 2)
    got = experts(stream, expert, torch.ones(5, 3 if kind == "gpt_oss" else 1))
    if kind == "gpt_oss":
        hidden = experts._apply_gate(stream @ inner[2] + experts.gate_up_proj_bias[2])
        expected = hidden @ out[2] + experts.down_proj_bias[2]
    else:
        gate, up = (stream @ inner[2]).chunk(2, dim=-1)
        expected = (torch.nn.functional.silu(gate) * up) @ out[2]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("kind", "name", "activation"),
    [
        *((kind, "model.layers.0.mlp", "act_fn") for kind in ("llama", "mistral", "qwen2")),
        *((kind, "model.layers.0.mlp", "act_fn") for kind in ("qwen3", "gemma")),
        ("qwen2_moe", "model.layers.0.mlp.shared_expert", "act_fn"),
        ("t5_gated", "decoder.block.1.layer.2.DenseReluDense", "act"),
    ],
)
def test_the_gate_is_what_the_activation_meets(
    kind: str, name: str, activation: str, architecture: Any
) -> None:
    model = architecture(kind)
    network = model.get_submodule(name)
    found = {role: matrix.weight.T for role, matrix in roles_in(model, name).items()}
    stream = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    gated = getattr(network, activation)(stream @ found["gate"]) * (stream @ found["up"])
    expected = gated @ found["down"]
    torch.testing.assert_close(network(stream), expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if COUNTS[kind].get("v")])
def test_the_value_is_what_the_output_receives(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    value = next(m for m in all_weight_matrices(model) if m.role == "v")
    output = next(m for m in all_weight_matrices(model) if m.role == "o")
    received: list[torch.Tensor] = []
    hook = owner_of(output, model).register_forward_hook(
        lambda module, inputs, _: received.append(inputs[0])
    )
    module = owner_of(value, model)
    for factor in (2.0, 0.5):
        run(model)
        for parameter in module.parameters():
            parameter.mul_(factor)
    hook.remove()
    torch.testing.assert_close(received[1], 2 * received[0])


@pytest.mark.parametrize("kind", ENCODER_DECODER)
def test_key_and_value_of_a_cross_attention_meet_the_encoders_output(
    kind: str, architecture: Any
) -> None:
    model = architecture(kind)
    met: dict[str, torch.Tensor] = {}
    matrices = [m for m in weight_matrices(model, "attn") if m.role in ("k", "v")]
    hooks = [
        owner_of(m, model).register_forward_hook(
            lambda module, inputs, _, name=m.name: met.update({name: inputs[0]})
        )
        for m in matrices
    ]
    encoded = run(model).encoder_last_hidden_state
    for hook in hooks:
        hook.remove()
    for matrix in matrices:
        assert matrix.cross == (met[matrix.name] is encoded), matrix.name
    decoder_depth = len(decoder_blocks(model))
    assert sum(m.cross for m in weight_matrices(model)) == 4 * decoder_depth


@pytest.mark.parametrize("kind", ENCODER_DECODER)
def test_an_encoder_decoder_model_counts_the_encoders_blocks_first(
    kind: str, architecture: Any
) -> None:
    model = architecture(kind)
    names = [name for name, _ in blocks(model)]
    depth = 2 if kind == "switch" else 3
    assert all("encoder" in name for name in names[:depth])
    assert all("decoder" in name for name in names[depth:])
    assert [name for name, _ in decoder_blocks(model)] == names[depth:]
    assert len(names) == depth + 2
    for matrix in weight_matrices(model):
        assert matrix.stack == ("encoder" if matrix.block < depth else "decoder")


def test_listed_experts_know_their_index(architecture: Any) -> None:
    model = architecture("switch")
    listed = [m for m in all_weight_matrices(model) if ".expert_" in m.name]
    assert len(listed) == 2 * 2 * 3
    assert all(m.name.split(".expert_")[1][0] == str(m.expert) for m in listed)
    assert all(m.expert is None for m in all_weight_matrices(model) if ".expert_" not in m.name)


@pytest.mark.parametrize(
    ("kind", "name", "role"),
    [
        ("llama", "model.layers.0.mlp.gate_proj", "gate"),
        ("mixtral", "model.layers.0.mlp.gate", "router"),
        ("qwen2_moe", "model.layers.0.mlp.shared_expert_gate", "router"),
        ("gpt_neox", "gpt_neox.layers.0.attention.dense", "o"),
        ("bert", "bert.encoder.layer.0.attention.output.dense", "o"),
        ("bert", "bert.encoder.layer.0.output.dense", "down"),
        ("opt", "model.decoder.layers.0.fc1", "up"),
        ("t5", "encoder.block.0.layer.1.DenseReluDense.wo", "down"),
        ("gpt2", "transformer.h.0.attn.c_proj", "o"),
        ("gpt2", "transformer.h.0.mlp.c_proj", "down"),
    ],
)
def test_names_that_mislead(kind: str, name: str, role: str, architecture: Any) -> None:
    matrices = {m.name: m for m in all_weight_matrices(architecture(kind))}
    assert matrices[f"{name}.weight"].role == role


def test_what_is_no_transformer_is_listed_as_unknown(architecture: Any) -> None:
    model = architecture("mamba")
    matrices = list(all_weight_matrices(model))
    assert Counter((m.family, m.role) for m in matrices) == {
        ("embed", "embedding"): 1,
        ("other", "unknown"): 12,
    }
    assert list(weight_matrices(model)) == []
    assert {m.block for m in matrices if m.role == "unknown"} == {0, 1}


@pytest.mark.parametrize(
    ("kind", "count", "norm"),
    [
        ("llama", 5, "post_attention_layernorm"),
        ("qwen3", 9, "self_attn.k_norm"),
        ("bert", 6, "attention.output.LayerNorm"),
        ("t5", 14, "layer.1.layer_norm"),
        ("bart", 14, "final_layer_norm"),
    ],
)
def test_norms_are_known_by_their_shape(
    kind: str, count: int, norm: str, architecture: Any
) -> None:
    model = architecture(kind)
    norms = list(norm_weights(model))
    assert len(norms) == count
    assert {n.block for n in norms if n.norm == norm} == set(range(len(blocks(model))))
    for found in norms:
        assert found.weight is model.get_parameter(found.name)
        has_bias = kind in ("bert", "bart")
        assert (found.bias_name is not None) == has_bias == (found.bias is not None)
        if found.bias_name is not None:
            assert found.bias is model.get_parameter(found.bias_name)


def test_biases_have_the_role_of_their_matrix(architecture: Any) -> None:
    neox = {b.name: b for b in biases(architecture("gpt_neox"))}
    assert Counter(b.role for b in neox.values()) == {"qkv": 2, "o": 2, "up": 2, "down": 2}
    dense = neox["gpt_neox.layers.1.attention.dense.bias"]
    assert (dense.block, dense.family) == (1, "attn")
    experts = [b for b in biases(architecture("gpt_oss")) if "experts" in b.name]
    assert {(b.role, tuple(b.bias.shape)) for b in experts} == {
        ("gate_up", (3, 96)),
        ("down", (3, 32)),
    }
    # The head's own bias stays the head's, though its matrix is the embedding.
    head = next(b for b in biases(architecture("bert")) if b.role == "head")
    assert head.name == "cls.predictions.bias"
    assert head.matrix == "cls.predictions.decoder.weight"
