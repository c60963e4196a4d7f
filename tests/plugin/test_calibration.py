"""The suite key calibration: the item, its order, what it writes, the verdict, and the reuse."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.plugin.conftest import GUARDED, SUITE_FILE
from tests.plugin.conftest import HEAD as TEXT_ONLY_HEAD

if TYPE_CHECKING:
    from tests.plugin.conftest import Repository

ITEM = f"{SUITE_FILE}::builtin:llama::calibration::preset"
HEAD = GUARDED.replace("scenarios:", "calibration: {runs: 2}\nscenarios:")
# Without guards only drift's limit is derived.
QUICK_HEAD = TEXT_ONLY_HEAD.replace("scenarios:", "calibration: {runs: 2}\nscenarios:")
# Behind every plugin's own reordering, ours but for the last.
SHUFFLE = """\
def pytest_collection_modifyitems(items):
    items.reverse()
"""
QUIET = ("-p", "no:cacheprovider")


def test_a_calibration_that_cannot_be_measured_is_an_error_and_no_pass(
    repository: Repository,
) -> None:
    # The tuning arm of so little text holds no two halves.
    lines = "".join(json.dumps({"text": f"word{n} " * 400}) + "\n" for n in range(20))
    (repository.path / "t.jsonl").write_text(lines)
    head = HEAD.replace("provider: pydoc", "provider: local_jsonl, file: t.jsonl")
    head = head.replace("floors: {documents: 20", "floors: {documents: 2")
    repository.suite(
        "noop", head=head.replace("preview_n: 24, final_n: 24", "preview_n: 4, final_n: 4")
    )
    result = repository.run(SUITE_FILE, *QUIET, "--invarlock-no-pack")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*ERROR: the tuning arm holds * [[]DATA_TOO_SMALL[]]*"])
    verdict = repository.verdict()
    assert verdict["verdict"] == "FAIL"
    # Its scenario is not judged by other limits instead.
    result.stdout.fnmatch_lines(["*ERROR: builtin:llama has no limits to be judged by: no preset*"])
    assert not verdict["decisions"]
    (rule,) = [r for r in verdict["requirements"] if r["requirement"] == "calibration_holds"]
    assert [f["reason"] for f in rule["failures"]] == ["no preset was derived"]
    assert not list((repository.latest / "presets").glob("*"))


@pytest.mark.long
def test_derived_first_written_packed_and_reused(repository: Repository) -> None:
    repository.suite("noop", "rtn", head=HEAD)
    (repository.path / "conftest.py").write_text(SHUFFLE)
    result = repository.run(SUITE_FILE, *QUIET, "-v")
    assert result.ret == pytest.ExitCode.OK
    ran = [line for line in result.outlines if " PASSED" in line and SUITE_FILE in line]
    assert ran[0].startswith(ITEM)

    presets = repository.latest / "presets"
    names = sorted(path.name for path in presets.iterdir())
    assert names == [f"calibrated_preset_builtin-llama.{kind}" for kind in ("json", "yaml")]
    text = (presets / names[0]).read_text()
    assert str(repository.path) not in text
    meta = json.loads(text)["_calibration_meta"]
    assert meta["usable"]
    assert meta["held_out"]["n"] == 2

    verdict = repository.verdict()
    assert verdict["verdict"] == "PASS"
    assert verdict["requirements"][-1]["requirement"] == "calibration_holds"
    assert (repository.latest / "evidence_pack" / "presets" / names[0]).is_file()
    pack = repository.latest / "evidence_pack"
    (policy,) = json.loads((pack / "metadata" / "policy.json").read_text())["policies"]
    assert policy["provenance"]["guards.spectral.family_limits"] == "preset"
    assert policy["guards"]["spectral"]["family_limits"]["ffn"]["relative_change"]["strict"] < 0.08
    assert policy["drift"]["band"] < 1.05
    # The scenarios go on with the model that the calibration loaded.
    assert repository.events().count("baseline_load") == 1

    again = repository.run(
        SUITE_FILE, *QUIET, "--collect-only", "-q", f"--invarlock-preset={presets.resolve()}"
    )
    assert again.ret == pytest.ExitCode.OK
    assert ITEM not in str(again.stdout)
    again.stdout.fnmatch_lines([f"{SUITE_FILE}::builtin:llama::noop::spectral"])


def test_calibration_alone_writes_its_preset_and_has_no_verdict(repository: Repository) -> None:
    repository.suite("noop", head=QUICK_HEAD)
    result = repository.run(SUITE_FILE, *QUIET, "--invarlock-mode=calibrate-only")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*invarlock small: CALIBRATED, NO VERDICT*", "presets: invarlock-out/small-*"]
    )
    result.stdout.no_fnmatch_line("*::verdict*")
    assert (repository.verdict()["verdict"], repository.verdict()["status"]) == (None, "complete")
    assert not list(repository.latest.rglob("*.record.json"))
    assert not (repository.latest / "evidence_pack").exists()
    (written,) = (repository.latest / "presets").glob("*.yaml")
    assert "usable: true" in written.read_text()
    plan = repository.run(SUITE_FILE, *QUIET, "--invarlock-plan")
    assert not plan.ret
    plan.stdout.fnmatch_lines(["  time about * s of one worker for 6 of 7 measurements; *"])


def test_a_narrowed_run_derives_it_once_for_all_its_workers(repository: Repository) -> None:
    repository.suite("noop", "rtn", head=QUICK_HEAD)
    result = repository.run_apart(SUITE_FILE, *QUIET, "-n2", "-k", "primary_metric or tail")
    result.assert_outcomes(passed=4)
    logs = {path.stem: path.read_text() for path in (repository.latest / "logs").glob("gw*.log")}
    assert len(logs) == 2
    assert sorted(text.count(" calibration_run ") for text in logs.values()) == [0, 6]
    assert all(text.count(" record ") == 1 for text in logs.values())
    assert len(list((repository.latest / "presets").iterdir())) == 2
    assert (repository.verdict()["verdict"], repository.verdict()["status"]) == (None, "partial")
    assert not (repository.latest / "evidence_pack").exists()
