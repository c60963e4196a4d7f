"""A run that was killed at any moment and resumed: the facts and verdict of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.preloaded_python import preloaded_python

SCRIPT = Path(__file__).with_name("killed_runs.py")
SCENARIOS = ("noop", "rtn")
MEASURED = ("baseline_load", "baseline_pass", "record")


def comparable(verdict):
    """A verdict without the names of its run."""
    return {key: value for key, value in verdict.items() if key != "run_id"}


@pytest.mark.long
def test_killed_at_ten_moments_and_resumed_the_facts_and_the_verdict_are_the_same(repository):
    """One process for all sessions, so that what they import is imported once."""
    suite = repository.suite(*SCENARIOS)
    path = repository.path / suite
    # Small batches: more moments in the midst of a measurement.
    text = path.read_text().replace("threads: 1,", "threads: 1, batch_tokens: 256,")
    path.write_text(text)
    (repository.path / "changed.invarlock.yaml").write_text(
        text.replace("documents: 8,", "documents: 2000,")
    )
    code = f"import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    command = [preloaded_python(), "-c", code, suite, "changed.invarlock.yaml"]
    result = subprocess.run(
        command, cwd=repository.path, env=os.environ.copy(), capture_output=True, text=True,
        timeout=1500,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    results = json.loads((repository.path / "results.json").read_text())
    whole = results["whole"]
    assert whole["status"] == 0, (repository.path / "whole.log").read_text()
    assert whole["verdict"]["verdict"] == "PASS"
    assert len(results["killed"]) == 10
    n_taken = []
    for number, one in enumerate(results["killed"]):
        log = (repository.path / f"killed_{number}.log").read_text()
        assert one["killed"] == signal.SIGKILL, log
        assert (one["status"], one["unfinished"]) == (0, []), log
        assert one["facts"] == whole["facts"], one["step"]
        assert comparable(one["verdict"]) == comparable(whole["verdict"])
        assert one["sealed"]
        n_taken.append(one["events"].count("taken_over"))
        # Each record is measured or taken over, never both.
        assert n_taken[-1] + one["events"].count("record") == len(SCENARIOS)
        if n_taken[-1]:
            assert one["salt"] == one["before"]["salt"]
        if n_taken[-1] == len(SCENARIOS):
            # Nothing is loaded where nothing is left to measure.
            assert not set(MEASURED) & set(one["events"])
    assert n_taken == sorted(n_taken)
    assert set(n_taken) == {0, 1, 2}

    changed = results["changed"]
    assert changed["facts"] == whole["facts"]
    assert changed["events"].count("taken_over") == len(SCENARIOS)
    assert changed["verdict"]["verdict"] == "INCONCLUSIVE"
    assert changed["status"] != 0


def test_the_setting_off_in_the_environment_and_on_without_an_earlier_run(repository, monkeypatch):
    suite = repository.suite("noop")
    monkeypatch.setenv("INVARLOCK_RESUME", "0")
    assert "resume" not in repository.run(suite, "--co").stdout.str()
    # The argument that follows is the suite file, not the name of a run.
    result = repository.run("--invarlock-resume", suite)
    result.stdout.fnmatch_lines(["resume: no earlier run to continue, all was measured"])
    assert result.ret == 0
    state = repository.latest / "state"
    progress = json.loads((state / "progress.json").read_text())
    assert (progress["status"], progress["done_records"]) == ("completed", 1)
    assert progress["progress_pct"] == 100
    (worker,) = json.loads((state / "workers.json").read_text())["workers"]
    assert (worker["id"], worker["records"], worker["scenario"]) == ("main", 1, None)
    assert worker["device"]["device"] == "cpu"
