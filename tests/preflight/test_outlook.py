"""What a session is refused for before anything is loaded, and what it is only told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_invarlock.preflight import machine, outlook
from pytest_invarlock.preflight.hub import HubState
from pytest_invarlock.preflight.machine import DeviceMemory
from pytest_invarlock.preflight.outlook import Outlook, look_ahead
from pytest_invarlock.preflight.planned import planned_document, planned_lines
from pytest_invarlock.run_directory import RunDirectory

from .conftest import COMMIT, SCENARIO, settings

GB = 10**9


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the machine has free, by word."""
    told: dict[str, Any] = {"memory": 8 * GB, "disk": 8 * GB, "device": None}
    monkeypatch.setattr(outlook, "free_memory", lambda: told["memory"])
    monkeypatch.setattr(outlook, "free_disk", lambda _: told["disk"])
    monkeypatch.setattr(
        outlook,
        "device_memory",
        lambda _: told["device"] or DeviceMemory("cpu", told["memory"]),
    )
    return told


@pytest.fixture
def ahead(suite_of: Any, free: dict[str, Any], tmp_path: Path) -> Any:
    def look(*models: str, workers: int = 1, scenarios: str = SCENARIO, **made: str) -> Outlook:
        suite = suite_of(*models, scenarios=scenarios, **made)
        out = tmp_path / "out"
        return look_ahead([suite], settings(**made), out, tmp_path, workers=workers)

    return look


def codes(found: Outlook) -> list[str]:
    return [error.code for error in found.problems]


def test_too_little_memory_is_refused_with_the_numbers(ahead: Any, free: dict[str, Any]) -> None:
    free["memory"] = 2_000_000
    found = ahead("builtin:llama")
    assert codes(found) == ["MEMORY_SHORT"]
    text = str(found.problems[0])
    need = found.memory[("small.invarlock.yaml", "builtin:llama")]
    assert need is not None
    assert machine.as_bytes(need.total) in text
    assert "2.0 MB are free" in text
    assert "--invarlock-no-preflight" in text


def test_every_worker_holds_its_own(ahead: Any, free: dict[str, Any]) -> None:
    need = ahead("builtin:llama").memory[("small.invarlock.yaml", "builtin:llama")]
    free["memory"] = need.total
    assert codes(ahead("builtin:llama")) == []
    found = ahead("builtin:llama", workers=2)
    assert codes(found) == ["MEMORY_SHORT"]
    assert "each in 2 workers" in str(found.problems[0])


def test_a_device_and_the_host_it_is_loaded_through_are_weighed(
    ahead: Any, free: dict[str, Any]
) -> None:
    free["device"] = DeviceMemory("cuda", 1000, 80 * GB)
    found = ahead("builtin:llama")
    assert "of memory on cuda" in str(found.problems[0])
    assert found.device is not None
    assert found.device.taken == 80 * GB - 1000
    free["device"], free["memory"] = DeviceMemory("cuda", 80 * GB, 80 * GB), 1000
    assert "of the host's memory" in str(ahead("builtin:llama").problems[0])


def test_too_little_disk_is_refused(ahead: Any, free: dict[str, Any]) -> None:
    free["disk"] = 1000
    assert codes(ahead("builtin:llama")) == ["DISK_SPACE"]


def test_what_is_to_be_fetched_needs_room_in_the_cache(
    ahead: Any, free: dict[str, Any], answers: Any, hub_cache: Any
) -> None:
    answers["org/tiny"] = HubState(COMMIT, weights_bytes=9 * GB)
    found = ahead("org/tiny", allow_network="1")
    assert codes(found) == ["CACHE_SPACE"]
    assert "org/tiny: 9.0 GB of weights are to be fetched, and 8.0 GB" in str(found.problems[0])


def test_no_preflight_makes_notes_of_it_and_stands_in_the_plan(
    ahead: Any, free: dict[str, Any], suite_of: Any
) -> None:
    free["memory"] = free["disk"] = 1000
    found = ahead("builtin:llama", no_preflight="1")
    assert codes(found) == []
    assert [note.rpartition("[")[2] for note in found.notes] == ["MEMORY_SHORT]", "DISK_SPACE]"]
    notes = suite_of("builtin:llama", no_preflight="1").plan.notes
    assert "--invarlock-no-preflight: memory and disk were not demanded before the run" in notes


