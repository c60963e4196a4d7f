"""Bounds of the perplexity ratio, the gate of the primary metric."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_invarlock.errors import ConfigError, DataError
from pytest_invarlock.stats import RatioBounds, document_sums, ratio_bounds, resampling_counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEED = bytes(range(32))
PROPERTY = settings(deadline=None, max_examples=40, database=None, derandomize=True)
BOUNDS = ("upper_t", "upper_bootstrap_t", "lower_t", "lower_bootstrap_t")
BCA = ("bca_lower", "bca_upper")


@dataclass(frozen=True)
class Windows:
    baseline: NDArray[np.float64]
    subject: NDArray[np.float64]
    tokens: NDArray[np.int64]
    documents: NDArray[np.int64]

    def bounds(self, replicates: int = 199, **options: Any) -> RatioBounds:
        arrays = (self.baseline, self.subject, self.tokens, self.documents)
        return ratio_bounds(*arrays, seed=SEED, replicates=replicates, **options)

    def reordered(self, order: NDArray[np.int64]) -> Windows:
        return Windows(
            self.baseline[order], self.subject[order], self.tokens[order], self.documents[order]
        )


def from_differences(
    differences: NDArray[np.float64], tokens: NDArray[np.int64], documents: NDArray[np.int64]
) -> Windows:
    baseline = 3.0 * tokens
    return Windows(baseline, baseline + differences * tokens, tokens, documents)


def one_window_each(differences: NDArray[np.float64], tokens: int = 256) -> Windows:
    n = differences.size
    return from_differences(differences, np.full(n, tokens), np.arange(n))


@st.composite
def windows(draw: st.DrawFn) -> Windows:
    """Few windows per document; differences in thousandths, many ties and zeros."""
    rows = []
    for document in range(draw(st.integers(2, 12))):
        count = draw(st.integers(1, 4))
        row = st.tuples(st.integers(1, 512), st.integers(-300, 300), st.integers(500, 9000))
        rows += [(document, *draw(row)) for _ in range(count)]
    documents, tokens, differences, losses = np.array(rows).T
    baseline = tokens * losses / 1000
    return Windows(baseline, baseline + tokens * differences / 1000, tokens, documents)


def assert_same(one: RatioBounds, other: RatioBounds, skip: tuple[str, ...] = ()) -> None:
    for field in fields(RatioBounds):
        if field.name in skip:
            continue
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, float):
            np.testing.assert_allclose(left, right, rtol=1e-8, atol=1e-10, err_msg=field.name)
        else:
            assert left == right, field.name


def test_clear_harm_breaks_the_limit_bound_included() -> None:
    harm = np.random.default_rng(1).normal(math.log(1.2), 0.05, 40)
    result = one_window_each(harm).bounds()
    assert result.ratio_lower > 1.10
    assert result.degenerate is None


def test_a_ratio_below_the_limit_is_not_enough() -> None:
    """The point meets 1.10, the bound does not: INCONCLUSIVE, neither PASS nor FAIL."""
    noisy = np.random.default_rng(2).normal(math.log(1.08), 0.3, 40)
    result = one_window_each(noisy).bounds()
    assert result.ratio_lower < 1.10 < result.ratio_upper


def test_windows_of_one_document_do_not_count_as_documents() -> None:
    """Sixteen copies of each window would look like sixteen times the evidence."""
    rng = np.random.default_rng(3)
    harm = np.repeat(rng.normal(math.log(1.06), 0.1, 20), 16)
    tokens = np.full(320, 64)
    by_document = from_differences(harm, tokens, np.repeat(np.arange(20), 16)).bounds()
    by_window = from_differences(harm, tokens, np.arange(320)).bounds()
    assert by_document.ratio_upper > 1.10 > by_window.ratio_upper
    assert by_document.n_documents == 20
    assert by_document.n_windows == 320


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"alpha": 0.0}, "LEVEL"),
        ({"bootstrap_alpha": 0.5}, "LEVEL"),
        ({"replicates": 23}, "TOO_FEW_REPLICATES"),
    ],
)
def test_levels_without_a_quantile_are_errors(options: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        one_window_each(np.array([0.0, 0.1, 0.2])).bounds(**options)
    assert caught.value.code == code


def test_one_document_is_an_error() -> None:
    sample = from_differences(np.array([0.1, 0.2]), np.array([4, 4]), np.array([0, 0]))
    with pytest.raises(DataError) as caught:
        sample.bounds()
    assert caught.value.code == "ONE_DOCUMENT"


def test_identical_models_have_point_bounds() -> None:
    result = one_window_each(np.zeros(5)).bounds()
    assert result.degenerate == "identical"
    assert (result.ratio, result.ratio_upper, result.ratio_lower) == (1.0, 1.0, 1.0)
    assert (result.standard_error, result.skewness) == (0.0, 0.0)


def test_windows_that_cancel_inside_documents_are_constant_not_identical() -> None:
    differences = np.array([0.25, -0.25, 0.5, -0.5])
    result = from_differences(differences, np.full(4, 8), np.array([0, 0, 1, 1])).bounds()
    assert result.degenerate == "constant"
    assert result.ratio_upper == result.ratio == 1.0


def test_rounding_of_a_constant_shift_is_not_spread() -> None:
    rng = np.random.default_rng(4)
    tokens = rng.integers(1, 999, 60)
    baseline = tokens * rng.gamma(3.0, 1.0, 60)
    result = Windows(baseline, baseline + 0.1 * tokens, tokens, np.arange(60) // 3).bounds()
    assert result.degenerate == "constant"
    assert result.upper_t == result.upper_bootstrap_t == result.bca_lower == result.delta
    assert result.delta == pytest.approx(0.1, rel=1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_resamples_without_spread_count_as_the_worst(sign: float) -> None:
    """Two of 40 documents differ: 13 % of the resamples miss both and know no spread."""
    differences = np.zeros(40)
    differences[:2] = sign * 0.01
    result = one_window_each(differences).bounds(1999)
    assert result.degenerate == "sparse"
    assert result.upper_bootstrap_t == result.ratio_upper == math.inf
    assert result.lower_bootstrap_t == -math.inf
    assert result.ratio_lower == 0.0
    assert math.isfinite(result.upper_t)
    assert math.isfinite(result.bca_upper)


def test_resamples_without_spread_below_the_quantile_only_shift_it() -> None:
    """Six of 40 documents differ: 0.15 % of the resamples miss all."""
    differences = np.zeros(40)
    differences[:6] = 0.01 * np.arange(1, 7)
    result = one_window_each(differences).bounds(1999)
    assert result.degenerate is None
    assert result.upper_t < result.upper_bootstrap_t < math.inf


def test_t_bound_is_scipys_for_equal_documents() -> None:
    differences = np.random.default_rng(5).normal(0.02, 0.1, 23)
    result = one_window_each(differences).bounds()
    upper = stats.ttest_1samp(differences, 0, alternative="less").confidence_interval(0.95).high
    lower = stats.ttest_1samp(differences, 0, alternative="greater").confidence_interval(0.95).low
    assert result.upper_t == pytest.approx(upper, rel=1e-10)
    assert result.lower_t == pytest.approx(lower, rel=1e-10)


def test_bootstrap_t_against_an_independent_loop() -> None:
    rng = np.random.default_rng(6)
    documents = np.repeat(np.arange(12), rng.integers(1, 5, 12))
    tokens = rng.integers(10, 500, documents.size)
    sample = from_differences(rng.gamma(1.0, 0.1, documents.size), tokens, documents)
    sums = document_sums(sample.baseline, sample.subject, sample.tokens, sample.documents)
    theta, studentised = sums.delta, []
    for row in resampling_counts(SEED, 99, 12):
        drawn = np.repeat(np.arange(12), row)
        s, w = sums.weighted_difference[drawn], sums.weight[drawn]
        mean = s.sum() / w.sum()
        error = math.sqrt(12 / 11 * ((s - mean * w) ** 2).sum()) / w.sum()
        studentised.append((mean - theta) / error)
    studentised.sort()
    result = sample.bounds(99)
    # (99 + 1) × .04 = 4: the fourth smallest and the fourth largest.
    assert result.upper_bootstrap_t == pytest.approx(
        theta - studentised[3] * sums.linear_standard_error, rel=1e-9
    )
    assert result.lower_bootstrap_t == pytest.approx(
        theta - studentised[95] * sums.linear_standard_error, rel=1e-9
    )


def test_a_quantile_between_two_replicates_takes_the_outer_one() -> None:
    sample = one_window_each(np.random.default_rng(7).normal(0, 0.1, 15))
    outer = sample.bounds(99, bootstrap_alpha=0.04)
    between = sample.bounds(99, bootstrap_alpha=0.0499)
    assert between.upper_bootstrap_t == outer.upper_bootstrap_t
    assert sample.bounds(99, bootstrap_alpha=0.05).upper_bootstrap_t < outer.upper_bootstrap_t


def test_the_rank_does_not_hang_on_the_last_bit_of_the_level() -> None:
    assert 100 * 0.29 < 29
    sample = one_window_each(np.random.default_rng(7).normal(0, 0.1, 15))
    exact, above = (sample.bounds(99, bootstrap_alpha=level) for level in (0.29, 0.2901))
    assert exact.upper_bootstrap_t == above.upper_bootstrap_t


def test_bca_agrees_with_scipy() -> None:
    differences = np.random.default_rng(8).gamma(1.0, 0.1, 40)
    result = one_window_each(differences).bounds(3999)
    reference = stats.bootstrap(
        (differences,), np.mean, n_resamples=3999, method="BCa", rng=np.random.default_rng(0)
    )
    noise = 0.15 * result.standard_error
    assert result.bca_lower == pytest.approx(reference.confidence_interval.low, abs=noise)
    assert result.bca_upper == pytest.approx(reference.confidence_interval.high, abs=noise)


def test_bounds_are_composed_as_documented() -> None:
    result = one_window_each(np.random.default_rng(9).gamma(0.5, 0.1, 30)).bounds()
    assert result.delta_upper == max(result.upper_t, result.upper_bootstrap_t)
    assert result.delta_lower == min(result.lower_t, result.lower_bootstrap_t)
    assert result.ratio_upper == math.exp(result.delta_upper)
    assert result.ratio_lower == math.exp(result.delta_lower)
    assert result.ratio == math.exp(result.delta)
    assert result.n_tokens == 30 * 256


def test_a_ruined_model_has_an_infinite_ratio_not_an_overflow() -> None:
    result = one_window_each(np.random.default_rng(10).normal(2000.0, 1.0, 10)).bounds()
    assert result.ratio == result.ratio_lower == math.inf
    assert result.delta == pytest.approx(2000, abs=2)


@PROPERTY
@given(windows(), st.randoms(use_true_random=False))
def test_permuting_windows_changes_nothing(sample: Windows, random: Any) -> None:
    order = np.array(random.sample(range(sample.tokens.size), sample.tokens.size))
    assert sample.reordered(order).bounds() == sample.bounds()


@PROPERTY
@given(windows(), st.sampled_from([2, 3, 10]))
def test_scaling_tokens_and_losses_changes_nothing(sample: Windows, factor: int) -> None:
    scaled = Windows(
        sample.baseline * factor, sample.subject * factor, sample.tokens * factor, sample.documents
    )
    assert_same(scaled.bounds(), sample.bounds(), skip=("n_tokens",))


@PROPERTY
@given(windows())
def test_swapping_the_arms_mirrors_the_bounds(sample: Windows) -> None:
    forth = sample.bounds()
    back = Windows(sample.subject, sample.baseline, sample.tokens, sample.documents).bounds()
    assert back.delta == -forth.delta
    assert back.upper_t == -forth.lower_t
    assert back.lower_t == -forth.upper_t
    assert back.upper_bootstrap_t == -forth.lower_bootstrap_t
    assert back.lower_bootstrap_t == -forth.upper_bootstrap_t
    assert (back.degenerate, back.standard_error) == (forth.degenerate, forth.standard_error)
    assert back.bca_upper == pytest.approx(-forth.bca_lower, rel=1e-9, abs=1e-12)
    assert back.bca_lower == pytest.approx(-forth.bca_upper, rel=1e-9, abs=1e-12)
    if math.isfinite(forth.ratio_upper):
        assert back.ratio_lower == pytest.approx(1 / forth.ratio_upper, rel=1e-12)
        assert back.ratio_upper == pytest.approx(1 / forth.ratio_lower, rel=1e-12)


@PROPERTY
@given(windows())
def test_duplicated_documents_keep_the_point_and_shrink_the_error(sample: Windows) -> None:
    once = sample.bounds()
    twice = Windows(
        np.tile(sample.baseline, 2),
        np.tile(sample.subject, 2),
        np.tile(sample.tokens, 2),
        np.concatenate((sample.documents, sample.documents + 1000)),
    ).bounds()
    assert twice.delta == pytest.approx(once.delta, rel=1e-12, abs=1e-12)
    assert twice.effective_documents == pytest.approx(2 * once.effective_documents, rel=1e-12)
    if once.standard_error:
        assert twice.standard_error < once.standard_error


@PROPERTY
@given(windows(), st.randoms(use_true_random=False))
def test_splitting_a_window_inside_its_document_changes_nothing(
    sample: Windows, random: Any
) -> None:
    divisible = np.flatnonzero(sample.tokens > 1)
    if not divisible.size:
        return
    index = int(random.choice(list(divisible)))
    head = random.randint(1, int(sample.tokens[index]) - 1)
    cut = random.random()
    parts: dict[str, NDArray[Any]] = {}
    for name in ("baseline", "subject", "tokens", "documents"):
        array = getattr(sample, name)
        first = {"tokens": head, "documents": array[index]}.get(name, cut * array[index])
        last = array[index] if name == "documents" else array[index] - first
        parts[name] = np.append(array, last)
        parts[name][index] = first
    assert_same(Windows(**parts).bounds(), sample.bounds(), skip=("n_windows",))


def test_a_hundred_documents_take_little_time() -> None:
    """Budget 50 ms; the best of several runs, doubled, since the machine may be shared."""
    rng = np.random.default_rng(11)
    sample = from_differences(
        rng.normal(0, 0.1, 400), rng.integers(50, 500, 400), np.repeat(np.arange(100), 4)
    )
    sample.bounds(1999)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        sample.bounds(1999)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1


def _documents(rng: np.random.Generator, law: str) -> Windows:
    """40 documents of 1 to 8 windows, ICC .2, mean difference 0, sd .1 per window."""
    sizes = rng.integers(1, 9, 40)
    documents = np.repeat(np.arange(40), sizes)
    shape = documents.size

    def noise(size: int) -> NDArray[np.float64]:
        if law == "normal":
            return rng.standard_normal(size)
        # Lognormal with log sd .5: skewness 1.75.
        variance = math.expm1(0.25) * math.exp(0.25)
        return (rng.lognormal(0, 0.5, size) - math.exp(0.125)) / math.sqrt(variance)

    differences = 0.1 * (math.sqrt(0.2) * noise(40)[documents] + math.sqrt(0.8) * noise(shape))
    tokens = np.maximum(1, np.rint(256 * rng.lognormal(0, 0.5, shape))).astype(np.int64)
    return from_differences(differences, tokens, documents)


@pytest.mark.parametrize("law", ["normal", "skewed"])
def test_coverage_of_the_upper_bound(law: str) -> None:
    rng = np.random.default_rng(12)
    covered = 0
    for repetition in range(400):
        sample = _documents(rng, law)
        result = ratio_bounds(
            sample.baseline,
            sample.subject,
            sample.tokens,
            sample.documents,
            seed=repetition.to_bytes(4, "big"),
            replicates=499,
        )
        covered += result.ratio_upper >= 1.0
    assert 0.92 <= covered / 400 <= 0.985
