"""The words of a verdict and the objects that carry them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

SAYS_NOTHING = ("not_applicable", "monitored", "not_prepared")
"""Reasons of checks that passed or warned without having judged anything."""


class Outcome(StrEnum):
    """What a check came to; only PASS and WARN let an item pass.

    SKIPPED is for what a deployable scenario's missing backend leaves unmeasured, and never passes.
    """

    PASS = "PASS"
    WARN = "WARN"
    FAIL = "FAIL"
    SKIPPED = "SKIPPED"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"

    @property
    def acceptable(self) -> bool:
        """Whether a check that must pass may come to this."""
        return self in (Outcome.PASS, Outcome.WARN)


def headed(word: str, text: str) -> str:
    """``text`` behind the word of its outcome, which it may begin with already."""
    return text if text.startswith(word) else f"{word}: {text}"


@dataclass(frozen=True, slots=True)
class CheckDecision:
    """One check's outcome, a stable reason code, one sentence and the numbers behind it.

    ``violations`` are the guard's, as plain values; ``numbers`` are finite, units in the keys.
    """

    check: str
    outcome: Outcome
    reason: str
    text: str
    numbers: Mapping[str, float | int | str | None] = field(default_factory=dict)
    violations: tuple[Mapping[str, Any], ...] = ()

    @property
    def headline(self) -> str:
        """Outcome first, then why, in one line."""
        return headed(self.outcome.value, self.text)

    def violation_lines(self, most: int = 10) -> list[str]:
        """A line for each of the first ``most`` violations."""
        return [
            f"  {v['kind']}: {v['module']}: found {v['value']}, allowed {v['threshold']}"
            for v in self.violations[:most]
        ]

    def document(self) -> dict[str, Any]:
        """The check as plain JSON values."""
        return {
            "check": self.check,
            "outcome": self.outcome.value,
            "reason": self.reason,
            "text": self.text,
            "numbers": dict(self.numbers),
            "violations": [dict(violation) for violation in self.violations],
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """What `decide` says of one record: every check, and whether the expectation was met.

    ``metric`` and ``convention`` say what was measured and how windows were cut: decisions that
    differ in them are of different quantities and never stand for one another.
    """

    model: str
    scenario: str
    draw: int
    category: str
    strictness: str
    checks: tuple[CheckDecision, ...]
    fired: tuple[str, ...]
    outcome: Outcome
    expectation_met: bool
    text: str
    metric: str | None = None
    convention: str | None = None

    def check(self, name: str) -> CheckDecision:
        """The decision on check ``name``; KeyError for one the policy does not demand."""
        for decision in self.checks:
            if decision.check == name:
                return decision
        raise KeyError(name)

    def without_violations(self) -> Decision:
        """The same decision without what single modules did: all that a run's verdict asks for."""
        return replace(self, checks=tuple(replace(one, violations=()) for one in self.checks))

    def document(self) -> dict[str, Any]:
        """The decision as plain JSON values, the form certificates hold and verify re-derives."""
        return {
            "model": self.model,
            "scenario": self.scenario,
            "draw": self.draw,
            "category": self.category,
            "strictness": self.strictness,
            "checks": [check.document() for check in self.checks],
            "fired": list(self.fired),
            "outcome": self.outcome.value,
            "expectation_met": self.expectation_met,
            "text": self.text,
            "metric": self.metric,
            "convention": self.convention,
        }


SEVERITY = (
    Outcome.PASS, Outcome.WARN, Outcome.SKIPPED, Outcome.INCONCLUSIVE, Outcome.FAIL, Outcome.ERROR,
)  # fmt: skip
"""Outcomes from the best to the worst."""


def worst_outcome(outcomes: Iterable[Outcome]) -> Outcome:
    """The worst of at least one outcome."""
    return max(outcomes, key=SEVERITY.index)
