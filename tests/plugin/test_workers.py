"""Sessions over workers, shuffled, crashed and interrupted: the same facts, or no verdict at all."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
from functools import partial
from xml.etree import ElementTree

import pytest

from tests.preloaded_python import preloaded_python

SCENARIOS = ("noop", "rtn", "pruned", "explosion")


def junit(repository) -> dict[str, tuple[tuple[str, str], ...]]:
    tree = ElementTree.parse(repository.path / "junit.xml")
    skipped = ("invarlock.certificate",)
    return {
        f"{case.get('classname')}::{case.get('name')}": tuple(
            (p.get("name"), p.get("value"))
            for p in case.iter("property")
            if p.get("name") not in skipped
        )
        for case in tree.iter("testcase")
    }


def state(repository, name: str) -> dict:
    return json.loads((repository.latest / "state" / f"{name}.json").read_text())


PROGRESS = r"\d+/\d+ windows"
KEEPS_PROGRESS = """
def pytest_runtest_logreport(report):
    if report.when == "progress":
        with open("seen", "a") as seen:
            seen.write(dict(report.user_properties)["invarlock.progress"] + "\\n")
"""


@pytest.mark.long
def test_workers_and_shuffling_change_no_fact_no_verdict_and_no_testcase(repository):
    """That a worker's progress reaches the controller is seen here too, to save a session."""
    suite = repository.suite(*SCENARIOS)
    alone = repository.run(suite, "--junitxml=junit.xml")
    facts, cases, verdict = repository.digests(), junit(repository), repository.verdict()["verdict"]
    assert repository.events().count("baseline_load") == 1
    assert repository.events().count("baseline_pass") == 1
    assert len(facts) == len(SCENARIOS)

    repository.pytester.makeconftest(KEEPS_PROGRESS)
    spread = repository.run_apart(suite, "-n2", "--junitxml=junit.xml")
    lines = (repository.path / "seen").read_text().splitlines()
    assert any(
        line.startswith("builtin:llama noop ") and line.endswith("windows") for line in lines
    )
    assert all(re.search(PROGRESS, line) for line in lines)
    assert "\r" not in spread.stdout.str()
    # In a long session a line of its own tells now and then; no other line holds progress.
    shown = [line for line in spread.outlines if re.search(PROGRESS, line)]
    assert all(re.fullmatch(rf"  builtin:llama \w+ \w+ {PROGRESS}", line) for line in shown)
    assert repository.digests() == facts
    assert junit(repository) == cases
    assert repository.verdict()["verdict"] == verdict == "FAIL"
    assert alone.ret == spread.ret == pytest.ExitCode.TESTS_FAILED
    assert repository.events().count("baseline_load") == 2
    assert repository.events().count("baseline_pass") == 1
    progress, workers = state(repository, "progress"), state(repository, "workers")["workers"]
    assert (progress["status"], progress["done_records"]) == ("completed", len(SCENARIOS))
    assert [worker["id"] for worker in workers] == ["gw0", "gw1"]
    assert sum(worker["records"] for worker in workers) == len(SCENARIOS)

    shuffled = repository.pytester.runpytest_inprocess(
        "-p", "randomly", "-p", "no:cacheprovider", "-p", "xdist", suite, "-p", "randomly",
        "--randomly-seed=3", "-v",
    )  # fmt: skip
    names = [line.split()[0] for line in shuffled.outlines if line.startswith(f"{suite}::builtin")]
    scenarios = [name.split("::")[2] for name in names]
    assert [s for i, s in enumerate(scenarios) if i == 0 or scenarios[i - 1] != s] != list(
        SCENARIOS
    )
    assert len({s for i, s in enumerate(scenarios) if i == 0 or scenarios[i - 1] != s}) == 4
    assert repository.digests() == facts
    assert repository.verdict()["verdict"] == verdict


def test_a_worker_that_dies_leaves_no_verdict_and_loses_no_sibling(repository):
    scenarios = ("noop", "rtn", "explosion")
    suite = repository.suite(*scenarios)
    repository.pytester.makeconftest(
        """
        import os, pytest
        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_call(item):
            if item.nodeid.endswith("::rtn::invariants") and hasattr(item.config, "workerinput"):
                os._exit(9)
        """
    )
    result = repository.run_apart(suite, "-n1")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    verdict = repository.verdict()
    assert verdict["status"] == "partial"
    assert verdict["verdict"] is None
    assert len(repository.digests()) == len(scenarios)
    assert not (repository.latest / "evidence_pack").exists()
    assert "::verdict" not in result.stdout.str()
    assert state(repository, "progress")["status"] == "incomplete"

    (repository.path / "conftest.py").unlink()
    resumed = repository.run("--invarlock-resume", suite)
    resumed.stdout.fnmatch_lines(["resumed small-*: 3 of 3 records taken over"])
    assert repository.verdict()["status"] == "complete"


