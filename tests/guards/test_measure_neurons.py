"""Rows of small matrices, and which neuron is which: by angles drawn by hand."""

from __future__ import annotations

import math

import pytest
import torch
from invarlock_guards.measure import neuron_matching
from invarlock_guards.measure.canonical_change import (
    _Side,
    canonical_changes,
)
from invarlock_guards.measure.canonical_layout import (
    Operand,
)
from invarlock_guards.measure.neuron_matching import Rows, _own_cosine, match_neurons

from tests.guards.test_measure_canon import WHOLE, changes, drawn, network


def test_rows_are_chunked_and_gained(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows.of(WHOLE, torch.tensor([10.0, 1.0]))
    assert (len(rows), rows.shape) == (2, (2, 2))
    assert rows.at(torch.tensor([1, 0, 1])).tolist() == [[30, 4], [10, 2], [30, 4]]
    assert rows.at(torch.tensor([0])).dtype is torch.float64
    assert [c.tolist() for c in rows.chunks()] == [[0, 1]]
    monkeypatch.setattr(neuron_matching, "BLOCK_ELEMENTS", 5)
    assert [c.tolist() for c in Rows.of(drawn(5, 2)).chunks()] == [[0, 1], [2, 3], [4]]
    assert [c.tolist() for c in Rows.of(drawn(2, 9)).chunks()] == [[0], [1]]
    assert [len(c) for c in Rows.of(torch.zeros(6, 0)).chunks()] == [5, 1]


def matched(one: torch.Tensor, other: torch.Tensor) -> list[int]:
    return match_neurons([Rows.of(one)], [Rows.of(other)]).tolist()


def test_the_limits_of_the_matching() -> None:
    found = neuron_matching.SAME, neuron_matching.HOME, neuron_matching.ASSIGNED
    assert (found, neuron_matching.TILE) == ((0.9, 0.2, 1024), 2048)


@pytest.mark.parametrize(("elements", "tile"), [(1 << 22, 2048), (8, 2), (1, 1)])
def test_neurons_are_found_by_their_angle_whatever_the_blocks(
    elements: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neuron_matching, "BLOCK_ELEMENTS", elements)
    monkeypatch.setattr(neuron_matching, "TILE", tile)
    unit = torch.eye(6)
    assert matched(unit, unit) == [0, 1, 2, 3, 4, 5]
    order = [0, 3, 1, 2, 5, 4]
    assert matched(unit, -2 * unit[order]) == [0, 2, 3, 1, 5, 4]
    # Of two matrices one says where the neurons went; the other, of zeros, says nothing.
    zero = Rows.of(torch.zeros(6, 3))
    both = match_neurons([Rows.of(unit), zero], [Rows.of(unit[order]), zero])
    assert both.tolist() == [0, 2, 3, 1, 5, 4]


def at(degrees: float) -> list[float]:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def test_a_neuron_stays_from_the_stated_cosine_on() -> None:
    pairs = torch.tensor([at(0), at(40)])
    # 25 degrees have a cosine of 0.906, 27 one of 0.891.
    assert matched(pairs, torch.tensor([at(25), at(15)])) == [0, 1]
    assert matched(pairs, torch.tensor([at(41), at(-1)])) == [1, 0]
    # A neuron's own place is worth 0.2: cosines of 0.866 against 0.985 stay, 0.5 do not.
    assert matched(pairs, torch.tensor([at(30), at(10)])) == [0, 1]
    assert matched(pairs, torch.tensor([at(60), at(-20)])) == [1, 0]


def test_what_is_left_is_assigned_or_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    one = torch.tensor([at(0), at(10), at(20), at(90)])
    other = torch.tensor([at(90), at(45), at(44), at(46)])
    assigned = matched(one, other)
    assert sorted(assigned) == [0, 1, 2, 3]
    assert assigned[3] == 0
    monkeypatch.setattr(neuron_matching, "ASSIGNED", 0)
    kept = matched(one, other)
    assert sorted(kept) == [0, 1, 2, 3]
    assert kept[3] == 0


def test_linear_assignment_settles_the_rest() -> None:
    def plane(number: int, degrees: float) -> list[float]:
        return [0.0, 0.0] * number + at(degrees) + [0.0, 0.0] * (1 - number)

    # In each plane both neurons are nearest to the one at 5 degrees, which is nearest to the first.
    one = torch.tensor([plane(0, 0), plane(0, 20), plane(1, 0), plane(1, 20)])
    other = torch.tensor([plane(1, 60), plane(1, 5), plane(0, 60), plane(0, 5)])
    assert matched(one, other) == [3, 2, 1, 0]


def test_a_matrix_goes_to_the_subjects_device() -> None:
    side = _Side({"m": WHOLE, "n": torch.ones(2)}, torch.device("meta"), True)
    assert side.rows(Operand("m", False)).read().is_meta
    assert side.columns(Operand("m", False)).read().is_meta


class Counted(dict[str, torch.Tensor]):
    """Counts how often each tensor is asked for."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__(tensors)
        self.asked = dict.fromkeys(tensors, 0)

    def __getitem__(self, name: str) -> torch.Tensor:
        self.asked[name] += 1
        return super().__getitem__(name)


def test_matrices_of_a_unit_are_held_or_read_again() -> None:
    unit, one, other = network(gate=True)
    held, again = ([Counted(one), Counted(other)] for _ in range(2))
    assert list(canonical_changes([unit], *held)) == changes(unit, *again, hold=False)
    # The subject's first matrix is asked for its device too.
    assert [side.asked["down"] for side in held] == [1, 1]
    assert [side.asked["up"] for side in held] == [1, 2]
    assert all(side.asked["down"] > 2 for side in again)


def test_cosines_of_neurons_at_their_own_index() -> None:
    one, other = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[-4.0, 3.0], [1.0, 1.0]])
    turned = torch.tensor([[-6.0, -8.0], [2.0, 0.0]])
    found = _own_cosine([Rows.of(one), Rows.of(one)], [Rows.of(turned), Rows.of(other)])
    assert found.tolist() == pytest.approx([0.5, 0.0])
    with pytest.raises(ValueError, match="zip"):
        match_neurons([Rows.of(WHOLE)], [Rows.of(WHOLE), Rows.of(WHOLE)])