def test_what_is_unknown_is_a_note(ahead: Any, free: dict[str, Any]) -> None:
    free["memory"] = free["disk"] = None
    found = ahead("builtin:llama", "./absent")
    assert codes(found) == []
    assert found.notes == [
        "absent: its memory is unknown: no checkpoint to read is here",
        "free memory is unknown here",
        "free disk space is unknown here",
    ]


def test_code_that_a_model_brings_is_refused(
    ahead: Any, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(checkpoints["llama"], tmp_path / "own")
    config = tmp_path / "own" / "config.json"
    values = json.loads(config.read_text())
    mapped = {"AutoConfig": "c.Own", "AutoModelForCausalLM": "m.OwnForCausalLM"}
    config.write_text(json.dumps({**values, "model_type": "own", "auto_map": mapped}))
    for models, scenarios in (
        (("./own",), SCENARIO),
        (("builtin:llama",), "  - {id: s, strictness: must_pass, subject: ./own}\n"),
    ):
        found = ahead(*models, scenarios=scenarios)
        assert codes(found) == ["MODEL_REMOTE_CODE"]
        text = str(found.problems[0])
        assert "own: needs its own code (m.OwnForCausalLM)" in text
        assert "--invarlock-allow-remote-code" in text
    found = ahead("./own", allow_remote_code="1")
    assert codes(found) == []
    assert found.notes[0].endswith("own: code that it brings is run")
    # Where transformers has the class itself, no code of the checkpoint is run.
    config.write_text(json.dumps({**values, "auto_map": mapped}))
    assert (codes(ahead("./own")), ahead("./own", allow_remote_code="1").notes) == ([], [])


def test_memory_is_read_from_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo, group = tmp_path / "meminfo", tmp_path / "group"
    monkeypatch.setattr(machine, "_MEMINFO", meminfo)
    monkeypatch.setattr(machine, "_CGROUP", group)
    meminfo.write_text("MemTotal: 99 kB\nMemAvailable:   7 kB\n")
    assert machine.free_memory() == 7 * 1024
    group.mkdir()
    (group / "memory.current").write_text("5000\n")
    (group / "memory.stat").write_text("anon 4000\ninactive_file 1000\n")
    for bound, free in (("max", 7 * 1024), ("6000", 2000), ("100000", 7 * 1024), ("10", 0)):
        (group / "memory.max").write_text(f"{bound}\n")
        assert machine.free_memory() == (free if bound != "10" else 0)
    assert machine.free_disk(tmp_path / "not" / "there") == shutil.disk_usage(tmp_path).free


def record(folder: Path, run: int, seconds: float, error: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    seen = {"seconds_to_baseline": seconds, "seconds_subject": 1.0}
    (folder / f"run_{run}.record.json").write_text(
        json.dumps({"facts": {"error": error}, "observations": seen})
    )


def test_time_is_that_of_an_earlier_run_or_unknown(
    ahead: Any, suite_of: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    other = SCENARIO.replace("id: rtn", "id: other")
    found = ahead("builtin:llama", scenarios=SCENARIO + other, repeats="4")
    suite = suite_of("builtin:llama", scenarios=SCENARIO + other, repeats="4")
    assert planned_document(suite, found, out)["time"]["seconds"] is None
    assert any("unknown until the first run" in line for line in planned_lines(
        planned_document(suite, found, out)))  # fmt: skip
    folder = out / "small-20260101T000000Z" / "records" / "builtin-llama" / "rtn"
    record(folder, 0, 2.0)
    record(folder, 1, 4.0)
    record(folder, 2, 9.0, error="CRASH")
    (folder / "run_3.record.json").write_text('{"facts": {')
    (out / "small-20260102T000000Z" / "records").mkdir(parents=True)
    time = planned_document(suite, found, out)["time"]
    assert time == {"seconds": 16.0, "timed": 4, "planned": 8, "run": "small-20260101T000000Z"}


def test_the_plan_says_what_a_verdict_needs(ahead: Any, suite_of: Any, tmp_path: Path) -> None:
    found = ahead("builtin:llama")
    suite = suite_of("builtin:llama")
    document = planned_document(suite, found, tmp_path / "out")
    assert document["documents"]["floor"] == 20
    assert document["documents"]["needed"] == 50
    assert document["documents"]["found"] > 50
    assert (document["measurements"], document["items"]) == (1, len(suite.node_ids()))
    lines = planned_lines(document)
    assert lines[0] == (
        f"plan small: 1 models × 1 scenarios, 1 measurements, {document['items']} items"
    )
    gone = replace(suite, plan=replace(suite.plan, source=replace(
        suite.plan.source, provider="local_jsonl", locations=("/absent.jsonl",))))  # fmt: skip
    unknown = planned_document(gone, found, tmp_path / "out")["documents"]
    assert unknown["found"] is None
    assert unknown["unknown_because"]


def test_the_plan_names_what_is_drawn_again_to_be_confirmed(
    ahead: Any, suite_of: Any, tmp_path: Path
) -> None:
    quiet = SCENARIO.replace("id: rtn", "id: quiet").replace(
        "must_pass", "informational, category: error"
    )
    two = SCENARIO + quiet
    found = ahead("builtin:llama", scenarios=two)
    for share, confirmed, measurements in ((0, [], 2), (0.5, ["quiet"], 3)):
        scenarios = f"{two}minimum_signal_fraction: {{error: {share}}}\n"
        suite = suite_of("builtin:llama", scenarios=scenarios, repeats="1")
        document = planned_document(suite, found, tmp_path / "out")
        assert (document["confirmed"], document["measurements"]) == (confirmed, measurements)
        told = "  two draws at least, to confirm: quiet" in planned_lines(document)
        assert told is bool(confirmed)


def test_a_calibration_is_planned_and_weighed(ahead: Any, suite_of: Any, tmp_path: Path) -> None:
    key = ("small.invarlock.yaml", "builtin:llama")
    without = ahead("builtin:llama")
    scenarios = f"{SCENARIO}calibration: {{runs: 2, held_out: 1}}\n"
    found = ahead("builtin:llama", scenarios=scenarios)
    kept = without.disk[key]
    assert kept is not None
    assert found.disk[key] == 4 * kept
    document = planned_document(suite_of("builtin:llama", scenarios=scenarios), found, tmp_path)
    # The baseline itself and `rtn`, on three draws each.
    assert (document["calibration_measurements"], document["measurements"]) == (6, 1)
    assert (document["time"]["planned"], document["time"]["seconds"]) == (7, None)
    earlier = RunDirectory(tmp_path / "small-20260101T000000Z")
    record(earlier.path / "records" / "builtin-llama" / "rtn", 0, 2.0)
    time = planned_document(suite_of("builtin:llama", scenarios=scenarios), found, tmp_path)["time"]
    assert (time["seconds"], time["timed"]) == (3.0, 1)
    earlier.state.mkdir()
    earlier.write_calibration_time("builtin:llama", 2.5)
    assert (earlier.calibration_time("builtin:llama"), earlier.calibration_time("x")) == (
        2.5,
        None,
    )
    time = planned_document(suite_of("builtin:llama", scenarios=scenarios), found, tmp_path)["time"]
    assert (time["seconds"], time["timed"]) == (18.0, 7)
    time = planned_document(suite_of("builtin:llama"), without, tmp_path)["time"]
    assert (time["seconds"], time["timed"], time["planned"]) == (3.0, 1, 1)
    assert "  calibration 6 measurements, before any scenario" in planned_lines(document)
    alone = ahead("builtin:llama", scenarios=scenarios, mode="calibrate-only")
    assert (alone.memory[key], alone.disk[key]) == (without.memory[key], 3 * kept)


def test_a_deployment_without_its_backend_is_told_before(
    ahead: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy = "  - {id: packed, strictness: must_pass, deploy: {backend: torchao, scheme: int8_weight_only}}\n"
    monkeypatch.setattr(outlook, "find_spec", lambda _: None)
    told = "packed will be skipped: torchao is not installed"
    assert told in ahead("builtin:llama", scenarios=deploy).notes
    strict = ahead("builtin:llama", scenarios=deploy, profile="ci").notes
    assert told.replace(":", ", and the verdict of profile ci be FAIL:") in strict
    monkeypatch.setattr(outlook, "find_spec", lambda name: name)
    assert told not in ahead("builtin:llama", scenarios=deploy).notes
