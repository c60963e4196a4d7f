"""What a checkpoint does not hold and yet decides what a model computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_invarlock.bench.function_state import function_state


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


@pytest.mark.parametrize(
    "change",
    [scribble_on_frequencies, train_one_part, hang_a_hook, hang_a_hook_before, replace_a_method],
)
def test_every_such_change_shows(change: Any, tiny_model: Any) -> None:
    model = tiny_model("llama")
    before = function_state(model)
    assert function_state(tiny_model("llama")) == before
    change(model)
    assert function_state(model) != before


def test_a_forward_pass_changes_nothing(tiny_model: Any) -> None:
    model = tiny_model("llama")
    before = function_state(model)
    with torch.no_grad():
        model(input_ids=torch.arange(1, 20)[None])
    assert function_state(model) == before
