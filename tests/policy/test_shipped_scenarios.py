"""The original's scenarios as data: complete, of one grammar, and taken by name into a suite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.decision_policy import Strictness
from pytest_invarlock.policy.edit_names import kind_of
from pytest_invarlock.policy.extended_document import shipped_scenarios
from pytest_invarlock.policy.resources import read_text, schema, strict_validator
from pytest_invarlock.policy.settings import collect_settings
from pytest_invarlock.policy.suite import Suite, load_suite, load_suite_file
from pytest_invarlock.policy.yaml_document import parse_yaml

if TYPE_CHECKING:
    from pathlib import Path

HEAD = 'name: s\nmodels: ["builtin:llama"]\nprofile: dev\ndataset: {provider: pydoc}\n'
# Of the original: id, strictness, intent, primary guard.
EDITS = [
    ("quant_clean", "must_pass", "clean_control", "primary_metric"),
    ("fp8_clean", "must_pass", "clean_control", "primary_metric"),
    ("prune_clean", "must_pass", "clean_control", "primary_metric"),
    ("svd_clean", "must_pass", "clean_control", "primary_metric"),
    ("quant_8bit_stress", "informational", "subtle_detectable", "primary_metric"),
    ("fp8_e5m2_stress", "informational", "subtle_detectable", "spectral"),
    ("prune_50pct_stress", "must_fail", "catastrophic_failure", "primary_metric"),
    ("svd_rank32_stress", "must_fail", "catastrophic_failure", "primary_metric"),
]
FAULTS = [
    ("nan_injection", "must_detect", "fault_detection", "invariants"),
    ("inf_injection", "must_detect", "fault_detection", "invariants"),
    ("shape_mismatch", "must_detect", "fault_detection", "invariants"),
    ("missing_tensors", "must_detect", "fault_detection", "invariants"),
    ("extreme_quant", "must_detect", "fault_detection", "primary_metric"),
    ("scale_explosion", "must_detect", "fault_detection", "spectral"),
    ("rank_collapse", "must_detect", "fault_detection", "spectral"),
    ("norm_collapse", "must_detect", "fault_detection", "spectral"),
    ("weight_tying_break", "must_detect", "fault_detection", "invariants"),
    ("rmt_norm_noise", "informational", "fault_detection", "rmt"),
    ("spectral_moderate_scale", "informational", "subtle_detectable", "spectral"),
    ("ve_mlp_scale_skew", "informational", "subtle_detectable", "variance"),
    ("rmt_norm_noise_strong", "informational", "subtle_detectable", "rmt"),
    ("spectral_moderate_scale_mlp", "informational", "subtle_detectable", "spectral"),
    ("ve_mlp_scale_skew_up", "informational", "subtle_detectable", "variance"),
]


def test_the_originals_probes_are_asked_for() -> None:
    asked = {
        entry["id"]: entry["probes"]
        for entry in parse_yaml(read_text("scenarios", "faults.yaml"), name="faults").value[
            "scenarios"
        ]
        if "probes" in entry
    }
    assert asked == {"rmt_norm_noise": ["rmt"], "ve_mlp_scale_skew": ["variance"]}


def load(folder: Path, *entries: str) -> Suite:
    path = folder / "s.yaml"
    path.write_text(HEAD + "scenarios:\n" + "".join(f"  - {{{entry}}}\n" for entry in entries))
    return load_suite_file(path, collect_settings({}.get, {}.get, {}), folder)


@pytest.mark.parametrize(("file", "rows"), [("edits", EDITS), ("faults", FAULTS)])
def test_the_originals_scenarios_are_all_there(file: str, rows: list[tuple[str, ...]]) -> None:
    text = read_text("scenarios", f"{file}.yaml")
    scenarios: list[dict[str, Any]] = parse_yaml(text, name=file).value["scenarios"]
    keys = ("id", "strictness", "intent", "primary_guard")
    assert [tuple(scenario[key] for key in keys) for scenario in scenarios] == rows
    # Of the original's five the other three are informational, of which no guard may be required.
    required = [one["id"] for one in scenarios if one.get("primary_guard_required", False)]
    assert required == (["nan_injection", "extreme_quant"] if file == "faults" else [])
    rules = {**schema("suite"), "required": ["scenarios"]}
    errors = strict_validator()(rules).iter_errors({"scenarios": scenarios})
    assert [error.message for error in errors] == []


def test_a_suite_takes_every_one_by_its_name(tmp_path: Path) -> None:
    names = [row[0] for row in (*EDITS, *FAULTS)]
    assert list(shipped_scenarios()) == names
    suite = load(tmp_path, *(f"extends: {name}" for name in names))
    assert [scenario.name for scenario in suite.scenarios] == names
    for pair, scenario in suite.planned():
        expected = suite.expectation(pair, scenario)
        # Also what is only informational says which check it is meant for.
        declared = bool(expected.detectors_any or expected.detectors_all)
        assert declared is (expected.strictness is not Strictness.MUST_PASS), scenario.name
        # A kind that the data fixes is the edit's own, so that it follows a dose.
        assert kind_of(scenario) == kind_of(type(scenario)(scenario.name, edit=scenario.edit))


def test_what_an_entry_says_beats_what_it_extends(tmp_path: Path) -> None:
    suite = load(
        tmp_path,
        "extends: prune_50pct_stress, strictness: informational, runs: 2, "
        "edit: {plan: {sparsity: 0.4}}",
        "extends: prune_50pct_stress, id: again",
    )
    first, second = suite.scenarios
    assert first.edit is not None
    assert second.edit is not None
    assert (first.name, second.name) == ("prune_50pct_stress", "again")
    assert first.edit.parameters == {"sparsity": 0.4, "scope": "all"}
    assert second.edit.parameters == {"sparsity": 0.5, "scope": "all"}
    (pair,) = suite.pairs
    assert (suite.runs_of(pair, first), suite.runs_of(pair, second)) == ((0, 1), (0,))
    demands = [
        suite.expectation(suite.pairs[0], scenario).strictness for scenario in suite.scenarios
    ]
    assert demands == [Strictness.INFORMATIONAL, Strictness.MUST_FAIL]


@pytest.mark.parametrize(
    ("entry", "cause"),
    [("extends: nan_injektion", ":6: scenarios[0].extends: no shipped scenario is named"),
     ("extends: [noop]", ":6: scenarios[0].extends: no shipped scenario is named"),
     ("extends: nan_injection, edti: 1", ":6: unknown key 'scenarios[0].edti'"),
     ("extends: nan_injection, edit: {plan: {layer: x}}", ":6: scenarios[0].edit.plan.layer")],
)  # fmt: skip
def test_mistakes_name_file_and_line(tmp_path: Path, entry: str, cause: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, entry)
    assert f"s.yaml{cause}" in caught.value.cause


def test_suite_edits_is_built_of_them(tmp_path: Path) -> None:
    suite = load_suite("edits", collect_settings({}.get, {}.get, {}), tmp_path)
    assert [scenario.name for scenario in suite.scenarios] == [row[0] for row in EDITS]
    assert {scenario.description.intent for scenario in suite.scenarios} == {
        "clean_control", "subtle_detectable", "catastrophic_failure",
    }  # fmt: skip
    llama, gpt2 = (
        suite.policy.expectation(pair.name, "prune_50pct_stress").strictness for pair in suite.pairs
    )
    assert (llama, gpt2) == (Strictness.MUST_FAIL, Strictness.INFORMATIONAL)
