"""The original's variables: all of them stand in the table, and what is an alias is really read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_invarlock.data.hub_cache import HubCache
from pytest_invarlock.errors import ConfigError, DataError
from pytest_invarlock.policy.migration import old_variables, old_variables_set
from pytest_invarlock.policy.plan_settings import build_plan, build_policy
from pytest_invarlock.policy.presets import load_preset
from pytest_invarlock.policy.settings import SPECS, Settings, collect_settings
from pytest_invarlock.policy.suite import load_suite_file

ROOT = Path(__file__).parents[2]
ALIASES = [
    old for old in old_variables() if old.setting and old.name != SPECS[old.setting].environment
]


def made(environment: dict[str, str], **option: str) -> Settings:
    given = {f"invarlock_{name}": value for name, value in option.items()}
    return collect_settings(given.get, {"invarlock_out": "ini"}.get, environment)


def test_every_variable_stands_there_once_and_names_what_exists() -> None:
    names = [old.name for old in old_variables()]
    assert len(set(names)) == len(names)
    assert {old.setting for old in old_variables() if old.setting} <= set(SPECS)


@pytest.mark.parametrize("old", ALIASES, ids=lambda old: old.name)
def test_an_alias_is_read_in_the_place_of_the_environment(old) -> None:
    new = SPECS[old.setting].environment
    settings = made({old.name: "v"})
    assert settings.text(old.setting) == "v"
    assert settings.made[old.setting].origin == old.name
    assert settings.notes == (f"{old.name} is read as {new}",)
    both = made({old.name: "v", new: "w"})
    assert (both.text(old.setting), both.notes) == ("w", ())
    option = made({old.name: "v"}, **{old.setting.replace("-", "_"): "o"})
    assert (option.text(old.setting), option.notes) == ("o", ())


def test_ignored_and_empty_values_count_as_not_made() -> None:
    assert made({"PACK_REPEATS": "0", "PACK_OUTPUT_DIR": ""}).made.keys() == {"out"}


def test_the_same_name_is_no_alias() -> None:
    settings = made({"INVARLOCK_TIER": "balanced", "PACK_X": "1"})
    assert (settings.text("tier"), settings.notes) == ("balanced", ())


def test_arguments_of_a_provider_reach_the_plan(tmp_path: Path) -> None:
    settings = made(
        {
            "INVARLOCK_DATASET": "local_jsonl",
            "INVARLOCK_LOCAL_JSONL_FILE": str(tmp_path / "a.jsonl"),
            "INVARLOCK_LOCAL_JSONL_MAX_SAMPLES": "7",
            "INVARLOCK_HF_TEXT_FIELD": "ignored",
        }
    )
    plan = build_plan({}, settings, tmp_path)
    assert plan.source.locations == (str(tmp_path / "a.jsonl"),)
    assert (plan.source.max_samples, plan.source.text_field) == (7, "text")
    assert any("file, max_samples of local_jsonl are read" in note for note in plan.notes)


@pytest.mark.parametrize("text", ["kind: local_jsonl\nfile: a.jsonl\n", '{"kind": "pydoc"}'])
def test_a_provider_is_given_as_a_mapping(tmp_path: Path, text: str) -> None:
    plan = build_plan({}, made({"INVARLOCK_DATASET_PROVIDER_YAML": text}), tmp_path)
    assert plan.source.provider in text


def test_what_is_set_is_found_for_doctor() -> None:
    environment = {"TASK_TIMEOUT_EVAL": "1", "PACK_NET": "1", "TASK_TIMEOUT_": "1", "HOME": "x"}
    assert [(name, old.name) for name, old in old_variables_set(environment)] == [
        ("PACK_NET", "PACK_NET"),
        ("TASK_TIMEOUT_EVAL", "TASK_TIMEOUT_<TYPE>"),
    ]


def test_the_page_is_current() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "migration_table.py"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def provider_settings(**variables: str) -> Settings:
    return made({f"INVARLOCK_{name}": value for name, value in variables.items()})


def test_arguments_of_variables_act_on_a_suite_files_provider(tmp_path: Path) -> None:
    value = {"dataset": {"provider": "hf_text", "dataset_name": "org/data", "text_field": "body"}}
    settings = provider_settings(HF_TEXT_FIELD="words", HF_MAX_SAMPLES="5")
    plan = build_plan(value, settings, tmp_path)
    # As the environment does everywhere, they beat the file.
    assert (plan.source.dataset_name, plan.source.text_field, plan.source.max_samples) == (
        "org/data", "words", 5,
    )  # fmt: skip
    assert any("text_field, max_samples of hf_text are read" in note for note in plan.notes)
    other = build_plan({"dataset": {"provider": "pydoc"}}, settings, tmp_path)
    assert (other.source.max_samples, other.notes) == (None, ())


def test_a_variable_gives_the_file_that_a_suite_file_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "name: s\nmodels: ['builtin:llama']\nprofile: dev\ndataset: {provider: local_jsonl}\n"
        "scenarios: [{id: a, strictness: must_pass, edit: {name: noop}}]\n"
    )
    settings = provider_settings(LOCAL_JSONL_PATH=str(tmp_path / "d"))
    suite = load_suite_file(tmp_path / "s.yaml", settings, tmp_path)
    assert suite.plan.source.locations == (str(tmp_path / "d"),)
    value = {"dataset": {"provider": "local_jsonl", "file": "own.jsonl"}}
    assert build_plan(value, settings, tmp_path).source.locations == (str(tmp_path / "d"),)


def test_the_setting_of_the_data_beats_the_arguments_of_variables(tmp_path: Path) -> None:
    variables = {"INVARLOCK_HF_DATASET_NAME": "org/old", "INVARLOCK_HF_TEXT_FIELD": "words"}
    for text, name in (("hf_text:org/new", "org/new"), ("hf_text", "org/old")):
        source = build_plan({}, made(variables, dataset=text), tmp_path).source
        assert (source.dataset_name, source.text_field) == (name, "words")


@pytest.mark.parametrize("text", ["abc", "0", "-1"])
def test_a_count_that_is_none_is_refused_naming_the_variable(tmp_path: Path, text: str) -> None:
    settings = provider_settings(HF_MAX_SAMPLES=text)
    value = {"dataset": {"provider": "hf_text", "dataset_name": "org/data"}}
    with pytest.raises(ConfigError) as caught:
        build_plan(value, settings, tmp_path)
    assert caught.value.cause.startswith("INVARLOCK_HF_MAX_SAMPLES: ")


CALIBRATED = """\
_calibration_meta: {model_name: m, num_runs: 5, tier: balanced, drift_mean: 1.0, drift_std: 0.01,
  drift_band_compatible: true, suggested_drift_band: [0.97, 1.03]}
