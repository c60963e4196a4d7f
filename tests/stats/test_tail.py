"""The tail rule: harm to few units, which neither the mean nor P95 can show."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_invarlock.errors import ConfigError, DataError
from pytest_invarlock.stats.tail import TailRule, document_means, tail

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROPERTY = settings(deadline=None, max_examples=60, database=None, derandomize=True)
RULE = TailRule()
DIFFERENCES = st.lists(st.integers(-1000, 3000), min_size=1, max_size=150).map(
    lambda thousandths: np.array(thousandths) / 1000
)
WORDS = ("pass", "inconclusive", "fail")


def with_harm(n: int, harmed: int) -> NDArray[np.float64]:
    differences = np.zeros(n)
    differences[:harmed] = 1.7
    return differences


def test_five_percent_of_ruined_windows_fail_though_p95_is_clean() -> None:
    result = tail(with_harm(128, 6))
    assert result.classification == "fail"
    assert (result.n_above, result.critical_count) == (6, 2)
    assert result.p95_nats == 0.0
    assert result.p99_nats == pytest.approx(1.7)


@pytest.mark.parametrize("n", [20, 58])
def test_too_few_units_cannot_exclude_harm(n: int) -> None:
    result = tail(np.zeros(n))
    assert result.classification == "inconclusive"
    assert result.rate_upper > 0.05


@pytest.mark.parametrize(("n", "word"), [(59, "inconclusive"), (92, "inconclusive"), (93, "pass")])
def test_one_harmed_unit_needs_ninety_three(n: int, word: str) -> None:
    assert tail(with_harm(n, 1)).classification == word
    assert tail(np.zeros(n)).classification == "pass"
    assert tail(with_harm(n, 2)).classification == "fail"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"threshold": 0.0}, "THRESHOLD"),
        ({"threshold": math.nan}, "THRESHOLD"),
        ({"threshold": math.inf}, "THRESHOLD"),
        ({"benign_rate": 0.0}, "RATE"),
        ({"benign_rate": 0.05}, "RATE"),
        ({"harm_rate": 1.0}, "RATE"),
        ({"false_alarm": 0.0}, "LEVEL"),
        ({"alpha": 0.5}, "LEVEL"),
    ],
)
def test_unusable_rules_are_errors(options: dict[str, float], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tail(np.zeros(100), **options)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("differences", "code"),
    [
        (np.array([]), "NO_UNITS"),
        (np.zeros((2, 3)), "NOT_ONE_DIMENSIONAL"),
        (np.array(0.0), "NOT_ONE_DIMENSIONAL"),
        (np.array([0.0, np.nan]), "NON_FINITE"),
        (np.array([0.0, np.inf]), "NON_FINITE"),
        (np.array([0.0, -np.inf]), "NON_FINITE"),
    ],
)
def test_missing_evidence_is_an_error(differences: NDArray[np.float64], code: str) -> None:
    with pytest.raises(DataError) as caught:
        tail(differences)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("n", "count"), [(1, 1), (20, 1), (21, 2), (215, 2), (216, 3), (567, 3), (568, 4)]
)
def test_critical_counts_of_the_feasibility_study(n: int, count: int) -> None:
    assert RULE.critical_count(n) == count


def test_a_critical_count_is_found_among_millions() -> None:
    rule = TailRule(benign_rate=0.4, harm_rate=0.41)
    critical = rule.critical_count(10**8)
    assert stats.binom.sf(critical - 1, 10**8, 0.4) <= 0.02
    assert stats.binom.sf(critical - 2, 10**8, 0.4) > 0.02


@pytest.mark.parametrize(("n_above", "n"), [(0, 59), (1, 93), (2, 124), (3, 153), (4, 181)])
def test_smallest_samples_that_exclude_the_harm_rate(n_above: int, n: int) -> None:
    assert RULE.rate_upper(n_above, n) <= 0.05 < RULE.rate_upper(n_above, n - 1)


def test_hand_computed_bound_of_a_clean_sample() -> None:
    assert RULE.rate_upper(0, 59) == pytest.approx(1 - 0.05 ** (1 / 59), rel=1e-12)
    assert RULE.rate_upper(7, 7) == 1.0


def test_hand_computed_description() -> None:
    differences = np.arange(41) / 100
    result = tail(differences)
    # .95 · 40 = 38 exactly; .99 · 40 = 39.6; worst ⌈.05 · 41⌉ = 3 are .38, .39, .40.
    assert result.p95_nats == pytest.approx(0.38)
    assert result.p99_nats == pytest.approx(0.396)
    assert result.n_worst == 3
    assert result.worst_mean_nats == pytest.approx(0.39)


@pytest.mark.parametrize(
    ("n", "n_worst"), [(1, 1), (20, 1), (21, 2), (100, 5), (140, 7), (400, 20)]
)
def test_the_worst_twentieth_rounds_up_only_when_it_must(n: int, n_worst: int) -> None:
    assert tail(np.zeros(n)).n_worst == n_worst


def test_a_unit_on_the_threshold_is_not_above_it() -> None:
    on = np.full(100, math.log(2))
    assert tail(on).n_above == 0
    assert tail(np.nextafter(on, 1)).n_above == 100


@PROPERTY
@given(st.integers(1, 400), st.integers(0, 400), st.floats(0.0005, 0.04), st.floats(0.001, 0.2))
def test_counts_and_bounds_are_scipys(n: int, count: int, benign: float, level: float) -> None:
    count = min(count, n)
    rule = TailRule(benign_rate=benign, false_alarm=level, alpha=level)
    critical = rule.critical_count(n)
    assert stats.binom.sf(critical - 1, n, benign) <= level
    assert critical == 1 or stats.binom.sf(critical - 2, n, benign) > level
    reference = stats.binomtest(count, n, alternative="less").proportion_ci(1 - level, "exact")
    assert rule.rate_upper(count, n) == pytest.approx(reference.high, rel=1e-9)


@PROPERTY
@given(st.integers(1, 600))
def test_more_harm_is_never_better(n: int) -> None:
    order = [WORDS.index(RULE.classify(count, n)) for count in range(n + 1)]
    assert order == sorted(order)
    assert order[-1] == 2


@PROPERTY
@given(DIFFERENCES, st.randoms(use_true_random=False))
def test_permuting_units_changes_nothing(differences: NDArray[np.float64], random: Any) -> None:
    order = random.sample(range(differences.size), differences.size)
    assert tail(differences[order]) == tail(differences)


@PROPERTY
@given(DIFFERENCES)
def test_swapping_the_arms_counts_the_other_tail(differences: NDArray[np.float64]) -> None:
    back = tail(-differences)
    assert back.n_above == int((differences < -math.log(2)).sum())
    assert back.n_above + tail(differences).n_above <= differences.size
    assert back.p95_nats == pytest.approx(-float(np.quantile(differences, 0.05)), abs=1e-12)


@PROPERTY
@given(DIFFERENCES)
def test_duplicated_units_double_the_count_and_tighten_the_bound(
    differences: NDArray[np.float64],
) -> None:
    once, twice = tail(differences), tail(np.tile(differences, 2))
    assert twice.n_above == 2 * once.n_above
    assert twice.rate_upper <= once.rate_upper


@PROPERTY
@given(DIFFERENCES, st.floats(0.1, 10))
def test_scaling_differences_and_threshold_keeps_the_classification(
    differences: NDArray[np.float64], factor: float
) -> None:
    # Off the threshold by half a thousandth, so that rounding cannot move a unit across.
    scaled = tail(differences * factor, threshold=0.6935 * factor)
    assert scaled.classification == tail(differences, threshold=0.6935).classification


@PROPERTY
@given(DIFFERENCES)
def test_descriptions_are_in_order(differences: NDArray[np.float64]) -> None:
    result = tail(differences)
    assert result.p95_nats <= result.p99_nats <= differences.max()
    assert differences.mean() - 1e-12 <= result.worst_mean_nats <= differences.max()


@pytest.mark.parametrize("n_above", [0, 1, 2, 5])
@pytest.mark.parametrize("n", [1, 20, 64, 100, 400])
def test_how_many_units_would_pass(n_above: int, n: int) -> None:
    least = RULE.units_to_pass(n_above, n)
    assert RULE.classify(n_above, least) == "pass"
    assert least == n or RULE.classify(n_above, least - 1) != "pass"


@PROPERTY
@given(st.integers(1, 600), st.integers(0, 6))
def test_the_p_value_fails_where_the_count_does(n: int, n_above: int) -> None:
    n_above = min(n_above, n)
    p_value = RULE.p_value(n_above, n)
    assert p_value == pytest.approx(stats.binom.sf(n_above - 1, n, 0.001))
    assert (p_value <= 0.02) is (RULE.classify(n_above, n) == "fail")


def test_a_documents_mean_counts_its_windows_alike() -> None:
    """Weights of tokens have no say, and neither has the windows' order."""
    documents = np.array([7, 2, 7, 2, 2])
    differences = np.array([1.0, 0.3, 0.0, 0.6, 0.0])
    assert document_means(differences, documents).tolist() == pytest.approx([0.3, 0.5])
    order = [4, 2, 0, 3, 1]
    shuffled = document_means(differences[order], documents[order])
    assert shuffled.tolist() == document_means(differences, documents).tolist()
