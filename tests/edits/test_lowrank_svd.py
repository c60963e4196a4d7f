"""Low-rank approximation, against numpy's decomposition and a sum of squares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.edits.lowrank_svd import (
    low_rank,
    name_seed,
    randomized_low_rank,
    rank_for_energy,
)
from pytest_invarlock.errors import EditError
from pytest_invarlock.plan import EditSpec


def journal(model: Any) -> EditJournal:
    return EditJournal(model, tensor_digests(model))


def by_numpy(rows: np.ndarray, rank: int) -> np.ndarray:
    u, s, vh = np.linalg.svd(rows.astype(np.float64), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vh[:rank]


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"rank": 0},
        {"energy": 1.0},
        {"energy": 0.0},
        {"rank": 2, "energy": 0.9},
        {"energy": 0.9, "method": "randomized"},
        {"rank": 2, "method": "approximate"},
    ],
    ids=str,
)
def test_wrong_parameters_are_an_error(parameters: dict[str, Any], tiny_model: Any) -> None:
    with pytest.raises(EditError) as caught:
        apply_edit(EditSpec("lowrank_svd", parameters), journal(tiny_model("llama")))
    assert caught.value.code == "EDIT_PARAMETERS"


def test_a_rank_that_cuts_nothing_is_an_error(tiny_model: Any) -> None:
    with pytest.raises(EditError) as caught:
        apply_edit(EditSpec("lowrank_svd", {"rank": 32}), journal(tiny_model("llama")))
    assert caught.value.code == "EDIT_CHANGED_NOTHING"


@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("shape", [(12, 20), (20, 12)])
def test_it_is_the_closest_matrix_of_its_rank(rank: int, shape: tuple[int, int]) -> None:
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(rank))
    found, kept = low_rank(rows, rank=rank)
    assert kept == rank
    np.testing.assert_allclose(found.numpy(), by_numpy(rows.numpy(), rank), atol=1e-4)
    tail = (np.linalg.svd(rows.double().numpy(), compute_uv=False)[rank:] ** 2).sum()
    assert float(((found - rows).double() ** 2).sum()) == pytest.approx(tail, rel=1e-5)


@pytest.mark.parametrize("energy", [0.1, 0.5, 0.9, 0.999])
def test_energy_takes_the_smallest_rank_that_holds_it(energy: float) -> None:
    rows = torch.randn(12, 20, generator=torch.Generator().manual_seed(1))
    squares = np.linalg.svd(rows.double().numpy(), compute_uv=False) ** 2
    found, kept = low_rank(rows, energy=energy)
    assert squares[:kept].sum() >= energy * squares.sum() > squares[: kept - 1].sum()
    retained = 1 - float(((found - rows) ** 2).sum() / (rows**2).sum())
    assert retained >= energy - 1e-6


def test_a_known_spectrum_gives_its_rank() -> None:
    values = torch.tensor([3.0, 2.0, 1.0])  # energies 9, 4, 1 of 14
    assert [rank_for_energy(values, e) for e in (9 / 14, 0.65, 13 / 14, 0.95)] == [1, 2, 2, 3]
    assert rank_for_energy(torch.zeros(3), 0.5) == 1


def test_a_matrix_of_that_rank_is_left_bit_for_bit() -> None:
    rows = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    assert low_rank(rows, rank=4)[0] is rows
    assert randomized_low_rank(rows, 5, 0)[0] is rows


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_energy_reported_is_that_of_the_weights_written(kind: str, tiny_model: Any) -> None:
    before, model = tiny_model(kind), tiny_model(kind)
    details = apply_edit(EditSpec("lowrank_svd", {"rank": 5}), journal(model))["details"]
    change = weights = 0.0
    shares = []
    for name, parameter in model.named_parameters():
        old = before.get_parameter(name)
        if torch.equal(old, parameter):
            continue
        np.testing.assert_allclose(parameter.numpy(), by_numpy(old.numpy(), 5), atol=1e-4)
        squares = np.linalg.svd(old.double().numpy(), compute_uv=False) ** 2
        shares.append(squares[:5].sum() / squares.sum())
        change += squares[5:].sum()
        weights += squares.sum()
    assert details["energy_retained"] == pytest.approx(1 - change / weights, rel=1e-5)
    assert details["energy_retained_min"] == pytest.approx(min(shares), rel=1e-5)
    assert (details["rank_min"], details["rank_max"]) == (5, 5)


def test_energy_of_each_expert_is_its_own(architecture: Any) -> None:
    before, model = architecture("mixtral"), architecture("mixtral")
    spec = EditSpec("lowrank_svd", {"energy": 0.6, "scope": "ffn"})
    details = apply_edit(spec, journal(model))["details"]
    name = "model.layers.1.mlp.experts.gate_up_proj"
    for expert in range(4):
        expected, _ = low_rank(before.get_parameter(name)[expert], energy=0.6)
        assert torch.equal(model.get_parameter(name)[expert], expected)
    assert details["energy_retained_min"] >= 0.6 - 1e-6


def test_the_randomized_method_is_seeded_and_no_better_than_the_exact() -> None:
    rows = torch.randn(60, 80, generator=torch.Generator().manual_seed(2))
    one, again = (randomized_low_rank(rows, 10, name_seed(3, "w"))[0] for _ in range(2))
    other = randomized_low_rank(rows, 10, name_seed(3, "v"))[0]
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    best = float((low_rank(rows, rank=10)[0] - rows).norm())
    assert best <= float((one - rows).norm()) < 1.05 * best
    assert int(torch.linalg.matrix_rank(one, rtol=1e-4)) == 10


def test_the_randomized_method_finds_a_matrix_that_is_of_low_rank() -> None:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(30, 4, generator=generator) @ torch.randn(4, 50, generator=generator)
    torch.testing.assert_close(randomized_low_rank(rows, 4, 0)[0], rows, atol=1e-4, rtol=1e-4)


def test_the_seed_is_a_parameter(tiny_model: Any) -> None:
    digests = []
    for seed in (0, 0, 1):
        model = tiny_model("llama")
        spec = EditSpec("lowrank_svd", {"rank": 4, "method": "randomized", "seed": seed})
        apply_edit(spec, journal(model))
        digests.append(tensor_digests(model))
    assert digests[0] == digests[1] != digests[2]
