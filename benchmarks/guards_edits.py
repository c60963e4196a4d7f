"""Changes that the evidence of the guards makes by itself: single matrices, heads, blends.

Each takes a journal, as the registered edits do; ``names`` are parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from invarlock_guards.families import all_weight_matrices

from pytest_invarlock.edits.lowrank_svd import low_rank
from pytest_invarlock.edits.magnitude_prune import pruned
from pytest_invarlock.edits.quant_rtn import round_to_nearest
from pytest_invarlock.edits.targets import as_rows, as_stored
from pytest_invarlock.faults.projections import attention_pairs
from pytest_invarlock.faults.reparametrization import heads_of
from pytest_invarlock.faults.targets import generator, normal_like

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_invarlock.edits.writer import TensorWriter

Rows = torch.Tensor
"""(outputs, inputs), float32."""


def scale(rows: Rows, dose: float, _seed: int) -> Rows:
    return rows * dose


def rank(rows: Rows, dose: float, _seed: int) -> Rows:
    return low_rank(rows, rank=int(dose))[0]


def noise(rows: Rows, dose: float, seed: int) -> Rows:
    """Normal noise of ``dose`` times the matrix's root mean square."""
    size = rows.square().mean().sqrt()
    return rows + dose * size * normal_like(rows, seed, "noise")


def equal_norm(rows: Rows, _dose: float, seed: int) -> Rows:
    drawn = normal_like(rows, seed, "redrawn")
    return drawn * rows.norm() / drawn.norm()


def equal_spectrum(rows: Rows, _dose: float, seed: int) -> Rows:
    u, s, v = torch.linalg.svd(rows, full_matrices=False)
    left = torch.linalg.qr(normal_like(u, seed, "left")).Q
    right = torch.linalg.qr(normal_like(v.T, seed, "right")).Q
    return (left * s) @ right.T


def sign(rows: Rows, _dose: float, _seed: int) -> Rows:
    return -rows


def permuted_rows(rows: Rows, _dose: float, seed: int) -> Rows:
    return rows[torch.randperm(len(rows), generator=generator(seed))]


def zeroed_rows(rows: Rows, dose: float, seed: int) -> Rows:
    done = rows.clone()
    done[torch.randperm(len(rows), generator=generator(seed))[: int(dose)]] = 0
    return done


def prune(rows: Rows, dose: float, _seed: int) -> Rows:
    return pruned(rows, dose)


def rtn(rows: Rows, dose: float, _seed: int) -> Rows:
    return round_to_nearest(rows, int(dose), 32)


def added_low_rank(rows: Rows, dose: float, seed: int, ranks: int = 4) -> Rows:
    """A random change of rank ``ranks`` and norm ``dose`` relative to the matrix's."""
    left = normal_like(rows[:, :ranks], seed, "left")
    right = normal_like(rows[:ranks], seed, "right")
    change = left @ right
    return rows + dose * rows.norm() / change.norm() * change


def on_matrices(
    journal: TensorWriter,
    *,
    names: Sequence[str],
    change: Callable[..., Rows],
    dose: float = 0.0,
    seed: int = 0,
    **more: int,
) -> None:
    """``change`` of every matrix in ``names``, each with a seed of its own."""
    for place, matrix in enumerate(all_weight_matrices(journal.model)):
        if matrix.name in names:
            rows = change(as_rows(matrix).float(), dose, seed + place, **more)
            journal.write(matrix.name, as_stored(matrix, rows))


def zero_attention_head(journal: TensorWriter, *, block: int, head: int) -> None:
    """What attention head ``head`` of ``block`` adds to the residual stream becomes zero."""
    pair = attention_pairs(journal.model, [block])[0]
    heads = heads_of(journal.model, pair)
    if heads is None:
        raise ValueError(f"block {block} has no known heads")
    rows = as_rows(pair.second).clone()
    rows[:, head * heads.width : (head + 1) * heads.width] = 0
    journal.write(pair.second.name, as_stored(pair.second, rows))


def scale_vectors(journal: TensorWriter, *, names: Sequence[str], factor: float) -> None:
    """Gains or biases times ``factor``; 0 drops them."""
    for name in names:
        journal.write(name, journal.model.get_parameter(name).detach() * factor)


def blend(
    journal: TensorWriter, *, states: Sequence[Mapping[str, torch.Tensor]], shares: Sequence[float]
) -> None:
    """The baseline plus ``shares`` of what each of ``states`` differs from it by."""
    for name, parameter in journal.model.named_parameters():
        before = parameter.detach()
        change = sum(
            (share * (state[name] - before) for state, share in zip(states, shares, strict=True)),
            torch.zeros_like(before),
        )
        if bool((change != 0).any()):
            journal.write(name, before + change)