def test_ctrl_c_keeps_records_and_seals_nothing(repository):
    suite = repository.suite("noop", "rtn", "pruned")
    repository.pytester.makeconftest(
        """
        import time, pathlib, pytest
        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_call(item):
            if "::pruned::" in item.nodeid:
                pathlib.Path("reached").touch()
                time.sleep(60)
        """
    )
    process = subprocess.Popen(
        [preloaded_python(), "-m", "pytest", "-p", "no:randomly", suite],
        cwd=repository.path, env=os.environ.copy(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # Shells start what they put in the background with Ctrl-C ignored.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    for _ in range(600):
        if (repository.path / "reached").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    verdict = repository.verdict()
    assert (verdict["status"], verdict["verdict"]) == ("incomplete", None)
    assert set(repository.digests()) == {"builtin-llama/noop", "builtin-llama/rtn"}
    assert state(repository, "progress")["status"] == "incomplete"
    assert not (repository.latest / "evidence_pack").exists()
    assert not list((repository.path / "invarlock-out").rglob("*.tmp*"))
    assert "the run was cut short: no verdict, no evidence pack" in output


def garbled(result) -> bool:
    output = result.stdout.str()
    return "windows" in output.replace("windows_", "") or "\r" in output


@pytest.mark.parametrize("flag", ["-q", "-v"])
def test_without_a_terminal_progress_garbles_nothing(repository, flag):
    result = repository.run(repository.suite("noop"), flag)
    assert result.ret == pytest.ExitCode.OK
    assert not garbled(result)


def screen(raw: str) -> list[str]:
    """What a terminal shows in the end, of the control sequences that are used here."""
    lines, line, column, saved = [], [], 0, 0
    for token in re.findall(r"\x1b7|\x1b8|\x1b\[K|\x1b\[[0-9;]*m|\r|\n|.", raw, flags=re.DOTALL):
        if token == "\n":
            lines.append("".join(line).rstrip())
            line, column = [], 0
        elif token == "\r":
            column = 0
        elif token == "\x1b7":
            saved = column
        elif token == "\x1b8":
            column = saved
        elif token == "\x1b[K":
            del line[column:]
        elif not token.startswith("\x1b"):
            line += [" "] * (column + 1 - len(line))
            line[column] = token
            column += 1
    return lines


def on_a_terminal(repository, *command: str) -> str:
    """What ``command`` writes to a terminal; it must end in success."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [preloaded_python(), *command],
        cwd=repository.path, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        stdin=terminal, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    raw = b""
    while True:
        try:
            chunk = os.read(controller, 65536)
        except OSError:
            break
        if not chunk:
            break
        raw += chunk
    os.close(controller)
    assert process.wait(timeout=60) == 0, raw.decode()
    return raw.decode().replace("\r\n", "\n")


def lines_left(text: str) -> list[str]:
    """The lines in the end; progress was shown, and nothing of it is left."""
    assert "builtin:llama noop baseline 10/20 windows" in text or "20/20 windows" in text
    shown = screen(text)
    assert not [line for line in shown if "windows" in line]
    return shown


def test_on_a_terminal_progress_shows_and_leaves_the_results_whole(repository):
    """Two sessions of one process, so that torch is imported once."""
    suite = repository.suite("noop")
    twice = (
        "import pytest, sys\n"
        f"plain = ['-p', 'no:randomly', {suite!r}]\n"
        "for flags in (['-v'], []):\n"
        "    status = pytest.main([*plain, *flags])\n"
        "    if status: sys.exit(status)\n"
        "    print('SESSION ENDS', flush=True)\n"
    )
    verbose, plain, rest = on_a_terminal(repository, "-c", twice).split("SESSION ENDS\n")
    assert rest == ""
    assert any(
        line.startswith(f"{suite}::builtin:llama::noop::invariants PASSED")
        for line in lines_left(verbose)
    )
    assert any(line.startswith(f"{suite} ...") for line in lines_left(plain))


def test_on_a_terminal_a_workers_progress_shows_and_leaves_the_results_whole(repository):
    suite = repository.suite("noop")
    text = on_a_terminal(repository, "-m", "pytest", "-p", "no:randomly", suite, "-n1")
    assert any(line.startswith("...") for line in lines_left(text))


@pytest.mark.parametrize("absent", ["xdist", "terminal", "cacheprovider", "junitxml"])
def test_the_plugin_works_without_other_plugins(repository, absent):
    result = repository.run(repository.suite("noop"), "-p", f"no:{absent}", "-W", "error")
    assert result.ret == pytest.ExitCode.OK
    assert repository.verdict()["verdict"] == "PASS"


def test_without_our_plugin_nothing_of_ours_is_there(repository):
    repository.pytester.makepyfile("def test_it():\n    pass\n")
    result = repository.run_apart("-p", "no:invarlock", "--help")
    assert "--invarlock" not in result.stdout.str()
