"""``invarlock run`` and ``certify`` are pytest with other words: its items, its exit statuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# pytester forgets modules that a session imported; torch cannot be imported twice.
import torch  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401

import pytest_invarlock.core.engine
import pytest_invarlock.core.runner
import pytest_invarlock.evidence.run_pack
import pytest_invarlock.lending  # noqa: F401
from pytest_invarlock.cli import main
from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.resources import read_text
from pytest_invarlock.policy.tiers import load_tier
from pytest_invarlock.run_commands import suite_file
from tests.preloaded_python import preloaded_python

if TYPE_CHECKING:
    from collections.abc import Callable

SUITE = """\
name: small
models: ["builtin:llama"]
profile: dev
dataset: {provider: pydoc, seq_len: 48, preview_n: 10, final_n: 10}
run: {device: cpu, dtype: float32, threads: 1, determinism: strict}
floors: {documents: 8, effective_documents: 4}
bootstrap_replicates: 499
scenarios:
"""
CHECKS = len(load_tier("balanced").checks)
NOOP = "  - {id: noop, strictness: must_pass, edit: {name: noop}}\n"
PRUNED = (
    "  - {id: pruned, strictness: must_pass, "
    "edit: {name: magnitude_prune, plan: {sparsity: 0.7}}}\n"
)
RUN_CONFIGURATION = """\
model: {id: "builtin:gpt2", adapter: hf_causal, device: cpu}
dataset: {provider: pydoc, seq_len: 48, stride: 48, preview_n: 20, final_n: 20, seed: 42}
edit: {name: quant_rtn, plan: {bitwidth: 8, per_channel: true, scope: attn}}
guards: {order: [invariants, spectral, rmt, variance, invariants], spectral: {mode: monitor}}
output: {dir: runs}
"""
TEXT_ONLY = (
    read_text("tiers", "balanced.yaml")
    .replace(" spectral, rmt, variance,", "", 1)
    .replace(", guard_overhead]", "]", 1)
    .replace("name: balanced", "name: text-only", 1)
)
TEXT_CHECKS = CHECKS - 4
PLAIN = ("-q", "-p", "no:randomly", "-p", "no:cacheprovider")


def command(
    folder: Path, module: str, *arguments: str, python: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    dropped = ("INVARLOCK_", "PYTEST_", "PACK_", "CI")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    home = folder.parent / f"{folder.name}-home"
    return subprocess.run(
        [python or preloaded_python(), "-P", "-m", module, *arguments],
        cwd=folder,
        env={**kept, "HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def invarlock(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return command(folder, "pytest_invarlock", *arguments, **env)


@pytest.fixture
def become(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs what a command hands on to pytest in this process, in the folder of ``pytester``."""
    for name in list(os.environ):
        if name.startswith(("INVARLOCK_", "PACK_", "CI", "PYTEST_ADDOPTS", "GITHUB_STEP")):
            monkeypatch.delenv(name)
    home = pytester.path.parent / f"{pytester.path.name}-home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))

    class Become(BaseException):
        pass

    def execv(path: str, command: list[str]) -> None:
        raise Become(path, command)

    def run(*arguments: str) -> pytest.RunResult:
        with monkeypatch.context() as patched:
            patched.setattr("os.execv", execv)
            with pytest.raises(Become) as caught:
                main(list(arguments))
        path, command = caught.value.args
        assert path == sys.executable
        assert command[:4] == [sys.executable, "-P", "-m", "pytest"]
        return pytester.runpytest_inprocess(*command[4:])

    return run


def collected(result: subprocess.CompletedProcess[str]) -> list[str]:
    assert result.returncode == 0, result.stdout + result.stderr
    return [line for line in result.stdout.splitlines() if "::" in line and "Warning" not in line]