model: {id: org/model}
dataset: {provider: pydoc, split: validation, seq_len: 96, stride: 96, preview_n: 9, final_n: 9, seed: 42}
primary_metric: {drift_band: {min: 0.97, max: 1.03}}
guards:
  order: [invariants, spectral, rmt, variance, invariants]
  spectral: {family_caps: {ffn: {kappa: 2.5}, attn: {kappa: 2.8}}, sigma_quantile: 0.95, deadband: 0.1, max_caps: 5}
  rmt: {epsilon_by_family: {ffn: 0.1}, margin: 1.5, deadband: 0.1}
  variance: {deadband: 0.02, min_effect_lognll: 0.0009, min_gain: 0.0}
assurance: {mode: strict}
"""


def test_a_calibrated_preset_of_the_original_is_read(tmp_path: Path) -> None:
    (tmp_path / "calibrated_preset_m.yaml").write_text(CALIBRATED)
    for variables in (
        {"PACK_CALIBRATION_PRESET_FILE": str(tmp_path / "calibrated_preset_m.yaml")},
        {"PACK_CALIBRATION_PRESET_DIR": str(tmp_path)},
    ):
        settings = made(variables)
        plan = build_plan({}, settings, tmp_path)
        windows = plan.windows
        assert (windows.seq_len, windows.stride, windows.final_windows, windows.seed) == (
            96, 96, 9, 42,
        )  # fmt: skip
        policy = build_policy({}, settings, {})
        assert policy.drift.band == 1.03
        assert policy.provenance["drift.band"] == "preset"
        (note,) = [note for note in plan.notes if note.startswith("preset calibrated_preset_m")]
        assert note.endswith(
            "not used: _calibration_meta, assurance, model.id, guards.order, guards.spectral, "
            "guards.rmt, guards.variance"
        )
    suite_file = {"drift": {"band": 1.04}}
    assert build_policy(suite_file, settings, {}).drift.band == 1.04


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [("max_caps", "max_cap", ":8: unknown key 'guards.spectral.max_cap'"),
     ("kappa: 2.5", "kapa: 2.5", ":8: guards.spectral.family_caps.ffn"),
     ("min: 0.97, max: 1.03", "min: 1.97", ":5: primary_metric.drift_band.min"),
     ("{min: 0.97, max: 1.03}", "{}", ":5: primary_metric.drift_band: empty"),
     ("assurance", "asurance", ":11: unknown key 'asurance'")],
)  # fmt: skip
def test_a_mistake_in_a_calibrated_preset_is_named(
    tmp_path: Path, old: str, new: str, cause: str
) -> None:
    (tmp_path / "p.yaml").write_text(CALIBRATED.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_preset("p.yaml", tmp_path)
    assert f"p.yaml{cause}" in caught.value.cause


def test_a_data_set_clients_offline_variable_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError):
        HubCache("org/absent", cache_dir=str(tmp_path)).snapshot(["*"])
    assert os.environ["HF_DATASETS_OFFLINE"] == "1"
