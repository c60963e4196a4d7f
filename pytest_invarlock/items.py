"""Items: one check of one scenario; what running it means and how its failure reads."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from pytest_invarlock.errors import InvarlockError
from pytest_invarlock.path_names import without_absolute_paths

if TYPE_CHECKING:
    from pytest_invarlock.measured import Measured
    from pytest_invarlock.plan import Pair, Scenario
    from pytest_invarlock.policy.suite import Suite
    from pytest_invarlock.workbench import Workbench

SINGLE_ITEMS = ("detected", "signal")


class CheckFailure(Exception):  # noqa: N818  a verdict, not a defect
    """A check that did not come out as demanded; its text is what the user reads."""


class CheckItem(pytest.Item):
    """One check of a scenario, or the single item of one that must fail or be detected."""

    suite: Suite
    pair: Pair
    scenario: Scenario
    position: int
    leads = False
    """Whether it goes before its pair's scenarios."""

    @classmethod
    def of(
        cls, parent: pytest.Collector, suite: Suite, pair: Pair, scenario: Scenario, check: str
    ) -> Self:
        """The item of ``check``, marked ``invarlock``."""
        item: Self = cls.from_parent(parent, name=check)
        item.suite, item.pair, item.scenario = suite, pair, scenario
        item.position = suite.checks(pair, scenario).index(check)
        item.add_marker("invarlock")
        return item

    @property
    def suite_id(self) -> str:
        """Names the suite among all."""
        return self.suite.node_prefix

    @property
    def pair_id(self) -> tuple[str, str]:
        """Names the pair among all."""
        return (self.suite.node_prefix, self.pair.name)

    @property
    def scenario_id(self) -> tuple[str, str, str]:
        """Names the scenario among all."""
        return (self.suite.node_prefix, self.pair.name, self.scenario.name)

    def runtest(self) -> None:
        """Measure the scenario, unless a sibling has, and demand this check's outcome."""
        from pytest_invarlock.workbench import workbench_of

        self._fail_fast(workbench_of(self.config))
        measured = workbench_of(self.config).measured(
            self.suite, self.pair, self.scenario, item=self
        )
        # A rerun of the item replaces what an earlier try left.
        self.user_properties[:] = [
            entry for entry in self.user_properties if not entry[0].startswith("invarlock.")
        ]
        self.user_properties.extend(measured.properties(self.name))
        if measured.skipped is not None:
            pytest.skip(measured.skipped)
        problem = measured.problem(self.name)
        if problem is None:
            for warning in measured.warnings(self.name):
                # Not self.warn, which wants a line number: ours stand in no Python file.
                warnings.warn(pytest.PytestWarning(warning), stacklevel=1)
            return
        if problem.startswith("INCONCLUSIVE") and measured.on_inconclusive == "xfail":
            pytest.xfail(problem)
        raise CheckFailure(self._failure_text(measured, problem))

    def _fail_fast(self, workbench: Workbench) -> None:
        """Fail by the checkpoints' files, loading nothing, where one failure ends the session."""
        most = self.config.getoption("maxfail")
        if not most or self.session.testsfailed + 1 < most or self.name in SINGLE_ITEMS:
            return
        failed = workbench.first_failure(self.suite, self.pair, self.scenario, item=self)
        if failed is None:
            return
        if failed.check == self.name:
            why = "  by the checkpoints' files: nothing was loaded"
            raise CheckFailure("\n".join([failed.headline, *failed.violation_lines(), why]))
        nodes = {item.nodeid for item in self.session.items}
        if f"{self.nodeid.removesuffix(self.name)}{failed.check}" in nodes:
            pytest.skip(f"{failed.check} fails by the checkpoints' files: nothing was loaded")

    def _failure_text(self, measured: Measured, problem: str) -> str:
        lines = [problem, *measured.explanation(self.name)]
        return "\n".join(lines)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Our own failures as text; anything else with its traceback."""
        if isinstance(excinfo.value, CheckFailure):
            return str(excinfo.value)
        if isinstance(excinfo.value, InvarlockError):
            return without_absolute_paths(f"ERROR: {excinfo.value} [{excinfo.value.code}]")
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """The suite as location, and a title with spaces, which pytest leaves as it is."""
        location = self.config.rootpath / self.suite.node_prefix
        return location, None, " ".join((self.pair.name, self.scenario.name, self.name))
