"""Two checkpoints of a few small tensors compared whole, with a model of theirs and without."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from invarlock_guards.measure import checkpoint_change
from invarlock_guards.measure.checkpoint_change import (
    CheckpointDescription,
    checkpoint_sides,
    compare_checkpoints,
    compare_headers,
    non_finite_counts,
)
from invarlock_guards.measure.checkpoint_files import (
    CheckpointFiles,
    read_checkpoint,
)
from invarlock_guards.measure.spectral import measure_models

from tests.guards.test_measure_files import headers, saved


class Small(torch.nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.up_proj = torch.nn.Linear(width, 2, bias=False)


def test_whose_layout_and_what_else_is_taken_of_each_side() -> None:
    one, other = headers(up_proj__weight=(2, 3)), headers(up_proj__weight=(2, 3), more=(1,))
    first = CheckpointDescription(Small(), {"a": 1}, "t")
    second = CheckpointDescription(Small(4), {"a": 2}, "u")
    sides = checkpoint_sides(one, other, first, second)
    assert [(s.files, s.config, s.tokenizer) for s in sides[:2]] == [
        (one, {"a": 1}, "t"), (other, {"a": 2}, "u")
    ]  # fmt: skip
    assert [s.layout.shapes["up_proj.weight"] for s in sides[:2]] == [(2, 3), (2, 4)]
    assert sides[2] is None
    own = checkpoint_sides(one, other, first, CheckpointDescription())
    assert own[1].layout == own[0].layout
    for description, why in (
        (CheckpointDescription(), "unknown architecture"),
        (second, "up_proj.weight has another shape than its configuration says"),
    ):
        by_names = checkpoint_sides(one, other, description, first)
        assert by_names[2] == by_names[0].layout.units == by_names[1].layout.units == why
        assert list(by_names[1].layout.shapes) == ["up_proj.weight", "more"]
    small = headers(up_proj__weight=((2, 3), "int8"))
    assert checkpoint_sides(small, other, first, first)[2] == "up_proj.weight is stored as int8"
    renamed = checkpoint_sides(headers(kernel=(2, 3)), headers(kernel=(2, 3)), first, first)
    assert renamed[1].layout.renamed == {"up_proj.weight": "kernel"}


def test_two_checkpoints_tensor_by_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("h.0.up_proj.weight", "h.0.down_proj.weight", "h.0.q_proj.weight", "h.0.n.weight")
    one = dict(zip(names, (*torch.arange(12.0).reshape(3, 2, 2) + 1, torch.ones(2)), strict=True))
    other = one | {names[0]: one[names[0]] * 2, names[3]: torch.tensor([1.0, math.inf])}
    folders = saved(tmp_path / "one", one, a=1), saved(tmp_path / "other", other, a=2)
    files = [read_checkpoint(folder) for folder in folders]
    about = CheckpointDescription()
    found = compare_checkpoints(files[0], files[1], about, about)
    assert found.by_names == "unknown architecture"
    assert found.spectral["canon"] == {"available": False, "reason": "unknown architecture"}
    assert [(c["name"], c["reason"]) for c in found.spectral["changes"]] == [
        (names[3], "non_finite_subject"), (names[0], None)
    ]  # fmt: skip
    assert found.spectral["covered"]["ffn"] == {
        "matrices": 2, "parameters": 8, "compared": 8, "changed": 1
    }  # fmt: skip
    assert found.invariants["non_finite"] == [{"name": names[3], "baseline": "0", "subject": "1"}]
    assert [c["name"] for c in found.invariants["config_changes"]] == ["a"]
    assert found.invariants["n_parameters"] == 14
    back = compare_checkpoints(files[1], files[0], about, about)
    assert back.invariants["baseline_non_finite"] == [names[3]]
    both = compare_checkpoints(files[1], files[1], about, about)
    assert both.invariants["non_finite"] == [{"name": names[3], "baseline": "1", "subject": "1"}]
    read: list[str] = []
    plain = checkpoint_change.count_non_finite
    monkeypatch.setattr(
        checkpoint_change, "count_non_finite", lambda t: read.append("read") or plain(t)
    )
    compare_checkpoints(files[0], files[0], about, about)
    assert len(read) == 4
    structures = compare_headers(files[0], files[1], about, about)
    assert structures[0].non_finite == structures[1].non_finite == {}
    assert structures[2].text == ""
    lost = CheckpointFiles(files[1].directory, files[1].tensors, {}, frozenset({"gone", names[0]}))
    missing = compare_checkpoints(files[0], lost, about, about).invariants["missing"]
    assert missing == [
        {"name": "gone", "baseline": "absent", "subject": "promised by its index, and in no file"},
        {"name": names[0], "baseline": "present", "subject": "promised by its index, and in no file"},
    ]  # fmt: skip


def test_two_checkpoints_of_a_known_architecture(tiny_model: Any, tmp_path: Path) -> None:
    model = tiny_model("llama")
    tensors = {name: p.clone() for name, p in model.state_dict().items()}
    name = "model.layers.1.mlp.up_proj.weight"
    subject = tensors | {name: tensors[name] * 1.5}
    files = [
        read_checkpoint(saved(tmp_path / folder, given))
        for folder, given in (("one", tensors), ("other", subject))
    ]
    about = CheckpointDescription(model, {"a": 1}, "t")
    found = compare_checkpoints(files[0], files[1], about, about)
    assert found.by_names is None
    loaded = measure_models(model, dict(model.named_parameters()), subject)
    (change,) = found.spectral["changes"]
    assert change["name"] == name
    assert change["canon"] == {
        "value": pytest.approx(0.5), "part": "up·down", "reason": None
    }  # fmt: skip
    assert found.spectral["covered"] == loaded["covered"]
    assert found.spectral["canon"] == {"available": True, "reason": None}
    assert change["ln_sigma"] == pytest.approx(loaded["changes"][0]["ln_sigma"])
    assert found.invariants["n_parameters"] == sum(p.numel() for p in model.parameters())
    assert found.invariants["config_changes"] == found.invariants["unexpected"] == []


def test_broken_complex_numbers_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_change, "BLOCK_ELEMENTS", 2)
    numbers = torch.zeros(2, 3, dtype=torch.complex64)
    numbers[0, 0] = complex(math.nan, 0)
    numbers[1, 2] = complex(0, math.inf)
    files = read_checkpoint(saved(tmp_path / "c", {"a": numbers, "b": torch.ones(2)}))
    assert non_finite_counts(files) == {"a": 2, "b": 0}
    assert non_finite_counts(files, known=("a",)) == {"b": 0}


def test_a_stack_that_is_equal_counts_its_experts(tmp_path: Path) -> None:
    stacks = {f"h.experts.{name}_proj": torch.ones(4, 2, 2) for name in ("up", "down")}
    files = read_checkpoint(saved(tmp_path / "c", stacks))
    found = compare_checkpoints(files, files, CheckpointDescription(), CheckpointDescription())
    assert found.spectral["covered"] == {
        "ffn": {"matrices": 8, "parameters": 32, "compared": 32, "changed": 0}
    }  # fmt: skip
    assert found.spectral["changes"] == []
