"""How far a run is: ``state/progress.json`` and ``state/workers.json``, for whoever watches it.

What is done is read off the record files; reports only say who is at what, and how long it took.
Neither file holds a path or a user's name.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from pytest_invarlock.earlier_runs import is_taken_over
from pytest_invarlock.evidence.atomic import write_json
from pytest_invarlock.plan import PlannedScenario
from pytest_invarlock.policy.deploy_limits import SKIPPED_CODE
from pytest_invarlock.run_directory import RunDirectory, runs_of_session

if TYPE_CHECKING:
    from pathlib import Path

ProgressStatus = Literal["running", "completed", "completed_with_failures", "incomplete"]
PROGRESS_FORMAT = "invarlock-progress-v1"
WORKERS_FORMAT = "invarlock-workers-v1"
SECONDS_BETWEEN_WRITES = 1.0
Key = tuple[str, str]


@dataclass(slots=True)
class _Stored:
    """What is read once of a record file; ``worker`` is None where another run measured it."""

    key: Key
    failed: bool
    worker: str | None
    device: Any
    taken_over: bool


@dataclass(slots=True)
class _Worker:
    """A worker as its reports show it; the scenario in hand, and since when."""

    last_seen: datetime
    in_hand: Key | None = None
    since: datetime | None = None


@dataclass(slots=True, repr=False)
class RunProgress:
    """The progress of one run; every method is called in the controller."""

    run: RunDirectory
    clock: Callable[[], float] = time.monotonic
    _start: float = field(init=False)
    _next: float = field(init=False)
    _planned: dict[Key, int] = field(default_factory=dict)
    _node_ids: dict[str, Key] = field(default_factory=dict)
    _n_plans: int = 0
    _stored: dict[tuple[str, int], _Stored] = field(default_factory=dict)
    _workers: dict[str, _Worker] = field(default_factory=dict)
    _seconds: dict[Key, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start counting."""
        self._start = self._next = self.clock()

    def scenario_of(self, node_id: str) -> Key | None:
        """Model and scenario of a planned item; None where the run's plan has no such item."""
        if node_id not in self._node_ids:
            self._read_plans()
        return self._node_ids.get(node_id)

    def saw(self, key: Key, worker: str, *, seconds: float = 0.0) -> None:
        """Note that ``worker`` is at a scenario, or has spent ``seconds`` more on it."""
        now = datetime.now(UTC)
        one = self._workers.setdefault(worker, _Worker(now))
        one.last_seen = now
        if one.in_hand != key:
            one.in_hand, one.since = key, now
        self._seconds[key] = self._seconds.get(key, 0.0) + seconds
        if self.clock() >= self._next:
            self.write("running")

    def write(self, status: ProgressStatus | None) -> None:
        """Write both files; ``status`` None means that the run is over, whole, with or without
        failures.
        """
        self._read_plans()
        self._read_records()
        failed = sum(one.failed for one in self._stored.values())
        done, planned = len(self._stored) - failed, sum(self._planned.values())
        if status is None:
            status = "completed_with_failures" if failed else "completed"
            if done + failed < planned:
                status = "incomplete"
        remaining = self.seconds_remaining() if status == "running" else None
        # A calibration alone plans no record.
        share = (done + failed) / planned if planned else float(status == "completed")
        self._next = self.clock() + SECONDS_BETWEEN_WRITES
        now = _stamp(datetime.now(UTC))
        # Whoever watches is told nothing new; the measurement goes on.
        with suppress(OSError):
            write_json(
                self.run.state / "progress.json",
                {
                    "format": PROGRESS_FORMAT,
                    "updated_at": now,
                    "status": status,
                    "planned_records": planned,
                    "done_records": done,
                    "failed_records": failed,
                    "progress_pct": round(100 * share, 1),
                    "seconds_elapsed": round(self.clock() - self._start, 1),
                    "seconds_remaining": None if remaining is None else round(remaining, 1),
                },
                flushed=False,
            )
            write_json(
                self.run.state / "workers.json",
                {
                    "format": WORKERS_FORMAT,
                    "updated_at": now,
                    "workers": [
                        self._worker_document(name, running=status == "running")
                        for name in sorted(self._workers)
                    ],
                },
                flushed=False,
            )

    def seconds_remaining(self) -> float | None:
        """What is left to measure, at the mean time of the scenarios that were measured whole.

        All workers that were seen share it. None before the first such scenario is done; records
        taken over from another run tell nothing of the time.
        """
        measured = self._measured()
        whole = [key for key, n in measured.items() if n >= self._planned.get(key, n)]
        n_records = sum(measured[key] for key in whole)
        if not n_records:
            return None
        mean = sum(self._seconds.get(key, 0.0) for key in whole) / n_records
        left = max(0, sum(self._planned.values()) - len(self._stored))
        return mean * left / max(1, len(self._workers))

    def _measured(self) -> dict[Key, int]:
        counts: dict[Key, int] = {}
        for one in self._stored.values():
            if not one.taken_over and not one.failed:
                counts[one.key] = counts.get(one.key, 0) + 1
        return counts

    def _worker_document(self, name: str, *, running: bool) -> dict[str, Any]:
        worker = self._workers[name]
        in_hand = worker.in_hand if running else None
        records = [one for one in self._stored.values() if one.worker == name]
        return {
            "id": name,
            "device": records[-1].device if records else None,
            "model": None if in_hand is None else in_hand[0],
            "scenario": None if in_hand is None else in_hand[1],
            "since": None if in_hand is None or worker.since is None else _stamp(worker.since),
            "records": len(records),
            "last_seen": _stamp(worker.last_seen),
        }

    def _read_plans(self) -> None:
        """Read the plan again where it has more parts than before: marker tests add theirs."""
        if len(list((self.run.state / "plans").glob("*.json"))) == self._n_plans:
            return
        plans = self.run.read_plans()
        self._n_plans = len(plans)
        for plan in plans:
            for entry in map(PlannedScenario.read, plan["planned"]):
                self._planned[entry.model, entry.scenario] = len(entry.runs)
            self._node_ids |= _keys(plan)

    def _read_records(self) -> None:
        for path in sorted(self.run.records.glob("*/*/run_*.record.json")):
            version = (path.relative_to(self.run.path).as_posix(), path.stat().st_mtime_ns)
            if version not in self._stored:
                # A record of an error may have been replaced since.
                for old in [one for one in self._stored if one[0] == version[0]]:
                    del self._stored[old]
                self._stored[version] = self._read_record(path)

    def _read_record(self, path: Path) -> _Stored:
        try:
            document = json.loads(path.read_bytes())
            facts, seen = document["facts"], document["observations"]
            key, draw, failed = (facts["model"], facts["scenario"]), facts["draw"], facts["error"]
        except (OSError, ValueError, KeyError, TypeError):
            # Damaged by another hand; summing up the run will say so.
            return _Stored((path.parent.parent.name, path.parent.name), True, None, None, False)
        taken = is_taken_over(self.run, *key, draw)
        worker = None if taken else seen.get("worker")
        # A deployment that was skipped is no failure, as its items are none.
        has_failed = failed not in (None, SKIPPED_CODE)
        return _Stored(key, has_failed, worker, seen.get("device"), taken)


