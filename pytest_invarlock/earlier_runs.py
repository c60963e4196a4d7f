"""Earlier runs: which one is continued, and which of its records and presets may be taken over.

To each of them belongs its *request*, in ``state/``: what was asked for, as far as it can be known
before anything is loaded. A record is taken over where its request is equal, and only then.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import ConfigError, EvidenceError, InvarlockError
from pytest_invarlock.evidence.atomic import write_json
from pytest_invarlock.evidence.strict_json import canonical, digest, loads
from pytest_invarlock.path_names import slug
from pytest_invarlock.policy.calibrated_preset import META
from pytest_invarlock.run_directory import RunDirectory

if TYPE_CHECKING:
    from pytest_invarlock.records import Record

REQUEST_FORMAT = "invarlock-request-v1"
MAX_REQUEST_BYTES = 4_000_000
_NAMED = re.compile(r"(?P<name>.+)-(?P<stamp>\d{8}T\d{6}Z)(?:~(?P<number>\d+))?")
_SHOWN_RUNS = 5


@dataclass(frozen=True, slots=True, repr=False)
class Found:
    """A record that may be taken over and the run it is of, or why there is none.

    ``reasons`` holds a line for every earlier run that has a record which may not be.
    """

    record: Record | None
    run_id: str | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, repr=False)
class FoundPreset:
    """A preset that may be taken over and the run it stands in, or why there is none."""

    document: Mapping[str, Any] | None
    run_id: str | None
    reasons: tuple[str, ...]


def run_folders(out: Path, *names: str) -> list[Path]:
    """Folders in ``out`` called as runs of these names are, of any without one; oldest first."""
    slugs = {slug(name) for name in names}
    found = [
        (match["stamp"], int(match["number"] or 1), path)
        for path in (out.iterdir() if out.is_dir() else ())
        if (match := _NAMED.fullmatch(path.name)) and not path.is_symlink()
        if not slugs or match["name"] in slugs
    ]
    return [path for _, _, path in sorted(found)]


def runs_in(out: Path, *names: str) -> list[RunDirectory]:
    """Those of `run_folders` that are a run's; half-made ones are none."""
    return [RunDirectory(path) for path in run_folders(out, *names) if is_run(path)]


def is_run(path: Path) -> bool:
    """Whether ``path`` is the folder of a run, rather than its pack or any other folder."""
    run = RunDirectory(path)
    return run.owner() is not None and (run.state / "plans").is_dir()


def newest_run(out: Path, name: str, prefix: str, session: str) -> RunDirectory | None:
    """The newest run of a suite that another session made, finished or not.

    Args:
        out: where run directories are.
        name: what runs of the suite are called.
        prefix: what its node ids start with.
        session: this session, whose own runs do not count.
    """
    for run in reversed(runs_in(out, name)):
        owner, _, identity = (run.owner() or "").partition("|")
        if identity.partition("|")[0] == prefix and owner != session:
            return run
    return None


def named_run(out: Path, reference: str, folder: Path) -> RunDirectory:
    """The run of an id below ``out``, or of a path that starts at ``folder``.

    Raises:
        ConfigError: ``UNKNOWN_RUN``; the remedy names the runs that there are.
    """
    for path in (out / reference, folder / reference):
        if is_run(path):
            return RunDirectory(path.resolve())
    known = [run.run_id for run in reversed(runs_in(out))]
    more = f" and {len(known) - _SHOWN_RUNS} more" if len(known) > _SHOWN_RUNS else ""
    there = f"there are {', '.join(known[:_SHOWN_RUNS])}{more}" if known else "there is none"
    raise ConfigError(
        f"--invarlock-resume: {reference!r} is no run",
        remedy=f"below --invarlock-out {there}; give an id, or the folder of a run",
        code="UNKNOWN_RUN",
    )


def continued(run: RunDirectory) -> list[RunDirectory]:
    """The runs that ``run`` continues, the newest first: the one it resumed, and what that did.

    A resumed run that was killed may hold fewer records than the run before it.
    """
    path = run.state / "resumed.json"
    if not path.is_file():
        return []
    names = json.loads(path.read_bytes())["runs"]
    found = [RunDirectory(Path(os.path.normpath(run.path.resolve() / name))) for name in names]
    return [earlier for earlier in found if is_run(earlier.path)]


def write_continued(path: Path, earlier: RunDirectory) -> None:
    """Write down that the run in the folder ``path`` continues ``earlier``."""
    runs = [earlier, *continued(earlier)]
    names = [os.path.relpath(run.path.resolve(), path.resolve()) for run in runs]
    write_json(path / "state" / "resumed.json", {"runs": names})


def keep_request(
    run: RunDirectory, record: Record, request: Mapping[str, Any], *, taken_from: str | None = None
) -> None:
    """Write down what the record of ``run`` was asked for, bound to its facts.

    ``taken_from`` is the id of the run that measured it, where that is another.
    """
    facts = record.facts
    path = _request_path(run, facts.model, facts.scenario, facts.draw)
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "format": REQUEST_FORMAT,
        "facts_digest": facts.digest,
        "request": dict(request),
        **({} if taken_from is None else {"taken_from": taken_from}),
    }
    write_json(path, document)


