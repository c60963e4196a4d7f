"""Drift between the arms: a check on sampling that must not fail on noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.stats import DocumentSums
from pytest_invarlock.stats.drift import drift

PROPERTY = settings(deadline=None, max_examples=60, database=None, derandomize=True)
BAND = math.log(1.05)


def arm(*means: float, weight: float = 100.0) -> DocumentSums:
    weights = np.full(len(means), weight)
    return DocumentSums(np.array(means) * weights, weights)


def noisy(seed: int, mean: float, sd: float, n: int) -> DocumentSums:
    return arm(*np.random.default_rng(seed).normal(mean, sd, n))


@st.composite
def arms(draw: st.DrawFn) -> DocumentSums:
    rows = draw(
        st.lists(st.tuples(st.integers(-400, 400), st.integers(1, 900)), min_size=2, max_size=30)
    )
    thousandths, weights = np.array(rows, dtype=np.float64).T
    return DocumentSums(thousandths / 1000 * weights, weights)


def test_arms_apart_beyond_the_band_and_beyond_noise_fail() -> None:
    result = drift(noisy(1, math.log(1.3), 0.05, 64), noisy(2, 0.0, 0.05, 64))
    assert result.classification == "fail"
    assert result.excess_fail > 0
    assert not result.equivalence_shown


def test_a_point_beyond_the_band_is_not_enough() -> None:
    """The seeds' plain threshold would fail here: |x| > ln 1.05, but noise explains it."""
    result = drift(noisy(3, math.log(1.1), 0.3, 16), noisy(5, 0.0, 0.3, 16))
    assert abs(result.delta) > BAND
    assert result.classification == "pass"
    assert not result.equivalence_shown


