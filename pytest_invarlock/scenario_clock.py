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


DEFAULT_SECONDS = 21_600
"""What one draw of a scenario may take where nobody says otherwise: six hours."""


@dataclass(slots=True)
class ScenarioClock:
    """Counts from its making, or from the last batch of the baseline, which others use too.

    ``limit`` in seconds holds for a scenario without a timeout of its own.
    """

    scenario: Scenario
    limit: float = DEFAULT_SECONDS
    _start: float = field(default_factory=time.monotonic)

    def check(self, stage: str) -> None:
        """Note that a batch of ``stage`` is done; raises MeasurementError beyond the limit."""
        own = self.scenario.timeout
        limit = self.limit if own is None else own
        now = time.monotonic()
        if stage == BASELINE:
            self._start = now
        elif now - self._start > limit:
            place = "--invarlock-timeout=SECONDS" if own is None else "its key timeout"
            raise MeasurementError(
                f"scenario {self.scenario.name} took {now - self._start:.1f} s, its timeout is "
                f"{limit:g} s",
                remedy=f"give it a longer timeout ({place}), or fewer windows",
                code="TIMEOUT",
            )
