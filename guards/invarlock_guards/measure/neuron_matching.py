"""Which neuron of a subject's feed-forward network is which of the baseline's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment

from invarlock_guards.measure.row_blocks import BLOCK_ELEMENTS, as_float64

SAME = 0.9
"""From this mean cosine on, two neurons at one index are taken for the same."""

HOME = 0.2
"""What a neuron's own index is worth where its weights leave the choice open."""

ASSIGNED = 1024
"""Up to this many neurons that stay ambiguous are matched by linear assignment."""

TILE = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of a matrix, (n, m), as float64 with the columns multiplied by ``gain`` (m,).

    ``read`` gives the matrix, of ``shape``, whenever rows of it are taken: nobody need hold it.
    """

    read: Callable[[], torch.Tensor]
    shape: tuple[int, int]
    gain: torch.Tensor | None = None

    @classmethod
    def of(cls, matrix: torch.Tensor, gain: torch.Tensor | None = None) -> Rows:
        """The rows of a matrix that is held."""
        return cls(lambda: matrix, (matrix.shape[0], matrix.shape[1]), gain)

    def __len__(self) -> int:
        return self.shape[0]

    def at(self, index: torch.Tensor) -> torch.Tensor:
        """The rows at ``index`` (k,), in its order: (k, m)."""
        matrix = self.read()
        values = as_float64(matrix[index.to(matrix.device)])
        return values if self.gain is None else values * self.gain.to(values)

    def chunks(self) -> list[torch.Tensor]:
        """Indices of all rows, in blocks of bounded size."""
        step = max(1, BLOCK_ELEMENTS // max(1, self.shape[1]))
        return list(torch.split(torch.arange(len(self)), step))


def match_neurons(baseline: Sequence[Rows], subject: Sequence[Rows]) -> torch.Tensor:
    """The subject's neuron for each of the baseline's, (n,): a permutation.

    Neurons are told by the absolute cosine of their rows, averaged over the matrices given, so
    that one damaged matrix of three leaves them in place. Neurons that are the same at their own
    index are settled first; the others by mutual nearest neighbours; those left over by linear
    assignment, or, beyond `ASSIGNED` of them, by order: that can overstate a change, never hide it.

    Args:
        baseline: for each matrix of the network its rows, one for each of n neurons.
        subject: the same matrices of the subject.
    """
    n = len(baseline[0])
    match = torch.arange(n)
    open_ = match[_own_cosine(baseline, subject) < SAME]
    if not len(open_):
        return match
    mutual, partner = _nearest(baseline, subject, open_)
    match[open_[mutual]] = partner[mutual]
    rows = open_[~mutual]
    columns = open_[~torch.isin(open_, partner[mutual])]
    if 0 < len(rows) <= ASSIGNED:
        similar = _similarity(baseline, subject, rows, columns)
        order = linear_sum_assignment(similar.numpy(), maximize=True)[1]
        columns = columns[torch.from_numpy(order)]
    else:
        # Own index where it is free, whatever is left for the rest.
        home = torch.isin(rows, columns)
        spare = columns[~torch.isin(columns, rows)]
        columns = rows.clone()
        columns[~home] = spare
    match[rows] = columns
    return match


def _own_cosine(baseline: Sequence[Rows], subject: Sequence[Rows]) -> torch.Tensor:
    total = torch.zeros(len(baseline[0]), dtype=torch.float64)
    for one, other in zip(baseline, subject, strict=True):
        for index in one.chunks():
            a, b = one.at(index), other.at(index)
            length = a.norm(dim=1) * b.norm(dim=1)
            cosine = (a * b).sum(1).abs() / torch.where(length > 0, length, 1.0)
            total[index] += cosine.cpu()
    return total / len(baseline)


def _nearest(
    baseline: Sequence[Rows], subject: Sequence[Rows], open_: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Among the neurons ``open_``: whether each has a mutual nearest neighbour, and its nearest."""
    row_best = torch.full((len(open_),), -1.0)
    row_at = torch.zeros(len(open_), dtype=torch.long)
    column_best, column_at = row_best.clone(), row_at.clone()
    tiles = list(torch.split(torch.arange(len(open_)), TILE))
    for across in tiles:
        for down in tiles:
            similar = _similarity(baseline, subject, open_[across], open_[down])
            for best, at, here, there, axis in (
                (row_best, row_at, across, down, 1),
                (column_best, column_at, down, across, 0),
            ):
                value, place = similar.max(dim=axis)
                better = value > best[here]
                best[here[better]] = value[better]
                at[here[better]] = there[place[better]]
    mutual = column_at[row_at] == torch.arange(len(open_))
    return mutual, open_[row_at]


def _similarity(
    baseline: Sequence[Rows], subject: Sequence[Rows], rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Mean absolute cosine of every pair, (rows, columns) float32, own indices favoured."""
    total = torch.zeros(len(rows), len(columns))
    for one, other in zip(baseline, subject, strict=True):
        total += (_unit(one.at(rows)) @ _unit(other.at(columns)).T).abs().cpu()
    return total / len(baseline) + HOME * (rows[:, None] == columns[None, :])


def _unit(rows: torch.Tensor) -> torch.Tensor:
    length = rows.norm(dim=1, keepdim=True)
    return (rows / torch.where(length > 0, length, 1.0)).float()