def test_between_the_levels_is_a_warning() -> None:
    # Two documents a ± 1/1000 in each arm: v = .000001 each, se = √2 · .001, df = 2.
    error = math.sqrt(2) * 0.001
    between = (stats.t.ppf(0.95, 2) + stats.t.ppf(0.99, 2)) / 2 * error
    middle = BAND + between
    result = drift(arm(middle - 0.001, middle + 0.001), arm(-0.001, 0.001))
    assert result.classification == "warn"
    assert result.excess_fail < 0 < result.excess_warn


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"band_delta": -0.01}, "BAND"),
        ({"band_delta": math.nan}, "BAND"),
        ({"band_delta": math.inf}, "BAND"),
        ({"fail_alpha": 0.0}, "LEVEL"),
        ({"fail_alpha": 0.06}, "LEVEL"),
        ({"warn_alpha": 0.5}, "LEVEL"),
    ],
)
def test_unusable_rules_are_errors(options: dict[str, float], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        drift(arm(0.0, 0.1), arm(0.0, 0.1), **options)
    assert caught.value.code == code


def test_hand_computed_error_and_degrees_of_freedom() -> None:
    # Equal weights: CR2 is sd/√D. Means 0, .1, .2: sd .1, v = .01/3; and 0, .3: v = .0225.
    result = drift(arm(0.0, 0.1, 0.2), arm(0.0, 0.3))
    first, second = 0.01 / 3, 0.0225
    assert result.delta == pytest.approx(-0.05)
    assert result.standard_error == pytest.approx(math.sqrt(first + second))
    expected = (first + second) ** 2 / (first**2 / 2 + second**2 / 1)
    assert result.degrees_of_freedom == pytest.approx(expected)
    width = stats.t.ppf(0.99, expected) * result.standard_error
    assert result.excess_fail == pytest.approx(0.05 - width - BAND)


def test_equal_arms_have_the_rules_degrees_of_freedom() -> None:
    one, other = noisy(5, 0.0, 0.1, 20), noisy(6, 0.0, 0.3, 20)
    v, u = one.cr2_standard_error**2, other.cr2_standard_error**2
    expected = (v + u) ** 2 / (v**2 + u**2) * 19
    assert drift(one, other).degrees_of_freedom == pytest.approx(expected)


def test_equal_documents_are_scipys_welch_test() -> None:
    rng = np.random.default_rng(7)
    one, other = rng.normal(0.2, 0.1, 12), rng.normal(0.0, 0.3, 30)
    reference = stats.ttest_ind(one, other, equal_var=False)
    result = drift(arm(*one), arm(*other))
    assert result.degrees_of_freedom == pytest.approx(reference.df)
    assert result.delta / result.standard_error == pytest.approx(reference.statistic)


def test_identical_models_show_equivalence() -> None:
    result = drift(arm(0.0, 0.0), arm(0.0, 0.0, 0.0))
    assert (result.delta, result.standard_error) == (0.0, 0.0)
    assert result.degrees_of_freedom == math.inf
    assert result.classification == "pass"
    assert result.equivalence_shown


def test_equivalence_needs_the_bound_inside_the_band() -> None:
    width = float(stats.t.ppf(0.95, 2)) * math.sqrt(2) * 0.001
    for step, shown in ((-1e-6, True), (1e-6, False)):
        middle = BAND - width + step
        result = drift(arm(middle - 0.001, middle + 0.001), arm(-0.001, 0.001))
        assert result.classification == "pass"
        assert result.equivalence_shown is shown


def test_arms_without_spread_are_decided_by_the_point() -> None:
    assert drift(arm(0.25, 0.25), arm(0.0, 0.0)).classification == "fail"
    assert drift(arm(0.03125, 0.03125), arm(0.0, 0.0)).classification == "pass"


def test_one_arm_without_spread_adds_no_degrees_of_freedom() -> None:
    assert drift(noisy(8, 0.0, 0.1, 20), arm(0.0, 0.0)).degrees_of_freedom == pytest.approx(19)


def test_tiny_variances_do_not_underflow() -> None:
    result = drift(arm(0.0, 1e-120), arm(0.0, 1e-120, 0.0))
    assert 1 <= result.degrees_of_freedom <= 3


@PROPERTY
@given(arms(), arms(), st.randoms(use_true_random=False))
def test_permuting_documents_changes_nothing(
    preview: DocumentSums, final: DocumentSums, random: Any
) -> None:
    order = random.sample(range(preview.n_documents), preview.n_documents)
    shuffled = DocumentSums(preview.weighted_difference[order], preview.weight[order])
    assert drift(shuffled, final) == drift(preview, final)


@PROPERTY
@given(arms(), arms())
def test_swapping_the_arms_or_the_models_negates_the_point_only(
    preview: DocumentSums, final: DocumentSums
) -> None:
    forth = drift(preview, final)
    models = [DocumentSums(-each.weighted_difference, each.weight) for each in (preview, final)]
    for back in (drift(final, preview), drift(*models)):
        assert back.delta == -forth.delta
        assert back.standard_error == forth.standard_error
        assert back.classification == forth.classification
        assert back.equivalence_shown == forth.equivalence_shown


@PROPERTY
@given(arms(), arms(), st.sampled_from([2.0, 64.0, 0.25]))
def test_scaling_the_weights_of_an_arm_changes_nothing(
    preview: DocumentSums, final: DocumentSums, factor: float
) -> None:
    scaled = DocumentSums(preview.weighted_difference * factor, preview.weight * factor)
    assert drift(scaled, final) == drift(preview, final)


@PROPERTY
@given(arms(), arms())
def test_duplicated_documents_keep_the_point_and_add_certainty(
    preview: DocumentSums, final: DocumentSums
) -> None:
    once = drift(preview, final)
    twice = drift(
        *(
            DocumentSums(np.tile(each.weighted_difference, 2), np.tile(each.weight, 2))
            for each in (preview, final)
        )
    )
    assert twice.delta == pytest.approx(once.delta, abs=1e-12)
    if once.standard_error > 1e-12:
        assert twice.standard_error < once.standard_error
        assert twice.excess_fail > once.excess_fail


@PROPERTY
@given(arms(), arms())
def test_the_words_agree_with_the_excesses(preview: DocumentSums, final: DocumentSums) -> None:
    result = drift(preview, final)
    assert result.excess_fail <= result.excess_warn
    assert (result.classification == "fail") == (result.excess_fail > 0)
    assert (result.classification != "pass") == (result.excess_warn > 0)
    assert not (result.equivalence_shown and result.classification != "pass")


def test_the_p_value_is_the_level_at_which_fail_begins() -> None:
    rng = np.random.default_rng(2)
    for shift in (0.0, 0.06, 0.09, 0.12):
        preview, final = (
            DocumentSums(rng.normal(mean, 0.1, 40), np.ones(40)) for mean in (shift, 0.0)
        )
        p_value = drift(preview, final).p_value
        if 0 < p_value < 0.5:
            for level, word in ((p_value * 1.001, "fail"), (p_value * 0.999, "pass")):
                found = drift(preview, final, fail_alpha=level, warn_alpha=level)
                assert found.classification == word
