"""From suites to items: Suite → Model → Scenario → Check, ids the same on every worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_invarlock.activation import Activation, VirtualSuite
from pytest_invarlock.errors import ConfigError
from pytest_invarlock.items import CheckItem
from pytest_invarlock.policy.suite_file_names import SUITE_FILE_SUFFIXES
from pytest_invarlock.stash import ACTIVATION

if TYPE_CHECKING:
    from pytest_invarlock.plan import Pair, Scenario
    from pytest_invarlock.policy.suite import Suite


class SuiteCollector(pytest.Collector):
    """The root of a suite's items."""

    virtual: VirtualSuite

    def collect(self) -> Iterator[ModelCollector]:
        """One collector a pair."""
        for pair in self.virtual.suite.pairs:
            model = ModelCollector.from_parent(self, name=pair.name)
            model.pair = pair
            model.virtual = self.virtual
            yield model


class SuiteFileCollector(SuiteCollector):
    """A suite file, loaded when collected; a broken one is noted, and ends the session."""

    def collect(self) -> Iterator[ModelCollector]:
        """Load the file, then as any suite."""
        from pytest_invarlock.policy.suite import load_suite_file

        settings = self.config.stash[ACTIVATION].settings
        try:
            suite = load_suite_file(self.path, settings, self.config.rootpath)
        except ConfigError as error:
            # pytest would make a collection error of it; a broken suite file is a usage error.
            text = f"{error} [{error.code}]"
            if hasattr(self.config, "workerinput"):
                raise self.CollectError(text) from error
            self.config.stash[ACTIVATION].broken_files.append(text)
            return
        for note in suite.notes:
            self.warn(pytest.PytestWarning(note))
        self.virtual = VirtualSuite(suite)
        yield from super().collect()


class ModelCollector(pytest.Collector):
    """The scenarios of one pair."""

    pair: Pair
    virtual: VirtualSuite

    def collect(self) -> Iterator[pytest.Collector]:
        """The calibration, then one collector a scenario; where tuned, the clean edits' alone."""
        if self.virtual.suite.tunes:
            from pytest_invarlock.policy.suite import TUNING
            from pytest_invarlock.tuning_item import TuningCollector

            tuning = TuningCollector.from_parent(self, name=TUNING)
            tuning.pair, tuning.virtual = self.pair, self.virtual
            yield tuning
            return
        if self.virtual.suite.calibrates:
            from pytest_invarlock.calibration_item import CalibrationCollector
            from pytest_invarlock.policy.calibration import KEY

            calibration = CalibrationCollector.from_parent(self, name=KEY)
            calibration.pair, calibration.virtual = self.pair, self.virtual
            yield calibration
        for scenario in self.virtual.suite.scenarios_of(self.pair):
            node = ScenarioCollector.from_parent(self, name=scenario.name)
            node.pair = self.pair
            node.scenario = scenario
            node.virtual = self.virtual
            yield node


class ScenarioCollector(pytest.Collector):
    """The checks of one scenario."""

    pair: Pair
    scenario: Scenario
    virtual: VirtualSuite

    def collect(self) -> Iterator[CheckItem]:
        """One item a check, or the scenario's single item."""
        suite = self.virtual.suite
        for check in suite.checks(self.pair, self.scenario):
            if self.virtual.selects(f"{self.nodeid}::{check}"):
                yield CheckItem.of(self, suite, self.pair, self.scenario, check)


def suite_nodes(session: pytest.Session) -> list[pytest.Collector]:
    """The collectors of the named suites, children of ``session``."""
    nodes: list[pytest.Collector] = []
    for virtual in session.config.stash[ACTIVATION].virtual:
        suite: Suite = virtual.suite
        node = SuiteCollector.from_parent(
            session, name=suite.node_prefix, nodeid=suite.node_prefix, path=suite.path
        )
        node.virtual = virtual
        nodes.append(node)
    return nodes


def suite_file_node(file_path: Path, parent: pytest.Collector) -> SuiteFileCollector | None:
    """The collector of a suite file, or None for any other file."""
    activation: Activation = parent.config.stash[ACTIVATION]
    named = bool(activation.files) and file_path.resolve() in activation.files
    if not named and not file_path.name.endswith(SUITE_FILE_SUFFIXES):
        return None
    root = parent.config.rootpath.resolve()
    resolved = file_path.resolve()
    name = (
        resolved.relative_to(root).as_posix() if resolved.is_relative_to(root) else file_path.name
    )
    return SuiteFileCollector.from_parent(parent, path=file_path, name=name, nodeid=name)


def regrouped(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """``items`` with each scenario's checks together and in order, pairs together, others in place.

    Pairs and scenarios keep the order of their first appearance, whatever plugins shuffled; a
    pair's calibration goes first.
    """
    ours = [item for item in items if isinstance(item, CheckItem)]
    rank: dict[object, int] = {}
    for item in ours:
        for key in (item.suite_id, item.pair_id, item.scenario_id):
            rank.setdefault(key, len(rank))
    ordered = iter(
        sorted(
            ours,
            key=lambda item: (
                rank[item.suite_id],
                rank[item.pair_id],
                not item.leads,
                rank[item.scenario_id],
                item.position,
            ),
        )
    )
    return [next(ordered) if isinstance(item, CheckItem) else item for item in items]