def taken_over(run: RunDirectory) -> int:
    """How many of the run's records another run measured."""
    paths = (run.state / "requests").glob("*/*/run_*.json")
    return sum("taken_from" in json.loads(path.read_bytes()) for path in paths)


def is_taken_over(run: RunDirectory, model: str, scenario: str, draw: int) -> bool:
    """Whether another run measured this record of ``run``."""
    path = _request_path(run, model, scenario, draw)
    return path.is_file() and "taken_from" in json.loads(path.read_bytes())


def find_record(
    earlier: Sequence[RunDirectory], request: Mapping[str, Any], *, scenario: str, draw: int
) -> Found:
    """The first record of ``earlier`` runs that was asked for by an equal request.

    None of an error is, nor one that is cut short, malformed or without its arrays.
    """
    reasons = []
    for run in earlier:
        model = str(request["model"])
        if not run.record_path(model, scenario, draw).is_file():
            continue
        try:
            record = run.read_record(model, scenario, draw)
            stored = _read_request(_request_path(run, model, scenario, draw))
        except (InvarlockError, OSError) as error:
            code = error.code if isinstance(error, InvarlockError) else "UNREADABLE"
            reasons.append(f"{run.run_id}: {code}")
            continue
        why = _unfit(record, stored, request)
        if why is None:
            return Found(record, str(stored.get("taken_from", run.run_id)), tuple(reasons))
        reasons.append(f"{run.run_id}: {why}")
    return Found(None, None, tuple(reasons))


def keep_preset_request(
    run: RunDirectory, document: Mapping[str, Any], request: Mapping[str, Any]
) -> None:
    """Write down what a preset of ``run`` was derived from, bound to its document."""
    path = _preset_request_path(run, document[META]["model"])
    path.parent.mkdir(exist_ok=True)
    stated = {"preset_digest": digest(dict(document)), "request": dict(request)}
    write_json(path, {"format": REQUEST_FORMAT, **stated})


def find_preset(
    earlier: Sequence[RunDirectory], request: Mapping[str, Any], model: str
) -> FoundPreset:
    """The first preset of ``model`` in ``earlier`` runs that an equal request was for, and held."""
    # Light until used: they need scipy.
    from pytest_invarlock.calibration.preset_file import read_presets
    from pytest_invarlock.calibration.requirement import calibration_problem

    reasons = []
    for run in earlier:
        try:
            preset = read_presets(run.path, [model]).get(model)
            if preset is None:
                continue
            stored = _read_request(_preset_request_path(run, model))
        except (InvarlockError, OSError) as error:
            code = error.code if isinstance(error, InvarlockError) else "UNREADABLE"
            reasons.append(f"{run.run_id}: {code}")
            continue
        why = calibration_problem(preset)
        if why is None and stored.get("preset_digest") != digest(preset):
            why = "the request is another preset's"
        if why is None and (differing := differences(stored.get("request"), request)):
            why = f"{', '.join(differing)} differ"
        if why is None:
            return FoundPreset(preset, run.run_id, tuple(reasons))
        reasons.append(f"{run.run_id}: {why}")
    return FoundPreset(None, None, tuple(reasons))


def differences(stored: Any, request: Mapping[str, Any]) -> list[str]:
    """The keys, at most two deep, at which two requests differ, such as ``plan.threads``."""
    if not isinstance(stored, Mapping):
        return ["request"]
    found = []
    for key in sorted(set(stored) | set(request)):
        one, other = stored.get(key), request.get(key)
        if canonical(one) == canonical(other):
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            inner = sorted(set(one) | set(other))
            found += [
                f"{key}.{name}"
                for name in inner
                if canonical(one.get(name)) != canonical(other.get(name))
            ]
        else:
            found.append(str(key))
    # A key that is null on one side and absent on the other is a difference all the same.
    return found or ([] if canonical(stored) == canonical(request) else ["request"])


def _unfit(
    record: Record | None, stored: Mapping[str, Any], request: Mapping[str, Any]
) -> str | None:
    if record is None or record.facts.error is not None:
        return "the record is of an error"
    if stored.get("facts_digest") != record.facts.digest:
        return "the request is another record's"
    differing = differences(stored.get("request"), request)
    return f"{', '.join(differing)} differ" if differing else None


def _request_path(run: RunDirectory, model: str, scenario: str, draw: int) -> Path:
    return run.state / "requests" / slug(model) / slug(scenario) / f"run_{draw}.json"


def _preset_request_path(run: RunDirectory, model: str) -> Path:
    return run.state / "preset_requests" / f"{slug(model)}.json"


def _read_request(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise EvidenceError("no request was kept", remedy="", code="NO_REQUEST")
    document = loads(path.read_bytes(), max_bytes=MAX_REQUEST_BYTES)
    if not isinstance(document, dict) or document.get("format") != REQUEST_FORMAT:
        raise EvidenceError("no request of this version", remedy="", code="NO_REQUEST")
    return document
