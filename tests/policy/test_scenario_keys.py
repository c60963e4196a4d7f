"""What a scenario of a suite file may say of itself, and what comes of each key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import Scenario
from pytest_invarlock.policy.decision_policy import Expectation
from pytest_invarlock.policy.edit_names import kind_of
from pytest_invarlock.policy.settings import collect_settings
from pytest_invarlock.policy.suite import Suite, load_suite_file
from pytest_invarlock.suite_plan import suite_plan

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """\
name: s
models: ["builtin:llama", "builtin:gpt2"]
profile: dev
dataset: {provider: pydoc, seq_len: 64}
run: {repeats: 2}
scenarios:
"""
PRUNE = "edit: {name: magnitude_prune, plan: {sparsity: 0.2}}"


def load(folder: Path, entry: str, **option: Any) -> Suite:
    path = folder / "s.yaml"
    path.write_text(f"{HEAD}  - {{id: a, {entry}}}\n")
    made = {f"invarlock_{name}": value for name, value in option.items()}
    return load_suite_file(path, collect_settings(made.get, {}.get, {}), folder)


def scenario(folder: Path, entry: str, **option: Any) -> Scenario:
    (only,) = load(folder, entry, **option).scenarios
    return only


def refusal(folder: Path, entry: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(folder, entry)
    return caught.value


def expectation(suite: Suite, model: int = 0) -> Expectation:
    return suite.expectation(suite.pairs[model], suite.scenarios[0])


@pytest.mark.parametrize(
    ("keys", "runs"),
    [("", (0, 1)), ("runs: 3, ", (0, 1, 2)), ("seeds: [7, 4], ", (4, 7)),
     ("runs: 2, seeds: [0, 9], ", (0, 9))],
)  # fmt: skip
def test_runs_and_seeds_of_a_scenario_beat_the_suites(
    tmp_path: Path, keys: str, runs: tuple[int, ...]
) -> None:
    suite = load(tmp_path, f"strictness: must_pass, {keys}{PRUNE}")
    assert suite.runs_of(suite.pairs[0], suite.scenarios[0]) == runs
    planned = suite_plan(suite)["planned"][0]
    assert planned["draws"] == len(runs)
    assert planned.get("seeds", list(range(planned["draws"]))) == list(runs)
    # The command line beats every file.
    option = load(tmp_path, f"strictness: must_pass, {keys}{PRUNE}", repeats="4")
    assert option.runs_of(option.pairs[0], option.scenarios[0]) == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("keys", "where"),
    [("runs: 3, seeds: [1, 2], ", "scenarios[0].seeds: 2 draws are named, and runs is 3"),
     ("seeds: [1, 1], ", "scenarios[0].seeds"), ("seeds: [], ", "scenarios[0].seeds"),
     ("seeds: [-1], ", "scenarios[0].seeds[0]"), ("runs: 0, ", "scenarios[0].runs"),
     ("runs: 1.0, ", "scenarios[0].runs"), ("timeout: 0, ", "scenarios[0].timeout"),
     ("timeout: .inf, ", "scenarios[0].timeout"), ("intent: control, ", "scenarios[0].intent"),
     ("primary_guard: spectrum, ", "scenarios[0].primary_guard"),
     ("artifact_class: pack, ", "scenarios[0].artifact_class")],
)  # fmt: skip
def test_wrong_values_are_refused_with_file_and_line(tmp_path: Path, keys: str, where: str) -> None:
    error = refusal(tmp_path, f"strictness: must_pass, {keys}{PRUNE}")
    assert error.cause.startswith(f"{tmp_path}/s.yaml:7: {where}")
    assert error.code == "BAD_VALUE"


def test_what_a_scenario_says_of_itself_stands_in_the_plan(tmp_path: Path) -> None:
    suite = load(
        tmp_path,
        "strictness: must_pass, intent: clean_control, primary_guard: rmt, timeout: 90, "
        f"artifact_class: validation_subject_checkpoint, {PRUNE}",
    )
    (entry,) = suite_plan(suite)["scenarios"]
    assert (entry["intent"], entry["primary_guard"], entry["artifact_class"], entry["timeout"]) == (
        "clean_control", "rmt", "validation_subject_checkpoint", 90.0,
    )  # fmt: skip
    (bare,) = suite_plan(load(tmp_path, f"strictness: must_pass, {PRUNE}"))["scenarios"]
    assert bare.keys() == {"scenario", "kind", "edit"}


def test_probes_stand_in_the_plan_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    suite = load(tmp_path, f"strictness: must_pass, probes: [variance, rmt], {PRUNE}")
    assert suite.scenarios[0].probes == ("rmt", "variance")
    assert suite_plan(suite)["scenarios"][0]["probes"] == ["rmt", "variance"]
    error = refusal(tmp_path, f"strictness: must_pass, probes: [rmt, varianse], {PRUNE}")
    assert error.cause.endswith("scenarios[0].probes[1]: there is no probe of 'varianse'")
    assert "variance" in error.remedy
    for wrong in ("[]", "[rmt, rmt]", "rmt", "[1]"):
        error = refusal(tmp_path, f"strictness: must_pass, probes: {wrong}, {PRUNE}")
        assert "scenarios[0].probes" in error.cause


def test_the_primary_guard_is_the_detector_where_no_other_is_named(tmp_path: Path) -> None:
    named = load(tmp_path, f"strictness: must_detect, primary_guard: tail, {PRUNE}")
    assert expectation(named).detectors_any == ("tail",)
    both = load(
        tmp_path,
        f"strictness: must_detect, primary_guard: tail, detectors: {{all: [drift]}}, {PRUNE}",
    )
    assert (expectation(both).detectors_any, expectation(both).detectors_all) == ((), ("drift",))
    guard = load(tmp_path, f"strictness: must_detect, primary_guard: spectral, {PRUNE}")
    assert expectation(guard).detectors_any == ("spectral",)


def test_detectors_may_be_for_one_model_only(tmp_path: Path) -> None:
    strictness = 'strictness: {default: must_pass, "builtin:gpt2": must_fail}'
    suite = load(tmp_path, f"{strictness}, detectors: {{any: [primary_metric]}}, {PRUNE}")
    assert expectation(suite, 0).detectors_any == ()
    assert expectation(suite, 1).detectors_any == ("primary_metric",)
    everywhere = 'strictness: {default: must_pass, "builtin:gpt2": must_pass}'
    error = refusal(tmp_path, f"{everywhere}, detectors: {{any: [primary_metric]}}, {PRUNE}")
    assert "a scenario that must pass has none" in error.cause


@pytest.mark.parametrize(
    "demand", ["must_fail", '{default: must_pass, "builtin:gpt2": must_detect}']
)
def test_noop_cannot_be_detected(tmp_path: Path, demand: str) -> None:
    error = refusal(tmp_path, f"strictness: {demand}, edit: {{name: noop}}")
    assert "noop changes nothing that could be detected" in error.cause


@pytest.mark.parametrize(
    ("key", "option", "kind"),
    [("", {}, "prune"), ("kind: any, ", {}, "any"), ("kind: merge, ", {}, "merge"),
     ("kind: merge, ", {"kind": "cast"}, "cast"), ("", {"kind": "any"}, "any")],
)  # fmt: skip
def test_the_kind_is_the_settings_else_the_files_else_the_edits_own(
    tmp_path: Path, key: str, option: dict[str, str], kind: str
) -> None:
    assert kind_of(scenario(tmp_path, f"strictness: must_pass, {key}{PRUNE}", **option)) == kind


def test_a_checkpoint_of_no_kind_is_of_any(tmp_path: Path) -> None:
    subject = "strictness: must_pass, subject: ./x"
    assert kind_of(scenario(tmp_path, subject)) == "any"
    assert kind_of(scenario(tmp_path, subject, kind="merge")) == "merge"


def test_a_run_configuration_takes_a_kind(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    text = 'model: {id: "builtin:gpt2"}\ndataset: {provider: pydoc}\nedit: {name: noop}\n'
    for more, option, kind in (
        ("", {}, "cast"),
        ("kind: merge\n", {}, "merge"),
        ("kind: merge\n", {"invarlock_kind": "any"}, "any"),
    ):
        path.write_text(text + more)
        suite = load_suite_file(path, collect_settings(option.get, {}.get, {}), tmp_path)
        assert kind_of(suite.scenarios[0]) == kind


@pytest.mark.parametrize(
    ("plan", "where", "cause"),
    [('bitwidth: 8, scope: "ffn@layers=0", layers: [1]', "layers", "stand in scope and in layers"),
     ('clean: true, scope: "ffn@layers=0", layers: [1]', "layers", "stand in scope and in layers"),
     ("clean: true, scope: bogus", "scope", ""), ("clean: true, layers: [-1]", "layers", "")],
)  # fmt: skip
def test_where_an_edit_works_is_checked_in_the_file_that_says_it(
    tmp_path: Path, plan: str, where: str, cause: str
) -> None:
    error = refusal(tmp_path, f"strictness: must_pass, edit: {{name: quant_rtn, plan: {{{plan}}}}}")
    assert error.cause.startswith(f"{tmp_path}/s.yaml:7: scenarios[0].edit.plan.{where}")
    assert cause in error.cause


def test_a_required_guard_and_the_least_share_of_signals_stand_in_the_policy(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        HEAD.replace("run:", "minimum_signal_fraction: {stress: 0, error: 0.5}\nrun:")
        + "  - {id: a, strictness: must_detect, primary_guard: rmt, "
        + f"primary_guard_required: true, {PRUNE}}}\n"
    )
    suite = load_suite_file(path, collect_settings({}.get, {}.get, {}), tmp_path)
    expected = expectation(suite)
    assert (expected.primary_guard, expected.primary_guard_required) == ("rmt", True)
    assert suite.policy.minimum_signal_fraction == {"stress": 0.0, "error": 0.5}
    assert suite.policy.provenance["minimum_signal_fraction.error"] == "suite file"
    without = load(tmp_path, f"strictness: must_pass, primary_guard: rmt, {PRUNE}")
    assert (expectation(without).primary_guard, expectation(without).primary_guard_required) == (
        "rmt", False,
    )  # fmt: skip
    assert without.policy.minimum_signal_fraction == {}


@pytest.mark.parametrize(
    ("strictness", "guard", "why"),
    [("informational", "primary_guard: rmt, ", "a scenario that is informational on a model"),
     ("must_pass", "primary_guard: rmt, ", "a scenario that is must_pass on a model"),
     ('{default: must_detect, "builtin:gpt2": informational}', "primary_guard: rmt, ",
      "a scenario that is informational on a model"),
     ("must_fail", "", "no primary_guard is named")],
)  # fmt: skip
def test_a_guard_cannot_be_required_where_it_may_be_silent(
    tmp_path: Path, strictness: str, guard: str, why: str
) -> None:
    error = refusal(
        tmp_path, f"strictness: {strictness}, {guard}primary_guard_required: true, {PRUNE}"
    )
    assert "s.yaml:7: scenarios[0].primary_guard_required: " in error.cause
    assert why in error.cause


@pytest.mark.parametrize("value", ["{}", "{stress: 1.1}", "{error: -0.1}", "{clean: 0.5}", "0.5"])
def test_a_share_of_signals_is_one_of_two_categories_from_0_to_1(
    tmp_path: Path, value: str
) -> None:
    path = tmp_path / "s.yaml"
    head = HEAD.replace("run:", f"minimum_signal_fraction: {value}\nrun:")
    path.write_text(f"{head}  - {{id: a, strictness: must_pass, {PRUNE}}}\n")
    with pytest.raises(ConfigError, match="minimum_signal_fraction"):
        load_suite_file(path, collect_settings({}.get, {}.get, {}), tmp_path)


def test_a_deployment_is_of_its_schemes_kind_and_asked_for_its_contract(tmp_path: Path) -> None:
    deploy = "deploy: {{backend: torchao, scheme: {0}}}"
    for scheme, kind in (("int8_weight_only", "quantize8"), ("int4_weight_only", "quantize4")):
        suite = load(tmp_path, f"strictness: must_pass, {deploy.format(scheme)}")
        (found,) = suite.scenarios
        assert kind_of(found) == kind
        assert expectation(suite).deployable
        assert expectation(suite).category == "deployable"
        assert suite.checks(suite.pairs[0], found)[-1] == "deployable"
        assert suite.policy.document()["deployable"]["storage_ratio"] == 0.95
        assert "deployable.storage_ratio" in suite.policy.provenance
        assert suite_plan(suite)["scenarios"][0]["edit"] == {
            "name": "deploy", "parameters": {"backend": "torchao", "scheme": scheme},
        }  # fmt: skip
    detected = "strictness: must_detect, detectors: {any: [deployable]}, "
    assert expectation(load(tmp_path, detected + deploy.format("int8_weight_only")))
    other = load(tmp_path, f"strictness: must_pass, {PRUNE}")
    assert not {"deployable"} & {
        *other.policy.document(),
        *other.checks(other.pairs[0], other.scenarios[0]),
    }
    assert not any(key.startswith("deployable.") for key in other.policy.provenance)


@pytest.mark.parametrize(
    ("entry", "cause"),
    [
        ("deploy: {backend: torchoa, scheme: int8_weight_only}",
         r"s\.yaml:7: scenarios\[0\]\.deploy\.backend: no backend is named 'torchoa'"),
        ("deploy: {backend: torchao, scheme: int3}",
         r"scenarios\[0\]\.deploy\.scheme: no scheme is named 'int3'"),
        ("deploy: {backend: torchao}", "scheme"),
        ("deploy: {backend: torchao, scheme: int8_weight_only}, edit: {name: noop}", "scenarios"),
        ("detectors: {any: [deployable]}, edit: {name: nan_injection}",
         "no check is named 'deployable'"),
    ],
)  # fmt: skip
def test_a_deployment_that_cannot_be_is_refused_by_its_line(
    tmp_path: Path, entry: str, cause: str
) -> None:
    strictness = "must_detect" if "detectors" in entry else "must_pass"
    with pytest.raises(ConfigError, match=cause):
        load(tmp_path, f"strictness: {strictness}, {entry}")
