"""The simulation's vectorised rules are the shipped ones, repetition by repetition."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

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


@pytest.mark.parametrize("law", LAWS)
def test_sequential(simulation: ModuleType, law: str) -> None:
    rng = np.random.default_rng(7)
    rule = SequentialRule(maximum_documents=128)
    for limit in (math.log(1.02), math.log(1.1), -0.1):
        sums = simulation.sample_documents(rng, (10, 128), law, icc=0.2, cap=8)
        vectorised = simulation.walks(sums, limit_delta=limit, rule=rule)
        for row in range(10):
            one = sequential(shipped(sums, row), limit_delta=limit, rule=rule)
            assert vectorised.n_documents[row] == one.n_documents
            assert vectorised.passed[row] == (one.classification == "pass")
            assert vectorised.failed[row] == (one.classification == "fail")
