"""The time limit of a scenario: checked after every batch of windows, and an error beyond it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_invarlock.errors import MeasurementError

if TYPE_CHECKING:
    from pytest_invarlock.plan import Scenario

BASELINE = "baseline"
"""The stage in which the model's first scenario measures the baseline for all of them."""


@dataclass(slots=True)
class ScenarioClock:
    """Counts from its making, or from the last batch of the baseline, which others use too."""

    scenario: Scenario
    _start: float = field(default_factory=time.monotonic)

    def check(self, stage: str) -> None:
        """Note that a batch of ``stage`` is done; raises MeasurementError beyond the limit."""
        limit = self.scenario.timeout
        if limit is None:
            return
        now = time.monotonic()
        if stage == BASELINE:
            self._start = now
        elif now - self._start > limit:
            raise MeasurementError(
                f"scenario {self.scenario.name} took {now - self._start:.1f} s, its timeout is "
                f"{limit:g} s",
                remedy="give it a longer timeout, or fewer windows",
                code="TIMEOUT",
            )
