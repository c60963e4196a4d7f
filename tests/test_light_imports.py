"""The plugin costs a run that does not use it nothing, and deciding needs no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .evidence.made_runs import made_run, sealed_run

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAVY = ("torch", "transformers", "datasets", "numpy", "scipy")
ALSO_HEAVY = ("yaml", "jsonschema", "rich", "jinja2", "cryptography")
ABSENT_FOR_VERIFY = ("torch", "transformers", "datasets")

# Runs pytest in this process, off the network, and leaves the names of all loaded modules in a file.
PYTEST = """
import json, socket, sys, pytest

def refuse(*arguments, **keywords):
    raise AssertionError("the network was used")

socket.socket.connect = socket.getaddrinfo = refuse
# One session for each of the lines.
status = max(pytest.main(line.split()) for line in sys.argv[2:])
with open(sys.argv[1], "w") as stream:
    json.dump(sorted(sys.modules), stream)
sys.exit(int(status))
"""
BLOCK = "import sys; sys.modules.update(dict.fromkeys({names!r}))\n"
MODULES = (
    "invarlock_guards",
    "invarlock_guards.contract",
    "invarlock_guards.judge.invariants",
    "invarlock_guards.judge.rmt",
    "invarlock_guards.judge.spectral",
    "invarlock_guards.judge.variance",
    "pytest_invarlock.certificate",
    "pytest_invarlock.certificate.explain",
    "pytest_invarlock.report_commands",
    "pytest_invarlock.core.api",
    "pytest_invarlock.core.exceptions",
    "pytest_invarlock.decide",
    "pytest_invarlock.evidence.rederive",
    "pytest_invarlock.evidence.run_pack",
    "pytest_invarlock.evidence.verify",
    "pytest_invarlock.run_summary",
    "pytest_invarlock.verdict",
)
# Commands of whoever was given a pack, each with its exit status.
COMMANDS = {
    "verify {pack} --allow-unsigned": 0,
    "verify {pack}/reports/m/noop/run_0/evaluation.report.json": 0,
    "regate {pack} --tier=conservative --allow-unsigned": 1,
    "evidence-pack inspect {pack}": 0,
    "evidence-pack build {run} -o {run}-again --signing-key=none": 0,
    "evidence-pack merge {pack} {other} -o {run}-merged --allow-unsigned --signing-key=none": 0,
}
# Runs each of its arguments as a command line; prints the exit status of each.
RUN_EACH = """
import contextlib, io, json, sys
from pytest_invarlock.cli import main
ended = {}
for line in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()):
        ended[line] = main(line.split())
print(json.dumps(ended))
"""
# Imports each of its arguments but the first with none of our modules loaded; prints how each of
# them ended. The first is a folder for what was compiled, once all else is loaded.
IMPORT_EACH = """
import contextlib, importlib, json, traceback
for module in sys.argv[2:]:
    with contextlib.suppress(BaseException):
        importlib.import_module(module)
sys.dont_write_bytecode, sys.pycache_prefix = False, sys.argv[1]
ended = {}
for module in sys.argv[2:]:
    for name in list(sys.modules):
        if name.partition(".")[0] in ("pytest_invarlock", "invarlock_guards"):
            del sys.modules[name]
    try:
        importlib.import_module(module)
        ended[module] = ""
    except BaseException:
        ended[module] = traceback.format_exc()
print(json.dumps(ended))
"""
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


def run_pytest(
    folder: Path, *sessions: Sequence[str]
) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """pytest in ``folder`` with our plugin; its process, and the top-level packages it loaded."""
    modules = folder.parent / "modules.json"
    lines = [" ".join([*OURS, *line]) for line in sessions]
    result = python(PYTEST, modules, *lines, cwd=folder, **ALONE)
    return result, {name.partition(".")[0] for name in json.loads(modules.read_text())}


def strangers(parent: Path) -> Path:
    folder = parent / "project"
    folder.mkdir()
    (folder / "test_one.py").write_text("def test_one():\n    pass\n")
    return folder


@pytest.fixture
def strangers_tests(tmp_path: Path) -> Path:
    return strangers(tmp_path)


@pytest.fixture(scope="module")
def not_ours(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[subprocess.CompletedProcess[str], set[str], list[str]]:
    """A run of a stranger's tests: its process, what it loaded, and the files there after it."""
    folder = strangers(tmp_path_factory.mktemp("stranger"))
    result, loaded = run_pytest(folder, ["-q", "-p", "no:cacheprovider"])
    return result, loaded, [path.name for path in folder.rglob("*")]