@dataclass(slots=True, repr=False)
class SessionProgress:
    """The progress of all runs of a session, and which of them an item is of."""

    out: Path
    stamp: str
    session: str
    clock: Callable[[], float] = time.monotonic
    _runs: dict[str, RunProgress] = field(default_factory=dict)
    _current: RunProgress | None = None
    _next_search: float = 0.0

    def saw(self, node_id: str, worker: str, *, seconds: float = 0.0) -> None:
        """Note a report on an item; one that is in no plan yet is nothing to tell of."""
        for run in self._searched(node_id):
            key = run.scenario_of(node_id)
            if key is not None:
                self._current = run
                run.saw(key, worker, seconds=seconds)
                return

    def end(self, finished: Mapping[str, bool]) -> None:
        """Write the last state of every run; ``finished`` says by id which ran to its end."""
        for run in self._found():
            run.write(None if finished.get(run.run.run_id) else "incomplete")

    def remaining_text(self) -> str:
        """The time left of the run that was last reported on, such as ``, 3 min left``."""
        seconds = None if self._current is None else self._current.seconds_remaining()
        return "" if seconds is None else f", {duration_text(seconds)} left"

    def _searched(self, node_id: str) -> list[RunProgress]:
        known = list(self._runs.values())
        if known and (
            self.clock() < self._next_search or any(run.scenario_of(node_id) for run in known)
        ):
            return known
        self._next_search = self.clock() + SECONDS_BETWEEN_WRITES
        return self._found()

    def _found(self) -> list[RunProgress]:
        for run in runs_of_session(self.out, self.stamp, self.session):
            if run.run_id not in self._runs and run.read_plans():
                self._runs[run.run_id] = RunProgress(run, self.clock)
        return list(self._runs.values())


def duration_text(seconds: float) -> str:
    """``45 s``, ``3 min`` or ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _keys(plan: Mapping[str, Any]) -> dict[str, Key]:
    """Model and scenario by node id: a suite's ids spell both, a marker test has but one."""
    prefix = plan["node_prefix"]
    if prefix is None:
        planned = plan["planned"]
        key = (planned[0]["model"], planned[0]["scenario"]) if planned else None
        return {} if key is None else dict.fromkeys(plan["node_ids"], key)
    found = {}
    for node_id in plan["node_ids"]:
        model, scenario, _ = node_id.removeprefix(f"{prefix}::").split("::", 2)
        found[node_id] = (model, scenario)
    return found


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
