"""Sessions over workers, shuffled, crashed and interrupted: the same facts, or no verdict at all."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest

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


def test_workers_and_shuffling_change_no_fact_no_verdict_and_no_testcase(repository):
    suite = repository.suite(*SCENARIOS)
    alone = repository.run(suite, "--junitxml=junit.xml")
    facts, cases, verdict = repository.digests(), junit(repository), repository.verdict()["verdict"]
    assert repository.events().count("baseline_load") == 1
    assert repository.events().count("baseline_pass") == 1
    assert len(facts) == len(SCENARIOS)

    spread = repository.run_apart(suite, "-n2", "--junitxml=junit.xml")
    assert repository.digests() == facts
    assert junit(repository) == cases
    assert repository.verdict()["verdict"] == verdict == "FAIL"
    assert alone.ret == spread.ret == pytest.ExitCode.TESTS_FAILED
    assert repository.events().count("baseline_load") == 2
    assert repository.events().count("baseline_pass") == 1

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
    suite = repository.suite(*SCENARIOS)
    repository.pytester.makeconftest(
        """
        import os, pytest
        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_call(item):
            if item.nodeid.endswith("::rtn::invariants") and hasattr(item.config, "workerinput"):
                os._exit(9)
        """
    )
    result = repository.run_apart(suite, "-n2")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    verdict = repository.verdict()
    assert verdict["status"] == "partial"
    assert verdict["verdict"] is None
    assert len(repository.digests()) == len(SCENARIOS)
    assert not (repository.latest / "evidence_pack").exists()
    assert "::verdict" not in result.stdout.str()


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
        [sys.executable, "-m", "pytest", "-p", "no:randomly", suite],
        cwd=repository.path, env=os.environ.copy(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
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


@pytest.mark.parametrize("flags", [["-v"], [], ["-n1"]])
def test_on_a_terminal_progress_shows_and_leaves_the_results_whole(repository, flags):
    suite = repository.suite("noop")
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:randomly", suite, *flags],
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
    assert process.wait(timeout=60) == 0
    text = raw.decode().replace("\r\n", "\n")
    assert "builtin:llama noop baseline 24/48 windows" in text or "48/48 windows" in text
    shown = screen(text)
    assert not [line for line in shown if "windows" in line]
    if "-v" in flags:
        assert any(
            line.startswith(f"{suite}::builtin:llama::noop::invariants PASSED") for line in shown
        )
    elif not flags:
        assert any(line.startswith(f"{suite} ...") for line in shown)
    else:
        assert any(line.startswith("...") for line in shown)


def test_a_progress_report_reaches_the_controller_from_a_worker_and_garbles_nothing(repository):
    repository.pytester.makeconftest(
        """
        import pytest
        def pytest_runtest_logreport(report):
            if report.when == "progress":
                open("seen", "a").write(dict(report.user_properties)["invarlock.progress"] + "\\n")
        """
    )
    result = repository.run_apart(repository.suite("noop"), "-n2")
    assert result.ret == pytest.ExitCode.OK
    assert not garbled(result)
    lines = (repository.path / "seen").read_text().splitlines()
    assert any(
        line.startswith("builtin:llama noop ") and line.endswith("windows") for line in lines
    )


@pytest.mark.parametrize("absent", ["xdist", "terminal", "cacheprovider", "junitxml"])
def test_the_plugin_works_without_other_plugins(repository, absent):
    result = repository.run(repository.suite("noop"), "-p", f"no:{absent}", "-W", "error")
    assert result.ret == pytest.ExitCode.OK
    assert repository.verdict()["verdict"] == "PASS"


def test_without_our_plugin_nothing_of_ours_is_there(repository):
    repository.pytester.makepyfile("def test_it():\n    pass\n")
    result = repository.run_apart("-p", "no:invarlock", "--help")
    assert "--invarlock" not in result.stdout.str()
