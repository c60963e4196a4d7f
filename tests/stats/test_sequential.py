"""Sequential mode: a verdict at any number of documents, no sooner than it is honest."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_invarlock.errors import ConfigError, DataError
from pytest_invarlock.stats import DocumentSums
from pytest_invarlock.stats.sequential import (
    SequentialRule,
    SequentialStatistics,
    half_width_factors,
    running_bounds,
    running_mean_and_sd,
    sequential,
)

PROPERTY = settings(deadline=None, max_examples=30, database=None, derandomize=True)
LIMIT = math.log(1.10)
RULE = SequentialRule(maximum_documents=200)


def drawn(seed: int, mean: float, sd: float, n: int) -> DocumentSums:
    rng = np.random.default_rng(seed)
    weight = np.rint(500 * rng.lognormal(0, 0.6, n)) + 1
    return DocumentSums(rng.normal(mean, sd, n) * weight, weight)


def harmed(sums: DocumentSums, *documents: int) -> DocumentSums:
    difference = sums.weighted_difference.copy()
    difference[list(documents)] = 0.7 * sums.weight[list(documents)]
    return DocumentSums(difference, sums.weight)


def first(sums: DocumentSums, n: int) -> DocumentSums:
    return DocumentSums(sums.weighted_difference[:n], sums.weight[:n])


def decide(
    sums: DocumentSums, rule: SequentialRule = RULE, limit: float = LIMIT
) -> SequentialStatistics:
    return sequential(sums, document_means=sums.mean_difference, limit_delta=limit, rule=rule)


def test_clear_harm_fails_at_the_first_look() -> None:
    result = decide(drawn(1, math.log(1.3), 0.1, 200))
    assert (result.classification, result.n_documents) == ("fail", 64)
    assert result.mean_excess > result.half_width > 0


def test_one_ruined_document_forbids_an_early_pass() -> None:
    clean = drawn(2, 0.0, 0.05, 199)
    assert decide(clean).classification == "pass"
    ruined = decide(harmed(clean, 3))
    assert (ruined.classification, ruined.n_documents) == ("continue", 199)
    assert ruined.n_above == 1
    assert ruined.mean_excess + ruined.half_width < 0


@pytest.mark.parametrize(("n_harmed", "word"), [(1, "pass"), (2, "inconclusive")])
def test_the_document_rule_decides_at_the_last_document(n_harmed: int, word: str) -> None:
    """Of 200 documents one above ln 2 passes; two are the tail rule's FAIL, so no PASS here."""
    result = decide(harmed(drawn(2, 0.0, 0.05, 200), *range(n_harmed)))
    assert (result.classification, result.n_documents) == (word, 200)


def test_no_verdict_at_the_last_document_is_inconclusive() -> None:
    result = decide(drawn(3, LIMIT, 0.3, 200))
    assert (result.classification, result.n_documents) == ("inconclusive", 200)
    assert abs(result.mean_excess) < result.half_width


