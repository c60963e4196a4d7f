"""Paired accuracy: exact tests, score bounds and who got which example right."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from pytest_invarlock.errors import ConfigError, DataError
from pytest_invarlock.stats.accuracy import mcnemar_p, paired_accuracy, score_upper

PROPERTY = settings(deadline=None, max_examples=60, database=None, derandomize=True)


def paired(n: int, harmful: int, beneficial: int, documents: Any = None) -> Any:
    baseline, subject = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    subject[:harmful] = False
    baseline[harmful : harmful + beneficial] = False
    return paired_accuracy(baseline, subject, np.arange(n) if documents is None else documents)


def reference_score(b: float, c: float, n: float, drop: float) -> float:
    """Tango's statistic with q by maximum likelihood, found numerically."""

    def likelihood(q: float) -> float:
        cells = ((b, q + drop), (c, q), (n - b - c, 1 - 2 * q - drop))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in cells if count)

    low, high = max(0.0, -drop), (1 - drop) / 2
    q = optimize.minimize_scalar(
        likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
    ).x
    return (b - c - n * drop) / math.sqrt(n * (2 * q + drop * (1 - drop)))


@pytest.mark.parametrize(
    ("b", "c", "n"), [(3, 1, 200), (12, 5, 400), (0, 6, 300), (40, 0, 1000), (25, 25, 500)]
)
def test_the_bound_is_where_tangos_statistic_falls_to_the_quantile(b: int, c: int, n: int) -> None:
    bound = score_upper(b, c, n, alpha=0.05)
    assert reference_score(b, c, n, bound) == pytest.approx(-special.ndtri(0.95), abs=1e-4)


@pytest.mark.parametrize("n", [1, 30, 200, 1000])
def test_without_discordant_examples_the_bound_is_not_zero(n: int) -> None:
    z = float(special.ndtri(0.95))
    assert score_upper(0, 0, n, alpha=0.05) == pytest.approx(z**2 / (n + z**2))


def test_both_bounds_at_a_two_sided_level() -> None:
    upper = score_upper(12, 1, 26, alpha=0.025)
    lower = -score_upper(1, 12, 26, alpha=0.025)
    assert lower < 11 / 26 < upper < 1
    for bound, sign in ((upper, -1), (lower, 1)):
        assert reference_score(12, 1, 26, bound) == pytest.approx(sign * 1.959964, abs=1e-4)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (12, 5), (30, 12), (1, 200)])
def test_mcnemar_is_the_binomial_test(b: int, c: int) -> None:
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar_p(b, c) == pytest.approx(expected)


def test_counts_accuracies_and_drop() -> None:
    found = paired(400, 12, 5)
    assert (found.harmful, found.beneficial, found.n_examples) == (12, 5, 400)
    assert found.baseline_accuracy == 395 / 400
    assert found.subject_accuracy == 388 / 400
    assert found.drop == pytest.approx(7 / 400)
    assert found.design_effect == pytest.approx(1)
    assert found.drop_lower < found.drop < found.drop_upper


def test_one_example_a_document_is_the_plain_t_bound() -> None:
    found = paired(400, 12, 5)
    differences = np.r_[np.ones(12), -np.ones(5), np.zeros(383)]
    half = stats.t.ppf(0.95, 399) * differences.std(ddof=1) / 20
    assert found.upper_t == pytest.approx(differences.mean() + half)


def test_the_bound_does_not_fall_when_harm_gathers_in_documents() -> None:
    gathered = paired(400, 20, 0, np.arange(400) // 10)
    assert gathered.design_effect > 5
    assert gathered.upper_score > paired(400, 20, 0).upper_score


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((np.ones(3, bool), np.ones(2, bool), np.arange(3)), "UNPAIRED_EXAMPLES"),
        ((np.ones(3, bool), np.ones(3, bool), np.zeros(3, np.int64)), "ONE_DOCUMENT"),
        ((np.ones(0, bool), np.ones(0, bool), np.arange(0)), "NO_WINDOWS"),
    ],
)
def test_unusable_examples_are_errors(arguments: Any, code: str) -> None:
    with pytest.raises(DataError) as caught:
        paired_accuracy(*arguments)
    assert caught.value.code == code


@pytest.mark.parametrize("alpha", [0.0, 0.5, math.nan])
def test_an_unusable_level_is_an_error(alpha: float) -> None:
    with pytest.raises(ConfigError):
        paired_accuracy(np.ones(3, bool), np.ones(3, bool), np.arange(3), alpha=alpha)


FLIPS = st.tuples(st.integers(50, 500), st.integers(0, 20), st.integers(0, 20))


@PROPERTY
@given(FLIPS)
def test_exchanging_the_models_exchanges_the_bounds(flips: tuple[int, int, int]) -> None:
    n, b, c = flips
    here, there = paired(n, b, c), paired(n, c, b)
    assert here.drop_upper == pytest.approx(-there.drop_lower, abs=1e-12)
    assert here.mcnemar_p == there.mcnemar_p


@PROPERTY
@given(FLIPS)
def test_more_harm_never_lowers_the_bound(flips: tuple[int, int, int]) -> None:
    n, b, c = flips
    assert paired(n, b + 1, c).upper_score >= paired(n, b, c).upper_score - 1e-12


def test_the_bounds_cover() -> None:
    """Exact coverage over both counts, for a rare and a frequent change of mind."""
    n = 200
    for drop, discordant in ((0.0, 0.02), (0.01, 0.02), (0.02, 0.10), (0.05, 0.05)):
        p_b, p_c = (discordant + drop) / 2, (discordant - drop) / 2
        covered = 0.0
        for b in range(45):
            for c in range(35 if p_c else 1):
                chance = stats.multinomial.pmf([b, c, n - b - c], n, [p_b, p_c, 1 - p_b - p_c])
                if chance > 1e-9 and paired(n, b, c).drop_upper >= drop:
                    covered += chance
        assert covered >= 0.935
