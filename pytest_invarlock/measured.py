"""Measured: a scenario's records with the decision on each, as its items tell them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_invarlock.decision import SEVERITY, Decision, Outcome, headed

if TYPE_CHECKING:
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.records import Record
    from pytest_invarlock.run_directory import RunDirectory


@dataclass(frozen=True, slots=True)
class Measured:
    """A scenario's records over all draws, decided."""

    run: RunDirectory
    policy: DecisionPolicy
    records: tuple[Record, ...]
    decisions: tuple[Decision, ...]

    @property
    def on_inconclusive(self) -> str:
        """``fail`` or ``xfail``."""
        return self.policy.on_inconclusive

    def worst(self, item: str) -> Decision:
        """The decision of the draw that came out worst for ``item``."""
        return max(self.decisions, key=lambda decision: self._severity(decision, item))

    def _severity(self, decision: Decision, item: str) -> tuple[bool, int]:
        if item in ("detected", "signal"):
            # Of two runs that fell short, the one that measured and missed is the worse.
            rank = SEVERITY.index(decision.outcome)
            return (
                not decision.expectation_met,
                -1 if decision.outcome is Outcome.INCONCLUSIVE else rank,
            )
        return (False, SEVERITY.index(decision.check(item).outcome))

    @property
    def skipped(self) -> str | None:
        """Why the scenario was not measured; None where it was."""
        skips = (d.text for d in self.decisions if d.outcome is Outcome.SKIPPED)
        return next(skips, None)

    def problem(self, item: str) -> str | None:
        """Why ``item`` fails: outcome first, in one line; None where it passes."""
        decision = self.worst(item)
        draw = f"run {decision.draw}: " if len(self.decisions) > 1 else ""
        if item in ("detected", "signal"):
            if decision.expectation_met:
                return None
            word = decision.outcome.value
            if decision.outcome not in (Outcome.INCONCLUSIVE, Outcome.ERROR):
                word = "NOT DETECTED" if item == "detected" else "NOT MEASURED"
            return headed(word, draw + decision.text)
        check = decision.check(item)
        return None if check.outcome.acceptable else headed(check.outcome.value, draw + check.text)

    def warnings(self, item: str) -> list[str]:
        """What a check in mode ``monitor`` found."""
        if item in ("detected", "signal"):
            return []
        check = self.worst(item).check(item)
        return [f"WARN {item}: {check.text}"] if check.outcome is Outcome.WARN else []

    def explanation(self, item: str) -> list[str]:
        """Lines below the first: the guard's violations, and where the certificate will be."""
        decision = self.worst(item)
        lines = []
        for check in decision.checks:
            if item in ("detected", "signal", check.check):
                lines += check.violation_lines()
        folder = self.run.report_folder(decision.model, decision.scenario, decision.draw)
        shown = f"{self.run.run_id}/{folder.relative_to(self.run.path).as_posix()}/report.md"
        return [*lines, f"  certificate: {shown} (written when the session ends)"]

    def properties(self, item: str) -> list[tuple[str, str]]:
        """junit properties of ``item``: short strings only."""
        decision = self.worst(item)
        facts = next(r.facts for r in self.records if r.facts.draw == decision.draw)
        outcome = decision.outcome
        if item not in ("detected", "signal"):
            outcome = decision.check(item).outcome
        numbers = next((c.numbers for c in decision.checks if c.check == "primary_metric"), {})
        values: dict[str, Any] = {
            "verdict": outcome.value,
            "ratio": numbers.get("ratio"),
            "ratio_upper": numbers.get("ratio_upper"),
            "limit": numbers.get("limit"),
            "n_windows": numbers.get("n_windows"),
            "n_documents": numbers.get("n_documents"),
            "tier": self.policy.tier,
            "profile": self.policy.profile,
            "plan_digest": facts.plan_digest,
            "policy_digest": self.policy.digest,
            "subject_digest": facts.subject.get("tensors_digest"),
            "baseline_digest": facts.baseline.get("tensors_digest"),
            "certificate": self.run.report_folder(decision.model, decision.scenario, decision.draw)
            .relative_to(self.run.path)
            .as_posix()
            + "/evaluation.report.json",
        }
        if item == "signal":
            values["signal"] = ",".join(decision.fired) or "none"
        return [
            (f"invarlock.{key}", f"{value:.6g}" if isinstance(value, float) else str(value))
            for key, value in values.items()
            if value is not None
        ]


def decided(run: RunDirectory, policy: DecisionPolicy, records: tuple[Record, ...]) -> Measured:
    """Records with the decision on each."""
    from pytest_invarlock.decide import decide

    return Measured(run, policy, records, tuple(decide(record.facts, policy) for record in records))
