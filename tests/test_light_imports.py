"""The plugin costs a run that does not use it nothing, and deciding needs no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "datasets", "numpy", "scipy")
ALSO_HEAVY = ("yaml", "jsonschema", "rich", "jinja2", "cryptography")
ABSENT_FOR_VERIFY = ("torch", "transformers", "datasets")

# Runs pytest in this process and leaves the names of all loaded modules in a file.
PYTEST = """
import json, sys, pytest
status = pytest.main(sys.argv[2:])
with open(sys.argv[1], "w") as stream:
    json.dump(sorted(sys.modules), stream)
sys.exit(int(status))
"""
BLOCK = "import sys; sys.modules.update(dict.fromkeys({names!r}))\n"
# Only our plugin and pytest's own: what others load is not ours to answer for.
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
OURS = ("-p", "pytest_invarlock.plugin")


def python(
    code: str, *arguments: str | Path, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("INVARLOCK_", "PYTEST_"))}
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        cwd=cwd,
        env={**kept, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def run_pytest(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """pytest in ``folder`` with our plugin; its process, and the top-level packages it loaded."""
    modules = folder.parent / "modules.json"
    result = python(PYTEST, modules, *OURS, *arguments, cwd=folder, **ALONE)
    return result, {name.partition(".")[0] for name in json.loads(modules.read_text())}


@pytest.fixture
def strangers_tests(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "test_one.py").write_text("def test_one():\n    pass\n")
    return folder


def test_a_run_that_is_not_ours_loads_nothing_heavy(strangers_tests: Path) -> None:
    result, loaded = run_pytest(strangers_tests, "-q")
    assert result.returncode == 0, result.stdout + result.stderr
    assert not loaded & {*HEAVY, *ALSO_HEAVY}


def test_a_run_that_is_not_ours_writes_no_file(strangers_tests: Path) -> None:
    run_pytest(strangers_tests, "-q", "-p", "no:cacheprovider")
    assert [path.name for path in strangers_tests.rglob("*")] == ["test_one.py"]


def test_a_run_that_is_not_ours_prints_nothing_of_ours(strangers_tests: Path) -> None:
    quiet, _ = run_pytest(strangers_tests, "-q")
    assert "invarlock" not in quiet.stdout + quiet.stderr
    assert quiet.stdout.splitlines()[0].split() == [".", "[100%]"]


def test_help_loads_nothing_heavy(strangers_tests: Path) -> None:
    result, loaded = run_pytest(strangers_tests, "--help")
    assert "--invarlock-suite" in result.stdout
    assert not loaded & {*HEAVY, *ALSO_HEAVY}


def test_collecting_a_suite_needs_no_model_and_nothing_heavy(strangers_tests: Path) -> None:
    arguments = ("--co", "-q", "--invarlock-suite=demo", "--invarlock-model=no-such/model")
    result, loaded = run_pytest(strangers_tests, *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "invarlock/demo::no-such/model::noop::primary_metric" in result.stdout
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize(
    "module",
    [
        "invarlock_guards",
        "invarlock_guards.contract",
        "invarlock_guards.judge.invariants",
        "invarlock_guards.judge.rmt",
        "invarlock_guards.judge.spectral",
        "invarlock_guards.judge.variance",
        "pytest_invarlock.certificate",
        "pytest_invarlock.core.api",
        "pytest_invarlock.core.exceptions",
        "pytest_invarlock.decide",
        "pytest_invarlock.evidence.rederive",
        "pytest_invarlock.evidence.run_pack",
        "pytest_invarlock.evidence.verify",
        "pytest_invarlock.run_summary",
        "pytest_invarlock.verdict",
    ],
)
def test_imports_without_torch(module: str, tmp_path: Path) -> None:
    result = python(BLOCK.format(names=ABSENT_FOR_VERIFY) + f"import {module}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["verify", "--help"], ["--version"]])
def test_the_console_script_runs_without_torch(arguments: list[str], tmp_path: Path) -> None:
    code = BLOCK.format(names=ABSENT_FOR_VERIFY) + (
        "from pytest_invarlock.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    result = python(code, *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "invarlock" in result.stdout


def test_help_of_the_console_script_loads_nothing_heavy(tmp_path: Path) -> None:
    absent = (*HEAVY, *ALSO_HEAVY)
    code = BLOCK.format(names=absent) + "from pytest_invarlock.cli import main; main(['--help'])"
    assert python(code, cwd=tmp_path).returncode == 0
