"""What fired over a whole run: per category, per guard and per scenario; pure, and re-derived.

Nothing here decides; `run_requirements` does. Fields are named as the original's summaries name
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pytest_invarlock.decision import SAYS_NOTHING, CheckDecision, Decision, Outcome
from pytest_invarlock.policy.decision_policy import (
    GUARD_OVERHEAD,
    DecisionPolicy,
    Strictness,
)
from pytest_invarlock.run_requirements import SignalFraction
from pytest_invarlock.scenario_runs import ScenarioRuns, signs
from pytest_invarlock.stats.wilson import wilson

CATEGORY_SUMMARY = "category_summary.json"
GUARD_SUMMARY = "guard_signal_summary.json"
SCENARIO_SUMMARY = "scenario_signal_summary.json"
SUMMARIES = (CATEGORY_SUMMARY, GUARD_SUMMARY, SCENARIO_SUMMARY)
Answer = Literal["fired", "quiet", "not_judged"]


@dataclass(frozen=True, slots=True)
class Share:
    """How often a check fired among the scenarios it judged; ``not_judged`` are left out of it."""

    fired: int
    quiet: int
    not_judged: int

    @property
    def judged(self) -> int:
        """The number of scenarios the share is of."""
        return self.fired + self.quiet

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval; (0, 1) where nothing was judged."""
        return wilson(self.fired, self.judged)

    def document(self) -> dict[str, Any]:
        """The share as plain JSON values."""
        low, high = self.interval
        return {
            "fired": self.fired,
            "quiet": self.quiet,
            "not_judged": self.not_judged,
            "wilson_low": low,
            "wilson_high": high,
        }


@dataclass(frozen=True, slots=True)
class GuardRow:
    """A check in the confusion table: how often it fired on clean and on damaged scenarios.

    A scenario counts once for each model. Clean ones are of category ``clean`` and must pass; one
    is fired on where any of its runs is. Damaged ones must fail or be detected; one is fired on
    where every run is. ``gates`` False: the check only monitors, and cannot fire.
    """

    check: str
    gates: bool
    flagged: int
    unique: int
    clean: Share
    damaged: Share

    def document(self) -> dict[str, Any]:
        """The row as plain JSON values."""
        return {
            "guard": self.check,
            "gates": self.gates,
            "flagged": self.flagged,
            "unique": self.unique,
            "clean": self.clean.document(),
            "damaged": self.damaged.document(),
        }


@dataclass(frozen=True, slots=True)
class SignalSummary:
    """The three summaries of a run, as values and as documents."""

    scenarios: tuple[ScenarioRuns, ...]
    fractions: tuple[SignalFraction, ...]
    guards: tuple[GuardRow, ...]

    def documents(self) -> dict[str, dict[str, Any]]:
        """Each summary as plain JSON values, by the name of its file."""
        return {
            CATEGORY_SUMMARY: self._categories(),
            GUARD_SUMMARY: {
                "format": "invarlock-guard-signal-summary-v1",
                "records_total": sum(len(s.runs) for s in self.scenarios),
                "guards": [row.document() for row in self.guards],
            },
            SCENARIO_SUMMARY: {
                "format": "invarlock-scenario-signal-summary-v1",
                "scenarios": [_scenario_row(scenario) for scenario in self.scenarios],
            },
        }

    def _categories(self) -> dict[str, Any]:
        names = sorted({scenario.expected.category for scenario in self.scenarios})
        members = {
            name: [s for s in self.scenarios if s.expected.category == name] for name in names
        }
        return {
            "format": "invarlock-category-summary-v1",
            "categories": {name: _category_row(found) for name, found in members.items()},
            "informational": {one.category: one.document() for one in self.fractions},
        }


def signal_summary(
    scenarios: tuple[ScenarioRuns, ...],
    fractions: tuple[SignalFraction, ...],
    policies: Mapping[tuple[str, str], DecisionPolicy],
) -> SignalSummary:
    """The summaries over all runs of ``scenarios``, with a row for every check of the policies."""
    checks = dict.fromkeys(name for policy in policies.values() for name in policy.checks)
    rows = tuple(_guard_row(name, scenarios, policies) for name in checks)
    return SignalSummary(scenarios, fractions, rows)


