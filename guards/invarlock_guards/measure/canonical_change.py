"""The relative change of weights after the free choices of parametrisation are removed.

Norm gains are folded into the matrices that read them, value and output projections, and query and
key, are compared as their product per head, neurons of feed-forward networks are matched, and the
linear up and down of a gated network are compared as one outer product for each neuron. Products
are never made: inner products of their factors do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from invarlock_guards.measure.canonical_layout import (
    AttentionUnit,
    NetworkUnit,
    Operand,
    PlainUnit,
    Unit,
)
from invarlock_guards.measure.neuron_matching import Rows, match_neurons
from invarlock_guards.measure.row_blocks import as_float64, bitwise_equal, is_finite

if TYPE_CHECKING:
    Tensors = Mapping[str, torch.Tensor]


SMALLEST_SQUARE = 1e-250
"""Of smaller sums of squares, terms may be lost below what float64 holds."""

LARGEST_CHANGE = 1e150
"""What a record holds; a larger change, or an infinite one, has no value."""


@dataclass(frozen=True, slots=True)
class CanonicalChange:
    """The change of one part of the function.

    Attributes:
        part: such as ``o·v of head 3``.
        modules: the matrices it is made of, named as in `WeightChange`.
        value: ‖P' - P‖ / ‖P‖, Frobenius; None where ``reason`` says why.
        reason: ``missing``, ``shape``, ``dtype``, ``non_finite``, ``zero_baseline``, or
            ``out_of_range`` where float64 cannot hold the numbers on the way.
    """

    part: str
    modules: tuple[str, ...]
    value: float | None
    reason: str | None = None


def canonical_changes(
    units: Iterable[Unit], baseline: Tensors, subject: Tensors, *, hold: bool = True
) -> Iterator[CanonicalChange]:
    """The change of every unit of which a tensor changed, part by part; of others nothing.

    Args:
        units: from `canonical_units`.
        baseline: tensors by parameter name, as the model stores them.
        subject: the same of the subject.
        hold: keep the matrices of a unit while it is measured; False asks the mappings for one
            matrix each time that rows of it are needed, so that no more than two are held.
    """
    for unit in units:
        operands = _operands(unit)
        names = unit_tensors(unit)
        modules = tuple(dict.fromkeys(operand.module for operand in operands))
        if all(_same(name, baseline, subject) for name in names):
            continue
        reason = next(
            (r for name in sorted(names) if (r := _unreadable(name, baseline, subject))), None
        )
        if reason is not None:
            yield CanonicalChange("whole unit", modules, None, reason)
        else:
            device = subject[operands[0].name].device
            one, other = _Side(baseline, device, hold), _Side(subject, device, hold)
            if isinstance(unit, AttentionUnit):
                yield from _attention(unit, one, other)
            elif isinstance(unit, NetworkUnit):
                yield from _network(unit, one, other)
            else:
                yield _plain(unit.matrix, "with its norm", one, other)


def unit_tensors(unit: Unit) -> frozenset[str]:
    """The names of the parameters that ``unit`` is made of, norms among them."""
    operands = _operands(unit)
    return frozenset({o.name for o in operands} | {o.norm for o in operands if o.norm is not None})


def _operands(unit: Unit) -> list[Operand]:
    if isinstance(unit, AttentionUnit):
        return [unit.q, unit.k, unit.v, unit.o]
    if isinstance(unit, PlainUnit):
        return [unit.matrix]
    return [unit.up, unit.down] + ([unit.gate] if unit.gate is not None else [])


def _same(name: str, baseline: Tensors, subject: Tensors) -> bool:
    one, other = baseline.get(name), subject.get(name)
    return one is not None and other is not None and bitwise_equal(one, other)


def _unreadable(name: str, baseline: Tensors, subject: Tensors) -> str | None:
    one, other = baseline.get(name), subject.get(name)
    if one is None or other is None:
        return "missing"
    if one.shape != other.shape:
        return "shape"
    if not (one.is_floating_point() and other.is_floating_point()):
        return "dtype"
    return None if is_finite(one) and is_finite(other) else "non_finite"


class _Side:
    """One model's matrices as operands, on the device of the subject."""

    def __init__(self, tensors: Tensors, device: torch.device, hold: bool) -> None:
        self._tensors = tensors
        self._device = device
        self._hold = hold

    def rows(self, operand: Operand) -> Rows:
        """(outputs, inputs) of ``operand``; the gain multiplies the inputs."""
        return self._rows(partial(self._matrix, operand), self._gain(operand))

    def columns(self, operand: Operand) -> Rows:
        """(inputs, outputs) of an operand that no norm stands before."""
        return self._rows(lambda: self._matrix(operand).T, None)

    def _rows(self, read: Callable[[], torch.Tensor], gain: torch.Tensor | None) -> Rows:
        rows = Rows.of(read(), gain)
        return rows if self._hold else replace(rows, read=read)

    def _matrix(self, operand: Operand) -> torch.Tensor:
        weight = self._tensors[operand.name].detach().to(self._device)
        if operand.expert is not None:
            weight = weight[operand.expert]
        if operand.transposed:
            weight = weight.transpose(-1, -2)
        if weight.ndim != 2:
            weight = weight.flatten(0, -2)
        if operand.rows is not None:
            return weight[slice(*operand.rows)]
        if operand.grouped is not None:
            groups, size, first, last = operand.grouped
            return weight.reshape(groups, size, -1)[:, first:last].flatten(0, 1)
        return weight

    def _gain(self, operand: Operand) -> torch.Tensor | None:
        if operand.norm is None:
            return None
        return as_float64(self._tensors[operand.norm].to(self._device)) + operand.offset


