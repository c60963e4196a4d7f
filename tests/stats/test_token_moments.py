"""llama.cpp's statistics from token sums: its definitions and its published rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_invarlock.errors import DataError
from pytest_invarlock.stats.token_moments import TokenMoments, token_moments

PROPERTY = settings(deadline=None, max_examples=60, database=None, derandomize=True)
LOSSES = st.lists(
    st.tuples(st.integers(0, 9000), st.integers(0, 9000)), min_size=11, max_size=80
).map(lambda rows: np.array(rows, dtype=np.float64).T / 1000)


def test_a_worse_subject_has_a_ratio_above_one() -> None:
    baseline = np.tile([1.0, 2.0, 3.0], 4)
    result = token_moments(baseline, baseline + 0.5)
    assert result.ratio == pytest.approx(math.exp(0.5))
    assert result.log_ratio_standard_error == pytest.approx(0, abs=1e-8)


def test_ten_tokens_have_no_error_where_llama_cpp_prints_zero() -> None:
    with pytest.raises(DataError) as caught:
        token_moments(np.zeros(10), np.zeros(10))
    assert caught.value.code == "TOO_FEW_TOKENS"


@pytest.mark.parametrize(
    ("baseline", "subject", "code"),
    [
        (np.zeros(12), np.zeros(13), "UNPAIRED_TOKENS"),
        (np.zeros((12, 1)), np.zeros((12, 1)), "UNPAIRED_TOKENS"),
        (np.full(12, np.nan), np.zeros(12), "NON_FINITE"),
        (np.zeros(12), np.full(12, np.inf), "NON_FINITE"),
    ],
)
def test_missing_evidence_is_an_error(baseline: Any, subject: Any, code: str) -> None:
    with pytest.raises(DataError) as caught:
        token_moments(baseline, subject)
    assert caught.value.code == code


def test_a_sum_that_overflowed_is_an_error() -> None:
    with pytest.raises(DataError) as caught:
        TokenMoments(20, 1.0, 1.0, math.inf, 1.0, 1.0)
    assert caught.value.code == "NON_FINITE"


# llama.cpp, examples/perplexity/README.md, revision f364eb6f: Llama-3-8B, then Llama-2-7B.
# The Llama-2 q2_K column prints the baseline's perplexity (5.794552) as its own; it is left out.
PUBLISHED = [
    (9.751568, 3.519934, 1.564849),
    (6.407115, 0.175482, 1.028160),
    (6.253382, 0.021748, 1.003490),
    (6.234284, 0.002650, 1.000425),
    (5.877078, 0.082526, 1.014242),
    (5.808494, 0.013941, 1.002406),
    (5.798542, 0.003990, 1.000689),
]


@pytest.mark.parametrize(("ppl", "difference", "ratio"), PUBLISHED)
def test_published_rows_are_self_consistent(ppl: float, difference: float, ratio: float) -> None:
    baseline, subject = np.full(16, math.log(ppl - difference)), np.full(16, math.log(ppl))
    result = token_moments(baseline, subject)
    assert result.ratio == pytest.approx(ratio, abs=1e-6)
    assert result.ppl_difference == pytest.approx(difference, abs=1e-9)
    assert result.subject_ppl == pytest.approx(ppl, abs=1e-9)


def test_published_errors_of_half_precision_formats() -> None:
    """llama.cpp's BF16 against FP16 table has every number: means, errors, correlation."""
    n, base, quantised = 143_820, 6.225194, 6.227711
    base_error, error, correlation = 0.037771 / base, 0.037833 / quantised, 0.99990

    def product(one: float, other: float, covariance: float) -> float:
        return n * ((n - 1) * covariance + one * other)

    one, other = math.log(base), math.log(quantised)
    result = TokenMoments(
        n_tokens=n,
        baseline_sum=n * one,
        subject_sum=n * other,
        baseline_square_sum=product(one, one, base_error**2),
        subject_square_sum=product(other, other, error**2),
        product_sum=product(one, other, correlation * base_error * error),
    )
    assert result.log_ratio == pytest.approx(0.000404, abs=1e-6)
    assert result.ratio == pytest.approx(1.000404, abs=1e-6)
    assert result.ppl_difference == pytest.approx(0.002517, abs=1e-6)
    assert result.baseline_ppl_standard_error == pytest.approx(0.037771, abs=1e-6)
    assert result.subject_ppl_standard_error == pytest.approx(0.037833, abs=1e-6)
    assert result.log_ppl_correlation == pytest.approx(correlation, abs=1e-6)
    # The correlation is printed to 1e-5, which moves these by 2 %.
    assert result.log_ratio_standard_error == pytest.approx(0.000086, abs=3e-6)
    assert result.ppl_difference_standard_error == pytest.approx(0.000536, abs=2e-5)


def test_errors_against_numpy() -> None:
    rng = np.random.default_rng(1)
    baseline = rng.gamma(2.0, 1.0, 500)
    subject = baseline + rng.normal(0.05, 0.3, 500)
    result = token_moments(baseline, subject)
    paired = np.std(subject - baseline, ddof=1) / math.sqrt(500)
    assert result.log_ratio_standard_error == pytest.approx(paired, rel=1e-9)
    assert result.ratio_standard_error == pytest.approx(result.ratio * paired, rel=1e-9)
    correlation = np.corrcoef(baseline, subject)[0, 1]
    assert result.log_ppl_correlation == pytest.approx(correlation, rel=1e-9)
    gradient = np.array([-result.baseline_ppl, result.subject_ppl])
    variance = gradient @ np.cov(baseline, subject) @ gradient / 500
    assert result.ppl_difference_standard_error == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_a_loss_that_does_not_vary_has_no_correlation() -> None:
    assert token_moments(np.ones(16), np.arange(16.0)).log_ppl_correlation is None


@PROPERTY
@given(LOSSES, st.randoms(use_true_random=False))
def test_permuting_tokens_changes_nothing(losses: Any, random: Any) -> None:
    order = random.sample(range(losses.shape[1]), losses.shape[1])
    assert token_moments(*losses[:, order]) == token_moments(*losses)


@PROPERTY
@given(LOSSES)
def test_swapping_the_models_inverts_the_ratio(losses: Any) -> None:
    forth, back = token_moments(*losses), token_moments(losses[1], losses[0])
    assert back.log_ratio == -forth.log_ratio
    assert back.ratio == pytest.approx(1 / forth.ratio)
    assert back.log_ratio_standard_error == forth.log_ratio_standard_error
    assert back.ppl_difference == -forth.ppl_difference


@PROPERTY
@given(LOSSES)
def test_sums_of_windows_add(losses: Any) -> None:
    whole = token_moments(*np.tile(losses, 2))
    both = token_moments(*losses) + token_moments(*losses)
    assert both.n_tokens == whole.n_tokens
    assert both.log_ratio == pytest.approx(whole.log_ratio, abs=1e-12)


@PROPERTY
@given(LOSSES)
def test_duplicated_tokens_keep_the_ratio_and_shrink_the_error(losses: Any) -> None:
    once, twice = token_moments(*losses), token_moments(*np.tile(losses, 2))
    assert twice.log_ratio == pytest.approx(once.log_ratio, abs=1e-12)
    shrink = math.sqrt((losses.shape[1] - 1) / (2 * losses.shape[1] - 1))
    assert twice.log_ratio_standard_error == pytest.approx(
        once.log_ratio_standard_error * shrink, abs=1e-7
    )
