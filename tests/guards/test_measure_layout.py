"""What each architecture's parametrisation leaves free, and its branches, as two lists say it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from invarlock_guards.families import WeightMatrix
from invarlock_guards.measure.branches import Branch, find_branches
from invarlock_guards.measure.canonical_layout import (
    AttentionUnit,
    NetworkUnit,
    Operand,
    Unit,
    _reads_norm_twice,
    canonical_units,
)
from invarlock_guards.measure.sublayers import ProjectionSite, SubLayer, _feed_forwards
from torch import nn

from tests.guards.test_branches import batch_for

LISTS = {name: Path(__file__).with_name(f"{name}.txt") for name in ("units", "branches")}
LATER = re.compile(r"\.(h|layers|layer|block)\.[1-9]\d*\.(?!layer_norm|[A-Z])")


def listed(name: str) -> dict[str, list[str]]:
    """The lines of a list by the kind of model; '#' begins each kind."""
    parts = LISTS[name].read_text(encoding="utf-8").split("# ")[1:]
    return {lines[0]: lines[1:] for lines in (part.strip().splitlines() for part in parts)}


def matrix(operand: Operand) -> str:
    taken = operand.rows or operand.grouped
    told = operand.module + "ᵀ" * operand.transposed
    told += f" {':'.join(map(str, taken))}" if taken else ""
    if operand.norm is None:
        return told
    return told + f" · {operand.norm}" + f" + {operand.offset}" * (operand.offset != 0)


def unit_line(unit: Unit) -> str:
    if isinstance(unit, AttentionUnit):
        head = f"attention {unit.n_heads}/{unit.n_kv_heads} {unit.positions}"
        operands = [unit.q, unit.k, unit.v, unit.o]
    elif isinstance(unit, NetworkUnit):
        head = "network"
        operands = [unit.up, unit.down, *([unit.gate] if unit.gate else [])]
    else:
        head, operands = "plain", [unit.matrix]
    return f"{head}: " + " | ".join(map(matrix, operands))


def branch_line(found: Branch) -> str:
    sites = [f"{s.module} {s.role} {s.tokens}" for s in found.projections]
    fields = (found.norms, found.entries, found.outputs, sites, found.matrices)
    about = (found.name, found.kind, found.family, found.block, found.stack, found.tokens)
    return (
        " ".join(map(str, about)) + " | " + " | ".join(", ".join(field) or "-" for field in fields)
    )


def unit_lines(model: Any) -> list[str]:
    """Of every first block, and of what is outside blocks."""
    units = canonical_units(model)
    assert not isinstance(units, str)
    return [line for line in map(unit_line, units) if not LATER.search(line)]


def branch_lines(model: Any) -> list[str]:
    plan = find_branches(model, batch_for(model))
    assert (plan.share, plan.left_out, plan.reason) == (1.0, (), None)
    return [line for line in map(branch_line, plan.branches) if not LATER.search(line)]


@pytest.mark.parametrize("kind", listed("units"))
def test_the_units_of_an_architecture_are_those_listed(kind: str, architecture: Any) -> None:
    assert unit_lines(architecture(kind)) == listed("units")[kind]


@pytest.mark.parametrize("kind", ["mistral", "qwen2"])
def test_architectures_built_like_llama_have_its_units(kind: str, architecture: Any) -> None:
    assert canonical_units(architecture(kind)) == canonical_units(architecture("llama"))


@pytest.mark.parametrize("kind", listed("branches"))
def test_the_branches_of_an_architecture_are_those_listed(kind: str, architecture: Any) -> None:
    assert branch_lines(architecture(kind)) == listed("branches")[kind]


def test_a_dense_network_and_experts_stand_side_by_side_in_a_block() -> None:
    model = nn.Module()
    model.b = nn.ModuleDict({"mlp": nn.ModuleDict({"down": nn.Linear(3, 2, bias=False)}),
                             "moe": nn.ModuleDict({"router": nn.Linear(2, 4, bias=False)})})  # fmt: skip
    # Not a module of its own: nobody calls it.
    model.b["mlp"].inner = nn.Parameter(torch.ones(3, 2))
    model.b["moe"].up = nn.Parameter(torch.ones(4, 3, 2))
    model.b["moe"].down = nn.Parameter(torch.ones(4, 2, 3))

    def weight(name: str, role: Any, family: Any = "ffn") -> WeightMatrix:
        return WeightMatrix(name, model.get_parameter(name), family, role, 5, -1)

    dense = [weight("b.mlp.inner", "up"), weight("b.mlp.down.weight", "down")]
    experts = [weight("b.moe.router.weight", "router", "other"), weight("b.moe.up", "up"),
               weight("b.moe.down", "down")]  # fmt: skip
    found = _feed_forwards(model, "b", [*dense, *experts])
    site = ProjectionSite("b.mlp.down", "down", "attention_mask")
    assert found == [
        SubLayer("b.mlp", "feed_forward", "ffn", 5, None, ("b.mlp",), "b.mlp.down", (site,),
                 ("b.mlp.inner", "b.mlp.down.weight"), "attention_mask"),
        SubLayer("b.moe", "feed_forward", "ffn", 5, None, ("b.moe",), "b.moe", (),
                 ("b.moe.router.weight", "b.moe.up", "b.moe.down"), "attention_mask"),
    ]  # fmt: skip
    assert _feed_forwards(model, "b", dense) == found[:1]
    # A router and experts that share no module but the block are no branch.
    assert _feed_forwards(model, "b.moe", experts[1:]) == []
    # One network behind a router is called as a whole.
    model.b["one"] = nn.ModuleDict({"router": nn.Linear(2, 1), "only": nn.ModuleDict(
        {"up": nn.Linear(2, 3), "down": nn.Linear(3, 2)})})  # fmt: skip
    routed = [weight("b.one.router.weight", "router", "other"),
              weight("b.one.only.up.weight", "up"), weight("b.one.only.down.weight", "down")]  # fmt: skip
    (one,) = _feed_forwards(model, "b", routed)
    assert (one.name, one.inputs, one.output) == ("b.one", ("b.one",), "b.one")
    assert [site.module for site in one.projections] == ["b.one.only.up", "b.one.only.down"]


@pytest.mark.parametrize("heads", [5, "many", 0])
def test_an_attention_of_unknown_heads_is_compared_matrix_by_matrix(
    heads: Any, architecture: Any
) -> None:
    model = architecture("gpt2")
    config = SimpleNamespace(model_type="gpt2", num_attention_heads=heads, num_hidden_layers=3)
    shell = nn.Module()
    shell.transformer, shell.config = model.transformer, config
    lines = unit_lines(shell)
    assert lines[:2] == [
        "plain: transformer.h.0.attn.c_attn.weightᵀ · transformer.h.0.ln_1.weight",
        "plain: transformer.h.0.attn.c_proj.weightᵀ",
    ]
    assert lines[2].startswith("network: ")


def test_options_that_make_the_stream_read_the_norms() -> None:
    for options, twice in (
        ({}, False), ({"do_layer_norm_before": True}, False), ({"do_layer_norm_before": None}, False),
        ({"do_layer_norm_before": False}, True),
        ({"apply_residual_connection_post_layernorm": True}, True),
        ({"apply_residual_connection_post_layernorm": False}, False),
    ):  # fmt: skip
        assert _reads_norm_twice(SimpleNamespace(**options)) is twice
