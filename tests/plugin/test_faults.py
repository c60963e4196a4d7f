"""Structural faults as scenarios: structure is judged, and losses where the checkpoint loads."""

from __future__ import annotations

import json
from typing import Any

import pytest

HEAD = """\
name: faults
models: ["builtin:llama"]
tier: text-only.yaml
profile: dev
dataset: {provider: pydoc, seq_len: 64, preview_n: 8, final_n: 8}
run: {device: cpu, dtype: float32, threads: 1}
floors: {documents: 4, effective_documents: 2, tokens: 100}
bootstrap_replicates: 199
scenarios:
"""
ANY, ALL = "detectors: {any: [invariants]}", "detectors: {all: [invariants]}"
SCENARIOS = f"""\
  - {{id: shape, strictness: must_detect, {ANY}, edit: {{name: shape_mismatch}}}}
  - {{id: shape_unloadable, strictness: must_detect, {ALL},
     edit: {{name: shape_mismatch, plan: {{update_config: false}}}}}}
  - {{id: missing, strictness: must_detect, {ALL}, edit: {{name: missing_tensors}}}}
  - {{id: missing_unloadable, strictness: must_detect, {ANY},
     edit: {{name: missing_tensors, plan: {{update_config: false}}}}}}
  - {{id: untied, strictness: must_detect, {ANY}, edit: {{name: weight_tying_break}}}}
  - {{id: dtype, strictness: must_detect, {ALL}, kind: quantize8, edit: {{name: dtype_change}}}}
  - {{id: cast, strictness: informational, edit: {{name: dtype_change}}}}
  - {{id: tokenizer, strictness: must_detect, {ANY}, edit: {{name: tokenizer_mismatch}}}}
  - {{id: after, strictness: must_pass, edit: {{name: noop}}}}
"""
VIOLATION = {
    "shape": "shape_change",
    "shape_unloadable": "shape_change",
    "missing": "missing_tensor",
    "missing_unloadable": "missing_tensor",
    "untied": "tie_broken",
    "dtype": "dtype_change",
    "tokenizer": "tokenizer_change",
}
UNMEASURED = {"shape_unloadable", "missing_unloadable", "tokenizer"}


def measured(repository: Any) -> dict[tuple[str, str], tuple[Any, Any, dict[str, Any]]]:
    """Facts, decision and checks by model and scenario."""
    found = {}
    for path in (repository.latest / "records").glob("*/*/run_0.record.json"):
        facts = json.loads(path.read_text())["facts"]
        model, scenario = path.parts[-3:-1]
        report = repository.latest / "reports" / model / scenario / "run_0"
        decision = json.loads((report / "evaluation.report.json").read_text())["decision"]
        checks = {check["check"]: check for check in decision["checks"]}
        found[facts["model"], facts["scenario"]] = facts, decision, checks
    return found


def test_every_structural_fault_is_detected_by_structure(repository):
    (repository.path / "faults.invarlock.yaml").write_text(HEAD + SCENARIOS)
    result = repository.run("faults.invarlock.yaml")
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    assert repository.verdict()["verdict"] == "PASS"
    found = measured(repository)
    assert len(found) == 9
    for (_, scenario), (facts, decision, checks) in found.items():
        unmeasured = scenario in UNMEASURED
        assert (facts["arms"] == {}) is unmeasured
        assert (checks["primary_metric"]["outcome"] == "ERROR") is unmeasured
        assert ("not_evaluated" in facts["divergence"]) is (unmeasured or scenario == "shape")
        same = facts["subject"]["tensors_digest"] == facts["baseline"]["tensors_digest"]
        assert same is (scenario in ("untied", "tokenizer", "after"))
        if scenario in VIOLATION:
            assert "invariants" in decision["fired"]
            kinds = {violation["kind"] for violation in checks["invariants"]["violations"]}
            assert VIOLATION[scenario] in kinds
        if unmeasured:
            # What was not measured ends in ERROR, and an ERROR detects nothing.
            assert decision["fired"] == ["invariants"]
        if scenario.endswith("_unloadable"):
            reason = facts["divergence"]["not_evaluated"]
            assert reason.startswith("the damaged checkpoint does not load: ")
            assert reason in checks["primary_metric"]["text"]
    assert found["builtin:llama", "tokenizer"][0]["data"]["match_fraction"] == 0.0
    # A cast of all tensors alike is what this edit declares, unless the scenario declares another.
    assert found["builtin:llama", "cast"][0]["kind"] == "cast"
    assert found["builtin:llama", "dtype"][0]["kind"] == "quantize8"
    assert found["builtin:llama", "cast"][1]["fired"] == []
    # The resident model served every fault unchanged: it was never loaded again.
    assert repository.events().count("baseline_load") == 1
    metric = found["builtin:llama", "after"][2]["primary_metric"]
    assert (metric["outcome"], metric["reason"]) == ("PASS", "bitwise_identical")


def test_an_error_is_no_detection(repository):
    (repository.path / "missed.invarlock.yaml").write_text(
        HEAD + "  - {id: unloadable, strictness: must_detect, detectors: {any: [primary_metric]},\n"
        "     edit: {name: missing_tensors, plan: {update_config: false}}}\n"
        "  - {id: both, strictness: must_detect, detectors: {all: [invariants, primary_metric]},\n"
        "     edit: {name: shape_mismatch, plan: {update_config: false}}}\n"
        "  - {id: unchanged, strictness: must_detect, detectors: {any: [invariants]},\n"
        "     edit: {name: dtype_change, plan: {dtype: float32}}}\n"
    )
    result = repository.run("missed.invarlock.yaml")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    # Three scenarios and the verdict.
    result.assert_outcomes(failed=4)
    verdict = repository.verdict()
    assert verdict["verdict"] == "FAIL"
    found = {d["scenario"]: (d["outcome"], d["expectation_met"]) for d in verdict["decisions"]}
    assert set(found.values()) == {("ERROR", False)}
    assert measured(repository)["builtin:llama", "unchanged"][0]["error"] == "EDIT_CHANGED_NOTHING"


def test_a_marker_test_is_lent_a_damaged_model_that_loads_and_told_of_one_that_does_not(repository):
    repository.pytester.makepyfile(
        test_it="""
        import pytest

        HOW = {"baseline": "builtin:gpt2", "dataset": "pydoc", "profile": "dev"}

        @pytest.mark.invarlock(edit="missing_tensors", **HOW)
        def test_shallower(invarlock_baseline, invarlock_subject):
            blocks = [len(m.transformer.h) for m in (invarlock_baseline, invarlock_subject)]
            assert blocks == [4, 3]
            one, other = (m.transformer.wte.weight for m in (invarlock_baseline, invarlock_subject))
            assert one.data_ptr() != other.data_ptr()

        @pytest.mark.invarlock(
            edit={"name": "missing_tensors", "plan": {"update_config": False}}, **HOW
        )
        def test_none(invarlock_subject):
            pass
        """
    )
    result = repository.run("test_it.py")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*does not load: missing transformer.h.3.*"])
