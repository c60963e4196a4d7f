"""Calibrated presets laid over a policy: they only tighten, and each model has its own or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pytest_invarlock.calibration.preset_file import write_preset
from pytest_invarlock.decision import Outcome
from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.calibrated_preset import (
    CalibratedPreset,
    is_calibrated,
    tightened,
)
from pytest_invarlock.policy.decision_policy import policies_by_scenario
from pytest_invarlock.policy.settings import Setting, Settings
from pytest_invarlock.policy.suite import Suite, compare_suite, load_suite

from ..calibration.made import preset

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """\
name: mine
models: ["builtin:llama"]
profile: dev
tier: balanced
dataset: {provider: pydoc, seq_len: 64, preview_n: 24, final_n: 24}
calibration: {runs: 2}
scenarios:
  - {id: rtn, strictness: must_pass, edit: {name: quant_rtn, plan: {bitwidth: 8}}}
"""


def load(folder: Path, text: str = TEXT, given: Path | None = None) -> Suite:
    path = folder / "my.invarlock.yaml"
    path.write_text(text)
    made = {} if given is None else {"preset": Setting((str(given),), "--invarlock-preset")}
    return load_suite(str(path), Settings(made), folder)


def refusal(folder: Path, given: Path, text: str = TEXT) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, given)
    return caught.value


@pytest.fixture
def given(tmp_path: Path) -> Path:
    return write_preset(tmp_path / "run", preset()) if (tmp_path / "run").mkdir() is None else None


def test_a_model_without_a_preset_is_a_usage_error_that_names_it(
    tmp_path: Path, given: Path
) -> None:
    two = TEXT.replace('["builtin:llama"]', '["builtin:llama", "builtin:gpt2"]')
    error = refusal(tmp_path, given.parent, two)
    assert error.code == "CALIBRATED_PRESET"
    assert "holds no calibrated_preset_builtin-gpt2.yaml, the preset of builtin:gpt2" in error.cause
    assert "is the preset of builtin:llama, and builtin:gpt2 has none" in str(
        refusal(tmp_path, given, two)
    )


def test_a_preset_that_did_not_hold_is_refused(tmp_path: Path) -> None:
    bad = write_preset(tmp_path, preset("builtin:llama", Outcome.FAIL))
    assert "did not hold on benign runs of builtin:llama" in refusal(tmp_path, bad).cause


def test_a_preset_loosens_nothing_whatever_it_says(tmp_path: Path, given: Path) -> None:
    plain = load(tmp_path).policy
    loose = CalibratedPreset(
        "mine", "builtin:llama", usable=True, drift_band=1.5,
        guards={
            "spectral": {"family_limits": {"ffn": {"ln_sigma": {"strict": 9.0}}}},
            "rmt": {"error": {"strict": 9.0}, "epsilon_by_family": {"ffn": 9.0}},
            "variance": {"log_rms": {"open": 9.0}, "min_effect_lognll": 1e-9},
        },
    )  # fmt: skip
    found = tightened(plain, loose)
    assert found.drift == plain.drift
    assert found.guards["rmt"] == plain.guards["rmt"]
    assert found.guards["variance"] == plain.guards["variance"]
    from invarlock_guards.judge.spectral_policy import SpectralPolicy

    judged = SpectralPolicy.from_mapping(found.guards["spectral"])
    assert judged.limit("ln_sigma", "cast", "ffn") == 0.01


def test_its_limits_are_in_force_with_their_provenance(tmp_path: Path, given: Path) -> None:
    for reference in (given, given.parent):
        suite = load(tmp_path, given=reference)
        assert not suite.calibrates
        (policy,) = suite.policies()
        assert policy is suite.policy_of(suite.pairs[0])
        assert policy.drift.band == pytest.approx(1.00489, abs=1e-5)
        assert policy.guards["rmt"]["error"]["strict"] == pytest.approx(0.02)
        assert policy.guards["rmt"]["error"]["compression"] == 0.20
        assert policy.guards["rmt"]["epsilon_by_family"]["ffn"] == pytest.approx(0.02)
        limits = policy.guards["spectral"]["family_limits"]
        assert limits == {"ffn": {"ln_sigma": {"strict": pytest.approx(0.003)}}}
        assert policy.guards["variance"]["min_effect_lognll"] == pytest.approx(0.003)
        assert policy.provenance["guards.spectral.family_limits"] == "preset"
        assert policy.provenance["drift.band"] == "preset"
        assert policy.provenance["guards.rmt.margin"] == "seeds"
        read = policies_by_scenario([policy.document()])[("builtin:llama", "rtn")]
        assert read.guards == policy.guards


def test_what_the_suite_file_says_itself_is_left(tmp_path: Path, given: Path) -> None:
    text = TEXT + "drift: {band: 1.2}\nguards: {rmt: {error: .3}}\n"
    policy = load(tmp_path, text, given).policy_of(load(tmp_path, text).pairs[0])
    assert policy.drift.band == 1.2
    assert policy.guards["rmt"]["error"] == 0.3
    assert policy.provenance["guards.rmt.error"] == "suite file"
    assert policy.guards["variance"]["log_rms"]["strict"] < 0.015


def test_each_model_has_its_own_policy_and_every_scenario_one(tmp_path: Path) -> None:
    write_preset(tmp_path, preset())
    write_preset(tmp_path, preset("builtin:gpt2", scale=2.0))
    two = TEXT.replace('["builtin:llama"]', '["builtin:llama", "builtin:gpt2"]')
    suite = load(tmp_path, two, tmp_path / "presets")
    found = policies_by_scenario([policy.document() for policy in suite.policies()])
    errors = {model: p.guards["rmt"]["error"]["strict"] for (model, _), p in found.items()}
    assert errors == {"builtin:llama": pytest.approx(0.02), "builtin:gpt2": pytest.approx(0.04)}
    assert set(found) == set(suite.policy.expectations)


def test_a_comparison_uses_its_baselines_preset(tmp_path: Path) -> None:
    path = write_preset(tmp_path, preset())
    made = {
        "preset": Setting((str(path),), "--invarlock-preset"),
        "baseline": Setting(("builtin:llama",), "--invarlock-baseline"),
        "subject": Setting(("./elsewhere",), "--invarlock-subject"),
    }
    suite = compare_suite(Settings(made), tmp_path)
    assert suite.policy_of(suite.pairs[0]).provenance["drift.band"] == "preset"


def test_the_originals_presets_and_names_are_no_calibrated_ones(
    tmp_path: Path, given: Path
) -> None:
    (tmp_path / "own.yaml").write_text("_calibration_meta: {num_runs: 5}\n")
    assert not is_calibrated("causal")
    assert not is_calibrated("own.yaml", tmp_path)
    assert not is_calibrated(str(tmp_path))
    assert is_calibrated(str(given))
    assert is_calibrated(given.parent.name, given.parent.parent)


def test_a_key_or_a_limit_that_nobody_knows_is_named(tmp_path: Path, given: Path) -> None:
    def written(change: Any) -> Path:
        value = yaml.safe_load(given.read_text())
        change(value)
        given.write_text(yaml.safe_dump(value))
        return given

    def unknown(value: dict[str, Any]) -> None:
        value["guards"]["rmt"]["fuzz"] = 1

    assert "unknown key 'guards.rmt.fuzz'" in refusal(tmp_path, written(unknown)).cause

    def family(value: dict[str, Any]) -> None:
        del value["guards"]["rmt"]["fuzz"]
        value["guards"]["spectral"]["family_limits"]["mlp"] = {}

    assert "unknown key 'mlp'" in refusal(tmp_path, written(family)).cause

    def group(value: dict[str, Any]) -> None:
        del value["guards"]["spectral"]["family_limits"]["mlp"]
        value["guards"]["rmt"]["error"]["loose"] = 1.0

    assert refusal(tmp_path, written(group)).code == "GUARD_LIMITS"