def _plain(operand: Operand, part: str, baseline: _Side, subject: _Side) -> CanonicalChange:
    one, other = baseline.rows(operand), subject.rows(operand)
    return _matched(part, operand, one, other, torch.arange(len(one)))


def _matched(
    part: str, operand: Operand, one: Rows, other: Rows, match: torch.Tensor
) -> CanonicalChange:
    """The change of rows, row i of ``one`` against row match[i] of ``other``."""

    def sums(scale: float = 1.0) -> tuple[float, float]:
        size = moved = 0.0
        for index in one.chunks():
            before = _times(one.at(index), scale)
            size += float(before.square().sum())
            moved += float((_times(other.at(match[index]), scale) - before).square().sum())
        return size, moved

    return _part(part, (operand.module,), sums, lambda: [(_largest(one), _largest(other))])


def _part(
    part: str,
    modules: tuple[str, ...],
    sums: Callable[..., tuple[float, float]],
    sizes: Callable[[], list[tuple[float, float]]],
) -> CanonicalChange:
    """The change of a product P of factors.

    Args:
        part: its name.
        modules: the matrices that it is made of.
        sums: gives ‖P‖² and ‖P' - P‖², which rounding may leave below zero, with each factor of
            both sides multiplied by a scale.
        sizes: gives the largest absolute number of each factor, of the baseline and the subject.
    """
    modules = tuple(dict.fromkeys(modules))
    size, moved = sums()
    if not _told_apart(size, moved):
        largest = sizes()
        if not all(map(math.isfinite, itertools.chain.from_iterable(largest))):
            return CanonicalChange(part, modules, None, "out_of_range")
        size, moved = sums(*(_to_one(before or after) for before, after in largest))
        if all(before for before, _ in largest) and not _told_apart(size, moved):
            return CanonicalChange(part, modules, None, "out_of_range")
    if size > 0:
        value = math.sqrt(max(0.0, moved) / size)
        held = value <= LARGEST_CHANGE
        return CanonicalChange(part, modules, *((value,) if held else (None, "out_of_range")))
    if moved != 0:
        return CanonicalChange(part, modules, None, "zero_baseline")
    return CanonicalChange(part, modules, 0.0)


def _told_apart(size: float, moved: float) -> bool:
    """Whether float64 held both sums: neither left its range, above or below."""
    return SMALLEST_SQUARE < size < math.inf and math.isfinite(moved)


def _largest(rows: Rows) -> float:
    return max((_peak(rows.at(index)) for index in rows.chunks()), default=0.0)


def _peak(values: torch.Tensor) -> float:
    """The largest absolute value, NaN where there is one."""
    return float(values.abs().amax()) if values.numel() else 0.0


def _to_one(largest: float) -> float:
    """The power of two that brings ``largest`` near 1, so that nothing is rounded; 1 for 0."""
    return math.ldexp(1.0, max(-1000, min(1000, -math.frexp(largest)[1])))


def _times(values: torch.Tensor, scale: float) -> torch.Tensor:
    return values if scale == 1.0 else values * scale


def _attention(unit: AttentionUnit, baseline: _Side, subject: _Side) -> Iterator[CanonicalChange]:
    if unit.positions == "other":
        yield _plain(unit.q, "q", baseline, subject)
        yield _plain(unit.k, "k", baseline, subject)
    else:
        scores = [(side.rows(unit.q), side.rows(unit.k)) for side in (baseline, subject)]
        inner = _turned_inner if unit.positions == "halves" else _inner
        yield _largest_head("q·k", unit, (unit.q, unit.k), scores, inner)
    writes = [(side.columns(unit.o), side.rows(unit.v)) for side in (baseline, subject)]
    yield _largest_head("o·v", unit, (unit.o, unit.v), writes, _inner)


