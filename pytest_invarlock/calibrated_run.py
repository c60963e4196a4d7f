"""A model's preset in this run: derived once, by its item or the first scenario that needs it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from pytest_invarlock.path_names import slug
from pytest_invarlock.policy.calibrated_preset import META, preset_name
from pytest_invarlock.policy.calibration import KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_invarlock.plan import Pair
    from pytest_invarlock.policy.suite import Suite
    from pytest_invarlock.run_directory import RunDirectory
    from pytest_invarlock.workbench import Workbench


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A model's preset: its document, where it stands, and what the held-out draws found.

    ``problems`` are sentences, known only where it was derived just now.
    """

    document: Mapping[str, Any]
    shown: str
    problems: tuple[str, ...] = ()


def calibrated_in_run(workbench: Workbench, suite: Suite, pair: Pair, item: Any) -> Calibrated:
    """The preset of ``pair``: this run's of the same inputs, a resumed run's, else derived now.

    Of several workers one derives and the others wait for it; ``item`` is told how far it is.
    Raises InvarlockError where a subject cannot be measured; then no preset is written.
    """
    from pytest_invarlock.calibration.preset_file import FOLDER, read_preset, write_preset
    from pytest_invarlock.core.calibration import (
        BASELINE,
        calibrate,
        calibration_inputs,
        calibration_plan,
    )

    if suite.calibration is None:
        raise ValueError(f"suite {suite.name!r} derives no presets")
    run = workbench.suite_run(suite)
    shown = f"{run.run_id}/{FOLDER}/{preset_name(pair.name)}.yaml"
    inputs = calibration_inputs(suite.plan, suite.calibration, pair, suite.policy)
    label = f"{pair.name} {KEY}"
    stage = ""

    def step(text: str) -> None:
        nonlocal stage
        stage = text
        run.log(workbench.worker, "calibration_run", model=pair.name, run=text)

    with _one_at_a_time(run, pair, lambda text: workbench.report_progress(item, f"{label} {text}")):
        stored = read_preset(run.path, pair.name)
        if stored is not None and stored[META]["inputs"] == inputs:
            return Calibrated(stored, shown)
        resumption, pins = workbench.resumption, workbench.pins
        there, plan = pins.pair(pair), pins.plan(calibration_plan(suite.plan))
        # Of another checkpoint that is benign the inputs hold no digest.
        known = all(scenario.subject is None for scenario in suite.calibration.benign[pair.name])
        taken = resumption.take_over_preset(run, there, BASELINE, plan, inputs) if known else None
        if taken is not None:
            return Calibrated(taken, shown)
        # Before the bench reads the data: what is read later may be another file.
        asked = resumption.asked(run, there, BASELINE, plan) if known else None
        clock = time.perf_counter()
        bench = workbench.bench(run, pair, calibration_plan(suite.plan))
        bench.progress = lambda what, done, total: workbench.report_progress(
            item, f"{label} {stage} {what} {done}/{total} windows"
        )
        derived = calibrate(bench, suite.calibration, suite.policy, inputs=inputs, progress=step)
        write_preset(run.path, derived.document)
        seconds = (time.perf_counter() - clock) / suite.calibration.measurements(pair)
        run.write_calibration_time(pair.name, seconds)
        resumption.keep_preset(run, asked, there, BASELINE, derived.facts, inputs)
    return Calibrated(derived.document, shown, tuple(derived.held_out.problems()))


def is_left_to_scenarios(suite: Suite, pair: Pair, item: Any) -> bool:
    """Whether no item of ``item``'s session derives the preset of ``pair``: the run was narrowed.

    One that was collected and failed is not derived again by the scenarios that it let down.
    """
    wanted = suite.calibration_node(pair)
    return suite.calibrates and all(other.nodeid != wanted for other in item.session.items)


@contextmanager
def _one_at_a_time(run: RunDirectory, pair: Pair, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the run's lock on the preset of ``pair``; it goes with the process that holds it."""
    lock = FileLock(run.state / f"calibration-{slug(pair.name)}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell("waits for the worker that derives the preset")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
