"""What was measured is what is judged: no record, window, loss or model stands in for another."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_invarlock.adapters.model_source import resolve_model

MARKER = """
import dataclasses
import pytest

INT8 = {"name": "quant_rtn", "plan": {"bitwidth": 8, "group_size": 32}}
COUNTS = dict(
    tier="text-only.yaml", dataset="pydoc", seq_len=48, preview_n=22, final_n=22, threads=1
)
"""


@pytest.fixture
def model(repository):
    target = repository.path / "model"
    shutil.copytree(resolve_model("builtin:llama").directory, target)
    return target


def test_two_suites_of_one_name_are_judged_each_on_its_own(repository):
    repository.suite("rtn", name="a.invarlock.yaml")
    text = (repository.path / "a.invarlock.yaml").read_text()
    damaged = text.replace(
        "quant_rtn, plan: {bitwidth: 8, group_size: 32}", "magnitude_prune, plan: {sparsity: 0.7}"
    )
    (repository.path / "b.invarlock.yaml").write_text(damaged)
    result = repository.run("a.invarlock.yaml", "b.invarlock.yaml")
    result.assert_outcomes(passed=8, failed=2)
    verdicts = {
        json.loads((run / "final_verdict.json").read_text())["verdict"] for run in repository.runs
    }
    assert len(repository.runs) == 2
    assert verdicts == {"PASS", "FAIL"}


def test_names_that_sort_differently_with_and_without_a_slash_make_a_valid_pack(repository):
    suite = repository.suite("noop")
    path = repository.path / suite
    path.write_text(
        path.read_text() + "  - {id: noop-2, strictness: must_pass, edit: {name: noop}}\n"
    )
    repository.run(suite).assert_outcomes(passed=9)
    assert (repository.latest / "evidence_pack" / "manifest.json").is_file()


def test_a_comparison_that_could_not_be_made_leaves_no_verdict(repository):
    repository.pytester.makepyfile(
        test_it=MARKER
        + """
@pytest.mark.invarlock(baseline="builtin:llama", edit=INT8, **COUNTS)
def test_good(invarlock):
    invarlock.assert_passes()

@pytest.mark.invarlock(baseline="./nowhere", edit=INT8, **COUNTS)
def test_missing(invarlock):
    invarlock.assert_passes()
"""
    )
    result = repository.run("test_it.py")
    result.assert_outcomes(passed=1, errors=1)
    assert repository.verdict()["status"] == "partial"
    assert not (repository.latest / "evidence_pack").exists()
    assert "WindowSet" not in result.stdout.str()


def test_windows_that_one_test_overrides_are_not_the_next_ones(repository):
    repository.pytester.makepyfile(
        test_it=MARKER
        + """
@pytest.mark.invarlock(baseline="builtin:llama", edit=INT8, **COUNTS)
class TestOwnWindows:
    @pytest.fixture
    def invarlock_windows(self, invarlock_windows):
        arms = {arm: windows[:20] for arm, windows in invarlock_windows.arms.items()}
        documents = {arm: len({w.document for w in windows}) for arm, windows in arms.items()}
        return dataclasses.replace(invarlock_windows, arms=arms, n_documents=documents)

    def test_a(self, invarlock):
        assert len(invarlock.record.facts.arms["final"].tokens) == 20
        assert invarlock.record.facts.plan["source"]["provider"] == "given"

@pytest.mark.invarlock(baseline="builtin:llama", edit=INT8, **COUNTS)
def test_b(invarlock):
    assert len(invarlock.record.facts.arms["final"].tokens) == 22
    assert invarlock.record.facts.plan["source"]["provider"] == "pydoc"
"""
    )
    repository.run("test_it.py").assert_outcomes(passed=2)


def test_a_baseline_changed_behind_an_edit_is_found_and_reloaded(repository):
    repository.pytester.makepyfile(
        test_it=MARKER
        + """
@pytest.mark.invarlock(baseline="builtin:llama", edit=INT8, **COUNTS)
class TestIt:
    def test_a(self, invarlock_edit):
        with invarlock_edit("noop") as model:
            model.model.embed_tokens.weight.data.mul_(2)

    def test_b(self, invarlock):
        invarlock.assert_passes()
