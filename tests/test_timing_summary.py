"""Seconds of a run by model, scenario and worker; an error's are not known."""

from __future__ import annotations

from typing import Any

from pytest_invarlock.records import Record
from pytest_invarlock.timing_summary import timing_summary

from .checks.made import facts


def record(scenario: str, draw: int = 0, **observed: Any) -> Record:
    return Record(facts(scenario=scenario, draw=draw), observed)


def test_seconds_add_up_by_stage_scenario_and_worker() -> None:
    made = timing_summary(
        [
            record("a", seconds_to_baseline=2.0, seconds_subject=1.0, worker="gw0"),
            record("a", draw=1, seconds_to_baseline=0.5, seconds_subject=1.0, worker="gw1"),
            record("b", seconds_to_baseline=0.0, seconds_subject=4, worker="gw1"),
            record("c", started_at="now"),
        ]
    )
    assert (made["seconds"], made["runs"], made["untimed"]) == (8.5, 4, 1)
    assert made["stages"] == {"baseline": 2.5, "subject": 6.0}
    assert [(s["scenario"], s["runs"], s["seconds"]) for s in made["scenarios"]] == [
        ("a", 2, 4.5), ("b", 1, 4.0), ("c", 1, 0.0),
    ]  # fmt: skip
    assert [(w["worker"], w["seconds"]) for w in made["workers"]] == [
        ("gw0", 3.0), ("gw1", 5.5), ("unknown", 0.0),
    ]  # fmt: skip
    (model,) = made["models"]
    assert (model["model"], model["seconds"]) == ("m", 8.5)


def test_a_run_without_records_took_no_time() -> None:
    assert timing_summary([])["seconds"] == 0
