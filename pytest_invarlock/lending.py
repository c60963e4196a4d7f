"""Lending: what the fixtures of one test take from the worker's bench, and how it comes back."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.comparison import LentEdit, MeasuredComparison
from pytest_invarlock.decide import decide
from pytest_invarlock.errors import ConfigError, EditError
from pytest_invarlock.marker import Comparison, comparison_of, is_marker_test
from pytest_invarlock.plan import EditSpec
from pytest_invarlock.policy.edit_names import kind_of
from pytest_invarlock.stash import ACTIVATION
from pytest_invarlock.workbench import workbench_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_invarlock.bench.resident import Bench
    from pytest_invarlock.data import WindowSet
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.run_directory import RunDirectory
    from pytest_invarlock.workbench import Workbench

MARKERS_RUN = "markers"


@dataclass(slots=True, repr=False)
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
        return self.bench.lend().model

    def subject(self) -> Any:
        """The subject's own model, or a copy of the baseline that carries the edit."""
        scenario = self.comparison.scenario
        if scenario.edit is not None:
            with self.bench.applied(scenario.edit) as subject:
                if subject.load_failure is not None:
                    raise EditError(
                        f"there is no subject to lend: {subject.load_failure}",
                        remedy="measure it with invarlock, which reads its structure all the same",
                        code="EDIT_STRUCTURAL",
                    )
                return copy.deepcopy(subject.loaded.model)
        plan = self.bench.plan
        return self.bench.adapter.load(
            str(scenario.subject), device=plan.device, dtype=plan.dtype
        ).model

    def windows(self) -> WindowSet:
        """The windows of draw 0."""
        return self.bench.drawn_windows(0)

    def edit(self, name: str, **parameters: Any) -> LentEdit:
        """An edit of the baseline, not yet applied."""
        self._lent = True
        return LentEdit(self.bench, EditSpec(name, parameters), [])

    def measure(self, policy: DecisionPolicy, windows: WindowSet) -> MeasuredComparison:
        """Measure every draw, the first on ``windows``; decide under ``policy``; keep the records.

        Raises ConfigError where several draws of windows given ready-made are asked for.
        """
        comparison, node = self.comparison, self.request.node
        self.bench.use_windows(0, windows)
        if comparison.draws > 1 and self.bench.draws.is_given(0):
            raise ConfigError(
                f"{comparison.draws} draws of windows that were given ready-made",
                remedy="leave out --invarlock-repeats, or the override of invarlock_windows",
                code="REPEATS_OF_GIVEN_WINDOWS",
            )
        changed = replace(comparison, policy=policy)
        self.run.write_plan(
            comparison_plan(changed, str(node.nodeid)), comparison.scenario.name, replace=True
        )
        records = tuple(
            self.workbench.measure_and_keep(
                self.run,
                comparison.pair,
                comparison.scenario,
                comparison.plan.for_draw(draw),
                node,
                lambda: self.bench,
            )
            for draw in range(comparison.draws)
        )
        measured = MeasuredComparison(
            records, tuple(decide(record.facts, policy) for record in records), policy,
            self.run.run_id,
        )  # fmt: skip
        node.user_properties.append(("invarlock.verdict", measured.outcome))
        return measured

    def prove_unchanged(self) -> None:
        """Raise EditError, and reload, where the test changed the lent baseline."""
        self.bench.use_drawn_windows(0)
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
    comparison = comparison_of(request.node, config.stash[ACTIVATION].settings)
    for note in comparison.plan.notes:
        request.node.warn(pytest.PytestWarning(note))
    run = workbench.run_directory(MARKERS_RUN)
    bench = workbench.bench(run, comparison.pair, comparison.plan)
    return Lending(request, workbench, run, comparison, bench)


def plan_markers(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Write down every comparison that the session's marker tests will make, before any is made.

    A test that then fails to measure leaves a hole in the plan, and no verdict hides it.
    """
    settings = config.stash[ACTIVATION].settings
    run = workbench_of(config).run_directory(MARKERS_RUN)
    for item in filter(is_marker_test, items):
        try:
            comparison = comparison_of(item, settings)
        except ConfigError:
            # The test will end in this error; until then it stands as planned and not run.
            run.write_plan(
                {"name": MARKERS_RUN, "node_prefix": None, "node_ids": [item.nodeid],
                 "planned": [], "policies": [], "scenarios": []},
                item.name,
            )  # fmt: skip
            continue
        run.write_plan(comparison_plan(comparison, item.nodeid), comparison.scenario.name)


def comparison_plan(comparison: Comparison, node_id: str) -> dict[str, Any]:
    """What one marker test sets out to do, as plain JSON values."""
    scenario = comparison.scenario
    return {
        "name": MARKERS_RUN,
        "node_prefix": None,
        "node_ids": [node_id],
        "planned": [
            {"model": comparison.pair.name, "scenario": scenario.name, "draws": comparison.draws}
        ],
        "policies": [comparison.policy.document()],
        "scenarios": [
            {
                "scenario": scenario.name,
                "kind": kind_of(scenario),
                "edit": scenario.edit.document() if scenario.edit is not None else None,
            }
        ],
    }
