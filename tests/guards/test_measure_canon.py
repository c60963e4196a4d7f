"""Canonical changes of units of small numbers, and the matching of few neurons, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from invarlock_guards.measure.canonical_change import (
    CanonicalChange,
    _part,
    _peak,
    _Side,
    _to_one,
    canonical_changes,
    unit_tensors,
)
from invarlock_guards.measure.canonical_layout import (
    AttentionUnit,
    NetworkUnit,
    Operand,
    PlainUnit,
    Unit,
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def changes(
    unit: Unit, one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], hold: bool = True
) -> list[CanonicalChange]:
    return list(canonical_changes([unit], one, other, hold=hold))


def far(one: torch.Tensor, other: torch.Tensor) -> Any:
    return pytest.approx(float((other - one).norm() / one.norm()), rel=1e-6)


@pytest.mark.parametrize("hold", [True, False])
def test_an_operand_is_taken_out_of_what_is_stored(hold: bool) -> None:
    stack = drawn(2, 6, 4)
    side = _Side({"s": stack, "m": stack[0], "n": drawn(4, seed=1)}, torch.device("cpu"), hold)
    gain = drawn(4, seed=1).double() + 1.0
    everything = torch.arange(12)

    def rows(operand: Operand, n: int = 6) -> torch.Tensor:
        found = side.rows(operand)
        assert len(found) == n
        return found.at(everything[:n])

    one = stack[1].double()
    assert torch.equal(rows(Operand("m", False)), stack[0].double())
    assert torch.equal(rows(Operand("s", False, "n", 1.0, 1)), one * gain)
    assert torch.equal(rows(Operand("s", True, None, 1.0, 1), 4), one.T)
    assert torch.equal(rows(Operand("s", False, expert=1, rows=(2, 5)), 3), one[2:5])
    grouped = Operand("s", False, expert=1, grouped=(2, 3, 1, 3))
    assert torch.equal(rows(grouped, 4), one[[1, 2, 4, 5]])
    assert torch.equal(rows(Operand("s", False), 12)[:6], stack[0].double())
    columns = side.columns(Operand("m", False))
    assert torch.equal(columns.at(everything[:4]), stack[0].double().T)


def test_more_axes_are_laid_along_the_outputs() -> None:
    stack = drawn(2, 3, 4)
    side = _Side({"s": stack}, torch.device("cpu"), True)
    assert side.rows(Operand("s", False)).shape == (6, 4)
    assert side.rows(Operand("s", True)).shape == (8, 3)


@pytest.mark.parametrize("hold", [True, False])
def test_a_plain_matrix_is_compared_with_its_gain(hold: bool) -> None:
    unit = PlainUnit(Operand("m", True, "n", 1.0))
    one = {"m": drawn(3, 5), "n": drawn(3, seed=1)}
    other = {"m": one["m"] + 0.1 * drawn(3, 5, seed=2), "n": one["n"] + 0.5}
    assert unit_tensors(unit) == {"m", "n"}
    folded = [(side["m"].T * (side["n"] + 1)).double() for side in (one, other)]
    (found,) = changes(unit, one, other, hold)
    assert found == CanonicalChange("with its norm", ("m",), far(*folded))
    assert changes(unit, one, dict(one)) == []
    assert changes(unit, one, {k: v.clone() for k, v in one.items()}) == []


BROKEN = torch.tensor([[1.0, math.nan], [0.0, 1.0]])
WHOLE = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [(WHOLE, None, "missing"), (None, WHOLE, "missing"), (WHOLE, WHOLE[:1], "shape"),
     (WHOLE, WHOLE.int(), "dtype"), (WHOLE.int(), WHOLE, "dtype"), (WHOLE, BROKEN, "non_finite"),
     (BROKEN, WHOLE, "non_finite")],
)  # fmt: skip
def test_a_unit_that_cannot_be_read_says_why(
    one: torch.Tensor | None, other: torch.Tensor | None, reason: str
) -> None:
    sides = [{"n": torch.ones(2)} | ({} if m is None else {"m": m}) for m in (one, other)]
    unit = NetworkUnit(Operand("m", False, "n"), Operand("m", False))
    assert changes(unit, *sides) == [CanonicalChange("whole unit", ("m",), None, reason)]


def test_zeros_have_no_ratio() -> None:
    unit, zero = PlainUnit(Operand("m", False)), torch.zeros(2, 2)
    part = "with its norm"
    assert changes(unit, {"m": zero}, {"m": WHOLE}) == [
        CanonicalChange(part, ("m",), None, "zero_baseline")
    ]
    assert changes(unit, {"m": WHOLE}, {"m": zero}) == [CanonicalChange(part, ("m",), 1.0)]
    assert changes(unit, {"m": zero}, {"m": -zero}) == [CanonicalChange(part, ("m",), 0.0)]


def attention(positions: Any, n_kv: int = 2) -> AttentionUnit:
    q, k, v = (Operand(name, False, "n") for name in "qkv")
    return AttentionUnit(q, k, v, Operand("o", False), 4, n_kv, positions)


def heads(n_kv: int = 2) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    rows = {"q": 8, "k": 2 * n_kv, "v": 2 * n_kv}
    one = {name: drawn(n, 6, seed=n + at) for at, (name, n) in enumerate(rows.items())}
    one |= {"o": drawn(6, 8, seed=9), "n": 1 + 0.1 * drawn(6, seed=8)}
    noise = {name: 0.1 * drawn(*t.shape, seed=50 + at) for at, (name, t) in enumerate(one.items())}
    return one, {name: t + noise[name] for name, t in one.items()}


def product(side: dict[str, torch.Tensor], left: str, right: str, head: int) -> torch.Tensor:
    own = slice(2 * head, 2 * head + 2)
    shared = slice(head // 2 * 2, head // 2 * 2 + 2)
    second = side[right].double()[shared] * side["n"].double()
    if left == "o":
        return side["o"].double()[:, own] @ second
    return (side["q"].double()[own] * side["n"].double()).T @ second


def test_heads_are_compared_as_products_and_the_worst_is_told() -> None:
    one, other = heads()
    found = changes(attention("added"), one, other)
    for change, (left, right) in zip(found, (("q", "k"), ("o", "v")), strict=True):
        values = [
            float((product(other, left, right, h) - product(one, left, right, h)).norm()
                  / product(one, left, right, h).norm())
            for h in range(4)
        ]  # fmt: skip
        worst = max(range(4), key=values.__getitem__)
        assert change == CanonicalChange(
            f"{left}·{right} of head {worst}", (left, right), pytest.approx(values[worst], rel=1e-6)
        )
    assert unit_tensors(attention("added")) == {"q", "k", "v", "o", "n"}


def test_queries_and_keys_that_positions_turn_are_compared_pair_by_pair() -> None:
    one, other = heads()

    def turned(side: dict[str, torch.Tensor], head: int) -> torch.Tensor:
        gain = side["n"].double()
        q = side["q"].double()[2 * head : 2 * head + 2] * gain
        k = side["k"].double()[head // 2 * 2 : head // 2 * 2 + 2] * gain
        return torch.outer(torch.complex(q[0], q[1]), torch.complex(k[0], k[1]).conj())

    values = [
        float((turned(other, h) - turned(one, h)).norm() / turned(one, h).norm()) for h in range(4)
    ]
    worst = max(range(4), key=values.__getitem__)
    assert changes(attention("halves"), one, other)[0] == CanonicalChange(
        f"q·k of head {worst}", ("q", "k"), pytest.approx(values[worst], rel=1e-6)
    )


def test_queries_and_keys_of_other_positions_stand_alone() -> None:
    one, other = heads()
    found = changes(attention("other"), one, other)
    assert [(c.part, c.modules) for c in found[:2]] == [("q", ("q",)), ("k", ("k",))]
    gain, moved = one["n"].double(), other["n"].double()
    for change in found[:2]:
        name = change.part
        assert change.value == far(one[name].double() * gain, other[name].double() * moved)
    assert found[2].part.startswith("o·v of head")


def test_a_head_without_a_value_counts_as_most() -> None:
    one, other = heads()
    one["v"][:2] = 0.0
    found = changes(attention("added"), one, other)[1]
    assert (found.part, found.value, found.reason) == ("o·v of head 0", None, "zero_baseline")


def network(gate: bool) -> tuple[NetworkUnit, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    unit = NetworkUnit(
        Operand("up", False, "n"), Operand("down", False),
        Operand("gate", False, "n") if gate else None,
    )  # fmt: skip
    one = {"up": drawn(5, 8), "down": drawn(8, 5, seed=1), "gate": drawn(5, 8, seed=2)}
    one["n"] = 1 + 0.1 * drawn(8, seed=3)
    order = torch.tensor([3, 0, 4, 1, 2])
    other = {
        "up": one["up"][order] + 0.05 * drawn(5, 8, seed=4),
        "down": one["down"][:, order] + 0.05 * drawn(8, 5, seed=5),
        "gate": one["gate"][order] + 0.05 * drawn(5, 8, seed=6), "n": one["n"],
    }  # fmt: skip
    return unit, one, other


BACK = torch.tensor([1, 3, 4, 0, 2])


@pytest.mark.parametrize("hold", [True, False])
def test_neurons_are_matched_before_they_are_compared(hold: bool) -> None:
    unit, one, other = network(gate=False)
    gain = one["n"].double()
    assert changes(unit, one, other, hold) == [
        CanonicalChange(
            "up", ("up",), far(one["up"].double() * gain, other["up"].double()[BACK] * gain)
        ),
        CanonicalChange("down", ("down",), far(one["down"].double(), other["down"].double()[:, BACK])),
    ]  # fmt: skip


@pytest.mark.parametrize("hold", [True, False])
def test_up_and_down_of_a_gated_network_are_outer_products(hold: bool) -> None:
    unit, one, other = network(gate=True)
    gain = one["n"].double()

    def outer(side: dict[str, torch.Tensor], order: torch.Tensor) -> torch.Tensor:
        up, down = side["up"].double()[order] * gain, side["down"].double()[:, order]
        return torch.einsum("ni,jn->nij", up, down)

    gate, both = changes(unit, one, other, hold)
    assert gate == CanonicalChange(
        "gate", ("gate",), far(one["gate"].double() * gain, other["gate"].double()[BACK] * gain)
    )
    assert both == CanonicalChange(
        "up·down", ("up", "down"), far(outer(one, torch.arange(5)), outer(other, BACK))
    )
    # What one factor gains and the other loses is nothing.
    scaled = one | {"up": one["up"] * 4, "down": one["down"] / 4}
    assert changes(unit, one, scaled, hold)[1].value == pytest.approx(0, abs=1e-7)
    assert unit_tensors(unit) == {"up", "down", "gate", "n"}


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_numbers_whose_squares_leave_float64_are_compared(gate: bool, scale: float) -> None:
    unit, one, other = network(gate)
    # Unmoved: neurons are not told by numbers of this size.
    other |= {k: other[k][BACK] for k in ("up", "gate")} | {"down": other["down"][:, BACK]}
    plain = changes(unit, one, other)
    far_off = [
        {k: t.double() * (1.0 if k == "n" else scale) for k, t in s.items()} for s in (one, other)
    ]
    for change, expected in zip(changes(unit, *far_off), plain, strict=True):
        assert change == CanonicalChange(
            expected.part, expected.modules, pytest.approx(expected.value, rel=1e-9)
        )


def parts(first: tuple[float, float], then: Any, sizes: list[tuple[float, float]]) -> Any:
    scales: list[tuple[float, ...]] = []

    def sums(*given: float) -> tuple[float, float]:
        scales.append(given)
        return then if given else first

    return _part("p", ("a", "b", "a"), sums, lambda: sizes), scales


def test_a_change_is_computed_anew_only_where_float64_did_not_hold_it() -> None:
    found, scales = parts((4.0, 1.0), None, [])
    assert (found, scales) == (CanonicalChange("p", ("a", "b"), 0.5), [()])
    assert parts((4.0, -1e-20), None, [])[0].value == 0.0
    for first in ((0.0, 1.0), (math.inf, 1.0), (1.0, math.inf), (1e-250, 1.0), (math.nan, 1.0)):
        found, scales = parts(first, (4.0, 1.0), [(8.0, 1.0), (0.0, 3.0), (0.0, 0.0)])
        assert (found.value, scales) == (0.5, [(), (2.0**-4, 0.25, 1.0)])
    assert parts((1.1e-250, 0.0), None, [])[0].value == 0.0
    for size in (math.inf, math.nan):
        found, scales = parts((0.0, 0.0), (4.0, 1.0), [(1.0, size), (1.0, 1.0)])
        assert (found, scales) == (CanonicalChange("p", ("a", "b"), None, "out_of_range"), [()])
    lost = (0.0, 1.0), (math.inf, 0.0), (1.0, math.nan)
    for then in lost:
        assert parts((0.0, 0.0), then, [(1.0, 1.0)])[0].reason == "out_of_range"
    none = [(0.0, 1.0), (1.0, 1.0)]
    assert parts((0.0, 0.0), (0.0, 1.0), none)[0] == CanonicalChange(
        "p", ("a", "b"), None, "zero_baseline"
    )
    assert parts((0.0, 0.0), (0.0, 0.0), none)[0] == CanonicalChange("p", ("a", "b"), 0.0)
    assert parts((1e-240, 1e62), None, [])[0].reason == "out_of_range"
    assert parts((1e-240, 1e60), None, [])[0].value == pytest.approx(1e150)


def test_scales_are_powers_of_two_that_float64_holds() -> None:
    assert [_to_one(x) for x in (1.0, 0.75, 4.0, 1e-300)] == [0.5, 1.0, 0.125, 2.0**996]
    assert (_to_one(5e-324), _to_one(1.7e308), _to_one(0.0)) == (2.0**1000, 2.0**-1000, 1.0)
    assert (_peak(torch.tensor([1.0, -3.0])), _peak(torch.zeros(0, 3))) == (3.0, 0.0)
    assert math.isnan(_peak(torch.tensor([1.0, math.nan])))
