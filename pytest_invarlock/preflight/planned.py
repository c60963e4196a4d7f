"""What a session would do and need, as one JSON block and as lines; nothing is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.data.sampling import ARM_SHARES
from pytest_invarlock.earlier_runs import run_folders
from pytest_invarlock.path_names import slug
from pytest_invarlock.policy.confirming_draws import is_to_be_confirmed
from pytest_invarlock.preflight.machine import as_bytes
from pytest_invarlock.run_directory import RunDirectory

if TYPE_CHECKING:
    from pytest_invarlock.doctor.dataset import DatasetFiles
    from pytest_invarlock.policy.suite import Suite
    from pytest_invarlock.preflight.outlook import Outlook

_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PlannedTime:
    """Seconds of measuring in all, by records of an earlier run; ``timed`` of ``planned`` draws,
    those of a calibration among the planned.

    ``seconds`` is None where no planned scenario was ever timed. They are a single worker's: as
    many as measure at once share them.
    """

    seconds: float | None
    timed: int
    planned: int
    run: str | None = None


def planned_document(
    suite: Suite,
    outlook: Outlook,
    out: Path,
    node_ids: Sequence[str] | None = None,
    data: DatasetFiles | None = None,
) -> dict[str, Any]:
    """What a suite would do here, as plain JSON values.

    Args:
        suite: as loaded.
        outlook: `look_ahead` of it.
        out: the output folder, whose earlier runs tell how long it takes.
        node_ids: the items that were asked for; None: all of them.
        data: what is known of the data; None looks at it, and reads it whole.
    """
    windows, policy, plan = suite.plan.windows, suite.policy, suite.plan
    items = suite.node_ids() if node_ids is None else list(node_ids)
    documents, why = _documents(suite) if data is None else (data.documents, None)
    time = planned_time(suite, out)
    return {
        "suite": suite.name,
        "models": [pair.name for pair in suite.pairs],
        "scenarios": len(suite.scenarios),
        "measurements": _measurements(suite),
        "calibration_measurements": sum(_calibrating(suite).values()),
        "confirmed": _confirmed(suite),
        "items": len(items),
        "tier": policy.tier,
        "profile": policy.profile,
        "guards": [*plan.guards, *(guard.name for guard in plan.foreign_guards)],
        "windows": {
            "preview": windows.preview_windows,
            "final": windows.final_windows,
            "guards": windows.guard_windows,
            "tokens": windows.seq_len,
        },
        "documents": {
            "floor": policy.floors.documents,
            "effective_floor": policy.floors.effective_documents,
            "needed": math.ceil(policy.floors.documents / ARM_SHARES["final"]),
            "found": documents,
            "unknown_because": why,
        },
        "memory": _memory(suite, outlook),
        "disk": _disk(suite, outlook),
        "time": {
            "seconds": time.seconds,
            "timed": time.timed,
            "planned": time.planned,
            "run": time.run,
        },
        "problems": [f"{error} [{error.code}]" for error in outlook.problems],
        "notes": list(outlook.notes),
    }


def planned_lines(document: Mapping[str, Any]) -> list[str]:
    """The block for a terminal, one fact a line."""
    windows, documents = document["windows"], document["documents"]
    found = _UNKNOWN if documents["found"] is None else str(documents["found"])
    if documents["unknown_because"] is not None:
        found += f" ({documents['unknown_because']})"
    lines = [
        f"plan {document['suite']}: {len(document['models'])} models × {document['scenarios']} "
        f"scenarios, {document['measurements']} measurements, {document['items']} items",
        f"  tier {document['tier']}, profile {document['profile']}",
        f"  guards {', '.join(document['guards']) or 'none'}",
        f"  windows {windows['preview']} preview, {windows['final']} final of "
        f"{windows['tokens']} tokens; {windows['guards']} for guards",
        f"  documents: a verdict needs windows of {documents['floor']} in the final arm "
        f"({documents['effective_floor']:g} effective), so at least {documents['needed']} in all "
        f"that are long enough; found {found}",
    ]
    if document["confirmed"]:
        lines.insert(1, f"  two draws at least, to confirm: {', '.join(document['confirmed'])}")
    if document["calibration_measurements"]:
        told = f"{document['calibration_measurements']} measurements, before any scenario"
        lines.insert(1, f"  calibration {told}")
    lines += _memory_lines(document["memory"])
    disk = document["disk"]
    lines.append(
        f"  disk {_size(disk['kept'])} while it lasts, {_size(disk['fetched'])} to fetch; "
        f"free {_size(disk['free'])}"
    )
    lines.append(f"  time {_time_text(document['time'])}")
    lines += [f"  would be refused: {problem}" for problem in document["problems"]]
    return [*lines, *(f"  note: {note}" for note in document["notes"])]


def planned_time(suite: Suite, out: Path) -> PlannedTime:
    """How long the planned draws took in the newest earlier run of the suite that timed any.

    Of each scenario the mean of its recorded draws counts, for as many as are planned. A record's
    seconds hold whatever it waited for: loading and the baseline's pass stand in the first one. A
    calibration's measurements count as they took then, with whatever was loaded for them.
    """
    wanted = {
        (pair.name, scenario.name): len(suite.runs_of(pair, scenario))
        for pair, scenario in suite.planned()
    }
    calibrating = _calibrating(suite)
    planned = sum(wanted.values()) + sum(calibrating.values())
    for run in reversed(run_folders(out, suite.name)):
        seconds, timed = 0.0, 0
        for (model, scenario), draws in wanted.items():
            taken = _seconds(run / "records" / slug(model) / slug(scenario))
            if taken:
                seconds += draws * sum(taken) / len(taken)
                timed += draws
        for model, measurements in calibrating.items():
            derived = RunDirectory(run).calibration_time(model)
            if derived is not None:
                seconds += derived * measurements
                timed += measurements
        if timed:
            return PlannedTime(round(seconds, 3), timed, planned, run.name)
    return PlannedTime(None, 0, planned)


def _seconds(folder: Path) -> list[float]:
    """What every measured draw of a scenario took; errors were no measurements."""
    taken = []
    for path in sorted(folder.glob("run_*.record.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            seen = record["observations"]
            if record["facts"].get("error") is None:
                taken.append(float(seen["seconds_to_baseline"]) + float(seen["seconds_subject"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # A record cut off by a killed run tells no time.
            continue
    return taken


def _measurements(suite: Suite) -> int:
    return sum(len(suite.runs_of(pair, scenario)) for pair, scenario in suite.planned())


def _calibrating(suite: Suite) -> dict[str, int]:
    """How many measurements the calibration of each model takes, where the suite derives limits."""
    calibration = suite.calibration
    if calibration is None:
        return {}
    return {pair.name: calibration.measurements(pair) for pair in suite.pairs}


def _confirmed(suite: Suite) -> list[str]:
    """The scenarios that are drawn twice at least, on whichever model."""
    planned = suite.planned()
    return list(dict.fromkeys(s.name for pair, s in planned if is_to_be_confirmed(suite, pair, s)))


def _documents(suite: Suite) -> tuple[int | None, str | None]:
    """How many documents the data holds; None and why where no model-free look can tell."""
    from pytest_invarlock.doctor.dataset import look_at_dataset

    source = replace(suite.plan.source, allow_network=False)
    files, findings = look_at_dataset(replace(suite.plan, source=source), None)
    if files.documents is None:
        return None, findings[0].message if findings else "it could not be read"
    return files.documents, None


def _memory(suite: Suite, outlook: Outlook) -> dict[str, Any]:
    device = outlook.device
    needs = {name: need for (prefix, name), need in outlook.memory.items()
             if prefix == suite.node_prefix}  # fmt: skip
    return {
        "device": None if device is None else device.device,
        "free": None if device is None else device.free,
        "taken_by_others": None if device is None else device.taken,
        "workers": outlook.workers,
        "models": {name: None if need is None else need.document() for name, need in needs.items()},
    }


def _disk(suite: Suite, outlook: Outlook) -> dict[str, Any]:
    kept = [size for (prefix, _), size in outlook.disk.items() if prefix == suite.node_prefix]
    known = [size for size in kept if size is not None]
    return {
        "kept": sum(known) if known and len(known) == len(kept) else None,
        "fetched": sum(outlook.pinning.fetched_bytes.values()),
        "free": outlook.free_disk,
    }


def _memory_lines(memory: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, need in memory["models"].items():
        if need is None:
            lines.append(f"  memory {name}: {_UNKNOWN}")
            continue
        lines.append(
            f"  memory {name}: {as_bytes(need['total'])} a worker (baseline "
            f"{as_bytes(need['baseline'])}, edit {as_bytes(need['edit'])}, second checkpoint "
            f"{as_bytes(need['subject'])}, activations {as_bytes(need['activations'])}, logits "
            f"{as_bytes(need['logits'])}, process {as_bytes(need['process'])})"
            + ("" if need["whole"] else ", not all of it known")
        )
    taken = memory["taken_by_others"]
    used = "" if not taken else f", {as_bytes(taken)} taken by others"
    lines.append(
        f"  device {memory['device'] or _UNKNOWN}: free {_size(memory['free'])}{used}; "
        f"{memory['workers']} worker{'s' if memory['workers'] > 1 else ''}"
    )
    return lines


def _size(count: int | None) -> str:
    return _UNKNOWN if count is None else as_bytes(count)


def _time_text(time: Mapping[str, Any]) -> str:
    if time["seconds"] is None:
        return "unknown until the first run"
    part = "" if time["timed"] == time["planned"] else (
        f" for {time['timed']} of {time['planned']} measurements; the others were never timed"
    )  # fmt: skip
    return f"about {time['seconds']:.0f} s of one worker{part} (by {time['run']})"
