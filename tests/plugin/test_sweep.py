"""Whole sessions of a sweep: its curve, what is missing of it, and where it is refused."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

# pytester forgets modules that a session imported, and matplotlib lists all fonts anew.
import matplotlib.backends.backend_svg
import matplotlib.figure  # noqa: F401
import pytest
from jsonschema.validators import Draft202012Validator

from pytest_invarlock.policy.resources import schema

SUITE_FILE = "small.invarlock.yaml"
SCENARIOS = (
    "  - {id: pruned, strictness: must_fail, edit: {name: magnitude_prune, plan: {sparsity: 0.7}}}\n"
    "  - {id: fp8, strictness: must_pass, edit: {name: fp8_quant, plan: {format: e4m3}}}\n"
    "  - {id: flipped, strictness: must_detect, edit: {name: sign_flip, plan: {role: down}}}\n"
    "  - {id: clean, strictness: must_pass, edit: {name: quant_rtn, plan: {clean: true}}}\n"
)
PRUNED = "--invarlock-sweep=pruned:sparsity=0.7,0.1,0.3"
UNSIGNED = "--invarlock-signing-key=none"


@pytest.fixture
def swept(repository):
    with (repository.path / repository.suite()).open("a") as stream:
        stream.write(SCENARIOS)

    def run(*arguments: str, **options):
        return repository.run(SUITE_FILE, UNSIGNED, *arguments, **options)

    return run


def sweep_of(repository, stem: str) -> dict:
    document = json.loads((repository.latest / "sweeps" / f"{stem}.json").read_text())
    Draft202012Validator(schema("sweep")).validate(document)
    return document


def usage_error(result: pytest.RunResult) -> str:
    assert result.ret == pytest.ExitCode.USAGE_ERROR, result.stdout.str()
    lines = [line for line in [*result.errlines, *result.outlines] if "ERROR" in line]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "prund:sparsity=0.1",
            "has no scenario 'prund' (did you mean 'pruned'?) [UNKNOWN_SCENARIO]",
        ),
        ("pruned:bits=3", "magnitude_prune has no parameter 'bits' (its parameters are: include,"),
        (
            "flipped:rolle=up",
            "sign_flip has no parameter 'rolle' (its parameters are: layer, role)",
        ),
        ("pruned:sparsity=1.5", "1.5 is greater than the maximum of 1"),
        ("pruned:sparsity=", "has no dose"),
        ("pruned:sparsity=0.1,0.1", "dose 0.1 stands twice"),
    ],
)
def test_what_is_no_sweep_is_a_usage_error_in_one_line(repository, swept, argument, message):
    assert message in usage_error(swept(f"--invarlock-sweep={argument}"))
    assert not repository.runs


def test_a_sweep_without_a_suite_is_a_usage_error(repository):
    repository.pytester.makepyfile("def test_one():\n    pass\n")
    assert "--invarlock-sweep: no suite is named" in usage_error(repository.run(PRUNED))
    assert repository.run().ret == 0


def test_a_sweep_in_the_environment_is_none_of_a_strangers_business(repository, monkeypatch):
    repository.pytester.makepyfile("def test_one():\n    pass\n")
    monkeypatch.setenv("INVARLOCK_SWEEP", "pruned:sparsity=0.1")
    assert repository.run().ret == 0


def test_a_comparison_is_not_swept(repository):
    compared = ("--invarlock-baseline=builtin:llama", "--invarlock-subject=builtin:gpt2")
    assert "a comparison of checkpoints has no dose" in usage_error(
        repository.run(*compared, PRUNED)
    )


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "worker"])
def test_marker_tests_are_not_swept(repository, swept, workers):
    repository.pytester.makepyfile(
        "import pytest\n"
        "@pytest.mark.invarlock(baseline='builtin:llama', edit='noop', dataset='pydoc')\n"
        "def test_marked(invarlock):\n    invarlock.assert_passes()\n"
    )
    arguments = (".", UNSIGNED, "--invarlock-sweep=fp8:format=e4m3", *workers)
    if not workers:
        result = repository.run(*arguments)
        assert "a marker's comparison is no scenario of a suite" in usage_error(result)
        assert not repository.runs
    else:
        result = repository.run_apart(*arguments, "--deselect", SUITE_FILE)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*a marker's comparison is no scenario of a suite*NO_DOSE*"])


def test_a_whole_sweep_loads_and_passes_the_baseline_once_for_all_doses(repository, swept):
    result = swept(PRUNED, "--invarlock-sweep=flipped:layer=0,1")
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(
        [
            "dose-response of pruned, sparsity: builtin:llama",
            "  sparsity  verdict *ratio*lower*upper*limit*",
            "  0.7 *FAIL*primary_metric*",
            "  0.1 *PASS*",
            "sweep: *sweeps/pruned.sparsity.json",
            "sweep: *sweeps/pruned.sparsity.md",
            "sweep: *sweeps/pruned.sparsity.svg",
            "a sweep certifies nothing: no verdict, no evidence pack",
        ]
    )
    document = sweep_of(repository, "pruned.sparsity")
    assert document["missing"] == []
    (curve,) = document["curves"]
    doses = {dose["value"]: dose for dose in curve["doses"]}
    assert list(doses) == [0.7, 0.1, 0.3]
    assert doses[0.3]["edit"] == {"name": "magnitude_prune", "parameters": {"sparsity": 0.3}}
    runs = {value: dose["runs"][0] for value, dose in doses.items()}
    assert (runs[0.7]["outcome"], runs[0.1]["outcome"]) == ("FAIL", "PASS")
    assert runs[0.7]["ratio"] > runs[0.3]["ratio"] > runs[0.1]["ratio"] - 0.01
    assert runs[0.1]["ratio_lower"] <= runs[0.1]["ratio"] <= runs[0.1]["ratio_upper"] < 1.1
    assert set(runs[0.1]["checks"]) == {"primary_metric", "drift", "tail", "invariants"}
    assert runs[0.1]["n_documents"] == 10
    assert runs[0.7]["kl_mean_nats"] > runs[0.1]["kl_mean_nats"]
    faults = sweep_of(repository, "flipped.layer")
    assert [dose["value"] for dose in faults["curves"][0]["doses"]] == [0, 1]
    table = (repository.latest / "sweeps" / "pruned.sparsity.md").read_text()
    assert "| 0.7 | FAIL | primary_metric" in table
    counters = [
        json.loads(path.read_text())["observations"]["counters"]
        for path in (repository.latest / "records").glob("*/*/*.record.json")
    ]
    assert len(counters) == 5
    last = max(counters, key=lambda found: found["subject_windows"])
    assert (last["baseline_loads"], last["baseline_passes"]) == (1, 1)
    assert last["subject_windows"] == 5 * 20


def test_a_sweep_certifies_nothing(repository, swept, monkeypatch):
    # Of a scenario that must pass, doses that fail: nothing may read as if the suite had passed.
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(repository.path / "step.md"))
    result = swept("--invarlock-sweep=clean:bitwidth=2", "--junitxml=junit.xml", "-v")
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "*invarlock sweep-small: SWEEP, NO VERDICT*",
            "a sweep certifies nothing: no verdict, no evidence pack",
        ]
    )
    for line in ("*::verdict*", "*invarlock *: PASS*", "*evidence pack: *", "*verify it*"):
        result.stdout.no_fnmatch_line(line)
    assert [run.name.startswith("sweep-small-") for run in repository.runs] == [True]
    names = {path.name for path in repository.latest.rglob("*")}
    assert not names & {"final_verdict.json", "final_verdict.txt", "evidence_pack"}
    junit = (repository.path / "junit.xml").read_text()
    assert "::verdict" not in junit
    assert 'name="verdict"' not in junit
    assert 'value="sweep-small-' in junit
    for summary in (repository.path / "step.md", repository.latest / "summary.md"):
        assert summary.read_text().startswith("## invarlock sweep-small: SWEEP, NO VERDICT\n")
    (certificate,) = repository.latest.rglob("evaluation.report.json")
    assert "a sweep certifies nothing" in certificate.read_text()
    assert json.loads(certificate.read_text())["run_id"].startswith("sweep-small-")
    assert (repository.latest / "sweeps" / "clean.bitwidth.json").is_file()


def test_of_a_clean_edit_the_parameters_are_found_first(repository, swept):
    (repository.path / "tuned.json").write_text(
        '{"models": {"builtin:llama": {"quant_rtn": '
        '{"status": "selected", "bits": 6, "group_size": 16, "scope": "ffn"}}}}'
    )
    tuned = f"--invarlock-tuned={repository.path / 'tuned.json'}"
    assert swept("--invarlock-sweep=clean:bitwidth=8,2", tuned).ret == 0
    (curve,) = sweep_of(repository, "clean.bitwidth")["curves"]
    assert [dose["edit"]["parameters"] for dose in curve["doses"]] == [
        {"bitwidth": bits, "group_size": 16, "scope": "ffn"} for bits in (8, 2)
    ]


def test_a_dose_of_a_clean_edit_that_was_skipped_is_an_error(repository, swept):
    (repository.path / "tuned.json").write_text(
        '{"models": {"builtin:llama": {"quant_rtn": {"status": "skipped", "reason": "small"}}}}'
    )
    tuned = f"--invarlock-tuned={repository.path / 'tuned.json'}"
    result = swept("--invarlock-sweep=clean:bitwidth=8", tuned)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (curve,) = sweep_of(repository, "clean.bitwidth")["curves"]
    assert [run["error"] for dose in curve["doses"] for run in dose["runs"]] == ["EDIT_SKIPPED"]


def test_an_error_that_a_hook_softens_still_fails_the_session(repository, swept):
    (repository.path / "conftest.py").write_text(
        "import pytest\n"
        "def pytest_collection_modifyitems(items):\n"
        "    for item in items:\n"
        "        item.add_marker(pytest.mark.xfail)\n"
    )
    softened = swept("--invarlock-sweep=flipped:layer=99")
    softened.assert_outcomes(xfailed=1)
    assert softened.ret == pytest.ExitCode.TESTS_FAILED
    assert swept("--invarlock-sweep=flipped:layer=1").ret == 0


def test_a_dose_that_errors_leaves_the_rest_of_the_curve(repository, swept):
    result = swept("--invarlock-sweep=flipped:layer=0,99,1")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["  99 *ERROR EDIT_PARAMETERS *"])
    (curve,) = sweep_of(repository, "flipped.layer")["curves"]
    runs = [dose["runs"][0] for dose in curve["doses"]]
    assert [run["error"] for run in runs] == [None, "EDIT_PARAMETERS", None]
    assert runs[1]["outcome"] == "ERROR"
    assert runs[1]["ratio"] is None
    assert runs[0]["ratio"] is not None
    assert runs[2]["ratio"] is not None
    svg = (repository.latest / "sweeps" / "flipped.layer.svg").read_text()
    assert "ERROR EDIT_PARAMETERS" in svg


@pytest.mark.parametrize(
    ("doses", "cut", "missing"),
    [
        (
            "0,1",
            ("--deselect", f"{SUITE_FILE}::builtin:llama::flipped.layer=1"),
            ["flipped.layer=1"],
        ),
        ("99,0,1", ("-x",), ["flipped.layer=0", "flipped.layer=1"]),
    ],
)
def test_a_run_cut_short_says_which_doses_are_missing(repository, swept, doses, cut, missing):
    result = swept(f"--invarlock-sweep=flipped:layer={doses}", *cut)
    document = sweep_of(repository, "flipped.layer")
    assert [entry["scenario"] for entry in document["missing"]] == missing
    (curve,) = document["curves"]
    measured = [dose["scenario"] for dose in curve["doses"] if dose["runs"]]
    assert len(measured) == 1
    assert not set(measured) & set(missing)
    for name in missing:
        result.stdout.fnmatch_lines([f"not measured: builtin:llama {name} run 0"])
        assert (
            f"not measured: builtin:llama {name} run 0"
            in (repository.latest / "sweeps" / "flipped.layer.md").read_text()
        )
    assert "not measured" in (repository.latest / "sweeps" / "flipped.layer.svg").read_text()
    result.stdout.fnmatch_lines(
        ["some items were not run", "a sweep certifies nothing: no verdict, no evidence pack"]
    )
    assert not (repository.latest / "final_verdict.json").exists()


@pytest.mark.long
def test_workers_and_models_give_the_same_curves_words_on_the_axis(repository, swept):
    arguments = (
        "--invarlock-sweep=fp8:format=e5m2,e4m3",
        "--invarlock-model=builtin:llama", "--invarlock-model=builtin:gpt2",
    )  # fmt: skip
    assert swept(*arguments).ret == 0
    alone = repository.runs[-1]
    result = repository.run_apart(SUITE_FILE, UNSIGNED, *arguments, "-n2")
    assert result.ret == 0, result.stdout.str()
    shared = repository.runs[-1]
    assert alone != shared
    names = sorted(path.name for path in (alone / "sweeps").iterdir())
    assert names == sorted(path.name for path in (shared / "sweeps").iterdir())
    assert len(names) == 3
    for name in names:
        ours, theirs = ((run / "sweeps" / name).read_text() for run in (alone, shared))
        assert ours == theirs.replace(shared.name, alone.name)
    words = sweep_of(repository, "fp8.format")
    assert words["axis"] == "categorical"
    assert [curve["model"] for curve in words["curves"]] == ["builtin:llama", "builtin:gpt2"]
    for curve in words["curves"]:
        assert [dose["value"] for dose in curve["doses"]] == ["e5m2", "e4m3"]


def test_files_that_cannot_be_written_fail_the_session(repository, swept, monkeypatch):
    from pytest_invarlock.reporting import dose_response_files

    def refuse(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dose_response_files, "write_json", refuse)
    result = swept("--invarlock-sweep=fp8:format=e4m3")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["ERROR: sweep-small-*sweeps*No space left on device*OUT_UNWRITABLE*"]
    )
    assert list(repository.latest.rglob("*.record.json"))


def test_the_commands_of_the_docs_are_sweeps(repository):
    page = (Path(__file__).parents[2] / "docs" / "suite-files.md").read_text()
    section = page.partition("## Dose-response")[2].partition("\n## ")[0]
    commands = re.findall(r"^pytest (.*)$", section, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        result = repository.run(*shlex.split(command), "--co", "-q")
        assert result.ret == 0, result.stdout.str()
        result.stdout.fnmatch_lines(["invarlock/edits::builtin:llama::*=*::signal"])


def test_collecting_a_sweep_loads_nothing_heavy(repository, swept):
    code = (
        "import sys, pytest\nstatus = pytest.main(sys.argv[1:])\nassert status == 0, status\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'scipy', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, "-p", "pytest_invarlock.plugin", SUITE_FILE, "--co", "-q", PRUNED],
        cwd=repository.path, env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    assert f"{SUITE_FILE}::builtin:llama::pruned.sparsity=0.7::signal" in process.stdout
