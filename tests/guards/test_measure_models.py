"""Branches of models, compared whole: reasons, places of norms, and one subject with one change."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from invarlock_guards.measure.branches import (
    Branch,
    BranchPlan,
    _distance,
    _equal,
    _norm_branch,
    _same,
    find_branches,
)
from invarlock_guards.measure.forced_branches import (
    BranchRecord,
    compare_branches,
    compare_models,
    readiness,
    record_branches,
)
from invarlock_guards.measure.sublayers import common_module, sublayers
from invarlock_guards.measure.watched_forward import (
    BranchError,
)


def batches() -> list[dict[str, Any]]:
    ids = torch.arange(3, 33).reshape(5, 6)
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, 4:] = 0
    return [{"input_ids": ids[:3]}, {"input_ids": ids[3:], "attention_mask": mask}]


def test_two_models_compared_branch_by_branch(architecture: Any) -> None:
    model, name = architecture("llama"), "model.layers.1.mlp.down_proj.weight"
    subject = copy.deepcopy(model)
    subject.get_parameter(name).mul_(2)
    record = record_branches(model, batches(), edge_windows=3, outlier_factor=0.5)
    assert (record.edge_windows, record.outlier_factor) == ({0, 2, 4}, 0.5)
    assert readiness(record) == {"ready": True, "reason": None, "n_branches": 5}
    assert record.n_bytes == sum(t.nbytes for b in record.batches for t in b.tensors) > 0
    found = compare_branches(subject, batches(), record)
    assert (found["n_windows"], found["n_edge_windows"], found["n_tokens"]) == (5, 3, 28)
    assert (found["outlier_factor"], found["reason"]) == (0.5, None)
    assert {b["module"]: b["e"] for b in found["branches"] if b["e"]} == {
        "model.layers.1.mlp": pytest.approx(1.0)
    }
    assert {s["n_windows"] for s in found["sites"]} == {3}
    assert sum(s["n_outliers_subject"] for s in found["sites"]) > 0
    # What is doubled has the edge that it had.
    assert all(abs(s["fedge"]) < 1e-6 for s in found["sites"])
    made = compare_models(model, subject, batches(), edge_windows=3, outlier_factor=0.5)
    assert made == found
    with pytest.raises(BranchError) as refused:
        compare_branches(subject, batches()[::-1], record)
    assert str(refused.value) == "the subject was given other windows than the baseline"


def test_without_windows_or_branches_there_is_a_reason() -> None:
    flat = torch.nn.Sequential(torch.nn.Linear(4, 4))
    none = record_branches(flat, [])
    assert none == BranchRecord(
        BranchPlan((), 0.0, (), "there are no calibration windows"), (), frozenset(), 1.5 * 1.1
    )
    assert readiness(none) == {
        "ready": False, "reason": "there are no calibration windows", "n_branches": 0,
    }  # fmt: skip
    window = [{"input": torch.ones(2, 4)}]
    plan = BranchPlan((), 0.0, (), "the model repeats no block")
    assert record_branches(flat, window).plan == find_branches(flat, window[0]) == plan
    found = compare_models(flat, flat, window)
    assert (found["reason"], found["n_windows"]) == ("the model repeats no block", 0)
    assert find_branches(flat, {}) == plan


def test_why_a_model_has_no_branch(architecture: Any) -> None:
    mamba = find_branches(architecture("mamba"), batches()[0])
    assert mamba.reason == (
        "none of the 2 blocks has an attention or a feed-forward network whose matrices are known"
    )
    assert "backbone.layers.0.mixer.in_proj.weight" in mamba.left_out

    class Silent(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = architecture("llama").model
            self.config = architecture("llama").config

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    silent = find_branches(Silent(), {"x": torch.ones(1, 2)})
    assert silent.reason == "no attention or feed-forward network was called"
    assert (silent.branches, silent.share, len(silent.left_out)) == ((), 0.0, 14)
    assert all(name.startswith("inner.layers.") for name in silent.left_out)
    assert len(sublayers(Silent())) == 4


def test_tensors_are_told_apart_by_memory_by_value_and_by_sum() -> None:
    one = torch.arange(6.0)
    assert _same(one, one.reshape(2, 3))
    assert not _same(one, one[:3])
    assert not _same(one, one.clone())
    assert _equal(one, one.clone().reshape(3, 2).double())
    assert not _equal(one, one[:3])
    assert not _equal(one, one + 1)
    total, part = torch.tensor([4.0, 6.0]), torch.tensor([1.0, 2.0])
    assert _distance(total, part, torch.tensor([3.0, 4.0])) == 0.0
    assert _distance(total, part, torch.tensor([[3.0], [9.0]])) == pytest.approx(5 / math.sqrt(90))
    assert _distance(total, part, torch.ones(3)) == math.inf
    assert _distance(total, torch.ones(3), torch.ones(3)) == math.inf
    assert _distance(total, part, torch.zeros(2)) == pytest.approx(5e30)


def test_a_free_norm_is_of_its_block_and_its_stack() -> None:
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(12))
    free = _norm_branch("layers.11.norm", model)
    assert free == Branch(
        "layers.11.norm", "norm", "other", 11, None, ("layers.11.norm",), ("layers.11.norm",),
        ("layers.11.norm",), (), (), "attention_mask",
    )  # fmt: skip
    assert _norm_branch("norm", model).block is None
    model.config = SimpleNamespace(is_encoder_decoder=True)
    for name, stack, tokens in (
        ("decoder.norm", "decoder", "decoder_attention_mask"),
        ("encoder.norm", "encoder", "attention_mask"),
        ("my_decoder.norm", "encoder", "attention_mask"),
    ):
        found = _norm_branch(name, model)
        assert (found.stack, found.tokens) == (stack, tokens)


def test_the_innermost_module_of_names() -> None:
    assert common_module(["a.b.c", "a.b.d.e"]) == "a.b"
    assert common_module(["a.b.c", "a.b.c"]) == "a.b.c"
    assert common_module(["a.b", "a.b.c"]) == "a.b"
    assert common_module(["a.x.c", "a.y.c"]) == "a"
    assert common_module(["a", "b"]) == ""