def _guard_row(
    name: str,
    scenarios: Sequence[ScenarioRuns],
    policies: Mapping[tuple[str, str], DecisionPolicy],
) -> GuardRow:
    fired = [decision.fired for scenario in scenarios for decision in scenario.runs]
    return GuardRow(
        check=name,
        gates=any(policy.gates(name) for policy in policies.values()),
        flagged=sum(name in checks for checks in fired),
        unique=sum(tuple(checks) == (name,) for checks in fired),
        clean=_share([_on_clean(name, s) for s in scenarios if s.runs and _is_clean(s)]),
        damaged=_share(
            [_on_damaged(name, s) for s in scenarios if s.runs and s.expected.wants_detection]
        ),
    )


def _is_clean(scenario: ScenarioRuns) -> bool:
    # Of a checkpoint that is compared nobody knows beforehand that it is harmless.
    expected = scenario.expected
    return expected.strictness is Strictness.MUST_PASS and expected.category == "clean"


def _share(answers: Sequence[Answer]) -> Share:
    return Share(answers.count("fired"), answers.count("quiet"), answers.count("not_judged"))


def _on_clean(name: str, scenario: ScenarioRuns) -> Answer:
    answers = _answers(name, scenario)
    if "fired" in answers:
        return "fired"
    return "not_judged" if "not_judged" in answers else "quiet"


def _on_damaged(name: str, scenario: ScenarioRuns) -> Answer:
    answers = _answers(name, scenario)
    if "quiet" in answers:
        return "quiet"
    return "not_judged" if "not_judged" in answers else "fired"


def _answers(name: str, scenario: ScenarioRuns) -> set[Answer]:
    return {_answer(name, decision) for decision in scenario.runs}


def _answer(name: str, decision: Decision) -> Answer:
    check = _check(name, decision)
    if check is None or check.outcome is Outcome.ERROR or check.reason in SAYS_NOTHING:
        return "not_judged"
    if GUARD_OVERHEAD in decision.fired and name != GUARD_OVERHEAD:
        # What fires on a model that a guard altered may be the guard's own doing.
        return "not_judged"
    return "fired" if check.outcome is Outcome.FAIL else "quiet"


def _check(name: str, decision: Decision) -> CheckDecision | None:
    return next((check for check in decision.checks if check.check == name), None)


def _category_row(scenarios: Sequence[ScenarioRuns]) -> dict[str, int]:
    runs = [(s.expected, decision) for s in scenarios for decision in s.runs]
    invariants = [
        check.outcome
        for _, decision in runs
        if (check := _check("invariants", decision)) is not None
    ]
    return {
        "scenarios": len(scenarios),
        "reports": len(runs),
        "primary_metric_fail": sum("primary_metric" in d.fired for _, d in runs),
        "invariants_fail": sum("invariants" in d.fired for _, d in runs),
        "invariants_warn": invariants.count(Outcome.WARN),
        "any_flag": sum(bool(signs(decision, expected)) for expected, decision in runs),
    }


def _scenario_row(scenario: ScenarioRuns) -> dict[str, Any]:
    expected, runs = scenario.expected, scenario.runs
    outcomes = Counter(decision.outcome for decision in runs)
    return {
        "model": scenario.model,
        "id": scenario.scenario,
        "category": expected.category,
        "strictness": expected.strictness.value,
        "primary_guard": expected.primary_guard,
        "primary_guard_required": expected.primary_guard_required,
        "reports": len(runs),
        "passed": outcomes[Outcome.PASS] + outcomes[Outcome.WARN],
        "failed": outcomes[Outcome.FAIL],
        "inconclusive": outcomes[Outcome.INCONCLUSIVE],
        "errors": outcomes[Outcome.ERROR],
        "detector_hits": sum(_detected(scenario, decision) for decision in runs),
        "signaled": sum(bool(signs(decision, expected)) for decision in runs),
        "primary_guard_hits": sum(
            expected.primary_guard in signs(decision, expected) for decision in runs
        ),
        "confirmed": list(scenario.confirmed),
    }


def _detected(scenario: ScenarioRuns, decision: Decision) -> bool:
    """Whether the declared detectors fired; never where none is declared."""
    expected, found = scenario.expected, signs(decision, scenario.expected)
    if not (expected.detectors_any or expected.detectors_all):
        return False
    return all(name in found for name in expected.detectors_all) and (
        not expected.detectors_any or any(name in found for name in expected.detectors_any)
    )