def _largest_head(
    part: str,
    unit: AttentionUnit,
    operands: tuple[Operand, Operand],
    sides: list[tuple[Rows, Rows]],
    inner: Callable[..., float],
) -> CanonicalChange:
    """Of the product of each head's two factors, the head that changed most.

    ``sides`` holds the factors (heads·width, features) of the baseline and of the subject; a head
    whose change has no value counts as most.
    """
    modules = tuple(operand.module for operand in operands)
    width = len(sides[0][0]) // unit.n_heads
    shared = unit.n_heads // unit.n_kv_heads
    run = torch.arange(width)
    heads = []
    for head in range(unit.n_heads):
        (l0, r0), (l1, r1) = (
            (left.at(run + head * width), right.at(run + head // shared * width))
            for left, right in sides
        )
        sums = partial(_product, inner, (l0, r0), (l1, r1))
        sizes = partial(_peaks, (l0, r0), (l1, r1))
        heads.append(_part(f"{part} of head {head}", modules, sums, sizes))
    return max(heads, key=lambda found: math.inf if found.value is None else found.value)


def _product(
    inner: Callable[..., float],
    one: tuple[torch.Tensor, torch.Tensor],
    other: tuple[torch.Tensor, torch.Tensor],
    *scales: float,
) -> tuple[float, float]:
    """‖P‖² and ‖P' - P‖² of the product of two factors."""
    scales = scales or (1.0, 1.0)
    (l0, r0), (l1, r1) = (
        [_times(x, s) for x, s in zip(p, scales, strict=True)] for p in (one, other)
    )
    size = inner(l0, r0, l0, r0)
    return size, size + inner(l1, r1, l1, r1) - 2 * inner(l0, r0, l1, r1)


def _peaks(
    one: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor]
) -> list[tuple[float, float]]:
    return [(_peak(before), _peak(after)) for before, after in zip(one, other, strict=True)]


def _inner(l0: torch.Tensor, r0: torch.Tensor, l1: torch.Tensor, r1: torch.Tensor) -> float:
    """⟨L₀ᵀR₀, L₁ᵀR₁⟩ from two Gram matrices as small as a head is wide."""
    return float(((l0 @ l1.T) * (r0 @ r1.T)).sum())


def _turned_inner(l0: torch.Tensor, r0: torch.Tensor, l1: torch.Tensor, r1: torch.Tensor) -> float:
    """The same of a query and a key that positions turn, one complex number for two components.

    The score is Σ Re[(q·x) conj(k·y) e^(iωΔ)] over pairs of components: for each of them the
    products of q and conj(k) are the function, whatever phase or size they share.
    """
    q0, k0, q1, k1 = (torch.complex(*x.chunk(2)) for x in (l0, r0, l1, r1))
    return float((((q0.conj() * q1).sum(1)) * ((k0 * k1.conj()).sum(1))).real.sum())


def _network(unit: NetworkUnit, baseline: _Side, subject: _Side) -> Iterator[CanonicalChange]:
    before = [baseline.rows(unit.up), baseline.columns(unit.down)]
    after = [subject.rows(unit.up), subject.columns(unit.down)]
    if unit.gate is None:
        match = match_neurons(before, after)
        yield _matched("up", unit.up, before[0], after[0], match)
        yield _matched("down", unit.down, before[1], after[1], match)
        return
    gates = baseline.rows(unit.gate), subject.rows(unit.gate)
    match = match_neurons([gates[0], *before], [gates[1], *after])
    yield _matched("gate", unit.gate, *gates, match)

    def sums(up: float = 1.0, down: float = 1.0) -> tuple[float, float]:
        size = moved = 0.0
        for index in before[0].chunks():
            u0, d0 = _times(before[0].at(index), up), _times(before[1].at(index), down)
            u1, d1 = _times(after[0].at(match[index]), up), _times(after[1].at(match[index]), down)
            old = (u0.square().sum(1) * d0.square().sum(1)).sum()
            new = (u1.square().sum(1) * d1.square().sum(1)).sum()
            shared = ((u0 * u1).sum(1) * (d0 * d1).sum(1)).sum()
            size += float(old)
            moved += float(old + new - 2 * shared)
        return size, moved

    def sizes() -> list[tuple[float, float]]:
        return [(_largest(a), _largest(b)) for a, b in zip(before, after, strict=True)]

    yield _part("up·down", (unit.up.module, unit.down.module), sums, sizes)
