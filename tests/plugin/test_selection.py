"""pytest's own selection flags on our items; a run that is not whole has no verdict and no pack."""

from __future__ import annotations

import json

import pytest

CHECKS = [
    "invariants", "spectral", "rmt", "variance", "primary_metric", "drift", "tail",
    "guard_overhead",
]  # fmt: skip
DEMO = "invarlock/demo"


def partial(repository) -> bool:
    verdict = repository.verdict()
    return (
        verdict["status"] == "partial"
        and verdict["verdict"] is None
        and not (repository.latest / "evidence_pack").exists()
    )


@pytest.mark.parametrize(
    ("arguments", "selected"),
    [
        (("-k", "noop"), 8),
        (("--deselect", "small.invarlock.yaml::builtin:llama::rtn"), 8),
        (("-k", "invariants"), 2),
    ],
)
def test_a_selected_part_runs_without_verdict_or_pack(repository, arguments, selected):
    result = repository.run(repository.suite("noop", "rtn"), *arguments)
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=selected, deselected=16 - selected)
    assert partial(repository)
    result.stdout.fnmatch_lines(["some items were not run: no verdict, no evidence pack"])


def test_a_record_is_whole_whatever_was_selected(repository):
    suite = repository.suite("rtn")
    repository.run(suite, "-k", "invariants")
    selected = repository.digests()
    repository.run(suite)
    assert repository.digests() == selected


def test_x_stops_and_leaves_a_partial_run(repository):
    result = repository.run(repository.suite("pruned", "noop"), "-x")
    result.assert_outcomes(passed=1, failed=1)
    assert partial(repository)
    assert "::verdict" not in result.stdout.str()


def test_last_failed_reruns_just_the_failure_beside_python_tests(repository):
    suite = repository.suite("noop", "pruned")
    repository.pytester.makepyfile(test_other="def test_bad():\n    assert False\n")
    arguments = (suite, "test_other.py")
    repository.run(*arguments).assert_outcomes(passed=12, failed=6)
    again = repository.run(*arguments, "--lf")
    again.assert_outcomes(failed=5, deselected=12)
    assert partial(repository)


def test_failed_first_and_new_first_keep_a_scenario_together(repository):
    suite = repository.suite("noop", "pruned")
    repository.run(suite)
    for flag in ("--ff", "--nf"):
        result = repository.run(suite, flag, "-v")
        order = [
            line.split()[0]
            for line in result.outlines
            if line.startswith(f"{suite}::builtin") and (" PASSED" in line or " FAILED" in line)
        ]
        assert len(order) == 16
        pruned = [name for name in order if "::pruned::" in name]
        assert [name.rpartition("::")[2] for name in pruned] == CHECKS
        first = order.index(pruned[0])
        assert order[first : first + 8] == pruned
        if flag == "--ff":
            assert first == 0


def test_stepwise_continues_at_the_failure(repository):
    suite = repository.suite("noop", "pruned")
    repository.run(suite, "--sw").assert_outcomes(passed=9, failed=1)
    result = repository.run(suite, "--sw")
    result.assert_outcomes(failed=1, deselected=9)


def test_a_node_id_alone_is_a_command(repository):
    suite = repository.suite("noop", "rtn")
    result = repository.run(f"{suite}::builtin:llama::rtn::primary_metric")
    result.assert_outcomes(passed=1)
    assert partial(repository)


def test_a_built_in_node_id_alone_activates_its_suite(repository):
    result = repository.run(f"{DEMO}::builtin:llama::noop", "--co", "-q")
    assert [line for line in result.outlines if "::" in line] == [
        f"{DEMO}::builtin:llama::noop::{check}" for check in CHECKS
    ]


@pytest.mark.parametrize("wrong", ["nop", "noo", "noop::primary"])
def test_a_node_id_that_matches_nothing_is_a_usage_error(repository, wrong):
    result = repository.run(f"{DEMO}::builtin:llama::{wrong}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: no item matches {DEMO}::builtin:llama::{wrong} *"])


def test_a_real_directory_of_that_name_is_not_captured(repository):
    folder = repository.path / "invarlock" / "demo"
    folder.mkdir(parents=True)
    (folder / "test_mine.py").write_text("def test_mine():\n    pass\n")
    repository.run("invarlock/demo").assert_outcomes(passed=1)


def test_collecting_only_writes_nothing(repository):
    suite = repository.suite("noop")
    result = repository.run(suite, "--invarlock-suite=demo", "--co", "-q")
    assert result.ret == pytest.ExitCode.OK
    assert not repository.runs
    assert f"{suite}::builtin:llama::noop::invariants" in result.stdout.str()
    assert f"{DEMO}::builtin:gpt2::scale_explosion::detected" in result.stdout.str()


def test_a_named_suite_collects_only_its_own_items(repository):
    repository.pytester.makepyfile(test_other="def test_other():\n    pass\n")
    alone = repository.run("--invarlock-suite=demo", "--co", "-q").stdout.str()
    assert "test_other" not in alone
    both = repository.run("--invarlock-suite=demo", "test_other.py", "--co", "-q").stdout.str()
    assert "test_other.py::test_other" in both
    assert f"{DEMO}::builtin:llama::noop::invariants" in both


def test_a_scenario_option_makes_a_smaller_whole_run(repository):
    suite = repository.suite("noop", "pruned")
    result = repository.run(suite, "--invarlock-scenario=noop")
    result.assert_outcomes(passed=9)
    assert repository.verdict()["verdict"] == "PASS"
    assert (repository.latest / "evidence_pack").is_dir()


def test_items_carry_the_marker(repository):
    suite = repository.suite("noop")
    repository.pytester.makepyfile(test_other="def test_other():\n    pass\n")
    result = repository.run("-m", "invarlock", "--strict-markers", suite, "test_other.py")
    result.assert_outcomes(passed=9, deselected=1)


def test_the_certificate_of_a_partial_run_is_written(repository):
    repository.run(repository.suite("noop", "rtn"), "-k", "rtn")
    report = repository.latest / "reports/builtin-llama/rtn/run_0/evaluation.report.json"
    assert json.loads(report.read_text())["decision"]["outcome"] == "PASS"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--invarlock-suite=demo",),
        ("--invarlock-baseline=builtin:llama", "--invarlock-subject=builtin:llama"),
    ],
)
def test_suites_without_a_file_of_the_users_survive_new_first(repository, arguments):
    result = repository.run(*arguments, "--nf", "--co", "-q")
    assert result.ret == pytest.ExitCode.OK
    assert "::primary_metric" in result.stdout.str()
