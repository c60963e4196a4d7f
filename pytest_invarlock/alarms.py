"""Every p-valued alarm of a run as one family: printed with adjusted p-values, never gated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_invarlock.decision import Decision
from pytest_invarlock.policy.decision_policy import METRIC_CHECKS
from pytest_invarlock.stats.multiplicity import holm


@dataclass(frozen=True, slots=True)
class Alarm:
    """One test of the family: its record, check, raw and Holm-adjusted p-value."""

    model: str
    scenario: str
    draw: int
    check: str
    p_value: float
    p_holm: float

    def document(self) -> dict[str, Any]:
        """The test as plain JSON values."""
        return {
            "model": self.model,
            "scenario": self.scenario,
            "draw": self.draw,
            "check": self.check,
            "p_value": self.p_value,
            "p_holm": self.p_holm,
        }


def alarms(decisions: Sequence[Decision]) -> tuple[Alarm, ...]:
    """The tests of ``decisions`` that have a p-value, adjusted by Holm over all of them.

    They are the tail's binomial test of windows, drift's test beyond the band and, for accuracy,
    McNemar's. A reader who looks for the one small p among many tests needs the adjustment. The
    verdict does not: "every gate passes" is an intersection-union test, each gate at its own
    level, and needs none.

    Source: Berger, Technometrics 24 (1982), 295-300 (intersection-union tests).
    """
    tests = [
        (decision, check.check, float(p_value))
        for decision in decisions
        for check in decision.checks
        # What another package's guard calls so is no test of ours, nor need it be a number.
        if check.check in METRIC_CHECKS and (p_value := check.numbers.get("p_value")) is not None
    ]
    adjusted = holm(np.array([p_value for _, _, p_value in tests], dtype=np.float64))
    return tuple(
        Alarm(decision.model, decision.scenario, decision.draw, check, p_value, float(p_holm))
        for (decision, check, p_value), p_holm in zip(tests, adjusted, strict=True)
    )
