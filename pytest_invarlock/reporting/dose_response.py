"""Dose-response: what each dose of a sweep came to, from the plan and the decided records of a run.

A reader of records: it compares nothing with a limit. Doses that were never measured are named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_invarlock.decision import CheckDecision, Decision, Outcome
from pytest_invarlock.plan import PlannedScenario

if TYPE_CHECKING:
    from pytest_invarlock.run_summary import RunSummary

FORMAT = "invarlock-sweep-v1"
PRIMARY = "primary_metric"
Scalar = str | int | float | bool
Number = float | int | str | None
# Point, lower bound, upper bound, limit: of a perplexity ratio, or of a drop in accuracy.
RATIO = ("ratio", "ratio_lower", "ratio_upper", "limit")
DROP = ("drop_pp", "drop_lower_pp", "drop_upper_pp", "limit_pp")
_BESIDE = ("n_documents", "kl_mean_nats", "flips")
# Numbers that say most of a check; of any other check it is the first that differs between doses.
_LEADING = {"tail": "window_p95_nats", "drift": "ratio_of_ratios"}


@dataclass(frozen=True, slots=True)
class DoseRun:
    """One draw of one dose, decided; ``error`` is the code of what ended its measurement."""

    draw: int
    decision: Decision
    error: str | None

    @property
    def numbers(self) -> Mapping[str, Number]:
        """The numbers of the primary metric; none where it was not evaluated."""
        return self.numbers_of(PRIMARY)

    def numbers_of(self, check: str) -> Mapping[str, Number]:
        """The numbers of ``check``; none where the policy does not demand it."""
        return next((c.numbers for c in self.decision.checks if c.check == check), {})

    def amount(self, key: str, check: str = PRIMARY) -> float | None:
        """A number of ``check``, or None where it has none of that name."""
        return _number(self.numbers_of(check).get(key))

    @property
    def word(self) -> str:
        """The outcome, an ERROR with its code."""
        if self.decision.outcome is not Outcome.ERROR:
            return self.decision.outcome.value
        return f"{Outcome.ERROR.value} {self.code}"

    @property
    def code(self) -> str | None:
        """What an ERROR is of: the measurement's error, else the first check's reason."""
        errors = (c.reason.upper() for c in self.decision.checks if c.outcome is Outcome.ERROR)
        return self.error or next(errors, None)

    def document(self, quantity: tuple[str, ...]) -> dict[str, Any]:
        """The run as plain JSON values."""
        return {
            "draw": self.draw,
            "outcome": self.decision.outcome.value,
            "error": self.code,
            "fired": list(self.decision.fired),
            **{key: self.numbers.get(key) for key in (*quantity, *_BESIDE)},
            "checks": {
                check.check: {
                    "outcome": check.outcome.value,
                    "reason": check.reason,
                    "numbers": dict(check.numbers),
                }
                for check in self.decision.checks
            },
        }


@dataclass(frozen=True, slots=True)
class Dose:
    """A dose of one model: its value, its scenario's name and edit, and the runs it has.

    ``missing`` are the draws that were planned and have no record.
    """

    value: Scalar
    scenario: str
    edit: Mapping[str, Any]
    runs: tuple[DoseRun, ...]
    missing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """The doses of one model, in the order they were given."""

    model: str
    doses: tuple[Dose, ...]


@dataclass(frozen=True, slots=True)
class DoseResponse:
    """One sweep: a curve a model."""

    run_id: str
    scenario: str
    parameter: str
    stem: str
    curves: tuple[Curve, ...]

    @property
    def values(self) -> tuple[Scalar, ...]:
        """The doses, in the order they were given."""
        return tuple(dose.value for dose in self.curves[0].doses) if self.curves else ()

    @property
    def numeric(self) -> bool:
        """Whether doses are amounts; else they are words without distance."""
        return all(_number(value) is not None for value in self.values)

    @property
    def runs(self) -> list[DoseRun]:
        """Every run of every dose and model."""
        return [run for curve in self.curves for dose in curve.doses for run in dose.runs]

    @property
    def quantity(self) -> tuple[str, ...]:
        """The keys of point, lower bound, upper bound and limit."""
        drop = any(DROP[0] in run.numbers for run in self.runs)
        return DROP if drop else RATIO

    def leading(self) -> list[tuple[str, str]]:
        """A (check, key of its numbers) for every check beside the primary metric that has one.

        A check none of whose numbers differs between the doses has none.
        """
        names = dict.fromkeys(c.check for run in self.runs for c in run.decision.checks)
        found = ((name, self._leading_key(name)) for name in names if name != PRIMARY)
        return [(name, key) for name, key in found if key is not None]

    def _leading_key(self, check: str) -> str | None:
        keys = dict.fromkeys(key for run in self.runs for key in run.numbers_of(check))
        if _LEADING.get(check) in keys:
            return _LEADING[check]
        varying = [key for key in keys if self._differs(check, key)]
        # A count tells less than a statistic.
        return next((key for key in varying if not key.startswith("n_")), next(iter(varying), None))

    def _differs(self, check: str, key: str) -> bool:
        """Whether a number is not the same at all doses of one model: models always differ."""
        return any(
            len({run.amount(key, check) for dose in curve.doses for run in dose.runs} - {None}) > 1
            for curve in self.curves
        )

    def missing(self) -> list[tuple[str, str, int]]:
        """(model, scenario, draw) of everything planned that has no record."""
        return [
            (curve.model, dose.scenario, draw)
            for curve in self.curves
            for dose in curve.doses
            for draw in dose.missing
        ]

    def document(self) -> dict[str, Any]:
        """The sweep as plain JSON values (``policies/schemas/sweep.schema.json``)."""
        return {
            "format": FORMAT,
            "run_id": self.run_id,
            "scenario": self.scenario,
            "parameter": self.parameter,
            "axis": "numeric" if self.numeric else "categorical",
            "quantity": self.quantity[0],
            "leading": [{"check": check, "number": key} for check, key in self.leading()],
            "curves": [
                {
                    "model": curve.model,
                    "doses": [
                        {
                            "value": dose.value,
                            "scenario": dose.scenario,
                            "edit": dict(dose.edit),
                            "runs": [run.document(self.quantity) for run in dose.runs],
                            "missing_draws": list(dose.missing),
                        }
                        for dose in curve.doses
                    ],
                }
                for curve in self.curves
            ],
            "missing": [
                {"model": model, "scenario": scenario, "draw": draw}
                for model, scenario, draw in self.missing()
            ],
        }


def dose_responses(summary: RunSummary) -> tuple[DoseResponse, ...]:
    """The sweeps of a run, in the order they were given; none where nothing is swept."""
    runs: dict[tuple[str, str], list[DoseRun]] = {}
    for record, decision in zip(summary.records, summary.decisions, strict=True):
        run = DoseRun(decision.draw, decision, record.facts.error)
        runs.setdefault((decision.model, decision.scenario), []).append(run)
    return tuple(
        DoseResponse(
            run_id=summary.run.run_id,
            scenario=sweep["scenario"],
            parameter=sweep["parameter"],
            stem=sweep["stem"],
            curves=tuple(
                Curve(model, tuple(_dose(plan, dose, model, runs) for dose in sweep["doses"]))
                for model in dict.fromkeys(entry["model"] for entry in plan["planned"])
            ),
        )
        for plan in summary.plans
        for sweep in plan.get("sweeps", ())
    )


def _dose(
    plan: Mapping[str, Any],
    dose: Mapping[str, Any],
    model: str,
    runs: Mapping[tuple[str, str], list[DoseRun]],
) -> Dose:
    name = dose["scenario"]
    there = tuple(sorted(runs.get((model, name), ()), key=lambda run: run.draw))
    (planned,) = (
        PlannedScenario.read(entry).runs
        for entry in plan["planned"]
        if (entry["model"], entry["scenario"]) == (model, name)
    )
    (edit,) = (
        entry["edit"]
        for entry in plan["scenarios"]
        if entry["scenario"] == name and entry.get("model", model) == model
    )
    measured = {run.draw for run in there}
    return Dose(dose["value"], name, edit, there, tuple(k for k in planned if k not in measured))


def check_of(run: DoseRun, name: str) -> CheckDecision | None:
    """The decision on a check of a run, where there is one."""
    return next((check for check in run.decision.checks if check.check == name), None)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
