"""Memory and disk, as headers and configuration tell them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pytest_invarlock.adapters.model_source import resolve_model
from pytest_invarlock.plan import DataSource, EditSpec, MeasurementPlan, WindowSelection
from pytest_invarlock.preflight.needs import (
    PROCESS_BYTES,
    Checkpoint,
    kept_bytes,
    memory_need,
    read_checkpoint,
)

PLAN = MeasurementPlan(DataSource("pydoc"), WindowSelection(64, 64, 24, 24), batch_tokens=128)
MADE = Checkpoint(
    weights=1000, block_weights=600, table_weights=300, largest=50, head_weights=150,
    item_bytes=2, width=32, inner=48, vocabulary=320,
)  # fmt: skip


def test_every_tensor_counts_once_in_the_dtype_it_is_measured_in(
    checkpoints: dict[str, Path], tiny_model: Any
) -> None:
    model = tiny_model("llama")
    numbers = sum(p.numel() for p in model.parameters())
    blocks = sum(p.numel() for n, p in model.named_parameters() if ".layers." in n and p.ndim > 1)
    found = read_checkpoint(checkpoints["llama"], "float32")
    assert (found.weights, found.block_weights) == (4 * numbers, 4 * blocks)
    assert found.largest == max(p.numel() for p in model.parameters())
    assert (found.width, found.inner, found.vocabulary) == (32, 48, model.config.vocab_size)
    assert found.head_weights == 4 * model.lm_head.weight.numel()
    half = read_checkpoint(checkpoints["llama"], "bfloat16")
    assert (half.weights, half.item_bytes) == (2 * numbers, 2)


def test_a_tied_head_is_stored_and_counted_once(
    checkpoints: dict[str, Path], tiny_model: Any
) -> None:
    numbers = sum(p.numel() for p in tiny_model("gpt2").parameters())
    assert read_checkpoint(checkpoints["gpt2"], "float32").weights == 4 * numbers


@pytest.mark.parametrize(
    ("config", "item"),
    [({"dtype": "bfloat16"}, 2), ({"torch_dtype": "float64"}, 8), ({"dtype": "odd"}, 2), ({}, 2)],
)
def test_auto_is_the_configurations_dtype_else_the_stored_one(
    config: dict[str, Any], item: int, tmp_path: Path
) -> None:
    weights = {"a": torch.zeros(3, 5, dtype=torch.float16), "n": torch.zeros(7, dtype=torch.int64)}
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read_checkpoint(tmp_path, "auto")
    assert found.weights == 15 * item + 7 * 8
    assert (found.width, found.inner, found.vocabulary) == (None, None, None)
    assert found.head_weights == 15 * item
    assert not memory_need(found, PLAN, [], []).is_whole


def test_all_shards_are_summed(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(4)}, tmp_path / "two.safetensors")
    shutil.copy(checkpoints["llama"] / "config.json", tmp_path)
    assert read_checkpoint(tmp_path, "float32").weights == 28


def test_the_formula_of_the_docstring() -> None:
    need = memory_need(MADE, PLAN, [EditSpec("quant_rtn", {"bitwidth": 8})], [])
    assert need.baseline == 1000
    assert need.edit == 600 + 150 + 8 * 50
    assert need.activations == 128 * 2 * (8 * 32 + 3 * 48)
    assert need.logits == 4 * 4 * 128 * 320
    parts = need.baseline + need.edit + need.activations + need.logits
    assert need.total == PROCESS_BYTES + parts


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (EditSpec("noop"), 0), (EditSpec("shape_mismatch"), 0), (EditSpec("dtype_change"), 1000),
        (EditSpec("deploy", {"backend": "torchao", "scheme": "int8_weight_only"}), 2000),
        (EditSpec("zero_layer"), 1150), (EditSpec("quant_rtn", {"include": ["head"]}), 1450),
    ],
)  # fmt: skip
def test_what_each_edit_keeps(edit: EditSpec, expected: int) -> None:
    assert memory_need(MADE, PLAN, [EditSpec("noop"), edit], []).edit == expected


def test_of_edit_and_second_checkpoint_the_larger_counts() -> None:
    large, small = replace(MADE, weights=5000), replace(MADE, weights=20)
    need = memory_need(MADE, PLAN, [EditSpec("zero_layer")], [small, large])
    assert need.subject == 5000
    assert need.total == PROCESS_BYTES + 1000 + 5000 + need.activations + need.logits


def test_the_estimate_is_no_less_than_what_was_measured() -> None:
    # Of builtin:gpt2, 8192 tokens a batch, the peak of the whole process was 678 to 686 MB.
    shipped = resolve_model("builtin:gpt2").directory
    plan = replace(PLAN, batch_tokens=8192)
    found = read_checkpoint(shipped, "float32")
    assert memory_need(found, plan, [EditSpec("noop")], [found]).total > 687_000_000


def test_states_and_losses_are_kept_for_every_draw() -> None:
    assert kept_bytes(MADE, PLAN, 3) == 3 * 48 * 64 * (32 * 2 + 12)
