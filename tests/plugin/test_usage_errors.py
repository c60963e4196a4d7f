"""Wrong settings and suite files end in one line that names file, line or key, and exit status 4."""

from __future__ import annotations

import pytest

HEAD = "name: small\nmodels: ['builtin:llama']\n"
SCENARIO = "scenarios:\n  - {id: noop, strictness: must_pass, edit: {name: noop}}\n"


def usage_error(result: pytest.RunResult) -> str:
    assert result.ret == pytest.ExitCode.USAGE_ERROR, result.stdout.str()
    lines = [line for line in [*result.errlines, *result.outlines] if "ERROR" in line]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--invarlock-suite=dmo"], "no suite is named 'dmo' (did you mean 'demo'?)"),
        (["--invarlock-suite=missing.yaml"], "missing.yaml: cannot be read"),
        (["--invarlock-suite=demo", "--invarlock-tier=balancd"], "no tier is named 'balancd' (did you"),
        (["--invarlock-suite=demo", "--invarlock-profile=realease"], "--invarlock-profile: 'realease'"),
        (["--invarlock-suite=demo", "--invarlock-seq-len=abc"], "--invarlock-seq-len: 'abc' cannot be"),
        (["--invarlock-suite=demo", "--invarlock-scenario=nop"], "has no scenario 'nop' (did you mean"),
        (["--invarlock-suite=demo", "--invarlock-dataset=csv"], "--invarlock-dataset: 'csv' cannot be"),
        (["--invarlock-suite=demo", "--invarlock-final-windows=10"], "the arms differ in size: 72 preview"),
        (["--invarlock-suite=demo", "--invarlock-adapter=hf_casual"], "--invarlock-adapter: no adapter is"),
        (["--invarlock-suite=demo", "--invarlock-mode=faults"], "full, calibrate-only, run-only, errors-only"),
        (["--invarlock-suite=demo", "--invarlock-mode=calibrate-only"], "suites/demo.yaml has no calibration"),
        (["--invarlock-mode=errors-only"], "--invarlock-mode: no suite is named (name one with"),
        (["--invarlock-suite=demo", "--invarlock-resume=demo-1"], "--invarlock-resume: 'demo-1' is no run"),
        (["--invarlock-resume"], "--invarlock-resume: no suite is named"),
        (["--invarlock-baseline=builtin:llama"], "--invarlock-baseline stands alone (give --invarlock-s"),
        (["--invarlock-subject=builtin:llama"], "--invarlock-subject stands alone (give --invarlock-b"),
        (
            ["--invarlock-baseline=builtin:llama", "--invarlock-subject=x", "--invarlock-profile=ci"],
            "no evaluation data is named, and profile ci takes no stand-in",
        ),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_used(repository, arguments, message):
    assert message in usage_error(repository.run(*arguments))
    assert not repository.runs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEAD + "scenaros: []\n" + SCENARIO,
            ":3: unknown key 'scenaros' (did you mean 'scenarios'?)",
        ),
        (
            HEAD + "scenarios:\n  - id: a\n    strictnes: must_pass\n    edit: {name: noop}\n",
            ":5: unknown key 'scenarios[0].strictnes' (did you mean 'strictness'?)",
        ),
        (HEAD.replace("small", "'a b'") + SCENARIO, "bad.invarlock.yaml:1: name: "),
        (HEAD + "name: again\n" + SCENARIO, ":3: key 'name' stands twice (first on line 1)"),
        (HEAD + "scenarios: [\n", "not valid YAML"),
        (
            HEAD + SCENARIO.replace("noop}", "nooop}"),
            "no edit is named 'nooop' (did you mean 'noop'?)",
        ),
        (
            HEAD + SCENARIO.replace("noop}", "quant_rtn, plan: {bitz: 8}}"),
            "unknown key 'scenarios[0].edit.plan.bitz'",
        ),
        (HEAD + SCENARIO.replace("must_pass", "mustpass"), "use must_pass, must_fail, must_detect"),
    ],
)
@pytest.mark.parametrize("by", ["path", "option"])
def test_a_suite_file_that_cannot_be_used(repository, text, message, by):
    (repository.path / "bad.invarlock.yaml").write_text(text)
    argument = "bad.invarlock.yaml" if by == "path" else "--invarlock-suite=bad.invarlock.yaml"
    line = usage_error(repository.run(argument))
    assert "bad.invarlock.yaml" in line
    assert message in line


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        (
            "baseline='builtin:llama', subjekt='x'",
            "the marker has no keyword 'subjekt' (did you mean",
        ),
        ("subject='x'", "the marker names no baseline"),
        ("baseline='builtin:llama'", "the marker needs either subject or edit"),
        ("'builtin:llama'", "the marker takes keywords only"),
    ],
)
def test_a_marker_that_cannot_be_used_names_file_and_line(repository, marker, message):
    repository.pytester.makepyfile(
        test_it=f"import pytest\n@pytest.mark.invarlock({marker})\ndef test_it(invarlock):\n    pass\n"
    )
    line = usage_error(repository.run("test_it.py"))
    assert "test_it.py:2: " in line
    assert message in line


def test_settings_come_from_ini_and_environment_and_the_command_line_wins(repository, monkeypatch):
    repository.pytester.makeini("[pytest]\ninvarlock_suite = demo\ninvarlock_tier = conservative\n")
    header = repository.run("--co").stdout
    header.fnmatch_lines(["invarlock: invarlock/demo * tier conservative *"])
    monkeypatch.setenv("INVARLOCK_TIER", "aggressive")
    repository.run("--co").stdout.fnmatch_lines(["* tier aggressive *"])
    repository.run("--co", "--invarlock-tier=balanced").stdout.fnmatch_lines(["* tier balanced *"])


def test_list_suites_prints_and_ends(repository):
    result = repository.run("--invarlock-list-suites")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["demo *Both shipped models*"])


@pytest.mark.parametrize("text", ["0", "no", "off", "false"])
@pytest.mark.parametrize("where", ["environment", "ini"])
def test_list_suites_switched_off_lists_nothing_and_runs_the_tests(
    repository, monkeypatch, where, text
):
    if where == "ini":
        repository.pytester.makeini(f"[pytest]\ninvarlock_list_suites = {text}\n")
    else:
        monkeypatch.setenv("INVARLOCK_LIST_SUITES", text)
    repository.pytester.makepyfile("def test_fails(): assert 0")
    result = repository.run("-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "Both shipped models" not in result.stdout.str()


def test_list_suites_neither_on_nor_off_is_refused(repository, monkeypatch):
    monkeypatch.setenv("INVARLOCK_LIST_SUITES", "maybe")
    assert "INVARLOCK_LIST_SUITES: 'maybe' cannot be used" in usage_error(repository.run())
