"""What a marker test holds in its hands: the measured comparison, and an edit it may try."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.certificate import make_certificate
from pytest_invarlock.decision import CheckDecision, Decision, Outcome, worst_outcome
from pytest_invarlock.items import CheckFailure

if TYPE_CHECKING:
    from pytest_invarlock.bench.resident import Bench
    from pytest_invarlock.plan import EditSpec
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.records import Record


CHECKS_OF_LOSSES = ("primary_metric", "drift", "tail")


@dataclass(frozen=True, slots=True)
class Ratio:
    """A perplexity ratio with its one-sided bounds; None where the metric has no numbers."""

    value: float | None
    upper: float | None
    lower: float | None


@dataclass(frozen=True, slots=True)
class CheckView:
    """One check's decision, as tests like to ask for it."""

    decision: CheckDecision

    @property
    def passed(self) -> bool:
        """Whether the outcome is PASS or WARN."""
        return self.decision.outcome.acceptable

    @property
    def outcome(self) -> str:
        """PASS, WARN, FAIL, INCONCLUSIVE or ERROR."""
        return self.decision.outcome.value

    @property
    def text(self) -> str:
        """The reason in a sentence."""
        return self.decision.text

    @property
    def numbers(self) -> Mapping[str, float | int | str | None]:
        """The numbers behind the outcome."""
        return self.decision.numbers

    @property
    def violations(self) -> tuple[Mapping[str, Any], ...]:
        """A guard's violations, as plain values."""
        return self.decision.violations

    @property
    def ratio(self) -> Ratio:
        """The ratio and its bounds, of the primary metric."""

        def number(key: str) -> float | None:
            value = self.decision.numbers.get(key)
            return float(value) if isinstance(value, int | float) else None

        return Ratio(number("ratio"), number("ratio_upper"), number("ratio_lower"))


@dataclass(frozen=True, repr=False)
class MeasuredComparison:
    """The records of a comparison, one for each draw of windows, and the decision on each.

    ``record``, ``decision``, ``certificate``, ``primary_metric`` and ``guards`` are of the first
    draw; ``assert_passes`` judges all of them.
    """

    records: tuple[Record, ...]
    decisions: tuple[Decision, ...]
    policy: DecisionPolicy
    run_id: str

    @property
    def record(self) -> Record:
        """The first draw's record."""
        return self.records[0]

    @property
    def decision(self) -> Decision:
        """The decision on the first draw."""
        return self.decisions[0]

    @property
    def outcome(self) -> str:
        """The worst outcome of any draw, as a word."""
        return worst_outcome(decision.outcome for decision in self.decisions).value

    @cached_property
    def certificate(self) -> dict[str, Any]:
        """The certificate of the first draw, as plain JSON values."""
        return make_certificate(self.record, self.policy, run_id=self.run_id)

    @property
    def primary_metric(self) -> CheckView:
        """The primary metric's check."""
        return CheckView(self.decision.check("primary_metric"))

    @property
    def checks(self) -> dict[str, CheckView]:
        """Every check that the policy demands, by name: the metric, drift, tail and guards."""
        return {check.check: CheckView(check) for check in self.decision.checks}

    @property
    def guards(self) -> dict[str, CheckView]:
        """Each guard's check, by name."""
        return {name: check for name, check in self.checks.items() if name not in CHECKS_OF_LOSSES}

    @property
    def draws(self) -> int:
        """How many draws of windows were measured."""
        return len(self.records)

    def assert_passes(self) -> None:
        """Fail the test unless every check came to PASS or WARN, showing each that did not.

        Each WARN is told as a pytest warning.
        """
        __tracebackhide__ = True
        for decision in self.decisions:
            for check in decision.checks:
                if check.outcome is Outcome.WARN:
                    text = f"WARN {check.check}{_of_draw(decision, self.draws)}: {check.text}"
                    warnings.warn(pytest.PytestWarning(text), stacklevel=2)
        problems = [
            f"{check.outcome.value} {check.check}{_of_draw(decision, self.draws)}: {check.text}"
            for decision in self.decisions
            for check in decision.checks
            if not check.outcome.acceptable
        ]
        if problems:
            raise CheckFailure("\n".join(problems))


def _of_draw(decision: Decision, draws: int) -> str:
    return f" (draw {decision.draw})" if draws > 1 else ""


@dataclass(frozen=True, slots=True, repr=False)
class LentEdit(AbstractContextManager[Any]):
    """An edit of the baseline: a context that applies and undoes it, or a checkpoint on disk."""

    bench: Bench
    spec: EditSpec
    _open: list[AbstractContextManager[Any]]

    def __enter__(self) -> Any:
        """Apply the edit in place; gives the edited model."""
        context = self._applied()
        model = context.__enter__()
        # Only what was entered is left again: a refused edit must not shadow the open one.
        self._open.append(context)
        return model

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Undo it bit for bit."""
        self._open.pop().__exit__(kind, error, trace)

    @contextmanager
    def _applied(self) -> Iterator[Any]:
        self.bench.lend()
        with self.bench.edited(self.spec) as subject:
            yield subject.loaded.model

    def save(self, directory: str | Path) -> Path:
        """Write the edited model and its tokenizer as a new checkpoint directory.

        A structural fault is written as it stands, also where what it leaves does not load.

        Raises:
            EditError: something of that name exists already (CHECKPOINT_EXISTS), it cannot be
                written (CHECKPOINT_NOT_WRITTEN; nothing is left then), no files make the fault
                (EDIT_NOT_SAVABLE), or the edit cannot be applied.
        """
        __tracebackhide__ = True
        from pytest_invarlock.bench.saved_checkpoint import save_checkpoint

        save_checkpoint(self.bench, self.spec, Path(directory))
        return Path(directory)
