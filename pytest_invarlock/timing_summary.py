"""Where the time of a run went: seconds by model, scenario, stage and worker, from observations.

Times are no facts: the file stays in the run's folder and is never packed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_invarlock.records import Record

TIMING_SUMMARY = "timing_summary.json"
STAGES = {"baseline": "seconds_to_baseline", "subject": "seconds_subject"}
"""Until the subject's turn (loading, data, and the baseline's pass where it was due), and since."""


def timing_summary(records: Sequence[Record]) -> dict[str, Any]:
    """Seconds of all runs together; those of workers that ran side by side are added up.

    ``untimed`` counts the runs that ended with an error, whose seconds are not known.
    """
    return {
        "format": "invarlock-timing-summary-v1",
        **_seconds(records),
        "models": _grouped(records, lambda r: (r.facts.model,), ("model",)),
        "scenarios": _grouped(
            records, lambda r: (r.facts.model, r.facts.scenario), ("model", "scenario")
        ),
        "workers": _grouped(
            records, lambda r: (str(r.observations.get("worker", "unknown")),), ("worker",)
        ),
    }


def _grouped(
    records: Sequence[Record], key: Callable[[Record], tuple[str, ...]], names: tuple[str, ...]
) -> list[dict[str, Any]]:
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return [
        {**dict(zip(names, found, strict=True)), **_seconds(groups[found])}
        for found in sorted(groups)
    ]


def _seconds(records: Sequence[Record]) -> dict[str, Any]:
    stages = {
        stage: round(sum(_number(record, key) for record in records), 6)
        for stage, key in STAGES.items()
    }
    return {
        "runs": len(records),
        "untimed": sum(
            not any(key in record.observations for key in STAGES.values()) for record in records
        ),
        "seconds": round(sum(stages.values()), 6),
        "stages": stages,
    }


def _number(record: Record, key: str) -> float:
    value = record.observations.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
