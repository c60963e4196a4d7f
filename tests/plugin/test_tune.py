"""--invarlock-tune: what is collected, what is written, that it can be used, and that it proves nothing."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.policy.resources import read_text
from tests.plugin.conftest import TEXT_ONLY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.plugin.conftest import Repository

CLEAN = """\
  - {id: fp8, strictness: must_pass, edit: {name: fp8_quant, plan: {clean: true, scope: ffn}}}
  - {id: pruned, strictness: must_pass, edit: {name: magnitude_prune, plan: {clean: true, scope: ffn, layers: [0]}}}
  - {id: ruined, strictness: must_fail, detectors: {any: [primary_metric]}, edit: {name: magnitude_prune, plan: {sparsity: 0.95}}}
"""
HEAD = """\
name: mine
models: ["builtin:llama"]
profile: dev
dataset: {provider: pydoc, seq_len: 48, preview_n: 10, final_n: 10}
run: {device: cpu, dtype: float32, threads: 1, determinism: strict}
floors: {documents: 8, effective_documents: 4}
bootstrap_replicates: 499
scenarios:
"""
TEXT_HEAD = HEAD.replace("profile: dev", "tier: text-only.yaml\nprofile: dev")
"""The same without the guards on weights and activations, where they are not the point."""
FILE = "mine.invarlock.yaml"
TUNE = ("--invarlock-tune", "-p", "no:cacheprovider")
ITEMS = ["fp8_quant", "magnitude_prune"]


@pytest.fixture
def write(repository: Repository) -> Any:
    def suite(text: str = HEAD + CLEAN) -> str:
        (repository.path / FILE).write_text(text)
        return FILE

    return suite


def tuned(repository: Repository) -> dict[str, Any]:
    return json.loads((repository.latest / "tuned_edit_params.json").read_text())


def edits(repository: Repository) -> dict[str, Mapping[str, Any]]:
    """By scenario, the parameters of what a finished run measured."""
    found = {}
    for path in (repository.latest / "records").glob("*/*/*.record.json"):
        facts = json.loads(path.read_text())["facts"]
        found[facts["scenario"]] = facts["plan"]["subject"]
    return found


def usage_error(result: pytest.RunResult) -> str:
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    return str(result.stderr) + str(result.stdout)


def test_where_nothing_passes_the_item_fails_and_the_entry_is_skipped(
    repository: Repository, write: Any
) -> None:
    head = TEXT_HEAD.replace("scenarios:", "primary_metric: {ratio_limit: 1.0000001}\nscenarios:")
    write(head + CLEAN.splitlines(keepends=True)[0])
    result = repository.run(FILE, *TUNE)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*no parameters of fp8_quant pass tier text-only: none of 4 steps passed every check*",
         "*format e5m2, scaled false: * primary_metric (ratio 1.0*",
         "builtin:llama fp8_quant: SKIPPED after 4: format e4m3, scaled true: *"]
    )  # fmt: skip
    entry = tuned(repository)["models"]["builtin:llama"]["fp8_quant"]
    assert entry["status"] == "skipped"
    assert "none of 4 steps" in entry["reason"]
    file = str((repository.latest / "tuned_edit_params.json").resolve())
    used = repository.run(FILE, f"--invarlock-tuned={file}", "--invarlock-signing-key=none", "-rA")
    used.assert_outcomes(failed=5, warnings=1)
    used.stdout.fnmatch_lines(
        ["ERROR: *tuned_edit_params.json:*: models.builtin:llama.fp8_quant: status is skipped: "
         "none of 4 steps passed every check; *"
         "(give parameters there, or leave the scenario out) [[]EDIT_SKIPPED]",
         "*tuned: skipped (fp8_quant of builtin:llama)"]
    )  # fmt: skip
    assert repository.verdict()["verdict"] == "FAIL"
    (record,) = (repository.latest / "records").glob("*/*/*.record.json")
    facts = json.loads(record.read_text())["facts"]
    assert (facts["error"], facts["plan"]["subject"]["name"]) == ("EDIT_SKIPPED", "fp8_quant")


@pytest.mark.long
def test_what_was_tuned_is_used(repository: Repository, write: Any) -> None:
    write()
    result = repository.run(FILE, *TUNE, "-v")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [f"{FILE}::builtin:llama::tuning::{name} PASSED*" for name in ITEMS]
    )
    result.stdout.fnmatch_lines(
        ["*invarlock mine: TUNING, NO VERDICT*",
         "builtin:llama fp8_quant: step 1: format e5m2, scaled false: PASS (ratio 1.0*",
         "tuned parameters: invarlock-out/tuning-mine-*/tuned_edit_params.json",
         f"use them: pytest --invarlock-suite={FILE} --invarlock-tier=balanced "
         "--invarlock-profile=dev --invarlock-tuned=invarlock-out/tuning-mine-*",
         "tuning is no certification: no verdict, no evidence pack"]
    )  # fmt: skip
    assert repository.events().count("baseline_load") == 1
    assert repository.events().count("baseline_pass") == 1
    document = tuned(repository)
    meta, entries = document["_meta"], document["models"]["builtin:llama"]
    assert (meta["schema"], meta["tier"], meta["profile"]) == (
        "tuned_edit_params_v1", "balanced", "dev",
    )  # fmt: skip
    assert meta["command"] == (
        f"pytest --invarlock-suite={FILE} --invarlock-tier=balanced --invarlock-profile=dev "
        "--invarlock-tune"
    )
    assert (meta["status"], meta["missing"]) == ("complete", [])
    result.stdout.no_fnmatch_line("*not tuned: *")
    assert entries["fp8_quant"] == {
        "status": "selected", "format": "e5m2", "scaled": False, "scope": "ffn",
        "edit_dir_name": "fp8",
    }  # fmt: skip
    steps = meta["evidence"]["builtin:llama"]["magnitude_prune"]["steps"]
    assert [step["outcome"] == "PASS" for step in steps] == [False] * (len(steps) - 1) + [True]
    assert steps[-1]["ratio"] < steps[-1]["ratio_upper"] < steps[-1]["limit"] == 1.1
    assert steps[-1]["parameters"] == {"sparsity": entries["magnitude_prune"]["sparsity"]}
    assert str(repository.path) not in json.dumps(document)

    file = str((repository.latest / "tuned_edit_params.json").resolve())
    again = repository.run(FILE, f"--invarlock-tuned={file}", "--invarlock-signing-key=none")
    again.stdout.fnmatch_lines(["*invarlock mine: *"])
    parameters = {name: edit["parameters"] for name, edit in edits(repository).items()}
    assert parameters["fp8"] == {"format": "e5m2", "scaled": False, "scope": "ffn"}
    assert parameters["pruned"] == {
        "sparsity": entries["magnitude_prune"]["sparsity"], "scope": "ffn", "layers": [0],
    }  # fmt: skip


def test_a_tuning_session_has_no_verdict_and_no_pack(repository: Repository, write: Any) -> None:
    write(TEXT_HEAD + CLEAN)
    result = repository.run(
        FILE, *TUNE, "--junitxml=junit.xml", "-k", "fp8", "-v", "--invarlock-signing-key=none"
    )
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.no_fnmatch_line("*::verdict*")
    result.stdout.no_fnmatch_line("*evidence pack: *")
    names = {path.name for path in repository.latest.rglob("*")}
    assert not names & {"final_verdict.json", "final_verdict.txt", "evidence_pack", "baseline"}
    assert not list(repository.latest.rglob("*.record.json"))
    assert "::verdict" not in (repository.path / "junit.xml").read_text()
    document = tuned(repository)
    assert list(document["models"]["builtin:llama"]) == ["fp8_quant"]
    assert document["_meta"]["status"] == "partial"
    assert document["_meta"]["missing"] == [{"model": "builtin:llama", "edit": "magnitude_prune"}]
    result.stdout.fnmatch_lines(
        ["not tuned: builtin:llama magnitude_prune", "tuned parameters (partial): *"]
    )


def test_an_interrupted_search_says_what_was_not_tuned(repository: Repository, write: Any) -> None:
    write(TEXT_HEAD + CLEAN)
    (repository.path / "conftest.py").write_text(
        "def pytest_runtest_setup(item):\n"
        "    if item.name == 'magnitude_prune':\n"
        "        raise KeyboardInterrupt\n"
    )
    result = repository.pytester.runpytest_inprocess(
        "-p", "no:randomly", FILE, *TUNE, no_reraise_ctrlc=True
    )
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["not tuned: builtin:llama magnitude_prune"])
    meta = tuned(repository)["_meta"]
    assert meta["planned"] == [{"model": "builtin:llama", "edit": edit} for edit in ITEMS]
    assert (meta["status"], len(meta["missing"])) == ("partial", 1)


def test_the_commands_that_are_told_load_the_same_suite(
    repository: Repository, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = write(HEAD.replace("dataset: {provider: pydoc, ", "dataset: {") + CLEAN)
    own = TEXT_ONLY.replace("name: text-only", "name: own", 1)
    (repository.path / "my tier.yaml").write_text(own)
    monkeypatch.setenv("INVARLOCK_DATASET", "pydoc")
    monkeypatch.setenv("INVARLOCK_SEQUENTIAL", "false")
    given = (
        f"--invarlock-tier={repository.path / 'my tier.yaml'}", "--invarlock-seq-len=48",
        "--invarlock-model=builtin:gpt2", "--invarlock-scenario=fp8",
        "--invarlock-preview-windows=22", "--invarlock-final-windows=22",
    )  # fmt: skip
    result = repository.run(text, *TUNE, *given)
    result.assert_outcomes(passed=1)
    meta = tuned(repository)["_meta"]
    assert str(repository.path) not in json.dumps(meta)
    first = shlex.split(meta["command"])
    (line,) = (line for line in result.outlines if line.startswith("use them: "))
    used = shlex.split(line.removeprefix("use them: "))
    monkeypatch.delenv("INVARLOCK_DATASET")
    again = repository.run(*first[1:], "-p", "no:cacheprovider")
    again.assert_outcomes(passed=1)
    repeated = tuned(repository)["_meta"]
    assert {**repeated, "generated_at": ""} == {**meta, "generated_at": ""}
    with_them = repository.run(*used[1:], "--invarlock-signing-key=none")
    with_them.stdout.fnmatch_lines(["*invarlock mine: *"])
    (record,) = (repository.latest / "records").glob("*/*/*.record.json")
    plan = json.loads(record.read_text())["facts"]["plan"]
    assert (plan["windows"]["seq_len"], plan["windows"]["preview_windows"]) == (48, 22)
    assert repository.verdict()["suite"] == "mine"


@pytest.mark.long
def test_workers_tune_a_model_each_and_write_one_file(repository: Repository, write: Any) -> None:
    write(TEXT_HEAD.replace('["builtin:llama"]', '["builtin:llama", "builtin:gpt2"]') + CLEAN)
    result = repository.run_apart(FILE, *TUNE, "-n2")
    result.assert_outcomes(passed=4)
    document = tuned(repository)
    assert {model: sorted(e) for model, e in document["models"].items()} == {
        "builtin:gpt2": ITEMS, "builtin:llama": ITEMS,
    }  # fmt: skip
    assert repository.events().count("baseline_load") == 2
    assert repository.events().count("baseline_pass") == 2
    used = [log.name for log in (repository.latest / "logs").glob("*.log")]
    assert sorted(used) == ["gw0.log", "gw1.log"]


def test_too_little_data_names_data_and_remedy(repository: Repository, write: Any) -> None:
    head = TEXT_HEAD.replace("preview_n: 10, final_n: 10", "preview_n: 24, final_n: 24")
    write(head.replace("documents: 8,", "documents: 40,") + CLEAN)
    result = repository.run(FILE, *TUNE)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["ERROR: the tuning arm of pydoc gives 24 documents to judge by, floors.documents is 40 "
         "(name data of 294 documents or more with --invarlock-dataset*",
         "invarlock: nothing was tuned; no verdict, no evidence pack"]
    )  # fmt: skip


def test_a_suite_without_a_clean_edit(repository: Repository) -> None:
    repository.suite("rtn")
    for arguments in (["small.invarlock.yaml"], ["--invarlock-suite=small.invarlock.yaml"], ["."]):
        text = usage_error(repository.run(*arguments, *TUNE))
        assert "has no clean edit, and --invarlock-tune tunes nothing else" in text
        assert "mark an edit with plan: {clean: true}, or tune suite edits" in text
    text = usage_error(
        repository.run("--invarlock-baseline=builtin:llama", "--invarlock-subject=x", *TUNE)
    )
    assert "a comparison of checkpoints has no clean edit" in text


def test_no_suite_at_all(repository: Repository) -> None:
    (repository.path / "test_one.py").write_text("def test_one():\n    pass\n")
    text = usage_error(repository.run("test_one.py", *TUNE))
    assert "--invarlock-tune: no suite is named (name one with --invarlock-suite)" in text


def test_searching_and_giving_parameters_exclude_each_other(
    repository: Repository, write: Any
) -> None:
    write()
    (repository.path / "t.json").write_text("{}")
    for given in ("--invarlock-tuned=t.json", "--invarlock-sweep=fp8:format=e5m2"):
        text = usage_error(repository.run(FILE, *TUNE, given))
        assert f"searches parameters, and {given.partition('=')[0]} gives some" in text


def test_one_entry_cannot_hold_two_scopes(repository: Repository, write: Any) -> None:
    line = CLEAN.splitlines(keepends=True)[0]
    write(HEAD + line + line.replace("id: fp8", "id: other").replace("ffn", "attn"))
    text = usage_error(repository.run(FILE, *TUNE))
    assert "scenarios 'fp8' and 'other' say different things of fp8_quant" in text
    listed = repository.run(FILE, *TUNE, "--invarlock-scenario=other", "--co", "-q")
    listed.stdout.fnmatch_lines([f"{FILE}::builtin:llama::tuning::fp8_quant"])
    write(HEAD + line + line.replace("id: fp8", "id: other"))
    listed = repository.run(FILE, *TUNE, "--co", "-q")
    listed.stdout.fnmatch_lines([f"{FILE}::builtin:llama::tuning::fp8_quant", "*1 test collected*"])


def test_the_items_of_a_shipped_suite(repository: Repository) -> None:
    names = ["quant_rtn", "fp8_quant", "magnitude_prune", "lowrank_svd"]
    listed = repository.run("--invarlock-suite=edits", *TUNE, "--co", "-q")
    listed.stdout.fnmatch_lines(
        [f"invarlock/edits::{model}::tuning::{name}"
         for model in ("builtin:llama", "builtin:gpt2") for name in names]
        + ["*8 tests collected*"]
    )  # fmt: skip
    one = "invarlock/edits::builtin:gpt2::tuning::fp8_quant"
    repository.run(one, *TUNE, "--co", "-q").stdout.fnmatch_lines([one, "*1 test collected*"])
    text = usage_error(repository.run(f"{one}2", *TUNE))
    assert "no item matches" in text
    assert "no item matches" in usage_error(repository.run(one))


@pytest.mark.long
def test_the_shipped_models_pass_with_what_is_shipped_for_them(repository: Repository) -> None:
    names = ("quant_clean", "fp8_clean", "prune_clean", "svd_clean")
    result = repository.run(
        "--invarlock-suite=edits", "--invarlock-signing-key=none", "-p", "no:cacheprovider",
        # Short windows, of as many documents as the floors ask for, and some more.
        "--invarlock-seq-len=48", "--invarlock-stride=48",
        "--invarlock-preview-windows=48", "--invarlock-final-windows=48",
        *(f"--invarlock-scenario={name}" for name in names),
    )  # fmt: skip
    # Eight checks of eight scenarios, and the verdict.
    result.assert_outcomes(passed=65)
    assert repository.verdict()["verdict"] == "PASS"
    shipped = json.loads(read_text("tuned", "builtin.json"))["models"]
    own = {"bits": "bitwidth", "status": None, "edit_dir_name": None}
    found = {}
    for path in (repository.latest / "records").glob("*/*/*.record.json"):
        facts = json.loads(path.read_text())["facts"]
        subject = facts["plan"]["subject"]
        found[facts["model"], subject["name"]] = subject["parameters"]
    assert found == {
        (model, name): {own.get(k, k): v for k, v in entry.items() if own.get(k, k) is not None}
        for model, entries in shipped.items()
        for name, entry in entries.items()
    }
