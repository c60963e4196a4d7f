"""The drift check: each outcome, and that equivalence is printed and never required."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.records import Facts

from .made import DRIFT, accuracy_facts, arm, check, facts, policy, spread


def arms(preview: float, final: float, sd: float = 0.05, n: int = 64) -> Facts:
    return facts(
        np.zeros(n),
        arms={
            "preview": arm(spread(preview, sd, n, seed=3), seed=5),
            "final": arm(spread(final, sd, n)),
        },
    )


def drift(made: Facts, **limits: Any) -> CheckDecision:
    return check("drift", made, policy(drift=replace(DRIFT, **limits)))


# The arms' standard error is .05·√(2/64) = .00884; t at .99 and .95 with 126 degrees of freedom.
EDGE_99 = math.log(1.05) + 2.3562 * 0.05 * math.sqrt(2 / 64)
EDGE_95 = math.log(1.05) + 1.6570 * 0.05 * math.sqrt(2 / 64)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
    ("apart", "outcome", "reason"),
    [
        (0.0, Outcome.PASS, "within_band"),
        (math.log(1.05), Outcome.PASS, "within_band"),
        (EDGE_95 - 1e-4, Outcome.PASS, "within_band"),
        (EDGE_95 + 1e-4, Outcome.WARN, "perhaps_beyond_band"),
        (EDGE_99 - 1e-4, Outcome.WARN, "perhaps_beyond_band"),
        (EDGE_99 + 1e-4, Outcome.FAIL, "beyond_band"),
        (1.0, Outcome.FAIL, "beyond_band"),
    ],
)
def test_the_arms_may_lie_apart_by_the_band(
    apart: float, sign: int, outcome: Outcome, reason: str
) -> None:
    decided = drift(arms(sign * apart, 0.0))
    assert (decided.outcome, decided.reason) == (outcome, reason)


def test_noise_alone_is_no_drift_though_equivalence_is_not_shown() -> None:
    decided = drift(arms(0.06, 0.0, sd=0.4))
    assert decided.outcome is Outcome.PASS
    assert decided.numbers["equivalence_shown"] == "no"
    assert "equivalence not shown" in decided.text
    assert drift(arms(0.0, 0.0, sd=0.01)).numbers["equivalence_shown"] == "yes"


def test_monitor_only_warns() -> None:
    assert drift(arms(1.0, 0.0), mode="monitor").outcome is Outcome.WARN


def test_a_wider_band_tolerates_more() -> None:
    assert drift(arms(0.3, 0.0), band=1.5).outcome is Outcome.PASS


def test_the_p_value_is_of_the_band() -> None:
    numbers = drift(arms(EDGE_99, 0.0)).numbers
    assert numbers["p_value"] == pytest.approx(0.01, rel=1e-3)
    assert numbers["degrees_of_freedom"] == pytest.approx(126)
    expected = stats.t.sf(numbers["excess_fail_nats"] / 0.05 / math.sqrt(2 / 64) + 2.3562, 126)
    assert numbers["p_value"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("apart", "p_value"), [(0.0, 1.0), (0.5, 0.0)])
def test_arms_without_spread_are_decided_all_the_same(apart: float, p_value: float) -> None:
    flat = facts(np.zeros(64))
    for one in flat.arms.values():
        one.baseline_nll[:] = 127.0
        one.subject_nll[:] = 127.0
    flat.arms["final"].subject_nll[:] += 127 * apart
    decided = drift(flat)
    assert decided.numbers["p_value"] == p_value
    assert decided.outcome is (Outcome.FAIL if apart else Outcome.PASS)
    assert decided.numbers["degrees_of_freedom"] is None


def test_destroyed_models_drift_in_finite_numbers() -> None:
    decided = drift(arms(1500.0, 0.0))
    assert decided.outcome is Outcome.FAIL
    assert decided.numbers["ratio_of_ratios"] is None


def test_accuracy_has_no_drift() -> None:
    decided = drift(accuracy_facts())
    assert (decided.outcome, decided.reason) == (Outcome.PASS, "not_applicable")
