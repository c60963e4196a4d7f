"""Runs, seeds, timeout and description of one scenario: planned, measured, judged and packed."""

from __future__ import annotations

import json

import pytest

from pytest_invarlock.errors import MeasurementError
from pytest_invarlock.evidence.pack_schemas import check_schemas
from pytest_invarlock.evidence.rederive import rederive_pack
from pytest_invarlock.evidence.verify import VerifyOptions, verify_pack
from pytest_invarlock.plan import Scenario
from pytest_invarlock.policy.settings import SPECS
from pytest_invarlock.scenario_clock import BASELINE, DEFAULT_SECONDS, ScenarioClock

NOOP = "strictness: must_pass, edit: {name: noop}"
RTN = "strictness: must_pass, edit: {name: quant_rtn, plan: {bitwidth: 8, group_size: 32}}"


def suite(repository, *scenarios: str) -> str:
    path = repository.path / repository.suite()
    path.write_text(path.read_text() + "".join(f"  - {{{one}}}\n" for one in scenarios))
    return path.name


def measured(repository) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for path in sorted((repository.latest / "records").glob("*/*/*.record.json")):
        facts = json.loads(path.read_text())["facts"]
        found.setdefault(facts["scenario"], []).append(facts["draw"])
    return found


def test_each_scenario_has_its_own_runs(repository):
    name = suite(
        repository,
        f"id: once, {NOOP}",
        f"id: twice, runs: 2, intent: clean_control, primary_guard: tail, timeout: 600, {NOOP}",
        f"id: seeded, seeds: [5, 3], {RTN}",
    )
    result = repository.run(name)
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    assert measured(repository) == {"once": [0], "twice": [0, 1], "seeded": [3, 5]}
    digests = {
        path: json.loads(path.read_text())["facts"]["data"]["n_documents"]
        for path in (repository.latest / "records").glob("*/seeded/*.record.json")
    }
    assert len(digests) == 2
    assert repository.verdict()["verdict"] == "PASS"
    planned = {"once": (1, None), "twice": (2, None), "seeded": (2, [3, 5])}
    told = told_everywhere(repository, planned)
    (twice,) = [entry for entry in told["scenarios"] if entry["scenario"] == "twice"]
    assert (twice["intent"], twice["primary_guard"], twice["timeout"]) == (
        "clean_control", "tail", 600.0,
    )  # fmt: skip
    plans = [path.read_text() for path in (repository.latest / "state" / "plans").glob("*.json")]
    assert any('"clean_control"' in plan and '"seeds"' in plan for plan in plans)


def told_everywhere(repository, planned) -> dict:
    """The pack's scenarios, once it verifies and states ``planned`` wherever it states a plan."""
    pack = repository.latest / "evidence_pack"
    manifest = json.loads((pack / "manifest.json").read_text())
    told = json.loads((pack / "metadata" / "scenarios.json").read_text())
    for entries in (manifest["planned"], told["planned"], repository.verdict()["planned"]):
        assert {e["scenario"]: (e["draws"], e.get("seeds")) for e in entries} == planned
    pinned = (manifest["signing"]["fingerprint"],)
    report = verify_pack(
        pack, VerifyOptions(expected_fingerprints=pinned), rederive_pack, check_schemas
    )
    assert report.ok, report.findings
    return told


def test_repeats_on_the_command_line_beat_them_but_for_the_run_that_confirms(repository):
    loud = "strictness: informational, category: error, edit: {name: scale_explosion}"
    name = suite(repository, f"id: seeded, seeds: [5, 3], {NOOP}", f"id: loud, seeds: [4], {loud}")
    path = repository.path / name
    path.write_text("minimum_signal_fraction: {error: 1}\n" + path.read_text())
    result = repository.run(name, "--invarlock-repeats=1")
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    assert measured(repository) == {"seeded": [0], "loud": [0, 1]}
    assert repository.verdict()["verdict"] == "PASS"
    told_everywhere(repository, {"seeded": (1, None), "loud": (2, None)})


LIMIT = """\
def pytest_collection_finish(session):
    from pytest_invarlock.workbench import workbench_of

    print("limit", workbench_of(session.config).timeout)
"""


def test_beyond_its_timeout_a_scenario_is_an_error_and_the_next_one_is_not(repository):
    name = suite(repository, f"id: slow, timeout: 1.0e-6, {RTN}", f"id: noop, timeout: 600, {NOOP}")
    result = repository.run(name)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*scenario slow took * its timeout is 1e-06 s*"])
    # Undone all the same: an identical subject passes after it.
    result.assert_outcomes(passed=4, failed=5)
    (record,) = (repository.latest / "records").glob("*/slow/*.record.json")
    assert json.loads(record.read_text())["facts"]["error"] == "TIMEOUT"
    verdict = repository.verdict()
    assert verdict["verdict"] == "FAIL"
    assert [entry["outcome"] for entry in verdict["decisions"]] == ["PASS", "ERROR"]


def test_a_detection_is_never_a_timeout(repository):
    name = suite(
        repository,
        "id: a, strictness: must_detect, timeout: 1.0e-6, detectors: {any: [primary_metric]}, "
        "edit: {name: scale_explosion}",
    )
    assert repository.run(name).ret == pytest.ExitCode.TESTS_FAILED
    assert repository.verdict()["verdict"] == "FAIL"


def test_the_baselines_time_is_not_the_scenarios(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("pytest_invarlock.scenario_clock.time.monotonic", lambda: now[0])
    clock = ScenarioClock(Scenario("a", subject="x", timeout=10), 5, now[0])
    now[0] = 60.0
    clock.check(BASELINE)
    now[0] = 70.0
    clock.check("subject")
    now[0] = 70.1
    with pytest.raises(MeasurementError, match=r"took 10\.1 s, its timeout is 10 s"):
        clock.check("subject")
    clock = ScenarioClock(Scenario("b", subject="x"), 5, now[0])
    now[0] = 75.2
    with pytest.raises(MeasurementError, match=r"took 5\.1 s, its timeout is 5 s"):
        clock.check("subject")
    assert SPECS["timeout"].default == str(DEFAULT_SECONDS)
    day = ScenarioClock(Scenario("c", subject="x"), _start=now[0])
    now[0] += 21_600
    day.check("subject")
    now[0] += 0.5
    with pytest.raises(MeasurementError, match="its timeout is 21600 s"):
        day.check("subject")


def test_the_settings_limit_is_the_workbenchs_and_no_number_is_a_usage_error(repository):
    name = suite(repository, f"id: noop, {NOOP}")
    (repository.path / "conftest.py").write_text(LIMIT)
    result = repository.run(name, "--invarlock-timeout=77", "--collect-only", "-q")
    result.stdout.fnmatch_lines(["limit 77"])
    for wrong in ("0", "soon", "1.5"):
        refused = repository.run(name, f"--invarlock-timeout={wrong}")
        assert refused.ret == pytest.ExitCode.USAGE_ERROR
        refused.stderr.fnmatch_lines(["*--invarlock-timeout: *whole number of at least 1*"])
