"""The runs of each scenario side by side: what fired in all of them, and where they disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from pytest_invarlock.decision import Decision, Outcome
from pytest_invarlock.policy.confirming_draws import CONFIRMING_RUNS
from pytest_invarlock.policy.decision_policy import (
    GUARD_OVERHEAD,
    NO_SIGN,
    DecisionPolicy,
    Expectation,
)


@dataclass(frozen=True, slots=True)
class ScenarioRuns:
    """A scenario of a model: what it must show, and the decisions on its runs by number."""

    model: str
    scenario: str
    expected: Expectation
    runs: tuple[Decision, ...]

    @property
    def always(self) -> tuple[str, ...]:
        """The checks that were a sign of the subject in every run; none where there is no run."""
        found = [signs(decision, self.expected) for decision in self.runs]
        if not found:
            return ()
        return reduce(lambda kept, more: tuple(c for c in kept if c in more), found)

    @property
    def confirmed(self) -> tuple[str, ...]:
        """Those of `always` that at least two runs show; of a single run's hit none is."""
        return self.always if self.draws >= CONFIRMING_RUNS else ()

    @property
    def draws(self) -> int:
        """How many different draws were decided."""
        return len({decision.draw for decision in self.runs})

    @property
    def unconfirmed(self) -> Mapping[str, int]:
        """The checks that were a sign and are not confirmed: in how many runs."""
        found = [check for d in self.runs for check in signs(d, self.expected)]
        return {check: found.count(check) for check in found if check not in self.confirmed}


@dataclass(frozen=True, slots=True)
class Flaky:
    """A scenario whose runs disagree: in the outcome, or in the checks that fired."""

    model: str
    scenario: str
    runs: tuple[Decision, ...]

    def document(self) -> dict[str, Any]:
        """The scenario and its runs as plain JSON values."""
        return {
            "model": self.model,
            "scenario": self.scenario,
            "runs": [
                {"draw": d.draw, "outcome": d.outcome.value, "fired": list(d.fired)}
                for d in self.runs
            ],
        }


def signs(decision: Decision, expected: Expectation) -> tuple[str, ...]:
    """The checks that fired and say something of the subject.

    Drift and guard_overhead do not, unless they are declared detectors. A run that ended in ERROR
    shows nothing, nor does one whose guards altered the model: what fired may be their doing.
    """
    declared = {*expected.detectors_any, *expected.detectors_all}
    altered = GUARD_OVERHEAD in decision.fired and GUARD_OVERHEAD not in declared
    if decision.outcome is Outcome.ERROR or altered:
        return ()
    return tuple(c for c in decision.fired if c not in NO_SIGN or c in declared)


def scenario_runs(
    decisions: Sequence[Decision], policies: Mapping[tuple[str, str], DecisionPolicy]
) -> tuple[ScenarioRuns, ...]:
    """Every scenario that the policies speak of, by (model, scenario), also one without a run."""
    runs: dict[tuple[str, str], list[Decision]] = {key: [] for key in sorted(policies)}
    for decision in sorted(decisions, key=lambda d: d.draw):
        # One that no policy speaks of breaks the run's coverage.
        runs.get((decision.model, decision.scenario), []).append(decision)
    return tuple(
        ScenarioRuns(*key, policies[key].expectation(*key), tuple(found))
        for key, found in runs.items()
    )


def flaky_scenarios(decisions: Sequence[Decision]) -> tuple[Flaky, ...]:
    """The scenarios whose runs differ in outcome or in what fired, by (model, scenario)."""
    runs: dict[tuple[str, str], list[Decision]] = {}
    for decision in sorted(decisions, key=lambda d: (d.model, d.scenario, d.draw)):
        runs.setdefault((decision.model, decision.scenario), []).append(decision)
    return tuple(
        Flaky(*key, tuple(found))
        for key, found in runs.items()
        if len({(d.outcome, frozenset(d.fired)) for d in found}) > 1
    )
