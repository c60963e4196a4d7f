"""The run's verdict: named requirements over the decisions of a whole planned set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_invarlock.alarms import Alarm, alarms
from pytest_invarlock.decision import Decision, Outcome
from pytest_invarlock.plan import PlannedScenario
from pytest_invarlock.policy.decision_policy import DecisionPolicy
from pytest_invarlock.policy.deploy_limits import DEPLOYABLE, SKIPPING_PROFILE
from pytest_invarlock.run_requirements import (
    Requirement,
    expectation_requirements,
    fraction_requirements,
    primary_guard_requirements,
    signal_fractions,
)
from pytest_invarlock.scenario_runs import Flaky, flaky_scenarios, scenario_runs
from pytest_invarlock.signal_summary import SignalSummary, signal_summary

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
VERDICT_FORMAT = "invarlock-verdict-v1"
_OPEN = {"clean_all_pass", "informational_measured"}
"""Requirements that more evidence may still meet; a fault that was not detected is a failure."""


@dataclass(frozen=True, slots=True)
class RunVerdict:
    """PASS when every requirement holds; INCONCLUSIVE when nothing worse than that broke one.

    ``alarms``, ``flaky`` scenarios and ``signals`` are printed and decide nothing.
    """

    verdict: Verdict
    requirements: tuple[Requirement, ...]
    signals: SignalSummary
    counts: Mapping[str, int] = field(default_factory=dict)
    alarms: tuple[Alarm, ...] = ()
    flaky: tuple[Flaky, ...] = ()

    @property
    def broken(self) -> Requirement | None:
        """The first requirement that does not hold."""
        return next((rule for rule in self.requirements if not rule.passed), None)

    def document(self) -> dict[str, Any]:
        """The verdict as plain JSON values, the form that is packed and re-derived."""
        return {
            "format": VERDICT_FORMAT,
            "verdict": self.verdict,
            "requirements": [rule.document() for rule in self.requirements],
            "counts": dict(self.counts),
            "alarms": [alarm.document() for alarm in self.alarms],
            "flaky": [one.document() for one in self.flaky],
        }


def decide_run(
    planned: Sequence[PlannedScenario],
    decisions: Sequence[Decision],
    policies: Mapping[tuple[str, str], DecisionPolicy],
) -> RunVerdict:
    """The verdict of a run: no records or a missing scenario is FAIL, never a pass.

    So are draws of one scenario that are of different metrics, or cut their windows by different
    conventions: their numbers are not comparable. Every run of a scenario counts; a requirement
    stands only where some scenario demands it. A deployable scenario whose backend is not there
    breaks one too, but in profile dev: there nothing is demanded of it, the verdict says so, and is
    a FAIL where nothing else was measured.

    Args:
        planned: what the run set out to measure.
        decisions: what `decide` said of each record, in any order.
        policies: by (model, scenario), the policy each was decided under.
    """
    skipped = [d for d in decisions if d.outcome is Outcome.SKIPPED]
    found = {(d.model, d.scenario, d.draw) for d in decisions}
    wanted = {(p.model, p.scenario, draw) for p in planned for draw in p.runs}
    ordered = sorted(decisions, key=lambda d: (d.model, d.scenario, d.draw))
    requirements = [
        Requirement("evidence_present", len(found) > len(skipped), f"{len(found)} records"),
        _coverage(wanted, found, set(policies), len(decisions) - len(found)),
    ]
    comparable = _one_convention(ordered)
    if comparable is not None:
        requirements.append(comparable)
    if skipped:
        requirements.append(_skips(skipped, policies))
    without = {(d.model, d.scenario) for d in skipped}
    scenarios = scenario_runs(ordered, {k: p for k, p in policies.items() if k not in without})
    fractions = signal_fractions(scenarios, policies)
    requirements += expectation_requirements(scenarios)
    requirements += primary_guard_requirements(scenarios)
    requirements += fraction_requirements(fractions)
    return RunVerdict(
        verdict=_verdict(requirements, ordered),
        requirements=tuple(requirements),
        signals=signal_summary(scenarios, fractions, policies),
        counts=_counts(ordered),
        alarms=alarms(ordered),
        flaky=flaky_scenarios(ordered),
    )


def _skips(
    skipped: Sequence[Decision], policies: Mapping[tuple[str, str], DecisionPolicy]
) -> Requirement:
    """States what was skipped and why; it holds at the desk, where no backend need be installed."""
    told = dict.fromkeys(f"{d.model} {d.scenario}: {d.text}" for d in skipped)
    text = f"{len(skipped)} records without their backend: {'; '.join(sorted(told))}"
    failures = []
    for decision in skipped:
        policy = policies.get((decision.model, decision.scenario))
        if policy is not None and policy.profile != SKIPPING_PROFILE:
            reason = f"run {decision.draw}: {decision.text}; profile {policy.profile} demands it"
            failures.append(
                {"model": decision.model, "scenario": decision.scenario, "reason": reason}
            )
    return Requirement("deployable_skipped", not failures, text, tuple(failures))


def _one_convention(decisions: Sequence[Decision]) -> Requirement | None:
    """Whether the draws of each scenario measured one thing; None where none has two draws.

    Records that ended with an error measured nothing, and have no metric.
    """
    measured = [d for d in decisions if d.metric not in (None, "auto")]
    first: dict[tuple[str, str], Decision] = {}
    failures = []
    for decision in measured:
        one = first.setdefault((decision.model, decision.scenario), decision)
        here, there = (f"{d.metric} ({d.convention})" for d in (decision, one))
        if here != there:
            reason = f"run {one.draw} measured {there}, run {decision.draw} {here}"
            failures.append(
                {"model": decision.model, "scenario": decision.scenario, "reason": reason}
            )
    if len(first) == len(measured):
        return None
    text = f"{len(failures)} of {len(measured)} records are not comparable with their first"
    return Requirement("one_convention", not failures, text, tuple(failures))


def _coverage(
    wanted: set[tuple[str, str, int]],
    found: set[tuple[str, str, int]],
    judged: set[tuple[str, str]],
    n_twice: int,
) -> Requirement:
    missing = sorted(wanted - found)
    unplanned = sorted(found - wanted)
    failures = [
        {"model": model, "scenario": scenario, "reason": f"no record of run {draw}"}
        for model, scenario, draw in missing
    ] + [
        {"model": model, "scenario": scenario, "reason": f"run {draw} was never planned"}
        for model, scenario, draw in unplanned
    ]
    failures += [
        {"model": model, "scenario": scenario, "reason": "no policy says what it must show"}
        for model, scenario in sorted({(m, s) for m, s, _ in wanted | found} - judged)
    ]
    return Requirement(
        "scenario_coverage",
        bool(wanted) and not failures and not n_twice,
        f"{len(wanted & found)} of {len(wanted)} planned records"
        + (f", {n_twice} decided twice" if n_twice else ""),
        tuple(failures),
    )


def _verdict(requirements: Iterable[Requirement], decisions: Sequence[Decision]) -> Verdict:
    broken = [rule for rule in requirements if not rule.passed]
    if not broken:
        return "PASS"
    # A skip that breaks something is among what is broken.
    unmet = [d for d in decisions if not d.expectation_met and d.outcome is not Outcome.SKIPPED]
    open_questions = {rule.name for rule in broken} <= _OPEN
    if open_questions and all(d.outcome is Outcome.INCONCLUSIVE for d in unmet):
        return "INCONCLUSIVE"
    return "FAIL"


def _counts(decisions: Sequence[Decision]) -> dict[str, int]:
    categories = Counter(decision.category for decision in decisions)
    outcomes = Counter(decision.outcome for decision in decisions)
    return {
        "models_total": len({decision.model for decision in decisions}),
        "records_total": len(decisions),
        "expectations_met": sum(decision.expectation_met for decision in decisions),
        **{f"{word}_total": categories[word] for word in ("clean", "stress", "error", "compare")},
        **({"deployable_total": n} if (n := categories[DEPLOYABLE]) else {}),
        **{
            f"outcome_{outcome.value.lower()}": outcomes[outcome]
            for outcome in Outcome
            if outcome is not Outcome.SKIPPED or outcomes[outcome]
        },
    }
