"""The original's four suites as data: models, scenarios, draws; and which part of one a mode runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.run_mode import mode_notes
from pytest_invarlock.policy.settings import collect_settings
from pytest_invarlock.policy.suite import Suite, compare_suite, load_suite, load_suite_file
from pytest_invarlock.suite_plan import suite_plan

if TYPE_CHECKING:
    from pathlib import Path

MISTRAL = "mistralai/Mistral-7B-v0.1"
QWEN_14, QWEN_32, QWEN_8 = "Qwen/Qwen2.5-14B", "Qwen/Qwen2.5-32B", "Qwen/Qwen3-8B"
MIXTRAL, YI = "mistralai/Mixtral-8x7B-v0.1", "01-ai/Yi-34B"
MODELS = {
    "subset": [MISTRAL],
    "showcase": [MISTRAL, QWEN_14, QWEN_32],
    "workshop3": [MISTRAL, MIXTRAL, YI],
    "full": [MISTRAL, QWEN_14, QWEN_32, YI, MIXTRAL, QWEN_8],
}
# Of the original: id, category, strictness, draws, detectors of which any must fail.
SCENARIOS: list[tuple[str, str, str, int, tuple[str, ...]]] = [
    ("quant_clean", "clean", "must_pass", 3, ()),
    ("fp8_clean", "clean", "must_pass", 3, ()),
    ("prune_clean", "clean", "must_pass", 3, ()),
    ("svd_clean", "clean", "must_pass", 3, ()),
    ("quant_8bit_stress", "stress", "informational", 2, ("primary_metric", "spectral")),
    ("fp8_e5m2_stress", "stress", "informational", 2, ("primary_metric", "spectral")),
    ("prune_50pct_stress", "stress", "must_fail", 2, ("primary_metric",)),
    ("svd_rank32_stress", "stress", "must_fail", 2, ("primary_metric",)),
    ("nan_injection", "error", "must_detect", 1, ("invariants",)),
    ("inf_injection", "error", "must_detect", 1, ("invariants",)),
    ("shape_mismatch", "error", "must_detect", 1, ("invariants",)),
    ("missing_tensors", "error", "must_detect", 1, ("invariants", "primary_metric")),
    ("extreme_quant", "error", "must_detect", 1, ("primary_metric", "spectral")),
    ("scale_explosion", "error", "must_detect", 1, ("spectral", "primary_metric")),
    ("rank_collapse", "error", "must_detect", 1, ("spectral", "primary_metric")),
    ("norm_collapse", "error", "must_detect", 1, ("spectral", "primary_metric")),
    ("weight_tying_break", "error", "must_detect", 1, ("invariants",)),
    ("rmt_norm_noise", "error", "informational", 2, ("rmt",)),
    ("spectral_moderate_scale", "error", "informational", 2, ("spectral",)),
    ("ve_mlp_scale_skew", "error", "informational", 2, ("variance",)),
    ("rmt_norm_noise_strong", "error", "informational", 2, ("rmt",)),
    ("spectral_moderate_scale_mlp", "error", "informational", 2, ("spectral",)),
    ("ve_mlp_scale_skew_up", "error", "informational", 2, ("variance",)),
]
ERRORS = [row[0] for row in SCENARIOS if row[1] == "error"]


def settings(environment: dict[str, str] | None = None, **option: Any) -> Any:
    given = {f"invarlock_{name}": value for name, value in option.items()}
    return collect_settings(given.get, {}.get, environment or {})


def shipped(name: str, folder: Path, **option: Any) -> Suite:
    return load_suite(name, settings(**option), folder)


@pytest.mark.parametrize("name", MODELS)
def test_the_originals_suites_are_what_they_were(name: str, tmp_path: Path) -> None:
    suite = shipped(name, tmp_path)
    assert (suite.name, [pair.baseline for pair in suite.pairs]) == (name, MODELS[name])
    rows = SCENARIOS[:20] if name == "subset" else SCENARIOS
    for pair in suite.pairs:
        found = []
        for scenario in suite.scenarios_of(pair):
            expected = suite.expectation(pair, scenario)
            assert expected.detectors_all == ()
            found.append(
                (scenario.name, expected.category, expected.strictness.value,
                 len(suite.runs_of(pair, scenario)), expected.detectors_any)
            )  # fmt: skip
        assert found == rows
    assert (suite.plan.source.provider, suite.plan.windows.seq_len) == ("wikitext2", 512)
    assert suite.calibration is not None
    assert (suite.calibration.runs, suite.calibration.held_out) == (5, 1)
    # What must pass is what a model's limits are derived from.
    assert {
        tuple(benign.name for benign in suite.calibration.benign[pair.name]) for pair in suite.pairs
    } == {tuple(row[0] for row in SCENARIOS[:4])}
    # Nothing is skipped: every clean edit has parameters for every model.
    assert not any(scenario.skipped for _, scenario in suite.planned())


def test_counts_are_the_profiles(tmp_path: Path) -> None:
    for profile, windows in (("dev", 64), ("ci", 200)):
        plan = shipped("full", tmp_path, profile=profile).plan.windows
        assert (plan.preview_windows, plan.final_windows) == (windows, windows)


def test_other_models_and_data_take_the_place_of_the_suites(tmp_path: Path) -> None:
    models = ["builtin:llama", "builtin:gpt2"]
    suite = shipped("full", tmp_path, model=models, dataset="pydoc", profile="dev", repeats="1")
    assert [pair.baseline for pair in suite.pairs] == models
    assert suite.plan.source.provider == "pydoc"
    # Of the subtle faults a share must be confirmed, which takes two draws; a stress edit is not.
    for pair, scenario in suite.planned():
        expected = suite.expectation(pair, scenario)
        twice = (expected.category, expected.strictness.value) == ("error", "informational")
        assert suite.runs_of(pair, scenario) == ((0, 1) if twice else (0,))
    planned = {(p["model"], p["scenario"]): p["draws"] for p in suite_plan(suite)["planned"]}
    assert sorted(planned.values()) == [1] * 34 + [2] * 12
    assert planned["builtin:gpt2", "ve_mlp_scale_skew"] == 2
    demands = {
        pair.baseline: suite.policy.expectation(pair.name, "prune_50pct_stress").strictness.value
        for pair in suite.pairs
    }
    assert demands == {"builtin:llama": "must_fail", "builtin:gpt2": "informational"}


HEAD = 'name: s\nmodels: ["builtin:llama"]\nprofile: dev\ndataset: {provider: pydoc}\n'
NOOP = "  - {id: a, strictness: must_pass, edit: {name: noop}}\n"
FAULT = "  - {extends: nan_injection}\n"


def load(folder: Path, text: str, **option: Any) -> Suite:
    path = folder / "s.yaml"
    path.write_text(HEAD + text)
    return load_suite_file(path, settings(**option), folder)


def test_draws_follow_category_scenario_and_option(tmp_path: Path) -> None:
    text = (
        "run: {repeats: 4}\nruns: {clean: 3, error: 2}\nscenarios:\n" + NOOP + FAULT
        + "  - {extends: inf_injection, runs: 5}\n  - {extends: quant_8bit_stress, id: c}\n"
        + "  - {extends: nan_injection, id: d, seeds: [8]}\n"
        # What it counts as decides, not what is demanded of it.
        + "  - {extends: quant_8bit_stress, id: e, category: error}\n"
    )  # fmt: skip
    planned = {p["scenario"]: p for p in suite_plan(load(tmp_path, text))["planned"]}
    assert {name: entry["draws"] for name, entry in planned.items()} == {
        "a": 3, "nan_injection": 2, "inf_injection": 5, "c": 4, "d": 1, "e": 2,
    }  # fmt: skip
    assert planned["d"]["seeds"] == [8]
    fixed = suite_plan(load(tmp_path, text, repeats="1"))["planned"]
    assert {entry["draws"] for entry in fixed} == {1}


def test_a_share_of_confirmed_signals_takes_two_draws_of_what_it_counts(tmp_path: Path) -> None:
    quiet = "{extends: quant_8bit_stress, "
    text = (
        "minimum_signal_fraction: {stress: 0, error: 0.5}\nscenarios:\n" + NOOP + FAULT
        + f"  - {quiet}id: a1, category: error}}\n  - {quiet}id: s1}}\n"
        + f"  - {quiet}id: a7, category: error, seeds: [7]}}\n"
        + f"  - {quiet}id: a3, category: error, runs: 3}}\n"
    )  # fmt: skip
    planned = {p["scenario"]: p for p in suite_plan(load(tmp_path, text))["planned"]}
    assert {name: entry["draws"] for name, entry in planned.items()} == {
        "a": 1, "nan_injection": 1, "a1": 2, "s1": 1, "a7": 2, "a3": 3,
    }  # fmt: skip
    assert planned["a7"]["seeds"] == [7, 8]
    # A sweep's doses are counted among nothing.
    doses = load(tmp_path, text, sweep=["a1:group_size=32,64"])
    assert {p["draws"] for p in suite_plan(doses)["planned"]} == {1}


@pytest.mark.parametrize("runs", ["{clean: 0}", "{informational: 2}", "{}", "3", "{error: 1.0}"])
def test_wrong_draws_of_a_category_are_refused(tmp_path: Path, runs: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"runs: {runs}\nscenarios:\n{NOOP}")
    assert f"{tmp_path}/s.yaml:5: " in caught.value.cause
    assert "runs" in caught.value.cause


@pytest.mark.parametrize("name", MODELS)
def test_errors_only_plans_just_the_faults(name: str, tmp_path: Path) -> None:
    suite = shipped(name, tmp_path, mode="errors-only")
    wanted = ERRORS[:12] if name == "subset" else ERRORS
    assert [scenario.name for scenario in suite.scenarios] == wanted
    assert len(suite.node_ids()) == len(wanted) * len(MODELS[name])
    plan = suite_plan(suite)
    assert len(plan["planned"]) == len(plan["node_ids"]) == len(suite.node_ids())
    # What decides speaks of nothing else, so nothing else can be called missing.
    assert {key[1] for key in suite.policy.expectations} == set(wanted)
    assert any("mode errors-only" in note for note in suite.notes)
    one = shipped(name, tmp_path, mode="errors-only", scenario=["nan_injection"])
    assert [scenario.name for scenario in one.scenarios] == ["nan_injection"]


@pytest.mark.parametrize("mode", ["full", "run-only"])
def test_full_and_run_only_plan_every_scenario(mode: str, tmp_path: Path) -> None:
    suite = shipped("subset", tmp_path, mode=mode)
    plan, whole = suite_plan(suite), suite_plan(shipped("subset", tmp_path))
    if mode == "run-only":
        # Judged by the tier's limits, or by a preset that is given.
        assert whole["node_ids"].pop(0) == f"invarlock/subset::{MISTRAL}::calibration::preset"
        assert whole.pop("calibrations") == [MISTRAL]
    assert plan == whole
    told = [note for note in suite.notes if "mode" in note]
    limits = "mode run-only without a calibrated preset: judged by the tier's limits, not by the models' own"
    assert told == ([limits] if mode == "run-only" else [])


@pytest.mark.parametrize("mode", ["run-only", "errors-only"])
def test_limits_that_are_the_tiers_are_told_only_where_a_models_own_were_left_out(
    mode: str, tmp_path: Path
) -> None:
    derived = load(tmp_path, f"calibration: {{runs: 2}}\nscenarios:\n{FAULT}", mode=mode)
    never = load(tmp_path, f"scenarios:\n{FAULT}", mode=mode)
    told = f"mode {mode} without a calibrated preset: judged by the tier's limits, not by the models' own"
    assert [told in suite.notes for suite in (derived, never)] == [True, False]
    assert told not in mode_notes(settings(mode=mode), without_preset=False)


@pytest.mark.parametrize(
    ("mode", "code", "scenario"),
    [("errors-only", "NO_ERRORS", "a"), ("calibrate-only", "NO_CALIBRATION", "nan_injection")],
)
def test_a_mode_that_leaves_nothing_is_refused(
    tmp_path: Path, mode: str, code: str, scenario: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"scenarios:\n{NOOP}{FAULT}", mode=mode, scenario=[scenario])
    assert (caught.value.code, "--invarlock-mode: " in caught.value.cause) == (code, True)
    given = settings(baseline="builtin:llama", subject=["x"], mode=mode)
    with pytest.raises(ConfigError) as caught:
        compare_suite(given, tmp_path)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("mode", "n_calibrations", "scenarios"),
    [
        ("full", 1, ["a", "nan_injection"]),
        ("calibrate-only", 1, []),
        ("run-only", 0, ["a", "nan_injection"]),
        ("errors-only", 0, ["nan_injection"]),
    ],
)
def test_the_calibration_of_a_suite_is_part_of_two_modes(
    tmp_path: Path, mode: str, n_calibrations: int, scenarios: list[str]
) -> None:
    suite = load(tmp_path, f"calibration: {{runs: 2}}\nscenarios:\n{NOOP}{FAULT}", mode=mode)
    plan = suite_plan(suite)
    assert len(plan.get("calibrations", ())) == n_calibrations
    assert [planned["scenario"] for planned in plan["planned"]] == scenarios
    ids = suite.node_ids()
    assert sum(node_id.endswith("::calibration::preset") for node_id in ids) == n_calibrations
    assert bool(len(ids) - n_calibrations) is bool(scenarios)


@pytest.mark.parametrize("word", ["error-only", "faults"])
def test_a_wrong_mode_lists_the_four(word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings({"PACK_SUITE_MODE": word}).check()
    assert caught.value.cause == f"PACK_SUITE_MODE: {word!r} is not one of its values"
    assert "full, calibrate-only, run-only, errors-only" in caught.value.remedy
