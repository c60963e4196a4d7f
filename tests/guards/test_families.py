"""Roles of weight matrices in real architectures: which are found, and along which axis."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from invarlock_guards.families import decoder_blocks, weight_matrices

EXPECTED = {
    "llama": {
        "attn": {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"},
        "ffn": {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"},
    },
    "gpt2": {"attn": {"attn.c_attn", "attn.c_proj"}, "ffn": {"mlp.c_fc", "mlp.c_proj"}},
}
PREFIX = {"llama": "model.layers", "gpt2": "transformer.h"}


def test_a_model_without_blocks_has_no_projections() -> None:
    flat = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    assert decoder_blocks(flat) == []
    assert list(weight_matrices(flat)) == []


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize("scope", ["ffn", "attn"])
def test_scopes_hold_the_projections_of_every_block_and_nothing_else(
    kind: str, scope: str, tiny_model: Any
) -> None:
    names = {matrix.name for matrix in weight_matrices(tiny_model(kind), scope)}
    assert names == {
        f"{PREFIX[kind]}.{block}.{part}.weight"
        for block in (0, 1)
        for part in EXPECTED[kind][scope]
    }


@pytest.mark.parametrize("kind", EXPECTED)
def test_scope_all_is_both_without_embeddings_and_head(kind: str, tiny_model: Any) -> None:
    matrices = list(weight_matrices(tiny_model(kind)))
    each = {family: 2 * len(parts) for family, parts in EXPECTED[kind].items()}
    assert Counter(matrix.family for matrix in matrices) == each
    assert not any("wte" in m.name or "embed" in m.name or "head" in m.name for m in matrices)
    assert {matrix.block for matrix in matrices} == {0, 1}


@pytest.mark.parametrize("kind", EXPECTED)
def test_matrices_are_the_models_own_parameters(kind: str, tiny_model: Any) -> None:
    model = tiny_model(kind)
    for matrix in weight_matrices(model):
        assert matrix.weight.data_ptr() == model.get_parameter(matrix.name).data_ptr()


@pytest.mark.parametrize(("kind", "ffn_in"), [("llama", "mlp.down_proj"), ("gpt2", "mlp.c_proj")])
def test_the_input_axis_is_the_one_that_meets_the_input(
    kind: str, ffn_in: str, tiny_model: Any
) -> None:
    matrix = next(m for m in weight_matrices(tiny_model(kind), "ffn") if ffn_in in m.name)
    width = {"llama": 48, "gpt2": 128}[kind]
    assert matrix.weight.shape[matrix.input_axis] == width
    assert matrix.weight.shape[1 - matrix.input_axis] == 32


def test_an_unknown_scope_holds_nothing(tiny_model: Any) -> None:
    assert list(weight_matrices(tiny_model("llama"), "embedding")) == []


def test_the_longest_list_of_like_blocks_is_the_decoder() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.short = torch.nn.ModuleList([torch.nn.Linear(2, 2) for _ in range(2)])
            self.long = torch.nn.ModuleList([torch.nn.GELU() for _ in range(3)])
            self.mixed = torch.nn.ModuleList(
                [torch.nn.GELU(), torch.nn.Linear(2, 2), torch.nn.GELU(), torch.nn.GELU()]
            )

    assert [name for name, _ in decoder_blocks(Two())] == ["long.0", "long.1", "long.2"]