def test_a_run_that_is_not_ours_loads_nothing_heavy(not_ours: Any) -> None:
    result, loaded, _ = not_ours
    assert result.returncode == 0, result.stdout + result.stderr
    assert not loaded & {*HEAVY, *ALSO_HEAVY}


def test_a_run_that_is_not_ours_writes_no_file(not_ours: Any) -> None:
    assert not_ours[2] == ["test_one.py"]


def test_a_run_that_is_not_ours_prints_nothing_of_ours(not_ours: Any) -> None:
    quiet = not_ours[0]
    assert "invarlock" not in quiet.stdout + quiet.stderr
    assert quiet.stdout.splitlines()[0].split() == [".", "[100%]"]


def test_help_loads_nothing_heavy(strangers_tests: Path) -> None:
    result, loaded = run_pytest(strangers_tests, ["--help"])
    assert "--invarlock-suite" in result.stdout
    assert not loaded & {*HEAVY, *ALSO_HEAVY}


def test_collecting_suites_needs_no_model_and_nothing_heavy(strangers_tests: Path) -> None:
    """All in one process: what any of them loads is seen in the end."""
    items = {
        "demo": "no-such/model::noop::primary_metric",
        "subset": "mistralai/Mistral-7B-v0.1::ve_mlp_scale_skew::signal",
        "showcase": "Qwen/Qwen2.5-14B::ve_mlp_scale_skew_up::signal",
        "workshop3": "01-ai/Yi-34B::nan_injection::detected",
        "full": "Qwen/Qwen3-8B::quant_clean::primary_metric",
    }
    collects = [["--co", "-q", f"--invarlock-suite={suite}"] for suite in items]
    collects[0].append("--invarlock-model=no-such/model")
    result, loaded = run_pytest(strangers_tests, *collects)
    assert result.returncode == 0, result.stdout + result.stderr
    for suite, item in items.items():
        assert f"invarlock/{suite}::{item}" in result.stdout
    assert not loaded & set(HEAVY)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By module, how importing it ended where no torch is; "" is well.

    Nothing of ours was loaded before any of them.
    """
    code = BLOCK.format(names=ABSENT_FOR_VERIFY) + IMPORT_EACH
    folder = tmp_path_factory.mktemp("imported")
    result = python(code, folder, *MODULES, cwd=folder)
    assert result.returncode == 0, result.stderr
    found: dict[str, str] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_without_torch(module: str, imported: dict[str, str]) -> None:
    assert imported[module] == ""


@pytest.fixture(scope="module")
def commanded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """By command, its exit status where no torch, transformers or datasets is."""
    folder = tmp_path_factory.mktemp("packs")
    runs = [folder / f"small-20261120T12000{k}Z" for k in range(2)]
    packs = [
        sealed_run(made_run(run, {name: 0.0}), None)
        for run, name in zip(runs, ("noop", "other"), strict=True)
    ]
    places = {"pack": packs[0], "other": packs[1], "run": runs[0]}
    lines = {line: line.format(**places) for line in COMMANDS}
    code = BLOCK.format(names=ABSENT_FOR_VERIFY) + RUN_EACH
    result = python(code, *lines.values(), cwd=folder)
    assert result.returncode == 0, result.stderr
    ended: dict[str, int] = json.loads(result.stdout)
    return {line: ended[made] for line, made in lines.items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_on_packs_run_without_torch(command: str, commanded: dict[str, int]) -> None:
    assert commanded[command] == COMMANDS[command]


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
