"""The state files of a run: what is done is read off the records, who is at what off reports."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.run_directory import RunDirectory, open_run_directory
from pytest_invarlock.run_progress import SessionProgress, duration_text

if TYPE_CHECKING:
    from pathlib import Path

STAMP = "20260101T000000Z"
NODE = "invarlock/s::org/m::{}::drift"


class Watched:
    """A session with one run of three scenarios, the first drawn twice, and a clock."""

    def __init__(self, out: Path) -> None:
        self.now = 100.0
        self.run: RunDirectory = open_run_directory(out, "s", STAMP, "me", "invarlock/s|/a/file")
        scenarios = {"a": 2, "b": 1, "c": 1}
        self.run.write_plan(
            {
                "name": "s",
                "node_prefix": "invarlock/s",
                "node_ids": [NODE.format(name) for name in scenarios],
                "planned": [
                    {"model": "org/m", "scenario": name, "draws": n}
                    for name, n in scenarios.items()
                ],
            }
        )
        self.progress = SessionProgress(out, STAMP, "me", clock=lambda: self.now)

    def record(
        self, scenario: str, draw: int = 0, *, error: str | None = None, worker: str = "gw0"
    ) -> Path:
        path = self.run.record_path("org/m", scenario, draw)
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"model": "org/m", "scenario": scenario, "draw": draw, "error": error}
        seen = {} if error else {"worker": worker, "device": {"device": "cpu", "capability": "X"}}
        path.write_text(json.dumps({"facts": facts, "observations": seen}))
        return path

    def taken_over(self, scenario: str, draw: int = 0) -> None:
        folder = self.run.state / "requests" / "org--m" / scenario
        folder.mkdir(parents=True)
        (folder / f"run_{draw}.json").write_text(json.dumps({"taken_from": "s-x"}))
        self.record(scenario, draw)

    def saw(self, scenario: str, worker: str = "gw0", seconds: float = 0.0) -> None:
        self.progress.saw(NODE.format(scenario), worker, seconds=seconds)

    def state(self, name: str = "progress") -> Any:
        return json.loads((self.run.state / f"{name}.json").read_text())


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "out")


def test_a_running_session_tells_how_far_it_is_and_who_is_at_what(watched: Watched) -> None:
    watched.saw("a")
    first = watched.state()
    assert (first["status"], first["planned_records"], first["done_records"]) == ("running", 4, 0)
    assert first["seconds_remaining"] is None
    assert watched.progress.remaining_text() == ""
    watched.record("a", 0)
    watched.record("a", 1)
    watched.now += 10
    watched.saw("a", seconds=8.0)
    watched.saw("b", "gw1")
    watched.now += 1
    watched.saw("c")
    progress = watched.state()
    assert (progress["done_records"], progress["failed_records"]) == (2, 0)
    assert (progress["progress_pct"], progress["seconds_elapsed"]) == (50.0, 11.0)
    # Two records took 8 s; two are left, for two workers.
    assert progress["seconds_remaining"] == 4.0
    assert watched.progress.remaining_text() == ", 4 s left"
    one, two = watched.state("workers")["workers"]
    assert (one["id"], one["model"], one["scenario"], one["records"]) == ("gw0", "org/m", "c", 2)
    assert (two["id"], two["scenario"], two["records"], two["device"]) == ("gw1", "b", 0, None)
    assert one["device"] == {"device": "cpu", "capability": "X"}
    assert one["since"] <= one["last_seen"]


def test_the_files_are_written_at_most_once_a_second(watched: Watched) -> None:
    watched.saw("a")
    watched.record("b")
    watched.now += 0.9
    watched.saw("b")
    assert watched.state()["done_records"] == 0
    watched.now += 0.2
    watched.saw("b")
    assert watched.state()["done_records"] == 1


@pytest.mark.parametrize(
    ("errors", "finished", "status"),
    [
        (0, True, "completed"),
        (1, True, "completed_with_failures"),
        (0, False, "incomplete"),
        (1, False, "incomplete"),
    ],
)
def test_the_last_state_says_how_it_ended(
    watched: Watched, errors: int, finished: bool, status: str
) -> None:
    watched.saw("a")
    watched.record("a", 0, error="OUT_OF_MEMORY" if errors else None)
    for scenario, draw in (("a", 1), ("b", 0), ("c", 0)):
        watched.record(scenario, draw)
    watched.progress.end({watched.run.run_id: finished})
    state = watched.state()
    assert (state["status"], state["done_records"], state["failed_records"]) == (
        status, 4 - errors, errors,
    )  # fmt: skip
    assert (state["progress_pct"], state["seconds_remaining"]) == (100.0, None)
    assert watched.state("workers")["workers"][0]["scenario"] is None


def test_a_skipped_deployment_is_no_failure(watched: Watched) -> None:
    watched.saw("a")
    watched.record("a", error="BACKEND_UNAVAILABLE")
    for scenario, draw in (("a", 1), ("b", 0), ("c", 0)):
        watched.record(scenario, draw)
    watched.progress.end({watched.run.run_id: True})
    state = watched.state()
    assert (state["status"], state["failed_records"]) == ("completed", 0)


def test_a_calibration_alone_ends_at_a_hundred_percent(watched: Watched) -> None:
    node = NODE.replace("{}::drift", "calibration::preset")
    plan = {"name": "s", "node_prefix": "invarlock/s", "node_ids": [node], "planned": []}
    watched.run.write_plan(plan, replace=True)
    watched.progress.saw(node, "gw0")
    assert watched.state()["progress_pct"] == 0
    assert watched.state("workers")["workers"][0]["scenario"] == "calibration"
    watched.progress.end({watched.run.run_id: True})
    assert (watched.state()["status"], watched.state()["progress_pct"]) == ("completed", 100.0)


def test_a_run_that_lacks_a_record_is_never_called_complete(watched: Watched) -> None:
    watched.saw("a")
    watched.record("a")
    watched.progress.end({watched.run.run_id: True})
    assert watched.state()["status"] == "incomplete"
    watched.progress.end({})
    assert watched.state()["status"] == "incomplete"


def test_records_taken_over_count_as_done_but_for_no_worker_and_no_time(watched: Watched) -> None:
    watched.taken_over("b")
    watched.saw("b", seconds=0.001)
    assert watched.state()["done_records"] == 1
    assert watched.state()["seconds_remaining"] is None
    assert watched.state("workers")["workers"][0]["records"] == 0


def test_a_record_that_replaces_one_of_an_error_is_read_again(watched: Watched) -> None:
    watched.record("b", error="CRASH")
    watched.saw("b")
    assert watched.state()["failed_records"] == 1
    path = watched.record("b")
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    watched.now += 2
    watched.saw("b")
    assert (watched.state()["done_records"], watched.state()["failed_records"]) == (1, 0)


def test_a_damaged_record_counts_as_failed(watched: Watched) -> None:
    watched.record("b").write_text("{")
    watched.saw("b")
    assert watched.state()["failed_records"] == 1


def test_an_item_in_no_plan_is_not_told_of(watched: Watched) -> None:
    watched.progress.saw("test_it.py::test_one", "main")
    assert not (watched.run.state / "progress.json").exists()


def test_a_marker_test_is_at_its_one_scenario(watched: Watched) -> None:
    watched.saw("a")
    entry = {"model": "org/m", "scenario": "test_one", "draws": 1}
    part = {"node_prefix": None, "node_ids": ["t.py::test_one"], "planned": [entry]}
    watched.run.write_plan({"name": "markers", **part}, "test_one")
    watched.now += 2
    watched.progress.saw("t.py::test_one", "main")
    assert watched.state()["planned_records"] == 5
    assert watched.state("workers")["workers"][1]["scenario"] == "test_one"


def test_state_that_cannot_be_written_stops_nothing(watched: Watched) -> None:
    watched.saw("a")
    (watched.run.state / "progress.json").unlink()
    (watched.run.state / "progress.json").mkdir()
    watched.now += 2
    watched.saw("a")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h")],
)
def test_a_time_is_told_in_one_unit(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
