"""The rules of a run's verdict that look at what scenarios showed, under the original's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_invarlock.decision import Decision
from pytest_invarlock.policy.decision_policy import DecisionPolicy, Strictness
from pytest_invarlock.scenario_runs import ScenarioRuns, signs

SIGNAL_CATEGORIES = ("stress", "error")
Failure = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One rule of the verdict: whether it holds, on how many, and what broke it."""

    name: str
    passed: bool
    text: str
    failures: tuple[Failure, ...] = ()

    def document(self) -> dict[str, Any]:
        """The requirement as plain JSON values."""
        return {
            "requirement": self.name,
            "passed": self.passed,
            "text": self.text,
            "failures": [dict(failure) for failure in self.failures],
        }


@dataclass(frozen=True, slots=True)
class SignalFraction:
    """How many informational scenarios of a category, each on each model, show a confirmed signal.

    ``minimum`` None: no share is demanded.
    """

    category: str
    scenarios: tuple[ScenarioRuns, ...]
    minimum: float | None

    @property
    def confirmed(self) -> int:
        """The number of scenarios with a confirmed signal."""
        return sum(bool(one.confirmed) for one in self.scenarios)

    @property
    def fraction(self) -> float:
        """Their share."""
        return self.confirmed / len(self.scenarios)

    def document(self) -> dict[str, Any]:
        """The share as plain JSON values."""
        return {
            "scenarios": len(self.scenarios),
            "confirmed": self.confirmed,
            "unconfirmed": sum(not s.confirmed and bool(s.unconfirmed) for s in self.scenarios),
            "fraction": self.fraction,
            "minimum": self.minimum,
        }


def expectation_requirements(scenarios: Sequence[ScenarioRuns]) -> list[Requirement]:
    """A requirement per strictness that some scenario has, over all runs of these scenarios."""
    return [
        _of_runs(name, demand, [s for s in scenarios if applies(s)], unmet)
        for name, demand, applies, unmet in _RULES
        if any(applies(scenario) for scenario in scenarios)
    ]


def primary_guard_requirements(scenarios: Sequence[ScenarioRuns]) -> list[Requirement]:
    """What scenarios with ``primary_guard_required`` demand; nothing where there are none.

    A guard that fired in every run of a scenario on a model has hit it there.
    """
    required = [s for s in scenarios if s.expected.primary_guard_required]
    if not required:
        return []
    by_scenario = _grouped(required, lambda s: (s.scenario, _guard(s)))
    by_guard = _grouped(required, _guard)
    missed = [s for s in required if any(not d.expectation_met for d in s.runs)]
    return [
        _some_hit("scenario_primary_guard_signal", "scenarios that their guard hit", by_scenario),
        Requirement(
            "scenario_expected_detectors",
            not missed,
            f"{len(required) - len(missed)} of {len(required)} whose detectors hit in every run",
            tuple(_failure(d, d.text) for s in missed for d in s.runs if not d.expectation_met),
        ),
        _some_hit("guard_primary_demonstrated", "guards that hit a scenario of theirs", by_guard),
    ]


def signal_fractions(
    scenarios: Sequence[ScenarioRuns], policies: Mapping[tuple[str, str], DecisionPolicy]
) -> tuple[SignalFraction, ...]:
    """The share of each category that has informational scenarios.

    Where policies demand different shares, the largest counts.
    """
    found = []
    for category in SIGNAL_CATEGORIES:
        asked = [p.minimum_signal_fraction.get(category) for p in policies.values()]
        members = tuple(
            s
            for s in scenarios
            if s.expected.strictness is Strictness.INFORMATIONAL and s.expected.category == category
        )
        if members:
            minimum = max((share for share in asked if share is not None), default=None)
            found.append(SignalFraction(category, members, minimum))
    return tuple(found)


def fraction_requirements(fractions: Sequence[SignalFraction]) -> list[Requirement]:
    """A requirement per category of which a share is demanded; a share equal to it holds."""
    return [
        Requirement(
            f"informational_{one.category}_min_signal_fraction",
            one.fraction >= one.minimum,
            f"{one.confirmed} of {len(one.scenarios)} show a confirmed signal, "
            f"{one.fraction:.3g}; at least {one.minimum:g} is demanded",
            tuple(
                {"model": s.model, "scenario": s.scenario, "reason": _silence(s)}
                for s in one.scenarios
                if not s.confirmed and one.fraction < one.minimum
            ),
        )
        for one in fractions
        if one.minimum is not None
    ]


