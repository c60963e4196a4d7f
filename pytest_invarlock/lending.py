"""Lending: what the fixtures of one test take from the worker's bench, and how it comes back."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_invarlock.comparison import LentEdit, MeasuredComparison
from pytest_invarlock.decide import decide
from pytest_invarlock.errors import EditError
from pytest_invarlock.marker import Comparison, comparison_of
from pytest_invarlock.plan import EditSpec
from pytest_invarlock.stash import ACTIVATION
from pytest_invarlock.workbench import workbench_of

if TYPE_CHECKING:
    import pytest

    from pytest_invarlock.bench.resident import Bench
    from pytest_invarlock.data import WindowSet
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.run_directory import RunDirectory
    from pytest_invarlock.workbench import Workbench

MARKERS_RUN = "markers"


@dataclass(slots=True)
class Lending:
    """One test's comparison and the bench it is measured on."""

    request: pytest.FixtureRequest
    workbench: Workbench
    run: RunDirectory
    comparison: Comparison
    bench: Bench
    _lent: bool = field(default=False)

    def baseline(self) -> Any:
        """The baseline model itself."""
        self._lent = True
        return self.bench.baseline.model

    def subject(self) -> Any:
        """The subject's own model, or a copy of the baseline that carries the edit."""
        scenario = self.comparison.scenario
        if scenario.edit is not None:
            with self.bench.edited(scenario.edit) as subject:
                return copy.deepcopy(subject.loaded.model)
        plan = self.bench.plan
        return self.bench.adapter.load(
            str(scenario.subject), device=plan.device, dtype=plan.dtype
        ).model

    def windows(self) -> WindowSet:
        """The windows of draw 0."""
        return self.bench.windows(0)

    def edit(self, name: str, **parameters: Any) -> LentEdit:
        """An edit of the baseline, not yet applied."""
        return LentEdit(self.bench, EditSpec(name, parameters), [])

    def measure(self, policy: DecisionPolicy, windows: WindowSet) -> MeasuredComparison:
        """Measure on ``windows``, decide under ``policy``, and keep the record."""
        from pytest_invarlock.core.engine import error_code, error_record, measure

        comparison, node = self.comparison, self.request.node
        self.bench.use_windows(0, windows)
        self.bench.progress = lambda stage, done, total: self.workbench.report_progress(
            node, f"{comparison.pair.name} {stage} {done}/{total} windows"
        )
        self.run.write_plan(_plan(replace(comparison, policy=policy)), comparison.scenario.name)
        try:
            record = measure(
                comparison.pair,
                comparison.scenario,
                comparison.plan,
                bench=self.bench,
                salt=self.run.salt(),
                worker=self.workbench.worker,
            )
        except Exception as error:
            # Whatever ended the measurement is evidence too: recorded by code, then raised.
            self.run.write_record(
                error_record(
                    comparison.pair, comparison.scenario, comparison.plan, error_code(error)
                )
            )
            raise
        self.run.write_record(record)
        decision = decide(record.facts, policy)
        node.user_properties.append(("invarlock.verdict", decision.outcome.value))
        return MeasuredComparison(record, decision, policy, self.run.run_id)

    def prove_unchanged(self) -> None:
        """Raise EditError, and reload, where the test changed the lent baseline."""
        if self._lent and not self.bench.unchanged():
            self.bench.drop()
            raise EditError(
                f"{self.request.node.nodeid}: the test changed the lent baseline model",
                remedy="change a copy (copy.deepcopy), or use the invarlock_edit fixture",
                code="LENT_MODEL_CHANGED",
            )


def lending_for(request: pytest.FixtureRequest) -> Lending:
    """The lending of a test, from its marker and the session's settings."""
    config = request.config
    workbench = workbench_of(config)
    comparison = comparison_of(request, config.stash[ACTIVATION].settings)
    run = workbench.run_directory(MARKERS_RUN)
    bench = workbench.bench(run, comparison.pair, comparison.plan)
    return Lending(request, workbench, run, comparison, bench)


def _plan(comparison: Comparison) -> dict[str, Any]:
    scenario = comparison.scenario
    return {
        "name": MARKERS_RUN,
        "node_prefix": None,
        "node_ids": [],
        "planned": [{"model": comparison.pair.name, "scenario": scenario.name, "draws": 1}],
        "policies": [comparison.policy.document()],
        "scenarios": [
            {
                "scenario": scenario.name,
                "kind": scenario.kind,
                "edit": scenario.edit.document() if scenario.edit is not None else None,
            }
        ],
    }
