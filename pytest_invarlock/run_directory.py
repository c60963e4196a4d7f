"""RunDirectory: where one run keeps its records, reports, state and logs."""

from __future__ import annotations

import itertools
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.atomic import write_bytes, write_json
from pytest_invarlock.evidence.limits import MAX_FILE_BYTES
from pytest_invarlock.evidence.strict_json import loads, pretty
from pytest_invarlock.path_names import slug
from pytest_invarlock.policy.quick_schema import first_violation
from pytest_invarlock.records import Record, record_from_bytes

MAX_RECORD_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The folder of one run, under the output folder."""

    path: Path

    @property
    def state(self) -> Path:
        """Salt, plan and caches: never packed."""
        return self.path / "state"

    @property
    def records(self) -> Path:
        """Records, written by workers."""
        return self.path / "records"

    @property
    def pack(self) -> Path:
        """The evidence pack."""
        return self.path / "evidence_pack"

    @property
    def run_id(self) -> str:
        """The folder's name: suite and UTC time."""
        return self.path.name

    def record_path(self, model: str, scenario: str, draw: int) -> Path:
        """Where the JSON of a record stands; its arrays stand beside it."""
        return self.records / slug(model) / slug(scenario) / f"run_{draw}.record.json"

    def report_folder(self, model: str, scenario: str, draw: int) -> Path:
        """Where the certificate of a record stands."""
        return self.path / "reports" / slug(model) / slug(scenario) / f"run_{draw}"

    def belongs_to(self, session: str) -> bool:
        """Whether this folder was made by the session that ``session`` identifies."""
        owner = self.owner()
        return owner is not None and owner.split("|", 1)[0] == session

    def owner(self) -> str | None:
        """What identifies the run this folder is for: session and identity; None for others."""
        path = self.state / "session"
        return path.read_text("utf-8", "surrogateescape") if path.is_file() else None

    def write_plan(
        self, plan: Mapping[str, Any], part: str = "suite", *, replace: bool = False
    ) -> None:
        """Write what is planned; a run of marker tests has one part a comparison.

        Raises EvidenceError where another plan stands there already, unless ``replace``.
        """
        path = self.state / "plans" / f"{slug(part)}.json"
        if replace or not path.is_file():
            write_json(path, dict(plan))
        elif json.loads(path.read_text(encoding="utf-8")) != json.loads(pretty(dict(plan))):
            raise EvidenceError(
                f"{self.run_id}: another plan was written for {part!r}",
                remedy="do not change suite files while a session runs",
                code="PLAN_CHANGED",
            )

    def read_plans(self) -> list[dict[str, Any]]:
        """The parts of the plan, by name."""
        paths = sorted((self.state / "plans").glob("*.json"))
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]

    def salt(self) -> bytes:
        """The run's secret salt for keyed window hashes."""
        return bytes.fromhex((self.state / "salt").read_text(encoding="ascii"))

    def write_salt(self, salt: bytes) -> None:
        """Replace the salt; only whoever makes the folder may, before anything is measured."""
        path = self.state / "salt"
        write_bytes(path, salt.hex().encode())
        path.chmod(0o600)

    def write_record(self, record: Record) -> None:
        """Write arrays, then JSON, each by atomic rename: a record that is there is whole."""
        facts = record.facts
        path = self.record_path(facts.model, facts.scenario, facts.draw)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(arrays_path(path), record.array_bytes())
        write_json(path, record.document())

    def read_record(self, model: str, scenario: str, draw: int) -> Record | None:
        """The record of a scenario and draw, or None where it was not written."""
        path = self.record_path(model, scenario, draw)
        return read_record(path) if path.is_file() else None

    def write_calibration_time(self, model: str, seconds: float) -> None:
        """Keep the seconds that a measurement for the preset of ``model`` took, for later plans."""
        write_json(self._calibration_time(model), {"seconds_a_measurement": seconds})

    def calibration_time(self, model: str) -> float | None:
        """Seconds a measurement for the preset of ``model``; None where none was derived."""
        try:
            text = self._calibration_time(model).read_text(encoding="utf-8")
            return float(json.loads(text)["seconds_a_measurement"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _calibration_time(self, model: str) -> Path:
        return self.state / f"calibration-{slug(model)}.time.json"

    def all_records(self) -> Iterator[Record]:
        """Every record of the run, sorted by path."""
        for path in sorted(self.records.glob("*/*/run_*.record.json")):
            yield read_record(path)

    def log(self, worker: str, event: str, **details: str | float) -> None:
        """Append one line to the worker's log; one short write, so lines never interleave."""
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = f"{stamp} {event} {json.dumps(details, sort_keys=True)}\n"
        with (self.path / "logs" / f"{worker}.log").open("a", encoding="utf-8") as stream:
            stream.write(line)


def open_run_directory(
    out: Path,
    name: str,
    stamp: str,
    session: str,
    identity: str = "",
    begin: Callable[[RunDirectory], None] | None = None,
) -> RunDirectory:
    """Make or join ``out/<name>-<stamp>``, the folder of the session that ``session`` identifies.

    ``identity`` tells runs of one name apart, such as two suite files that call themselves alike.

    All workers of a session call this with the same arguments and get the same folder; another
    session that started in the same second gets ``~2`` added. Points ``out/latest`` at it. Whoever
    makes the folder calls ``begin`` on it, before it is anybody's: killed there, it is no run.

    Raises EvidenceError where ``out`` cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock"):
            run = _claimed(out, f"{slug(name)}-{stamp}", f"{session}|{identity}", begin)
            _point_latest(out, run.path)
    except OSError as error:
        raise EvidenceError(
            f"{out}: cannot be written: {error.strerror}",
            remedy="give a writable folder with --invarlock-out",
            code="OUT_UNWRITABLE",
        ) from error
    return run


def _claimed(
    out: Path, name: str, session: str, begin: Callable[[RunDirectory], None] | None
) -> RunDirectory:
    for number in itertools.count(1):
        run = RunDirectory(out / (name if number == 1 else f"{name}~{number}"))
        if not run.path.exists():
            for folder in (run.state / "plans", run.records, run.path / "logs"):
                folder.mkdir(parents=True)
            run.write_salt(secrets.token_bytes(32))
            if begin is not None:
                begin(run)
            write_bytes(run.state / "session", session.encode("utf-8", "surrogateescape"))
        if run.owner() == session:
            return run
    raise AssertionError("unreachable")


def runs_of_session(out: Path, stamp: str, session: str) -> list[RunDirectory]:
    """The run directories a session made, by name."""
    runs = [RunDirectory(path) for path in sorted(out.glob(f"*-{stamp}*")) if path.is_dir()]
    return [run for run in runs if run.belongs_to(session)]


def _point_latest(out: Path, path: Path) -> None:
    temporary = out / f".latest-{os.getpid()}-{secrets.token_hex(4)}"
    temporary.symlink_to(path.name, target_is_directory=True)
    temporary.replace(out / "latest")


def arrays_path(record_path: Path) -> Path:
    """``run_0.npz`` beside ``run_0.record.json``."""
    return record_path.with_name(record_path.name.replace(".record.json", ".npz"))


def read_record(path: Path) -> Record:
    """Read a record and its arrays from disk; raises EvidenceError where they do not agree."""
    document: Any = loads(_first_bytes(path, MAX_RECORD_BYTES + 1), max_bytes=MAX_RECORD_BYTES)
    problem = first_violation("record", document)
    if problem is not None:
        raise EvidenceError(
            f"{path}: is no record of this version: {problem.message[:200]}",
            remedy="run the scenario again",
            code="RECORD_SCHEMA",
        )
    try:
        # One that is cut off there is no archive any more.
        arrays = _first_bytes(arrays_path(path), MAX_FILE_BYTES)
    except FileNotFoundError:
        raise EvidenceError(
            f"{arrays_path(path)}: is missing",
            remedy="run the scenario again",
            code="RECORD_ARRAYS",
        ) from None
    return record_from_bytes(document, arrays)


def _first_bytes(path: Path, most: int) -> bytes:
    """At most that many: pages are drawn of strangers' packs too, whose files may have no end."""
    with path.open("rb") as file:
        return file.read(most)
