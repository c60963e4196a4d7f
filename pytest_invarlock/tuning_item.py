"""Tuning items, instead of the suite's own: one clean edit of one model, whose ladder is walked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_invarlock.items import CheckFailure, CheckItem
from pytest_invarlock.policy.suite import TUNING
from pytest_invarlock.policy.tuned import model_key
from pytest_invarlock.policy.tuning_ladder import tuned_scenarios
from pytest_invarlock.reporting.tuning import step_text
from pytest_invarlock.stash import ACTIVATION
from pytest_invarlock.tuned_file import session_document, write_part
from pytest_invarlock.workbench import workbench_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_invarlock.activation import VirtualSuite
    from pytest_invarlock.core.tuning import Tuning
    from pytest_invarlock.plan import Pair


class TuningCollector(pytest.Collector):
    """The clean edits of one pair; its id makes them one unit, so that one worker tunes them."""

    pair: Pair
    virtual: VirtualSuite

    def collect(self) -> Iterator[TuningItem]:
        """One item an edit."""
        suite = self.virtual.suite
        for position, scenario in enumerate(tuned_scenarios(suite.clean)):
            if scenario.edit is None:
                raise ValueError(f"scenario {scenario.name!r} has no edit to tune")
            if not self.virtual.selects(f"{self.nodeid}::{scenario.edit.name}"):
                continue
            item = TuningItem.from_parent(self, name=scenario.edit.name)
            item.suite, item.pair, item.scenario = suite, self.pair, scenario
            item.position = position
            item.add_marker("invarlock")
            yield item


class TuningItem(CheckItem):
    """The search for one edit's parameters; passes where a step of its ladder does."""

    @property
    def scenario_id(self) -> tuple[str, str, str]:
        """All edits of a model stay together."""
        return (self.suite.node_prefix, self.pair.name, TUNING)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """The suite as location, and a title with spaces."""
        location, line, _ = super().reportinfo()
        return location, line, " ".join((self.pair.name, TUNING, self.name))

    def runtest(self) -> None:
        """Walk the ladder, write down what was found, and fail where nothing was."""
        from pytest_invarlock.core.tuning import tune, tuning_plan

        workbench = workbench_of(self.config)
        suite = self.suite
        run = workbench.run_directory(
            f"{TUNING}-{suite.name}", f"{suite.node_prefix}|{suite.path.resolve()}"
        )
        bench = workbench.bench(run, self.pair, tuning_plan(suite.plan))
        label = f"{self.pair.name} {TUNING} {self.name}"
        stage = ""

        def step(text: str) -> None:
            nonlocal stage
            stage = text
            run.log(workbench.worker, "tuning_step", model=self.pair.name, edit=self.name)

        bench.progress = lambda what, done, total: workbench.report_progress(
            self, f"{label} {stage} {what} {done}/{total} windows"
        )
        tuning = tune(bench, self.scenario, suite.policy, progress=step)
        write_part(
            run,
            session_document(suite, self.config.stash[ACTIVATION].settings),
            model_key(self.pair.baseline),
            self.name,
            tuning.entry(),
            tuning.evidence(),
        )
        self._tell(tuning)

    def _tell(self, tuning: Tuning) -> None:
        lines = [f"  {step_text(step.document())}" for step in tuning.tried]
        found = tuning.selected
        values = {
            "verdict": "selected" if found else "skipped",
            "tier": self.suite.policy.tier,
            "profile": self.suite.policy.profile,
            "steps": str(len(tuning.tried)),
            **{key: f"{value:.6g}" for key, value in (found.numbers if found else {}).items()},
        }
        self.user_properties.extend((f"invarlock.{key}", value) for key, value in values.items())
        if found is None:
            head = f"no parameters of {self.name} pass tier {self.suite.policy.tier}"
            raise CheckFailure("\n".join([f"{head}: {tuning.entry()['reason']}", *lines]))
        self.add_report_section("call", TUNING, "\n".join(lines))