def test_nothing_is_decided_before_the_first_look() -> None:
    clear = drawn(4, 1.0, 0.01, 63)
    assert decide(clear).classification == "continue"
    assert decide(drawn(4, 0.0, 0.01, 2)).classification == "continue"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"maximum_documents": 127}, "MAXIMUM_DOCUMENTS"),
        ({"first_look": 1}, "FIRST_LOOK"),
        ({"first_look": 201}, "FIRST_LOOK"),
        ({"rho": 0.0}, "RHO"),
        ({"rho": math.inf}, "RHO"),
        ({"alpha": 0.5}, "LEVEL"),
    ],
)
def test_unusable_rules_are_errors(options: dict[str, float], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SequentialRule(**{"maximum_documents": 200} | options)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_more_documents_than_planned_are_an_error() -> None:
    with pytest.raises(DataError) as caught:
        decide(drawn(5, 0.0, 0.1, 201))
    assert caught.value.code == "TOO_MANY_DOCUMENTS"


def test_the_tails_clause_counts_the_means_it_is_given() -> None:
    """A document may be harmed by its plain mean though not by its token-weighted one."""
    clean = drawn(2, 0.0, 0.05, 199)
    means = clean.mean_difference
    means[3] = 0.7
    found = sequential(clean, document_means=means, limit_delta=LIMIT, rule=RULE)
    assert (found.classification, found.n_above) == ("continue", 1)


@pytest.mark.parametrize(
    ("means", "code"),
    [(np.zeros(79), "UNPAIRED_DOCUMENTS"), (np.full(80, math.nan), "NON_FINITE")],
)
def test_unusable_document_means_are_errors(means: np.ndarray, code: str) -> None:
    with pytest.raises(DataError) as caught:
        sequential(drawn(5, 0.0, 0.1, 80), document_means=means, limit_delta=LIMIT, rule=RULE)
    assert caught.value.code == code


def test_a_limit_without_a_number_is_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        decide(drawn(5, 0.0, 0.1, 80), limit=math.inf)
    assert caught.value.code == "LIMIT"


def test_half_width_against_the_formula_and_scipys_student() -> None:
    factors = half_width_factors(200, rho=0.334, alpha=0.05)
    assert factors[0] == math.inf
    for t in (2, 64, 200):
        spread = t * 0.334**2 + 1
        h = math.sqrt(2 * spread / (t * 0.334) ** 2 * math.log(1 + math.sqrt(spread) / 0.1))
        z = stats.t.isf(stats.norm.sf(h * math.sqrt(t)), t - 1)
        assert factors[t - 1] == pytest.approx(z / math.sqrt(t), rel=1e-9)
    # By hand at 64: h = √(2 · 8.13958 / 456.93 · ln 29.530) = .34729, z = h · 8 = 2.7783; the
    # normal tail beyond it is .002732, Student's quantile there 2.8776 with 63 degrees of freedom.
    assert factors[63] == pytest.approx(2.8776 / 8, abs=1e-5)


@settings(PROPERTY, max_examples=300)
@given(
    st.floats(0, exclude_min=True, allow_infinity=False),
    st.floats(0, 0.5, exclude_min=True, exclude_max=True),
)
@example(0.007, 0.05)
@example(1e-200, 0.05)
@example(5e-324, 5e-324)
@example(1e200, 0.05)
@example(1.7e308, 0.4999)
def test_no_tuning_and_no_level_make_a_factor_that_is_not_positive(
    rho: float, alpha: float
) -> None:
    factors = half_width_factors(300, rho=rho, alpha=alpha)
    assert (factors > 0).all()
    assert not np.isnan(factors).any()


@pytest.mark.parametrize("rho", [1e-200, 1e-5, 0.007, 1e200])
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_an_infinite_factor_decides_nothing(rho: float, spread: float) -> None:
    weight = np.full(64, 10.0)
    means = 0.4 + spread * np.where(np.arange(64) % 2, 1, -1)
    for sign in (1, -1):
        sums = DocumentSums(sign * means * weight, weight)
        rule = SequentialRule(200, rho=rho)
        found = sequential(sums, document_means=sums.mean_difference, limit_delta=LIMIT, rule=rule)
        assert found.half_width > 0 or found.classification == ("fail" if sign > 0 else "pass")
        lower, upper = running_bounds(sums, rule)
        assert lower <= sums.delta <= upper
        if not np.isfinite(half_width_factors(64, rho=rho, alpha=0.05)[-1]):
            assert found.classification == "continue"
            assert (lower, upper) == (-math.inf, math.inf)


def test_the_sequence_is_wider_than_a_single_look() -> None:
    factors = half_width_factors(200, rho=0.334, alpha=0.05)
    t = np.arange(2, 201)
    assert (factors[1:] > stats.t.ppf(0.95, t - 1) / np.sqrt(t)).all()


def test_running_sd_survives_a_large_common_part() -> None:
    values = 1e9 + np.random.default_rng(6).normal(0, 1e-3, (3, 50)).round(6)
    mean, sd = running_mean_and_sd(values)
    assert (sd[:, 0] == math.inf).all()
    for t in (2, 10, 50):
        np.testing.assert_allclose(mean[:, t - 1], values[:, :t].mean(1), rtol=1e-15)
        np.testing.assert_allclose(sd[:, t - 1], values[:, :t].std(1, ddof=1), rtol=1e-6)


def test_identical_models_pass() -> None:
    weight = np.full(70, 100.0)
    assert decide(DocumentSums(np.zeros(70), weight)).classification == "pass"


def test_hand_computed_stop() -> None:
    """Differences ±.1 around the limit's half, equal weights: mean −w·limit/2, known sd."""
    weight = np.full(80, 10.0)
    means = LIMIT / 2 + 0.1 * np.where(np.arange(80) % 2, 1, -1)
    result = decide(DocumentSums(means * weight, weight))
    sd = math.sqrt(64 / 63)
    assert result.mean_excess == pytest.approx(-10 * LIMIT / 2)
    assert result.half_width == pytest.approx(
        sd * half_width_factors(64, rho=0.334, alpha=0.05)[-1]
    )
    assert (result.classification, result.n_documents) == ("pass", 64)


SAMPLES = st.builds(
    drawn,
    st.integers(0, 2**32 - 1),
    st.sampled_from([-0.1, 0.0, 0.05, LIMIT, 0.2]),
    st.sampled_from([0.02, 0.1, 0.3, 0.6]),
    st.just(200),
)


@settings(PROPERTY, max_examples=8)
@given(SAMPLES)
def test_asking_after_every_document_gives_the_same_stop(sums: DocumentSums) -> None:
    whole = decide(sums)
    for n in range(2, 200):
        part = decide(first(sums, n))
        if n < whole.n_documents:
            assert part.classification == "continue"
        else:
            assert part == whole


@PROPERTY
@given(SAMPLES, st.sampled_from([0.25, 2.0, 1024.0]))
def test_scaling_weights_scales_the_excess_only(sums: DocumentSums, factor: float) -> None:
    once = decide(sums)
    scaled = decide(DocumentSums(sums.weighted_difference * factor, sums.weight * factor))
    assert scaled.classification == once.classification
    assert scaled.n_documents == once.n_documents
    assert scaled.mean_excess == once.mean_excess * factor


@PROPERTY
@given(SAMPLES)
def test_swapping_the_models_against_the_inverse_limit_swaps_the_verdicts(
    sums: DocumentSums,
) -> None:
    forth = decide(sums)
    swapped = DocumentSums(-sums.weighted_difference, sums.weight)
    back = sequential(
        swapped, document_means=swapped.mean_difference, limit_delta=-LIMIT, rule=RULE
    )
    if (
        not (sums.mean_difference > math.log(2)).any()
        and not (swapped.mean_difference > math.log(2)).any()
    ):
        mirror = {"pass": "fail", "fail": "pass"}
        assert back.classification == mirror.get(forth.classification, forth.classification)
        assert back.n_documents == forth.n_documents


@PROPERTY
@given(SAMPLES, st.permutations(range(64)))
def test_order_before_the_first_look_does_not_matter_at_it(
    sums: DocumentSums, order: list[int]
) -> None:
    early = first(sums, 64)
    shuffled = DocumentSums(early.weighted_difference[order], early.weight[order])
    one, other = decide(early), decide(shuffled)
    assert one.classification == other.classification
    assert one.n_above == other.n_above
    assert one.mean_excess == pytest.approx(other.mean_excess, rel=1e-9, abs=1e-9)


@PROPERTY
@given(SAMPLES)
def test_duplicated_documents_narrow_the_sequence(sums: DocumentSums) -> None:
    early = first(sums, 63)
    twice = DocumentSums(np.tile(early.weighted_difference, 2), np.tile(early.weight, 2))
    late = SequentialRule(maximum_documents=200, first_look=126)
    once_more = sequential(
        twice, document_means=twice.mean_difference, limit_delta=LIMIT, rule=late
    )
    once = decide(early)
    assert once_more.mean_excess == pytest.approx(once.mean_excess, rel=1e-9, abs=1e-9)
    assert once_more.half_width < once.half_width


@pytest.mark.parametrize("seed", range(6))
def test_the_bounds_invert_the_test(seed: int) -> None:
    """A limit a hair above the upper bound passes, a hair below does not; likewise for FAIL."""
    rng = np.random.default_rng(seed)
    weight = np.exp(0.5 * rng.normal(size=100))
    sums = DocumentSums(weight * rng.normal(0.05, 0.2, 100), weight)
    lower, upper = running_bounds(sums, RULE)
    assert lower < sums.delta < upper
    factor = half_width_factors(100, rho=RULE.rho, alpha=RULE.alpha)[-1]
    for limit, sign, holds in (
        (upper + 1e-9, 1, True), (upper - 1e-9, 1, False),
        (lower - 1e-9, -1, True), (lower + 1e-9, -1, False),
    ):  # fmt: skip
        excess = sums.weighted_difference - limit * sums.weight
        half_width = factor * excess.std(ddof=1)
        assert bool(sign * excess.mean() + half_width <= 0) is holds


def test_weights_that_vary_too_much_exclude_nothing() -> None:
    weight = np.array([1e-6, 1e6])
    assert running_bounds(DocumentSums(0.1 * weight, weight), RULE) == (-math.inf, math.inf)
