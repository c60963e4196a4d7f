"""What a checkpoint does not hold and yet decides what a model computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_invarlock.adapters import LoadedModel
from pytest_invarlock.bench.function_state import function_state
from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.plan import DataSource, MeasurementPlan, Pair, WindowSelection


def scribble_on_frequencies(model: Any) -> None:
    model.model.rotary_emb.inv_freq.mul_(0.5)


def train_one_part(model: Any) -> None:
    model.model.layers[0].mlp.train()


def hang_a_hook(model: Any) -> None:
    model.model.layers[1].register_forward_hook(lambda *_: None)


def hang_a_hook_before(model: Any) -> None:
    model.lm_head.register_forward_pre_hook(lambda *_: None)


def replace_a_method(model: Any) -> None:
    model.model.norm.forward = lambda states: states


def scale_a_number(model: Any) -> None:
    model.model.layers[0].self_attn.scaling *= 2


def free_a_parameter(model: Any) -> None:
    model.lm_head.weight.requires_grad_(not model.lm_head.weight.requires_grad)


@pytest.mark.parametrize(
    "change",
    [
        scribble_on_frequencies,
        train_one_part,
        hang_a_hook,
        hang_a_hook_before,
        replace_a_method,
        scale_a_number,
        free_a_parameter,
    ],
)
def test_every_such_change_shows(change: Any, tiny_model: Any) -> None:
    model = tiny_model("llama")
    before = function_state(model)
    assert function_state(tiny_model("llama")) == before
    change(model)
    assert function_state(model) != before


@pytest.mark.parametrize("change", [scale_a_number, free_a_parameter])
def test_a_lent_baseline_so_changed_is_told_from_the_one_that_was_loaded(
    change: Any, tiny_model: Any
) -> None:
    model = tiny_model("llama")
    bench = Bench(
        Pair("tiny", "tiny"), MeasurementPlan(DataSource("given"), WindowSelection(64, 64, 2, 2))
    )
    bench.adopt(LoadedModel(model, None, None, 64, None))
    assert bench.unchanged()
    change(bench.lend().model)
    assert not bench.unchanged()


def test_a_forward_pass_changes_nothing(tiny_model: Any) -> None:
    model = tiny_model("llama")
    before = function_state(model)
    with torch.no_grad():
        model(input_ids=torch.arange(1, 20)[None])
    assert function_state(model) == before
