"""Planning: how many documents decide, and what the documents at hand can see."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_invarlock.errors import ConfigError, DataError, InvarlockError
from pytest_invarlock.stats import documents_needed, minimum_detectable_ratio

PROPERTY = settings(deadline=None, max_examples=50, database=None, derandomize=True)
LN = math.log
RULE_2 = {
    "document_sd": 0.05,
    "effective_share": 1.0,
    "true_delta": LN(1.02),
    "limit_delta": LN(1.05),
    "alpha": 0.05,
    "power": 0.95,
}


@pytest.mark.parametrize("true", [LN(1.05), LN(1.2)])
def test_no_number_of_documents_passes_at_or_beyond_the_limit(true: float) -> None:
    assert documents_needed(**RULE_2 | {"true_delta": true}) is None


@pytest.mark.parametrize(
    ("replacement", "error", "code"),
    [
        ({"document_sd": -0.1}, DataError, "DOCUMENT_SD"),
        ({"document_sd": math.nan}, DataError, "DOCUMENT_SD"),
        ({"document_sd": math.inf}, DataError, "DOCUMENT_SD"),
        ({"effective_share": 0.0}, DataError, "EFFECTIVE_SHARE"),
        ({"effective_share": 1.1}, DataError, "EFFECTIVE_SHARE"),
        ({"alpha": 0.0}, ConfigError, "LEVEL"),
        ({"power": 1.0}, ConfigError, "LEVEL"),
        ({"power": 0.04}, ConfigError, "LEVEL"),
    ],
)
def test_unusable_plans_are_errors(
    replacement: dict[str, float], error: type[InvarlockError], code: str
) -> None:
    with pytest.raises(error) as caught:
        documents_needed(**RULE_2 | replacement)
    assert caught.value.code == code


def test_too_few_effective_documents_is_an_error() -> None:
    with pytest.raises(DataError) as caught:
        minimum_detectable_ratio(document_sd=0.1, effective_documents=0.5, alpha=0.05, power=0.9)
    assert caught.value.code == "EFFECTIVE_DOCUMENTS"


@pytest.mark.parametrize(
    ("document_sd", "share", "documents"), [(0.05, 1.0, 43), (0.07, 1.0, 84), (0.05, 0.57, 75)]
)
def test_figures_of_the_feasibility_study(document_sd: float, share: float, documents: int) -> None:
    plan = RULE_2 | {"document_sd": document_sd, "effective_share": share}
    assert documents_needed(**plan) == documents


def test_hand_computed_margin_rounds_up_only_when_it_must() -> None:
    reach = 2 * float(stats.norm.ppf(0.95)) * 1.15
    plan = RULE_2 | {"document_sd": 1.0, "true_delta": 0.0}
    assert documents_needed(**plan | {"limit_delta": reach / 3}) == 9
    assert documents_needed(**plan | {"limit_delta": reach / 3.001}) == 10
    assert documents_needed(**plan | {"limit_delta": reach / 3, "effective_share": 0.5}) == 18


def test_documents_without_spread_still_come_in_pairs() -> None:
    assert documents_needed(**RULE_2 | {"document_sd": 0.0}) == 2
    assert (
        minimum_detectable_ratio(document_sd=0.0, effective_documents=40, alpha=0.05, power=0.95)
        == 1.0
    )


def test_a_due_fail_is_planned_by_negating_both() -> None:
    fail = RULE_2 | {"true_delta": -LN(1.20), "limit_delta": -LN(1.10)}
    assert documents_needed(**fail) == 5


@PROPERTY
@given(st.floats(0.01, 1.0), st.integers(2, 500), st.floats(0.001, 0.2), st.floats(0.5, 0.999))
def test_detectable_ratio_is_the_plan_read_backwards(
    document_sd: float, documents: int, alpha: float, power: float
) -> None:
    ratio = minimum_detectable_ratio(
        document_sd=document_sd, effective_documents=documents, alpha=alpha, power=power
    )
    plan = {
        "document_sd": document_sd,
        "effective_share": 1.0,
        "true_delta": 0.0,
        "limit_delta": LN(ratio),
        "alpha": alpha,
        "power": power,
    }
    assert documents_needed(**plan) in (documents, documents + 1)
