"""Details of the measure, one by one: what a checkpoint lost, devices, products, defaults."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from invarlock_guards.measure import checkpoint_change, weight_change
from invarlock_guards.measure.branches import BranchPlan
from invarlock_guards.measure.canonical_change import (
    LARGEST_CHANGE,
    _largest_head,
    _part,
    _to_one,
    _turned_inner,
)
from invarlock_guards.measure.canonical_layout import AttentionUnit, NetworkUnit, Operand
from invarlock_guards.measure.checkpoint_change import (
    CheckpointDescription,
    _located,
    _lost,
    compare_checkpoints,
)
from invarlock_guards.measure.checkpoint_difference import tensor_difference
from invarlock_guards.measure.checkpoint_files import CheckpointFiles, read_checkpoint
from invarlock_guards.measure.checkpoint_layout import CheckpointLayout, stored_names
from invarlock_guards.measure.checkpoint_structure import CheckpointSide, checkpoint_structure
from invarlock_guards.measure.forced_branches import _both, _exact
from invarlock_guards.measure.invariants import InvariantsGuard
from invarlock_guards.measure.neuron_matching import Rows, _unit
from invarlock_guards.measure.recorded_batch import RecordedBatch, Replay
from invarlock_guards.measure.rmt import RMTGuard
from invarlock_guards.measure.spectral import SpectralGuard
from invarlock_guards.measure.variance import VarianceGuard
from invarlock_guards.measure.variance_proposals import _losses, _scaled_by, tried
from invarlock_guards.measure.weight_change import WeightChange, WeightPair, compare

from tests.guards.test_measure_files import headers, layout, saved


def side(files: CheckpointFiles, of: CheckpointLayout, *lost: str) -> CheckpointSide:
    files = CheckpointFiles(files.directory, files.tensors, files.config, frozenset(lost))
    return CheckpointSide(files, of)


PROMISED = "promised by its index, and in no file"


def test_what_an_index_promises_is_told_once() -> None:
    of = layout("model.a", "model.b", prefix="model.", renamed={"model.b": "kernel"})
    one = side(headers(here=(2, 3)), of)
    other = side(headers(), of, "a", "model.a", "model.b", "kernel", "here", "gone")
    missing = [{"name": "model.a"}, {"name": "model.b"}]
    told = {row["name"]: row for row in _lost(one, other, missing)}
    assert told == {
        "here": {"name": "here", "baseline": "present", "subject": PROMISED},
        "gone": {"name": "gone", "baseline": "absent", "subject": PROMISED},
    }
    assert {row["name"] for row in _lost(one, other, [])} == other.files.lost
    # The same of headers alone: each once, under one name.
    stored = side(headers(model__a=(2, 3), kernel=(2, 3)), of)
    structures = checkpoint_structure(stored), checkpoint_structure(other)
    found = tensor_difference(*structures, other)
    assert set(found.lost.names) == {"model.a", "model.b", "here", "gone"}
    assert found.beside.count == 0


def test_where_both_sides_store_a_parameter() -> None:
    of = layout("model.a", "model.b", "c", prefix="model.", renamed={"c": "kernel"})
    one = side(headers(a=(2, 3), model__b=(2, 3), kernel=(2, 3)), of)
    other = side(headers(model__a=(2, 3), b=(2, 3), c=(2, 3)), of)
    assert stored_names(of, one.files) == {"model.a": "a", "model.b": "model.b", "c": "kernel"}
    assert _located(one, other) == {
        "model.a": ("a", "model.a"), "model.b": ("model.b", "b"), "c": ("kernel", "c")
    }  # fmt: skip
    assert _located(one, side(headers(a=(2, 3)), of)) == {"model.a": ("a", "a")}
    assert _located(side(headers(c=(2, 3)), of), other) == {"c": ("c", "c")}


def test_equal_tensors_are_read_again_where_they_are_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("h.0.up_proj.weight", "h.0.down_proj.weight")
    broken = torch.tensor([[1.0, math.nan], [2.0, 3.0]])
    files = read_checkpoint(saved(tmp_path / "c", {names[0]: broken, names[1]: torch.ones(2, 2)}))
    about = CheckpointDescription()
    found = compare_checkpoints(files, files, about, about)
    assert [(c["name"], c["reason"]) for c in found.spectral["changes"]] == [
        (names[0], "non_finite_baseline")
    ]
    assert found.spectral["covered"]["ffn"]["compared"] == 4
    seen: list[Any] = []
    made = checkpoint_change.measure_spectral
    monkeypatch.setattr(
        checkpoint_change,
        "measure_spectral",
        lambda pairs, *more: made([seen.append(p) or p for p in pairs], *more),
    )
    compare_checkpoints(files, files, about, about)
    assert {p.name: (p.unchanged, p.baseline.is_meta) for p in seen} == {
        names[0]: (False, False), names[1]: (True, True)
    }  # fmt: skip


def test_units_of_a_checkpoint_are_read_a_matrix_at_a_time(
    tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama")
    tensors = {name: p.clone() for name, p in model.state_dict().items()}
    name = "model.layers.1.mlp.up_proj.weight"
    folders = (
        saved(tmp_path / "one", tensors),
        saved(tmp_path / "other", tensors | {name: tensors[name] * 2}),
    )
    one, other = map(read_checkpoint, folders)
    held: list[Any] = []
    made = checkpoint_change.canonical_changes

    def watched(units: Any, *sides: Any, hold: bool = True) -> Any:
        held.append((len(units), hold))
        return made(units, *sides, hold=hold)

    monkeypatch.setattr(checkpoint_change, "canonical_changes", watched)
    about = CheckpointDescription(model)
    compare_checkpoints(one, other, about, about)
    assert held == [(1, False)]


def test_products_that_positions_turn_by_hand() -> None:
    generator = torch.Generator().manual_seed(3)
    q0, k0, q1, k1 = (torch.randn(4, 5, generator=generator).double() for _ in range(4))

    def turned(x: torch.Tensor, pair: int) -> torch.Tensor:
        return torch.complex(x[pair], x[pair + 2])

    expected = sum(
        torch.vdot(
            torch.outer(turned(q0, pair), turned(k0, pair).conj()).reshape(-1),
            torch.outer(turned(q1, pair), turned(k1, pair).conj()).reshape(-1),
        ).real
        for pair in (0, 1)
    )
    assert _turned_inner(q0, k0, q1, k1) == pytest.approx(float(expected))


def test_the_head_that_changed_most_is_told() -> None:
    unit = AttentionUnit(*(Operand(n, False) for n in "qkvo"), 4, 2, "added")
    left, right = torch.ones(8, 3).double(), torch.ones(4, 3).double()
    after = left.clone()
    after[4:6] *= 3
    sides = [(Rows.of(left), Rows.of(right)), (Rows.of(after), Rows.of(right))]

    def inner(l0: Any, r0: Any, l1: Any, r1: Any) -> float:
        assert (l0.shape, r0.shape) == ((2, 3), (2, 3))
        return float(((l0 @ l1.T) * (r0 @ r1.T)).sum())

    found = _largest_head("q·k", unit, (unit.q, unit.k), sides, inner)
    assert (found.part, found.modules, found.value) == ("q·k of head 2", ("q", "k"), 2.0)
    # Heads 2 and 3 share the second key.
    keys = right.clone()
    keys[2:] = 0
    sides = [(Rows.of(left), Rows.of(right)), (Rows.of(left), Rows.of(keys))]
    assert _largest_head("p", unit, (unit.q, unit.k), sides, inner).part == "p of head 2"


def test_parts_at_the_ends_of_what_is_told() -> None:
    def part(size: float, moved: float) -> Any:
        found = _part("p", ("m", "m", "n"), lambda *_s: (size, moved), lambda: [(1.0, 1.0)])
        assert found.modules == ("m", "n")
        return found.value, found.reason

    assert part(4.0, 1.0) == (0.5, None)
    assert part(1.0, LARGEST_CHANGE**2) == (LARGEST_CHANGE, None)
    assert part(1.0, (LARGEST_CHANGE * 1.001) ** 2) == (None, "out_of_range")
    assert part(4.0, -1e-9) == (0.0, None)
    assert part(math.inf, 1.0) == part(1.0, math.inf) == (None, "out_of_range")
    for moved, expected in ((0.0, (0.0, None)), (1.0, (None, "zero_baseline"))):
        zero = _part("p", ("m",), lambda *_s, m=moved: (0.0, m), lambda: [(0.0, 1.0)])
        assert (zero.value, zero.reason) == expected
    assert [_to_one(x) for x in (0.0, 1.0, 0.75, 8.0)] == [1.0, 0.5, 1.0, 0.0625]


def test_a_kept_tensor_goes_where_it_is_needed() -> None:
    recorded = RecordedBatch("f", [torch.zeros(2)])
    recorded.entries["m"].append(0)
    assert Replay(recorded).force("m")(torch.zeros(2, device="meta")).is_meta


def test_a_baseline_goes_where_the_subject_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        weight_change, "_change", lambda _p, name, one, other: seen.append((name, one, other))
    )
    meta = torch.ones(2, 3, 4, device="meta")
    for role in ("up", "q"):
        compare(WeightPair("m", role, "ffn", torch.ones(2, 3, 4), meta))
    assert [name for name, *_ in seen] == ["m[0]", "m[1]", "m"]
    assert all(one.is_meta and other.is_meta for _, one, other in seen)


def test_rows_of_zeros_stay_zeros() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]]).double()
    assert _unit(rows).tolist() == [pytest.approx([0.6, 0.8]), [0.0, 0.0]]


def test_losses_are_of_every_window_of_every_batch() -> None:
    batches = [{"ids": torch.ones(n, 2)} for n in (2, 1)]

    def losses(_model: Any, batch: Any) -> Any:
        n = len(batch["ids"])
        return [1.0 * n] * n, [2.0 * n] * n

    assert _losses(torch.nn.Module(), batches, losses) == [(2.0, 4.0), (2.0, 4.0), (1.0, 2.0)]
    with pytest.raises(ValueError, match=r"^losses gave 1 numbers for 2 windows$"):
        _losses(torch.nn.Module(), batches, lambda *_a: ([1.0], [1.0]))
    with pytest.raises(ValueError, match="zip"):
        _losses(torch.nn.Module(), batches, lambda *_a: ([1.0, 1.0], [1.0]))
    assert tried([], [], []) == {"ab": None, "ab_reason": "there are no held-out windows"}
    for gain, count in ((math.inf, 1.0), (math.nan, 1.0), (1.0, 0.0)):
        assert tried(["d"], [gain], [count]) == {"ab": None, "ab_reason": "a loss was not finite"}
    for names, gains, counts in ((["d"], [1.0, 2.0], [1.0]), (["d"], [1.0], [])):
        with pytest.raises(ValueError, match="zip"):
            tried(names, gains, counts)
    assert tried(["d", "e", "d"], [1.0, 2.0, 3.0], [1.0, 0.0, 1.0]) == {
        "ab": {"documents": ["d", "e"], "gains": [4.0, 2.0], "tokens": [2.0, 0.0]},
        "ab_reason": None,
    }


def test_an_output_is_scaled_alone_or_first_of_several() -> None:
    value = torch.tensor([2.0])
    assert _scaled_by(0.5)(None, None, value).item() == 1.0
    first, rest = _scaled_by(0.5)(None, None, (value, "cache"))
    assert (first.item(), rest) == (1.0, "cache")


def test_the_names_of_the_guards() -> None:
    guards = (InvariantsGuard, SpectralGuard, RMTGuard, VarianceGuard)
    assert [guard.name for guard in guards] == ["invariants", "spectral", "rmt", "variance"]


def defaults(of: Any) -> dict[str, Any]:
    parameters = inspect.signature(of).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def test_what_is_left_out_of_records_of_the_measure() -> None:
    assert WeightPair("m", "up", "ffn", None, None).unchanged is False
    change = WeightChange("m", "up", "ffn", 6)
    assert set(change.document()) - {"name", "role", "family", "n_parameters"} == set(
        defaults(WeightChange)
    )
    numbers = [v for k, v in change.document().items() if k in defaults(WeightChange)]
    assert [v for v in numbers if v is not None] == [False]
    assert change.compared
    for reason in ("zero_baseline", "zero_subject", "non_finite_subject"):
        assert WeightChange("m", "up", "ffn", 6, reason=reason).compared
    for reason in ("shape", "dtype", "missing_subject", "missing_baseline", "not_converged"):
        assert not WeightChange("m", "up", "ffn", 6, reason=reason).compared
    assert NetworkUnit(Operand("u", False), Operand("d", False)).gate is None
    assert BranchPlan((), 1.0, ()).reason is None
    assert CheckpointDescription() == CheckpointDescription(None, None, None)
    assert CheckpointLayout({}, (), {}, []) == CheckpointLayout({}, (), {}, [], "", (), {})
    about = side(headers(), layout())
    assert (about.config, about.tokenizer) == (None, None)
    assert SimpleNamespace(**defaults(CheckpointSide)) == SimpleNamespace(
        config=None, tokenizer=None
    )


def test_float64_is_looked_for_where_it_exists() -> None:
    def on(kind: str) -> Any:
        return SimpleNamespace(device=SimpleNamespace(type=kind), cpu=lambda: "moved")

    assert _exact(on("mps")) == "moved"
    for kind in ("cpu", "cuda"):
        value = on(kind)
        assert _exact(value) is value


def test_two_that_look_see_in_turn() -> None:
    seen: list[str] = []
    first, second = (lambda _v, n=n: seen.append(n) for n in ("first", "second"))
    assert _both(None, second) is second
    _both(first, second)(torch.ones(1))
    assert seen == ["first", "second"]