"""
    )
    result = repository.run("test_it.py")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*changed the lent baseline model*"])


def test_models_that_differ_in_configuration_alone_do_not_share_losses(repository, model):
    config = json.loads((model / "config.json").read_text())
    config["rms_norm_eps"] = 0.5
    (model / "config.json").write_text(json.dumps(config))
    suite = repository.suite("noop")
    path = repository.path / suite
    path.write_text(path.read_text().replace('["builtin:llama"]', '["builtin:llama", "./model"]'))
    result = repository.run(suite)
    result.assert_outcomes(passed=9)
    assert repository.events().count("baseline_pass") == 2


def test_tensors_that_the_architecture_leaves_out_fail_the_invariants(repository, model):
    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.lora_A.weight"] = torch.ones(2, 2)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    result = repository.run(
        "--invarlock-baseline=builtin:llama", "--invarlock-subject=./model",
        "--invarlock-dataset=pydoc", "--invarlock-seq-len=48", "--invarlock-tier=text-only.yaml",
        "--invarlock-preview-windows=20", "--invarlock-final-windows=20",
    )  # fmt: skip
    result.stdout.fnmatch_lines(
        ["FAIL: unexpected tensor in model.layers.0.mlp.down_proj.lora_A.*"]
    )


def test_junit_of_failing_items_holds_no_absolute_path(repository, model):
    (model / "model.safetensors").write_bytes(b"cut")
    result = repository.run(
        repository.suite("pruned"), "--junitxml=junit.xml",
        "--invarlock-baseline=builtin:llama", f"--invarlock-subject={model}",
        "--invarlock-dataset=pydoc",
    )  # fmt: skip
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    text = (repository.path / "junit.xml").read_text()
    assert "damaged safetensors file" in text
    assert "FAIL: ratio" in text
    assert str(repository.path) not in text


def test_x_on_the_last_item_leaves_a_partial_run(repository):
    result = repository.run(repository.suite("noop", "missed"), "-x")
    result.assert_outcomes(passed=4, failed=1)
    assert repository.verdict()["status"] == "partial"
    assert not (repository.latest / "evidence_pack").exists()


def test_usage_errors_under_workers_name_their_cause(repository):
    (repository.path / "t").mkdir()
    (repository.path / "t" / "bad.invarlock.yaml").write_text("nam: x\n")
    (repository.path / "t" / "test_ok.py").write_text("def test_ok():\n    pass\n")
    result = repository.run_apart("t", "-n1")
    assert result.ret in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
    assert "bad.invarlock.yaml:1: unknown key 'nam'" in result.stdout.str()
    assert "INTERNALERROR" not in result.stdout.str()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--invarlock-progress=fancy", "--invarlock-progress: 'fancy' is not one of its values"),
        ("--invarlock-kind=quantise8", "did you mean 'quantize8'?"),
        ("invarlock/dmo::builtin:llama", "no suite is named 'dmo' (did you mean 'demo'?)"),
    ],
)
def test_a_setting_is_checked_even_where_nothing_of_ours_runs(repository, argument, message):
    result = repository.run(argument)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()


def test_a_stand_in_for_missing_data_is_told_and_certified(repository):
    head = "name: small\nmodels: ['builtin:llama']\nprofile: dev\nrun: {threads: 1}\nscenarios:\n"
    suite = repository.suite("noop", head=head)
    result = repository.run(
        suite, "--invarlock-seq-len=48", "--invarlock-preview-windows=20",
        "--invarlock-final-windows=20", "--invarlock-tier=text-only.yaml",
    )  # fmt: skip
    result.stdout.fnmatch_lines(
        [
            "*no evaluation data is named, and wikitext2 is not in the local*: using the shipped text*"
        ]
    )
    report = repository.latest / "reports/builtin-llama/noop/run_0/evaluation.report.json"
    notes = json.loads(report.read_text())["dataset"]["notes"]
    assert any("shipped text" in note for note in notes)
