"""Draws that confirm: what fires in a single run of an informational scenario shows nothing yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_invarlock.policy.decision_policy import Strictness

if TYPE_CHECKING:
    from pytest_invarlock.plan import Pair, Scenario
    from pytest_invarlock.policy.suite import Suite

CONFIRMING_RUNS = 2
"""As many runs a check must fire in, and in no fewer than all, before its hit is confirmed."""


def is_to_be_confirmed(suite: Suite, pair: Pair, scenario: Scenario) -> bool:
    """Whether ``suite`` demands a share of confirmed signals among scenarios like this one.

    Of the doses of a sweep none is demanded.
    """
    expected = suite.expectation(pair, scenario)
    share = suite.policy.minimum_signal_fraction.get(expected.category, 0)
    return not suite.sweeps and share > 0 and expected.strictness is Strictness.INFORMATIONAL


def with_confirming(runs: tuple[int, ...]) -> tuple[int, ...]:
    """``runs``, the numbers of draws, and the next ones where they are fewer than confirm."""
    missing = max(0, CONFIRMING_RUNS - len(runs))
    return (*runs, *(runs[-1] + n for n in range(1, missing + 1)))