def items(result: pytest.RunResult) -> list[str]:
    assert result.ret == 0, result.stdout.str()
    return [line for line in result.outlines if "::" in line and "Warning" not in line]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "absent.yaml"], "FILE_MISSING: absent.yaml: no such file"),
        (["-c", "folder"], "NOT_A_FILE: folder: is a directory"),
        (["-c", "a.yaml", "-c", "b.yaml"], "SEVERAL_FILES: -c names 2 files, a.yaml and b.yaml"),
        (["-c", "broken.yaml"], "CONFIG: broken.yaml:"),
        (["-c", "list.yaml"], "CONFIG: list.yaml: must hold a mapping"),
        (["-c", "foreign.yaml"], "NOT_A_SUITE: foreign.yaml: is neither a suite nor a run"),
        (["-c", "test_one.py"], "NOT_A_SUITE: test_one.py: is not named as YAML"),
    ],
)
def test_what_is_no_suite_file_is_one_line_and_pytests_usage_error(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name, text in {
        "broken.yaml": "a: [\n",
        "list.yaml": "- a\n",
        "foreign.yaml": "jobs: {build: {}}\n",
        "test_one.py": "def test_one(): raise AssertionError\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert main(["run", *arguments]) == 4
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith(f"invarlock: {message}")
    assert captured.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "-c"],
        ["run", "-c", "a.yaml", "-x"],
        ["run", "-c", "a.yaml", "b.yaml"],
        ["certify", "--baseline", "builtin:llama"],
        ["certify", "--subject", "builtin:llama"],
    ],
    ids=" ".join,
)
def test_wrong_words_are_pytests_usage_error_too(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 4
    assert "invarlock" in capsys.readouterr().err


def test_other_commands_keep_their_usage_status_and_their_dashes() -> None:
    for arguments in (["verify"], ["verify", "a", "b"], ["nonsense"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    assert main(["verify", "--", "absent-pack"]) == 3


def test_an_error_inside_the_file_is_pytests_own(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(SUITE.replace("seq_len", "seqlen") + NOOP)
    ran = invarlock(tmp_path, "run", "-c", "my.yaml")
    beside = command(tmp_path, "pytest", "my.yaml")
    assert ran.returncode == beside.returncode == 4
    assert ran.stderr == beside.stderr
    assert "my.yaml:4: unknown key 'dataset.seqlen'" in ran.stderr


@pytest.mark.parametrize("name", ["my.yaml", "my.invarlock.yaml", "folder/-my.yml"])
def test_it_collects_what_pytest_does(
    name: str, pytester: pytest.Pytester, become: Callable[..., Any]
) -> None:
    path = pytester.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(SUITE + NOOP + PRUNED)
    (pytester.path / "test_other.py").write_text("def test_other(): pass\n")
    ran = items(become("run", "-c", name, "--", "--co", *PLAIN))
    assert ran == items(pytester.runpytest_inprocess(name, "--co", *PLAIN))
    assert len(ran) == 2 * CHECKS
    assert ran[0] == f"{name}::builtin:llama::noop::invariants"


def test_it_collects_what_pytest_does_in_a_process_without_plugins(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    name = "folder/-my.yml"
    (tmp_path / name).write_text(SUITE + NOOP + PRUNED)
    words = ("run", "-c", name, "--", "--co", *PLAIN)
    ran = collected(command(tmp_path, "pytest", name, "--co", *PLAIN))
    assert len(ran) == 2 * CHECKS
    assert ran == collected(invarlock(tmp_path, *words))
    assert ran == collected(invarlock(tmp_path, *words, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"))


def installed_as_a_copy(folder: Path) -> dict[str, str]:
    """The environment in which a distribution lists the package, as one that is no editable does.

    What a pytest plugin's distribution lists is what pytest wants to rewrite when it is imported.
    """
    (folder / "copy-1.dist-info").mkdir(parents=True)
    files = {
        "METADATA": "Metadata-Version: 2.1\nName: copy\nVersion: 1\n",
        "entry_points.txt": "[pytest11]\ncopied = copied_plugin\n",
        "RECORD": "pytest_invarlock/__init__.py,,\ncopied_plugin.py,,\n",
    }
    for name, text in files.items():
        (folder / "copy-1.dist-info" / name).write_text(text)
    (folder / "copied_plugin.py").write_text("")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.getenv("PYTHONPATH")])])}


def untimed(text: str) -> str:
    return re.sub(r"in \d+\.\d+s|plugins: .*", "", text)


@pytest.mark.parametrize("filterwarnings", ["error", "default"])
def test_its_output_is_pytests_to_the_letter(filterwarnings: str, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nfilterwarnings = {filterwarnings}\n")
    (tmp_path / "my.yaml").write_text(SUITE + NOOP)
    copy = installed_as_a_copy(tmp_path.parent / f"{tmp_path.name}-site")
    # What was imported beforehand, pytest would warn of.
    copy["python"] = sys.executable
    plain = ("-p", "no:randomly", "-p", "no:cacheprovider", "--co")
    ran = invarlock(tmp_path, "run", "-c", "my.yaml", "--", *plain, **copy)
    beside = command(tmp_path, "pytest", "my.yaml", *plain, **copy)
    assert (ran.returncode, beside.returncode) == (0, 0), ran.stdout + ran.stderr
    assert untimed(ran.stdout) == untimed(beside.stdout)
    assert ran.stderr == beside.stderr
    certify = ("certify", "--baseline", "builtin:llama", "--subject", "builtin:llama", "--", *plain)
    compared = invarlock(tmp_path, *certify, **copy)
    assert compared.returncode == 0, compared.stdout + compared.stderr
    assert "Warning" not in compared.stdout + compared.stderr


def test_pytests_own_words_on_wrong_options(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(SUITE + NOOP)
    result = invarlock(tmp_path, "run", "-c", "my.yaml", "--", "--nonsense")
    beside = command(tmp_path, "pytest", "my.yaml", "--nonsense")
    assert (result.returncode, result.stderr) == (4, beside.stderr)
    assert "unrecognized arguments: --nonsense" in result.stderr


def test_the_current_folder_is_no_place_of_modules(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(SUITE + NOOP)
    (tmp_path / "pytest.py").write_text("raise SystemExit('shadowed')\n")
    result = invarlock(tmp_path, "run", "-c", "my.yaml", "--", "--co", *PLAIN)
    assert len(collected(result)) == CHECKS


def test_an_interrupt_ends_in_pytests_status(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(SUITE + NOOP)
    (tmp_path / "conftest.py").write_text(
        "import pathlib, time\n"
        "def pytest_collection_finish():\n"
        "    pathlib.Path('started').touch()\n"
        "    time.sleep(120)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "pytest_invarlock", "run", "-c", "my.yaml", "--", *PLAIN],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
        # Shells start what they put in the background with Ctrl-C ignored.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "started").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # As Ctrl-C of a terminal, which all processes of the group get.
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 2, out + err
    assert "KeyboardInterrupt" in out
    assert "Traceback" not in err


def write_text_only(folder: Path) -> None:
    """A suite of two scenarios under a tier without guards on weights and activations."""
    (folder / "text-only.yaml").write_text(TEXT_ONLY)
    suite = SUITE.replace("profile: dev", "tier: text-only.yaml\nprofile: dev")
    (folder / "my.yaml").write_text(suite + NOOP + PRUNED)


@pytest.fixture(scope="module")
def failed(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A finished run of a process of its own, its folder, and in it the modules that it loaded."""
    folder = tmp_path_factory.mktemp("failed")
    write_text_only(folder)
    (folder / "conftest.py").write_text(
        "import json, pathlib, sys\n"
        "def pytest_unconfigure():\n"
        "    pathlib.Path('modules.json').write_text(json.dumps(list(sys.modules)))\n"
    )
    return folder, invarlock(folder, "run", "-c", "my.yaml", "--out", "there", "--", *PLAIN)


def test_a_failing_run_ends_in_pytests_status(
    failed: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, result = failed
    assert result.returncode == 1, result.stdout + result.stderr
    verdict = json.loads((folder / "there" / "latest" / "final_verdict.json").read_text())
    assert verdict["verdict"] == "FAIL"


def test_a_run_without_a_sweep_writes_none_and_loads_no_plotting(
    failed: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, result = failed
    loaded = json.loads((folder / "modules.json").read_text())
    assert "torch" in loaded
    assert "matplotlib" not in loaded
    assert "dose-response" not in result.stdout
    assert (folder / "there" / "latest" / "final_verdict.json").is_file()
    assert not (folder / "there" / "latest" / "sweeps").exists()


def test_a_run_passes_and_is_narrowed_as_pytests(
    pytester: pytest.Pytester, become: Callable[..., Any]
) -> None:
    write_text_only(pytester.path)
    narrowed = become("run", "-c", "my.yaml", "--", *PLAIN, "-k", "noop")
    assert narrowed.ret == 0, narrowed.stdout.str()
    assert f"{TEXT_CHECKS} passed" in narrowed.stdout.str()
    nothing = invarlock(pytester.path, "run", "-c", "my.yaml", "--", *PLAIN, "-k", "nothing")
    assert nothing.returncode == 5


def test_the_seeds_run_configuration(pytester: pytest.Pytester, become: Callable[..., Any]) -> None:
    (pytester.path / "config.yaml").write_text(RUN_CONFIGURATION)
    command = ("run", "-c", "config.yaml", "--", *PLAIN)
    ids = collected(invarlock(pytester.path, *command, "--co"))
    assert {line.rpartition("::")[0] for line in ids} == {"config.yaml::builtin:gpt2::quant_rtn"}
    result = become(*command)
    assert result.ret == 0, result.stdout.str()
    verdict = json.loads((pytester.path / "runs" / "latest" / "final_verdict.json").read_text())
    assert verdict["verdict"] == "PASS"


def test_certify_compares_and_passes_its_options_on(
    pytester: pytest.Pytester, become: Callable[..., Any]
) -> None:
    folder = pytester.path
    (folder / "test_other.py").write_text("def test_other(): raise AssertionError\n")
    given = [
        "--baseline", "builtin:llama", "--subject", "builtin:llama", "--subject", "builtin:gpt2",
        "--adapter", "hf_causal", "--profile", "dev", "--tier", "conservative",
    ]  # fmt: skip
    ids = collected(invarlock(folder, "certify", *given, "--", "--co", *PLAIN))
    heads = {line.rpartition("::")[0] for line in ids}
    assert heads == {
        "invarlock/compare::builtin:llama::builtin:llama",
        "invarlock/compare::builtin:llama::builtin:gpt2",
    }
    small = ["--invarlock-preview-windows=20", "--invarlock-final-windows=20",
             "--invarlock-seq-len=48", "--invarlock-dataset=pydoc"]  # fmt: skip
    result = become("certify", *given[:4], *given[6:], "--out", "o", "--", *PLAIN, *small)
    assert result.ret == 0, result.stdout.str()
    (plan,) = (folder / "o" / "latest" / "evidence_pack").glob("metadata/policy.json")
    assert '"tier": "conservative"' in plan.read_text()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--tier=balancd", "no tier is named 'balancd'"),
        ("--profile=relase", "--invarlock-profile: 'relase' is not one of its values"),
        ("--preset=causl", "no preset is named 'causl'"),
    ],
)
def test_certifys_wrong_values_are_pytests_errors(
    option: str, message: str, tmp_path: Path
) -> None:
    pair = ("--baseline", "builtin:llama", "--subject", "builtin:llama")
    result = invarlock(tmp_path, "certify", *pair, option)
    assert result.returncode == 4
    assert message in result.stderr


def test_a_file_with_a_leading_dash_is_no_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-x.yaml").write_text(SUITE + NOOP)
    assert suite_file(["-x.yaml"]) == tmp_path / "-x.yaml"
    with pytest.raises(ConfigError):
        suite_file(["-y.yaml"])