def _declares(scenario: ScenarioRuns) -> bool:
    return bool(scenario.expected.detectors_any or scenario.expected.detectors_all)


def _unmet(_: ScenarioRuns, decision: Decision) -> bool:
    return not decision.expectation_met


def _does_not_fail(scenario: ScenarioRuns, decision: Decision) -> bool:
    """Whether no check that gates fired; without declared detectors any that counts is one."""
    if not _declares(scenario) and not decision.expectation_met:
        return True
    return not signs(decision, scenario.expected)


def _is(strictness: Strictness) -> Callable[[ScenarioRuns], bool]:
    return lambda scenario: scenario.expected.strictness is strictness


_RULES: tuple[
    tuple[
        str,
        str,
        Callable[[ScenarioRuns], bool],
        Callable[[ScenarioRuns, Decision], bool],
    ],
    ...,
] = (
    ("clean_all_pass", "that must pass do", _is(Strictness.MUST_PASS), _unmet),
    ("stress_required_fail", "that must fail do", _is(Strictness.MUST_FAIL), _does_not_fail),
    (
        "stress_expected_detectors",
        "that must fail do so by their declared detectors",
        lambda s: s.expected.strictness is Strictness.MUST_FAIL and _declares(s),
        _unmet,
    ),
    ("error_injection_detected", "that must be detected do", _is(Strictness.MUST_DETECT), _unmet),
    ("informational_measured", "that must be measured do", _is(Strictness.INFORMATIONAL), _unmet),
)


def _of_runs(
    name: str,
    demand: str,
    scenarios: Sequence[ScenarioRuns],
    unmet: Callable[[ScenarioRuns, Decision], bool],
) -> Requirement:
    runs = [(scenario, decision) for scenario in scenarios for decision in scenario.runs]
    broken = [decision for scenario, decision in runs if unmet(scenario, decision)]
    return Requirement(
        name,
        not broken,
        f"{len(runs) - len(broken)} of {len(runs)} {demand}",
        tuple(_failure(decision, decision.text) for decision in broken),
    )


def _some_hit(name: str, what: str, groups: Mapping[Any, Sequence[ScenarioRuns]]) -> Requirement:
    """Holds where in each group a scenario's required guard fired in every run of it."""
    silent = [group for group in groups.values() if not any(_guard(s) in s.always for s in group)]
    return Requirement(
        name,
        not silent,
        f"{len(groups) - len(silent)} of {len(groups)} {what}",
        tuple(
            {"model": s.model, "scenario": s.scenario, "reason": _no_hit(s)}
            for group in silent
            for s in group
        ),
    )


def _grouped(
    scenarios: Sequence[ScenarioRuns], key: Callable[[ScenarioRuns], Any]
) -> dict[Any, list[ScenarioRuns]]:
    groups: dict[Any, list[ScenarioRuns]] = {}
    for scenario in scenarios:
        groups.setdefault(key(scenario), []).append(scenario)
    return groups


def _guard(scenario: ScenarioRuns) -> str:
    return scenario.expected.primary_guard or ""


def _failure(decision: Decision, text: str) -> Failure:
    return {
        "model": decision.model,
        "scenario": decision.scenario,
        "reason": f"run {decision.draw}: {text}",
    }


def _no_hit(scenario: ScenarioRuns) -> str:
    """What the required guard said in the first run in which it was no sign."""
    guard = _guard(scenario)
    for decision in scenario.runs:
        if guard not in signs(decision, scenario.expected):
            told = [f"{c.outcome}: {c.text}" for c in decision.checks if c.check == guard]
            return f"run {decision.draw}: {guard} {told[0] if told else 'is not asked'}"
    return f"no run in which {guard} could fire"


def _silence(scenario: ScenarioRuns) -> str:
    """Why an informational scenario shows no confirmed signal."""
    once = scenario.unconfirmed
    if not once:
        return f"nothing fired in {scenario.draws} runs"
    told = ", ".join(f"{check} in {n}" for check, n in once.items())
    return f"unconfirmed: {told} of {scenario.draws} runs"
