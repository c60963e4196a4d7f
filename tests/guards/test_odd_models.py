"""Roles where names are missing or shapes are ambiguous: what is not known is not guessed."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from invarlock_guards.families import (
    all_weight_matrices,
    biases,
    blocks,
    decoder_blocks,
    describe_families,
    norm_weights,
    weight_matrices,
)
from torch import nn


class Block(nn.Module):
    """A block of given parts; ``parts`` are modules by attribute name."""

    def __init__(self, **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class Attention(Block):
    pass


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


def attention(names: str = "q_proj k_proj v_proj o_proj", width: int = 8) -> Attention:
    return Attention(**{name: linear(width, width) for name in names.split()})


def model_of(block: nn.Module, config: Any = None) -> nn.Module:
    model = Block(layers=nn.ModuleList([block]))
    if config is not None:
        model.config = config
    return model


def roles(model: nn.Module) -> dict[str, str]:
    """Role by name, without the part that every name shares."""
    return {
        m.name.removeprefix("layers.0.").removesuffix(".weight"): m.role
        for m in all_weight_matrices(model)
    }


def test_a_model_without_blocks_has_no_projections() -> None:
    flat = nn.Sequential(linear(4, 8), linear(8, 4))
    assert blocks(flat) == decoder_blocks(flat) == []
    assert list(weight_matrices(flat)) == []
    assert [row.role for row in describe_families(flat)] == ["unknown"]


def test_an_attention_without_names_is_unknown() -> None:
    model = model_of(Block(mixer=attention("alpha beta gamma delta")))
    assert set(roles(model).values()) == {"unknown"}
    assert list(weight_matrices(model)) == []


def test_names_inside_names_are_no_evidence() -> None:
    model = model_of(Block(self_attn=attention("my_q_proj my_k_proj my_v_proj my_o_proj")))
    assert set(roles(model).values()) == {"unknown"}


def test_names_of_classes_and_blocks_are_no_evidence() -> None:
    model = model_of(Block(mlp=attention(), self_attn=Block(a=linear(8, 20), b=linear(20, 8))))
    assert roles(model) == {
        "mlp.q_proj": "q", "mlp.k_proj": "k", "mlp.v_proj": "v", "mlp.o_proj": "o",
        "self_attn.a": "up", "self_attn.b": "down",
    }  # fmt: skip


def test_a_fused_matrix_of_no_attentions_width_is_unknown() -> None:
    odd = Block(qkv=linear(8, 19), dense=linear(8, 8))
    assert set(roles(model_of(Block(attn=odd))).values()) == {"unknown"}
    few_heads = Block(qkv=linear(8, 12), dense=linear(8, 8))
    assert roles(model_of(Block(attn=few_heads))) == {"attn.qkv": "qkv", "attn.dense": "o"}


def test_two_matrices_that_could_be_the_output_are_told_by_name_or_not_at_all() -> None:
    named = roles(model_of(Block(attn=attention("q k v o extra"))))
    assert (named["attn.o"], named["attn.extra"]) == ("o", "unknown")
    bare = roles(model_of(Block(attn=attention("q k v first second"))))
    assert (bare["attn.first"], bare["attn.second"]) == ("unknown", "unknown")
    assert (bare["attn.q"], bare["attn.k"], bare["attn.v"]) == ("q", "k", "v")


def test_the_output_may_stand_around_the_attention_proper() -> None:
    proper = attention("q k v q_global k_global")
    found = roles(model_of(Block(attn=Block(proper=proper, output=Block(dense=linear(8, 8))))))
    assert found["attn.output.dense"] == "o"
    assert found["attn.proper.q_global"] == "unknown"


@pytest.mark.parametrize(
    "around",
    [
        Block(first=attention("q k v"), second=attention("q k v"), out=linear(8, 8)),
        nn.ModuleList([attention("q k v"), linear(8, 8)]),
    ],
)
def test_what_stands_beside_several_parts_is_no_ones_output(around: nn.Module) -> None:
    assert Counter(roles(model_of(Block(parts=around))).values())["o"] == 0


def test_two_queries_make_no_attention() -> None:
    found = roles(model_of(Block(attn=attention("q_proj query k_proj v_proj o_proj"))))
    assert set(found.values()) == {"unknown"}


def test_a_block_without_attention_has_the_width_of_its_own_norm() -> None:
    mixer = Block(norm=nn.LayerNorm(3), mix=linear(8, 3))
    block = Block(mixer=mixer, norm=nn.LayerNorm(8), mlp=Block(a=linear(8, 3), b=linear(3, 8)))
    found = roles(model_of(block))
    assert (found["mlp.a"], found["mlp.b"]) == ("up", "down")


def test_a_model_tells_its_embedding_and_head() -> None:
    class Telling(Block):
        def get_input_embeddings(self) -> nn.Module:
            return self.lookup

        def get_output_embeddings(self) -> nn.Module:
            return self.last

    model = Telling(lookup=nn.Embedding(30, 8), last=linear(8, 30), other=nn.Embedding(7, 8))
    assert roles(model) == {"lookup": "embedding", "last": "head", "other": "unknown"}


def test_a_head_of_classes_has_a_transform_and_an_output() -> None:
    model = Block(classifier=Block(dense=linear(8, 8), out_proj=linear(8, 3)))
    model.config = SimpleNamespace(num_labels=3)
    assert roles(model) == {"classifier.dense": "transform", "classifier.out_proj": "head"}


def test_projections_of_attention_and_network_loose_in_the_block() -> None:
    loose = attention("q k v out")
    loose.first, loose.second = linear(8, 24), linear(24, 8)
    assert roles(model_of(loose)) == {
        "q": "q", "k": "k", "v": "v", "out": "o", "first": "up", "second": "down",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("fc1", "fc2"), ("up", "down")),
        (("fc2", "fc1"), ("down", "up")),
        (("left", "right"), ("unknown", "unknown")),
    ],
)
def test_square_matrices_are_told_by_name_or_not_at_all(
    names: tuple[str, str], expected: tuple[str, str]
) -> None:
    network = Block(**{name: linear(8, 8) for name in names})
    found = roles(model_of(Block(attn=attention(), mlp=network)))
    assert tuple(found[f"mlp.{name}"] for name in names) == expected


def test_a_gate_without_a_name_leaves_both_inner_matrices_open() -> None:
    network = Block(a=linear(8, 20), b=linear(8, 20), c=linear(20, 8))
    model = model_of(Block(attn=attention(), mlp=network))
    found = roles(model)
    assert [found[f"mlp.{name}"] for name in "abc"] == ["inner", "inner", "down"]
    # It is known that they are the network's: an edit of it must not leave them out.
    assert len(list(weight_matrices(model, "ffn"))) == 3


def test_a_pair_beside_the_network_is_no_network() -> None:
    block = Block(
        attn=attention(), mlp=Block(a=linear(8, 20), b=linear(20, 8)),
        per_layer_gate=linear(8, 3), per_layer_back=linear(3, 8),
    )  # fmt: skip
    found = roles(model_of(block))
    assert (found["mlp.a"], found["mlp.b"]) == ("up", "down")
    assert (found["per_layer_gate"], found["per_layer_back"]) == ("unknown", "unknown")


def test_a_mixer_with_other_matrices_is_no_network() -> None:
    mixer = Block(
        in_proj=linear(8, 32), out_proj=linear(16, 8), decay=nn.Parameter(torch.ones(16, 2))
    )
    found = roles(model_of(Block(norm=nn.LayerNorm(8), mixer=mixer)))
    assert set(found.values()) == {"unknown"}


def listed_experts(count: int, outputs: int) -> nn.Module:
    experts = [Block(w1=linear(8, 20), w2=linear(20, 8), w3=linear(8, 20)) for _ in range(count)]
    return Block(gate=linear(8, outputs), experts=nn.ModuleList(experts))


def test_a_list_is_one_of_experts_if_a_router_chooses_among_them() -> None:
    block = Block(attn=attention(), moe=listed_experts(5, 5))
    model = Block(layers=nn.ModuleList([block]))
    # Five experts are more than one block, and yet no stack.
    assert [name for name, _ in blocks(model)] == ["layers.0"]
    matrices = {m.name: m for m in all_weight_matrices(model)}
    assert matrices["layers.0.moe.gate.weight"].role == "router"
    assert matrices["layers.0.moe.gate.weight"].family == "other"
    for index in range(5):
        names = {role: f"layers.0.moe.experts.{index}.{n}.weight" for role, n in
                 (("gate", "w1"), ("up", "w3"), ("down", "w2"))}  # fmt: skip
        assert {role: matrices[name].role for role, name in names.items()} == {
            role: role for role in names
        }
        assert {matrices[name].expert for name in names.values()} == {index}
    assert len(list(weight_matrices(model, "ffn"))) == 15

    other = model_of(Block(attn=attention(), moe=listed_experts(5, 4)))
    matrices = {m.name: m for m in all_weight_matrices(other)}
    assert matrices["layers.0.moe.gate.weight"].role == "unknown"
    assert {m.expert for m in matrices.values()} == {None}


def test_a_gate_of_one_output_alone_is_no_router() -> None:
    model = model_of(Block(attn=attention(), moe=listed_experts(5, 1)))
    assert roles(model)["moe.gate"] == "unknown"
    assert {m.expert for m in all_weight_matrices(model)} == {None}


def test_stacked_square_experts_are_unknown_unless_they_say_their_layout() -> None:
    def experts() -> Block:
        return Block(up_proj=nn.Parameter(torch.ones(3, 8, 8)),
                     down_proj=nn.Parameter(torch.ones(3, 8, 8)))  # fmt: skip

    silent = model_of(Block(attn=attention(), experts=experts()))
    assert roles(silent)["experts.up_proj"] == "unknown"
    telling = experts()
    telling.is_transposed = True
    matrices = {m.name: m for m in all_weight_matrices(model_of(Block(a=attention(), e=telling)))}
    assert matrices["layers.0.e.up_proj"].role == "up"
    assert matrices["layers.0.e.up_proj"].input_axis == -2


def test_torchs_own_transformer() -> None:
    model = nn.Transformer(8, 2, 2, 1, 20, batch_first=True)
    assert [name for name, _ in blocks(model)] == [
        "encoder.layers.0", "encoder.layers.1", "decoder.layers.0",
    ]  # fmt: skip
    assert {row.role: row.count for row in describe_families(model)} == {
        "qkv": 4, "o": 4, "up": 3, "down": 3,
    }  # fmt: skip
    cross = {m.name for m in all_weight_matrices(model) if m.cross}
    assert cross == {
        "decoder.layers.0.multihead_attn.in_proj_weight",
        "decoder.layers.0.multihead_attn.out_proj.weight",
    }
    assert sum(b.role == "qkv" for b in biases(model)) == 4


def test_packed_weights_are_unknown() -> None:
    packed = linear(8, 8)
    packed.weight = nn.Parameter(torch.ones(32, 1), requires_grad=False)
    block = attention()
    block.q_proj = packed
    assert roles(model_of(Block(attn=block)))["attn.q_proj"] == "unknown"


def test_weights_tied_by_storage_alone_are_counted_once() -> None:
    model = model_of(Block(attn=attention()))
    model.wte, model.lm_head = nn.Embedding(30, 8), linear(8, 30)
    assert sum(row.count for row in describe_families(model)) == 6
    model.lm_head.weight = nn.Parameter(model.wte.weight.detach())
    tied = [m for m in all_weight_matrices(model) if m.family == "embed"]
    assert [(m.name, m.role) for m in tied] == [("wte.weight", "embedding")]


def test_a_head_that_comes_before_the_embedding_it_is_tied_to_is_the_embedding() -> None:
    model = Block(lm_head=linear(8, 30), wte=nn.Embedding(30, 8))
    model.wte.weight = model.lm_head.weight
    (matrix,) = all_weight_matrices(model)
    assert (matrix.name, matrix.role) == ("lm_head.weight", "embedding")


def test_a_model_without_memory_has_the_same_roles() -> None:
    block = Block(attn=attention(), mlp=Block(a=linear(8, 20), b=linear(20, 8)))
    real = model_of(block)
    expected = roles(real)
    assert roles(real.to("meta")) == expected


@pytest.mark.parametrize("config", [SimpleNamespace(), {"num_hidden_layers": 2}, None])
def test_any_configuration_will_do(config: Any) -> None:
    assert roles(model_of(Block(attn=attention()), config))["attn.q_proj"] == "q"


def test_the_configured_depth_chooses_between_lists() -> None:
    model = Block(
        tower=nn.ModuleList([Block(attn=attention()) for _ in range(4)]),
        layers=nn.ModuleList([Block(attn=attention()) for _ in range(2)]),
    )
    assert len(blocks(model)) == 4
    model.config = SimpleNamespace(num_hidden_layers=2)
    assert [name for name, _ in blocks(model)] == ["layers.0", "layers.1"]
    model.layers[1] = Attention(**dict(attention().named_children()))
    assert [name for name, _ in blocks(model)] == ["layers.0", "layers.1"]


def test_the_longest_list_of_like_blocks_is_the_decoder() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.short = nn.ModuleList([linear(2, 2) for _ in range(2)])
            self.long = nn.ModuleList([nn.GELU() for _ in range(3)])
            self.mixed = nn.ModuleList([nn.GELU(), linear(2, 2), nn.GELU(), nn.GELU()])

    assert [name for name, _ in decoder_blocks(Two())] == ["long.0", "long.1", "long.2"]


def test_vectors_that_are_no_norms() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))
            self.extra = nn.Parameter(torch.ones(8))

    model = Block(
        act=nn.PReLU(), scale=Scale(), norm=nn.LayerNorm(8, bias=False), last=linear(8, 8)
    )
    assert [(n.name, n.norm, n.block, n.bias) for n in norm_weights(model)] == [
        ("norm.weight", "norm", None, None)
    ]
