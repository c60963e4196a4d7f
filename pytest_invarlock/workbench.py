"""Workbench: one worker's bench and run directories; measures a scenario once for all items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.calibrated_run import calibrated_in_run, is_left_to_scenarios
from pytest_invarlock.errors import BackendUnavailable, InvarlockError, error_code
from pytest_invarlock.measured import Measured, decided
from pytest_invarlock.path_names import without_absolute_paths
from pytest_invarlock.preflight.revisions import Pins
from pytest_invarlock.progress import ProgressReporter
from pytest_invarlock.resumption import Resumption
from pytest_invarlock.run_directory import RunDirectory, open_run_directory
from pytest_invarlock.scenario_clock import DEFAULT_SECONDS, ScenarioClock
from pytest_invarlock.stash import ACTIVATION, WORKBENCH
from pytest_invarlock.suite_plan import run_name, suite_plan

if TYPE_CHECKING:
    import pytest

    from pytest_invarlock.adapters import LoadedModel
    from pytest_invarlock.bench.resident import Bench
    from pytest_invarlock.decision import CheckDecision
    from pytest_invarlock.plan import MeasurementPlan, Pair, Scenario
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.policy.suite import Suite
    from pytest_invarlock.records import Record

Progress = Callable[[str], None]


@dataclass(slots=True)
class Workbench:
    """What one worker keeps between items.

    One bench is resident at a time; ``workers`` is how many share the host's cores; ``session``
    and ``stamp`` name the run directories, the same in every worker of a session, as are ``pins``.
    """

    out: Path
    session: str
    stamp: str
    worker: str
    workers: int
    allow_network: bool
    report_progress: Callable[[Any, str], None]
    resumption: Resumption
    allow_remote_code: bool = False
    timeout: float = DEFAULT_SECONDS
    pins: Pins = field(default_factory=Pins)
    _bench: tuple[tuple[Path, Pair, MeasurementPlan], Bench] | None = None
    _runs: dict[str, RunDirectory] = field(default_factory=dict)
    _errors: dict[object, tuple[str, str]] = field(default_factory=dict)
    _measured: dict[object, Measured] = field(default_factory=dict)

    def run_directory(
        self, name: str, identity: str = "", begin: Callable[[RunDirectory], None] | None = None
    ) -> RunDirectory:
        """The session's folder for what ``identity`` tells apart among runs of one name.

        Whoever makes it calls ``begin`` on it first.
        """
        key = f"{name}|{identity}"
        if key not in self._runs:
            self._runs[key] = open_run_directory(
                self.out, name, self.stamp, self.session, identity, begin
            )
        return self._runs[key]

    def suite_run(self, suite: Suite) -> RunDirectory:
        """The run directory of ``suite``, with what is planned written into it."""
        name, prefix = run_name(suite), suite.node_prefix
        run = self.run_directory(
            name,
            f"{prefix}|{suite.path.resolve()}",
            lambda made: self.resumption.begin(made, name, prefix, self.session),
        )
        run.write_plan(suite_plan(suite))
        self.pins.write(run.state, suite.name)
        return run

    def measured(self, suite: Suite, pair: Pair, scenario: Scenario, item: Any) -> Measured:
        """The decided records of a scenario: the first item to ask pays, its siblings reuse.

        A memoised error is told to siblings in one line and forgotten when the item that met it
        runs again.
        """
        key = (suite.node_prefix, pair.name, scenario.name)
        if key in self._measured:
            return self._measured[key]
        self._tell_known_error(key, item, "measurement")
        run = self.suite_run(suite)
        policy = self._policy(run, suite, pair, item)
        records = tuple(
            self._record(run, key, suite.plan.for_draw(draw), pair, scenario, item)
            for draw in suite.runs_of(pair, scenario)
        )
        self._measured[key] = decided(run, policy, records)
        return self._measured[key]

    def _tell_known_error(self, key: object, item: Any, what: str) -> None:
        code, first = self._errors.get(key, ("", str(item.nodeid)))
        if first != str(item.nodeid):
            raise InvarlockError(f"the {what} failed, see {first}", remedy="", code=code)
        self._errors.pop(key, None)

    def _policy(self, run: RunDirectory, suite: Suite, pair: Pair, item: Any) -> DecisionPolicy:
        policy = suite.policy_of(pair)
        if not suite.calibrates:
            return policy
        from pytest_invarlock.calibration.in_force import policy_in_force

        if is_left_to_scenarios(suite, pair, item):
            key = (suite.node_prefix, pair.name, "calibration")
            self._tell_known_error(key, item, "calibration")
            try:
                calibrated_in_run(self, suite, pair, item)
            except Exception as error:
                self._errors[key] = (error_code(error), str(item.nodeid))
                raise
        return policy_in_force(run.path, policy, pair.name)

    def first_failure(
        self, suite: Suite, pair: Pair, scenario: Scenario, item: Any
    ) -> CheckDecision | None:
        """The first check that fails by the files of two checkpoints alone.

        None where none does, where files cannot tell, and where the scenario was measured.
        """
        from pytest_invarlock.weights_decision import first_failure

        run = self.suite_run(suite)
        plan = suite.plan.for_draw(suite.runs_of(pair, scenario)[0])
        if scenario.subject is None or run.read_record(pair.name, scenario.name, plan.draw):
            return None
        policy = self._policy(run, suite, pair, item)
        return first_failure(self.bench(run, pair, plan), self.pins.scenario(scenario), policy)

    def _record(
        self,
        run: RunDirectory,
        key: object,
        plan: MeasurementPlan,
        pair: Pair,
        scenario: Scenario,
        item: Any,
    ) -> Record:
        pair, plan = self.pins.pair(pair), self.pins.plan(plan)
        scenario = self.pins.scenario(scenario)
        stored = run.read_record(pair.name, scenario.name, plan.draw)
        if stored is not None and stored.facts.error is None:
            return stored
        taken = self.resumption.take_over(run, pair, scenario, plan)
        if taken is not None:
            return taken
        asked = None

        def bench() -> Bench:
            nonlocal asked
            # Before the bench reads the data: what is read later may be another file.
            asked = self.resumption.asked(run, pair, scenario, plan)
            return self.bench(run, pair, plan)

        try:
            record = self.measure_and_keep(run, pair, scenario, plan, item, bench)
        except Exception as error:
            self._errors[key] = (error_code(error), str(item.nodeid))
            raise
        if record.facts.error is None:
            self.resumption.keep(run, asked, pair, scenario, record)
        return record

    def measure_and_keep(
        self,
        run: RunDirectory,
        pair: Pair,
        scenario: Scenario,
        plan: MeasurementPlan,
        item: Any,
        bench: Callable[[], Bench],
    ) -> Record:
        """Measure one draw, telling ``item`` how far it is, and write the record down.

        Whatever ends the measurement is evidence too: recorded by its code, then raised. A backend
        that is not there is recorded with its reason, and the record returned.
        """
        from pytest_invarlock.core.engine import error_record, measure

        try:
            there = bench()
            clock = ScenarioClock(scenario, self.timeout)

            def progress(stage: str, done: int, total: int) -> None:
                clock.check(stage)
                text = f"{pair.name} {scenario.name} {stage} {done}/{total} windows"
                self.report_progress(item, text)

            there.progress = progress
            record = measure(pair, scenario, plan, bench=there, salt=run.salt(), worker=self.worker)
        except BackendUnavailable as error:
            reason = without_absolute_paths(str(error))
            record = error_record(pair, scenario, plan, error.code, skipped=reason)
        except Exception as error:
            run.write_record(error_record(pair, scenario, plan, error_code(error)))
            run.log(self.worker, "error", scenario=scenario.name, code=error_code(error))
            raise
        run.write_record(record)
        run.log(
            self.worker,
            "record",
            model=pair.name,
            scenario=scenario.name,
            draw=plan.draw,
            facts=record.facts.digest,
        )
        return record

    def bench(self, run: RunDirectory, pair: Pair, plan: MeasurementPlan) -> Bench:
        """The resident bench of a pair; another pair's is dropped first."""
        pair, plan = self.pins.pair(pair), self.pins.plan(plan)
        key = (run.path, pair, plan.for_draw(0))
        if self._bench is None or self._bench[0] != key:
            from pytest_invarlock.adapters import adapter_named
            from pytest_invarlock.bench.resident import Bench
            from pytest_invarlock.core.determinism import resolve_plan

            loaded = self._still_loaded(pair, plan)
            self.close()
            bench = Bench(
                pair,
                resolve_plan(plan.for_draw(0), workers=self.workers),
                cache=run.state / "baseline",
                adapter=adapter_named(
                    plan.adapter,
                    allow_network=self.allow_network,
                    allow_remote_code=self.allow_remote_code,
                ),
                log=lambda event, **details: run.log(self.worker, event, **details),
            )
            if loaded is not None:
                bench.adopt(loaded)
            self._bench = (key, bench)
        return self._bench[1]

    def _still_loaded(self, pair: Pair, plan: MeasurementPlan) -> LoadedModel | None:
        """The resident model, where a pair's scenarios go on with what its calibration loaded."""
        if self._bench is None:
            return None
        (_, before, planned), bench = self._bench
        alike = ("device", "dtype", "adapter", "determinism", "threads")
        calibrates = "calibration" in (planned.windows.pool, plan.windows.pool)
        if (
            before != pair
            or not calibrates
            or any(getattr(planned, k) != getattr(plan, k) for k in alike)
        ):
            return None
        return bench.hand_over()

    def close(self) -> None:
        """Drop the resident bench and its memory, before another pair's is loaded."""
        if self._bench is not None:
            self._bench[1].drop()
            self._bench = None


def workbench_of(config: pytest.Config) -> Workbench:
    """The workbench of this process, made on first use; nothing is loaded or written yet."""
    if WORKBENCH not in config.stash:
        activation = config.stash[ACTIVATION]
        workerinput = getattr(config, "workerinput", {})
        worker = str(workerinput.get("workerid", "main"))
        workers = int(workerinput.get("workercount", 1))
        allow_network = activation.settings.flag("allow-network")
        config.stash[WORKBENCH] = Workbench(
            out=activation.out,
            session=activation.session,
            stamp=activation.stamp,
            worker=worker,
            workers=workers,
            allow_network=allow_network,
            allow_remote_code=activation.settings.flag("allow-remote-code"),
            timeout=activation.settings.number("timeout") or DEFAULT_SECONDS,
            pins=Pins.read(activation.pins),
            report_progress=ProgressReporter(activation.settings),
            resumption=Resumption(activation.resume, worker, workers, allow_network),
        )
    bench: Workbench = config.stash[WORKBENCH]
    return bench
