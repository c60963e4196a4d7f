"""The run's verdict: named requirements over the decisions of a whole planned set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_invarlock.alarms import Alarm, alarms
from pytest_invarlock.decision import Decision, Outcome
from pytest_invarlock.plan import PlannedScenario
from pytest_invarlock.policy.decision_policy import DecisionPolicy, Strictness

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
VERDICT_FORMAT = "invarlock-verdict-v1"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One rule of the verdict: whether it holds, on how many, and what broke it."""

    name: str
    passed: bool
    text: str
    failures: tuple[Mapping[str, str], ...] = ()

    def document(self) -> dict[str, Any]:
        """The requirement as plain JSON values."""
        return {
            "requirement": self.name,
            "passed": self.passed,
            "text": self.text,
            "failures": [dict(failure) for failure in self.failures],
        }


@dataclass(frozen=True, slots=True)
class RunVerdict:
    """PASS when every requirement holds; INCONCLUSIVE when nothing worse than that broke one.

    ``alarms`` are printed and decide nothing.
    """

    verdict: Verdict
    requirements: tuple[Requirement, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    alarms: tuple[Alarm, ...] = ()

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
        }


_RULES: tuple[tuple[str, Strictness, str], ...] = (
    ("clean_all_pass", Strictness.MUST_PASS, "must pass"),
    ("stress_required_fail", Strictness.MUST_FAIL, "must fail"),
    ("error_injection_detected", Strictness.MUST_DETECT, "must be detected"),
    ("informational_measured", Strictness.INFORMATIONAL, "must be measured"),
)


def decide_run(
    planned: Sequence[PlannedScenario],
    decisions: Sequence[Decision],
    policies: Mapping[tuple[str, str], DecisionPolicy],
) -> RunVerdict:
    """The verdict of a run: no records or a missing scenario is FAIL, never a pass.

    So are draws of one scenario that are of different metrics, or cut their windows by different
    conventions: their numbers are not comparable.

    Args:
        planned: what the run set out to measure.
        decisions: what `decide` said of each record, in any order.
        policies: by (model, scenario), the policy each was decided under.
    """
    found = {(d.model, d.scenario, d.draw) for d in decisions}
    wanted = {(p.model, p.scenario, draw) for p in planned for draw in p.runs}
    ordered = sorted(decisions, key=lambda d: (d.model, d.scenario, d.draw))
    requirements = [
        Requirement("evidence_present", bool(found), f"{len(found)} records"),
        _coverage(wanted, found, len(decisions) - len(found)),
    ]
    comparable = _one_convention(ordered)
    if comparable is not None:
        requirements.append(comparable)
    demanded = {policy.expectation(*key).strictness for key, policy in policies.items()}
    for name, strictness, demand in _RULES:
        relevant = [d for d in ordered if d.strictness == strictness.value]
        if strictness in demanded:
            requirements.append(_rule(name, demand, relevant))
    return RunVerdict(
        verdict=_verdict(requirements, ordered),
        requirements=tuple(requirements),
        counts=_counts(ordered),
        alarms=alarms(ordered),
    )


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
    wanted: set[tuple[str, str, int]], found: set[tuple[str, str, int]], n_twice: int
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
    return Requirement(
        "scenario_coverage",
        bool(wanted) and not failures and not n_twice,
        f"{len(wanted & found)} of {len(wanted)} planned records"
        + (f", {n_twice} decided twice" if n_twice else ""),
        tuple(failures),
    )


def _rule(name: str, demand: str, relevant: Sequence[Decision]) -> Requirement:
    unmet = [decision for decision in relevant if not decision.expectation_met]
    return Requirement(
        name,
        not unmet,
        f"{len(relevant) - len(unmet)} of {len(relevant)} that {demand} do",
        tuple(
            {"model": d.model, "scenario": d.scenario, "reason": f"run {d.draw}: {d.text}"}
            for d in unmet
        ),
    )


def _verdict(requirements: Iterable[Requirement], decisions: Sequence[Decision]) -> Verdict:
    broken = [rule for rule in requirements if not rule.passed]
    if not broken:
        return "PASS"
    unmet = [d for d in decisions if not d.expectation_met]
    only_clean = [rule.name for rule in broken] == ["clean_all_pass"]
    if only_clean and all(d.outcome is Outcome.INCONCLUSIVE for d in unmet):
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
        **{f"outcome_{outcome.value.lower()}": outcomes[outcome] for outcome in Outcome},
    }
