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


def injected(model: torch.nn.Module, name: str, **parameters: float) -> dict[str, Any]:
    return apply_edit(EditSpec(name, parameters), EditJournal(model, tensor_digests(model)))


@pytest.mark.parametrize("name", ["nan_injection", "scale_explosion"])
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
