"""Tuning: the strongest parameters of a clean edit at which every check passes on the tuning arm.

Nothing here measures or judges by itself: each step of a ladder is one `measure` and one `decide`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_invarlock.bench.draws import metric_of
from pytest_invarlock.core.engine import measure
from pytest_invarlock.data.sampling import ARM_SHARES, TUNING_PREVIEW_SHARE
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import SEVERITY, CheckDecision, Outcome
from pytest_invarlock.errors import DataError, EditError
from pytest_invarlock.policy.tuning_ladder import stated_scope, steps_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_invarlock.bench.resident import Bench
    from pytest_invarlock.plan import EditSpec, MeasurementPlan, Scenario
    from pytest_invarlock.policy.decision_policy import DecisionPolicy

METRIC = "primary_metric"
_NUMBERS = ("ratio", "ratio_upper", "limit", "drop_pp", "drop_upper_pp", "limit_pp")


@dataclass(frozen=True, slots=True)
class TriedStep:
    """What one step came to: its worst check with its sentence, and the primary metric's numbers.

    ``check`` is "edit" where the edit itself could not be applied; ``text`` is then the error's
    code.
    """

    parameters: Mapping[str, Any]
    outcome: Outcome
    check: str
    text: str
    numbers: Mapping[str, float]

    @property
    def passes(self) -> bool:
        """Whether every check came to PASS; a warning leaves doubt, and other data may fail it."""
        return self.outcome is Outcome.PASS

    def document(self) -> dict[str, Any]:
        """The step as plain JSON values."""
        return {
            "parameters": dict(self.parameters),
            "outcome": self.outcome.value,
            "check": self.check,
            "text": self.text,
            **self.numbers,
        }


@dataclass(frozen=True, slots=True)
class Tuning:
    """The steps that were tried for one edit, and what they were measured on."""

    scenario: str
    edit: EditSpec
    tried: tuple[TriedStep, ...]
    data: Mapping[str, Any]

    @property
    def selected(self) -> TriedStep | None:
        """The first step at which every check passed."""
        return next((step for step in self.tried if step.passes), None)

    def entry(self) -> dict[str, Any]:
        """The entry of a file of tuned parameters."""
        found = self.selected
        shared = {"edit_dir_name": self.scenario, **stated_scope(self.edit)}
        if found is not None:
            return {"status": "selected", **found.parameters, **shared}
        last = self.tried[-1]
        text = last.text if last.text.startswith(last.outcome) else f"{last.outcome}: {last.text}"
        reason = (
            f"none of {len(self.tried)} steps passed every check; at the weakest, {last.check}: "
            f"{text}"
        )
        return {"status": "skipped", "reason": reason, **shared}

    def evidence(self) -> dict[str, Any]:
        """What the entry rests on, as plain JSON values."""
        return {
            "scenario": self.scenario,
            "edit": self.edit.document(),
            "data": dict(self.data),
            "steps": [step.document() for step in self.tried],
        }


def tuning_plan(plan: MeasurementPlan) -> MeasurementPlan:
    """``plan`` on the documents of the tuning arm, measured whole.

    The arms differ in size there, which sequential mode does not know.
    """
    return replace(plan.for_draw(0), windows=replace(plan.windows, pool="tuning"), sequential=None)


def tune(
    bench: Bench,
    scenario: Scenario,
    policy: DecisionPolicy,
    *,
    progress: Callable[[str], None],
) -> Tuning:
    """Walk the ladder of the scenario's clean edit, strongest step first, until one passes.

    Args:
        bench: the model's resident bench, of a `tuning_plan`.
        scenario: with the clean edit; its kind, scope and layers hold at every step.
        policy: what must pass; it knows the scenario.
        progress: is told of each step before it is measured.

    Raises:
        DataError: ``TUNING_DATA`` where the tuning arm cannot meet the floor of documents.
        InvarlockError: any error of loading or measuring; one of an edit only ends its step.
    """
    edit = scenario.edit
    if edit is None:
        raise ValueError(f"scenario {scenario.name!r} has no edit to tune")
    data = _data(bench)
    _check_documents(data, policy)
    steps = steps_of(edit)
    tried: list[TriedStep] = []
    for number, step in enumerate(steps, start=1):
        progress(f"step {number}/{len(steps)}")
        there = replace(scenario, edit=step.edit)
        tried.append(_tried(bench, there, policy, step.parameters))
        if tried[-1].passes:
            break
    return Tuning(scenario.name, edit, tuple(tried), data)


def _tried(
    bench: Bench, scenario: Scenario, policy: DecisionPolicy, parameters: Mapping[str, Any]
) -> TriedStep:
    try:
        record = measure(bench.pair, scenario, bench.plan, bench=bench)
    except EditError as error:
        return TriedStep(parameters, Outcome.ERROR, "edit", error.code, {})
    decision = decide(record.facts, policy, pool="tuning")
    metric = decision.check(METRIC)
    # The first of the worst; the metric where all are alike.
    worst = max((metric, *decision.checks), key=lambda check: SEVERITY.index(check.outcome))
    return TriedStep(parameters, worst.outcome, worst.check, worst.text, _numbers(metric))


def _numbers(metric: CheckDecision) -> dict[str, float]:
    """The ratio (or the drop) with its bound, and the limit; what has no number is left out."""
    found = ((key, metric.numbers.get(key)) for key in _NUMBERS)
    return {key: float(value) for key, value in found if isinstance(value, int | float)}


def _data(bench: Bench) -> dict[str, Any]:
    """What the windows are and where they come from, as far as that may leave the machine."""
    windows = bench.windows(0)
    selection = bench.plan.windows
    return {
        "provider": bench.plan.source.provider,
        "source": bench.draws.source_identity(0),
        "digest": bench.draws.data_digest(0, bench.baseline),
        "arms": "provider" if _has_fixed_arms(bench) else "seeded",
        "pool": selection.pool,
        "convention": selection.convention,
        "seq_len": selection.seq_len,
        "seq_len_measured": windows.seq_len,
        "stride": selection.stride,
        "seed": selection.seed,
        "windows": {arm: windows.n_drawn(arm) for arm in windows.arms},
        "windows_asked": {
            "preview": bench.plan.windows.preview_windows,
            "final": bench.plan.windows.final_windows,
        },
        "documents": dict(windows.n_documents),
    }


def _has_fixed_arms(bench: Bench) -> bool:
    """Whether the provider says which arm a document is of, so that no seed changes the split."""
    provider = bench.draws.provider
    content = provider.content_for(metric_of(bench.plan, bench.baseline.reading))
    return all(document.arm is not None for document in provider.documents(content))


def _check_documents(data: Mapping[str, Any], policy: DecisionPolicy) -> None:
    """Before anything is measured: below the floor of documents every step is inconclusive."""
    found, needed = data["documents"]["final"], policy.floors.documents
    if found >= needed:
        return
    whole = math.ceil(math.ceil(needed / (1 - TUNING_PREVIEW_SHARE)) / ARM_SHARES["tuning"])
    raise DataError(
        f"the tuning arm of {data['provider']} gives {found} documents to judge by, "
        f"floors.documents is {needed}",
        remedy=f"name data of {whole} documents or more with --invarlock-dataset, ask for at least "
        f"{needed} final windows, or lower the floor in the suite file",
        code="TUNING_DATA",
    )
