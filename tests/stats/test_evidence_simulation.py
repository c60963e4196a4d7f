"""The simulation's vectorised rules are the shipped ones, repetition by repetition."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import special

from pytest_invarlock.stats import DocumentSums, ratio_bounds
from pytest_invarlock.stats.drift import drift
from pytest_invarlock.stats.sequential import SequentialRule, sequential

if TYPE_CHECKING:
    from types import ModuleType

SEED = bytes(range(32))
LAWS = ["normal", "t3", "skew 1.75", "skew 6", "rare windows", "rare documents"]


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "evidence_simulation.py"
    spec = importlib.util.spec_from_file_location("evidence_simulation_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def shipped(sums: object, row: int) -> DocumentSums:
    return DocumentSums(sums.weighted_difference[row], sums.weight[row])  # type: ignore[attr-defined]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n_documents", [40, 65])
def test_bounds(simulation: ModuleType, law: str, n_documents: int) -> None:
    rng = np.random.default_rng(LAWS.index(law))
    sums = simulation.sample_documents(rng, (6, n_documents), law, icc=0.2, cap=8)
    # Token counts are integers: the weights are rounded for both sides alike.
    tokens = np.rint(256 * sums.weight).astype(np.int64)
    sums = simulation.Sums(sums.weighted_difference / sums.weight * tokens, tokens.astype(float))
    vectorised = simulation.bounds(sums, seed=SEED, replicates=499)
    for row in range(6):
        zero = np.zeros(n_documents)
        documents = np.arange(n_documents)
        one = ratio_bounds(
            zero, sums.weighted_difference[row], tokens[row], documents, seed=SEED, replicates=499
        )
        assert vectorised.upper[row] == pytest.approx(one.delta_upper, rel=1e-12, abs=1e-12)
        assert vectorised.lower[row] == pytest.approx(one.delta_lower, rel=1e-12, abs=1e-12)
        assert vectorised.cr2_upper[row] == pytest.approx(one.upper_t, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("first", "second"), [(16, 16), (16, 40)])
def test_drift(simulation: ModuleType, first: int, second: int) -> None:
    rng = np.random.default_rng(first + second)
    seen = set()
    for shift in (0.0, 0.1, 0.15, 0.3):
        preview = simulation.sample_documents(rng, (12, first), "t3", icc=0.2, cap=8)
        preview = simulation.Sums(
            preview.weighted_difference + shift * preview.weight, preview.weight
        )
        final = simulation.sample_documents(rng, (12, second), "normal", icc=0.2, cap=8)
        vectorised = simulation.drifts(preview, final)
        for row in range(12):
            one = drift(shipped(preview, row), shipped(final, row))
            assert vectorised.delta[row] == pytest.approx(one.delta, rel=1e-12, abs=1e-12)
            assert vectorised.fail[row] == (one.classification == "fail")
            assert vectorised.warn_or_fail[row] == (one.classification != "pass")
            assert vectorised.equivalent[row] == one.equivalence_shown
            seen |= {one.classification, one.equivalence_shown}
    assert seen == {"fail", "warn", "pass", True, False}


def test_tail_of_t3_means(simulation: ModuleType) -> None:
    """Against Student's own tail for one draw, symmetry, and a sample for several."""
    for sd in (0.02, 0.1):
        for threshold in (0.05, math.log(2)):
            one = simulation.t3_mean_above(threshold, sd, 1)
            assert one == pytest.approx(special.stdtr(3, -threshold * math.sqrt(3) / sd), rel=1e-6)
    assert simulation.t3_mean_above(0.0, 0.1, 3) == pytest.approx(0.5, abs=1e-9)
    assert simulation.t3_mean_above(-0.2, 0.1, 3) == 1 - simulation.t3_mean_above(0.2, 0.1, 3)
    drawn = 0.1 * np.random.default_rng(3).standard_t(3, (200_000, 4)).mean(1) / math.sqrt(3)
    share = float((drawn > 0.1).mean())
    assert simulation.t3_mean_above(0.1, 0.1, 4) == pytest.approx(share, abs=0.001)


def test_shares_of_windows_per_document(simulation: ModuleType) -> None:
    shares = simulation.share_of_windows_per_document(8)
    drawn = simulation.windows_per_document(np.random.default_rng(4), (200_000,), 8)
    assert shares == pytest.approx(np.bincount(drawn)[1:] / 200_000, abs=0.005)
    assert shares.sum() == pytest.approx(1)


@pytest.mark.parametrize("law", LAWS)
def test_sequential(simulation: ModuleType, law: str) -> None:
    rng = np.random.default_rng(7)
    rule = SequentialRule(maximum_documents=128)
    for limit in (math.log(1.02), math.log(1.1), -0.1):
        sums = simulation.sample_documents(rng, (10, 128), law, icc=0.2, cap=8)
        vectorised = simulation.walks(sums, limit_delta=limit, rule=rule)
        for row in range(10):
            each = shipped(sums, row)
            one = sequential(
                each, document_means=each.mean_difference, limit_delta=limit, rule=rule
            )
            assert vectorised.n_documents[row] == one.n_documents
            assert vectorised.passed[row] == (one.classification == "pass")
            assert vectorised.failed[row] == (one.classification == "fail")
