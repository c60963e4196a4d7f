"""Suites: what a file, a shipped name or a comparison comes to, and how each mistake reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.evidence.strict_json import digest
from pytest_invarlock.policy.decision_policy import Strictness
from pytest_invarlock.policy.settings import Setting, Settings, collect_settings
from pytest_invarlock.policy.suite import (
    Suite,
    compare_suite,
    display_name,
    load_suite,
    shipped_suites,
    suite_description,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PROPERTY = hypothesis_settings(deadline=None, max_examples=100, database=None, derandomize=True)
GOOD = """\
name: mine
models: [builtin:llama, builtin:gpt2]
dataset: {provider: pydoc, seq_len: 64, preview_n: 10, final_n: 10}
scenarios:
  - id: same
    strictness: must_pass
    edit: {name: noop}
  - id: cut
    strictness: must_fail
    detectors: {any: [primary_metric]}
    edit:
      name: magnitude_prune
      plan:
        sparsity: 0.7
  - id: look
    strictness: informational
    kind: quantize8
    subject: ./elsewhere
"""


def settings(environment: dict[str, str] | None = None, **option: Any) -> Settings:
    made = {f"invarlock_{name}": value for name, value in option.items()}
    return collect_settings(made.get, {}.get, environment or {})


def load(folder: Path, text: str, **option: Any) -> Suite:
    path = folder / "my.invarlock.yaml"
    path.write_text(text, encoding="utf-8")
    return load_suite(str(path), settings(**option), folder)


def refusal(folder: Path, text: str, **option: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, **option)
    return caught.value


def loaded_or_refused(make: Callable[[], Suite]) -> Suite | ConfigError:
    try:
        return make()
    except ConfigError as error:
        return error


def test_an_unknown_suite_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_suite("dmeo", settings(), tmp_path)
    assert caught.value.code == "UNKNOWN_SUITE"
    assert caught.value.remedy == "did you mean 'demo'?"


def test_an_absent_suite_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_suite("absent.yaml", settings(), tmp_path)
    assert caught.value.code == "UNREADABLE_FILE"
    assert "absent.yaml" in caught.value.cause


def test_an_unknown_scenario_names_the_place_and_the_nearest(tmp_path: Path) -> None:
    error = refusal(tmp_path, GOOD, scenario=["smae"])
    assert error.code == "UNKNOWN_SCENARIO"
    assert error.cause.startswith("--invarlock-scenario: ")
    assert error.remedy == "did you mean 'same'?"


def test_an_unknown_edit_names_line_and_nearest(tmp_path: Path) -> None:
    error = refusal(tmp_path, GOOD.replace("magnitude_prune", "magnitude_prun"))
    assert error.code == "UNKNOWN_EDIT"
    assert "my.invarlock.yaml:12: scenarios[1].edit.name" in error.cause
    assert error.remedy == "did you mean 'magnitude_prune'?"


def test_an_unknown_parameter_names_line_and_nearest(tmp_path: Path) -> None:
    error = refusal(tmp_path, GOOD.replace("sparsity:", "sparsty:"))
    assert error.code == "UNKNOWN_KEY"
    assert "my.invarlock.yaml:14: unknown key 'scenarios[1].edit.plan.sparsty'" in error.cause
    assert error.remedy == "did you mean 'sparsity'?"


@pytest.mark.parametrize("value", ["0", "1.5", "much", "-0.1", ".nan"])
def test_a_parameter_out_of_range_names_its_line(tmp_path: Path, value: str) -> None:
    error = refusal(tmp_path, GOOD.replace("0.7", value))
    assert error.code == "BAD_VALUE"
    assert "my.invarlock.yaml:14: scenarios[1].edit.plan.sparsity" in error.cause


def test_a_parameter_that_is_demanded_may_not_be_left_out(tmp_path: Path) -> None:
    text = GOOD.replace("magnitude_prune", "quant_rtn").replace("sparsity: 0.7", "scope: all")
    error = refusal(tmp_path, text)
    assert "bitwidth" in error.cause


def test_an_edit_without_parameters_says_so(tmp_path: Path) -> None:
    error = refusal(tmp_path, GOOD.replace("{name: noop}", "{name: noop, plan: {deep: 1}}"))
    assert error.remedy == "noop takes no parameters"


def test_a_scenario_id_that_stands_twice_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path, GOOD.replace("id: look", "id: same"))
    assert "my.invarlock.yaml:15: scenario id 'same' stands twice" in error.cause


def test_scenarios_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path, GOOD.replace("id: look", "id: Same"))
    assert error.code == "NAME_COLLISION"


def test_detectors_on_a_scenario_that_must_pass_are_refused(tmp_path: Path) -> None:
    text = GOOD.replace("must_pass\n", "must_pass\n    detectors: {any: [invariants]}\n")
    error = refusal(tmp_path, text)
    assert "my.invarlock.yaml:7: scenarios[0].detectors" in error.cause


def test_unequal_arms_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, GOOD.replace("final_n: 10", "final_n: 9")).code == "UNEQUAL_ARMS"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("seq_len", GOOD.replace("seq_len: 64", "seq_len: 64.0")),
        ("n", GOOD.replace("preview_n: 10, final_n: 10", "preview_n: 1e1, final_n: 1e1")),
        ("group_size", GOOD.replace("name: noop", "name: quant_rtn, plan: {bitwidth: 8, group_size: 32.0}")),
    ],
)  # fmt: skip
def test_a_whole_number_written_as_a_float_is_refused_or_made_whole(
    tmp_path: Path, key: str, text: str
) -> None:
    suite = loaded_or_refused(lambda: load(tmp_path, text))
    if isinstance(suite, ConfigError):
        assert key.split("_")[-1] in suite.cause
        return
    edit = suite.scenarios[0].edit
    assert edit is not None
    numbers = [
        suite.plan.windows.seq_len, suite.plan.windows.preview_windows,
        edit.parameters.get("group_size", 1),
    ]  # fmt: skip
    assert [type(number) for number in numbers] == [int, int, int]


def test_a_suite_file_comes_to_pairs_times_scenarios(tmp_path: Path) -> None:
    suite = load(tmp_path, GOOD)
    assert [pair.name for pair in suite.pairs] == ["builtin:llama", "builtin:gpt2"]
    assert [scenario.name for scenario in suite.scenarios] == ["same", "cut", "look"]
    cut, look = suite.scenarios[1:]
    assert cut.edit is not None
    assert cut.edit.document() == {"name": "magnitude_prune", "parameters": {"sparsity": 0.7}}
    assert (look.subject, look.kind, look.edit) == (
        str((tmp_path / "elsewhere").resolve()), "quantize8", None,
    )  # fmt: skip
    expected = suite.expectation(suite.pairs[0], cut)
    assert (expected.strictness, expected.category) == (Strictness.MUST_FAIL, "stress")
    assert expected.detectors_any == ("primary_metric",)


def test_node_ids_of_a_file_start_with_its_path_below_the_root(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD).node_ids()[:10] == [
        "my.invarlock.yaml::builtin:llama::same::invariants",
        "my.invarlock.yaml::builtin:llama::same::spectral",
        "my.invarlock.yaml::builtin:llama::same::rmt",
        "my.invarlock.yaml::builtin:llama::same::variance",
        "my.invarlock.yaml::builtin:llama::same::primary_metric",
        "my.invarlock.yaml::builtin:llama::same::drift",
        "my.invarlock.yaml::builtin:llama::same::tail",
        "my.invarlock.yaml::builtin:llama::same::guard_overhead",
        "my.invarlock.yaml::builtin:llama::cut::detected",
        "my.invarlock.yaml::builtin:llama::look::signal",
    ]


def test_node_ids_of_demo() -> None:
    ids = load_suite("demo", settings(), Path.cwd()).node_ids()
    assert len(ids) == 2 * (3 * 8 + 3)
    assert ids[0] == "invarlock/demo::builtin:llama::noop::invariants"
    assert "invarlock/demo::builtin:gpt2::nan_injection::detected" in ids
    assert len(set(ids)) == len(ids)


def test_demo_is_what_was_promised() -> None:
    suite = load_suite("demo", settings(), Path.cwd())
    demanded = {
        scenario.name: suite.expectation(suite.pairs[0], scenario).strictness.value
        for scenario in suite.scenarios
    }
    assert demanded == {
        "noop": "must_pass", "rtn_8bit_all": "must_pass", "rtn_4bit_ffn": "must_pass",
        "prune_70pct_all": "must_fail",
        "nan_injection": "must_detect", "scale_explosion": "must_detect",
    }  # fmt: skip
    assert suite.plan.windows.final_windows >= 40
    assert suite.policy.floors.documents >= 40
    assert suite.plan.threads == 1
    assert suite.path.is_file()
    assert "demo" in shipped_suites()
    assert suite_description("demo")


def test_ci_in_the_environment_changes_nothing_of_demo() -> None:
    outside = load_suite("demo", settings(), Path.cwd())
    inside = load_suite("demo", settings({"CI": "true"}), Path.cwd())
    assert inside.plan == outside.plan
    assert digest(inside.policy.document()) == digest(outside.policy.document())
    assert inside == outside


def test_a_selected_scenario_makes_a_suite_of_just_that(tmp_path: Path) -> None:
    suite = load(tmp_path, GOOD, scenario=["cut"])
    assert [scenario.name for scenario in suite.scenarios] == ["cut"]
    assert set(suite.policy.expectations) == {("builtin:llama", "cut"), ("builtin:gpt2", "cut")}


def test_models_on_the_command_line_replace_the_suites(tmp_path: Path) -> None:
    suite = load(tmp_path, GOOD, model=["org/one", "hf:org/two@main"])
    assert [pair.name for pair in suite.pairs] == ["org/one", "org/two-main"]
    assert [pair.baseline for pair in suite.pairs] == ["org/one", "hf:org/two@main"]


@pytest.mark.parametrize(
    ("option", "missing"),
    [({"baseline": "a"}, "--invarlock-subject"), ({"subject": ["a"]}, "--invarlock-baseline")],
)
def test_half_a_comparison_is_refused(tmp_path: Path, option: dict[str, Any], missing: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compare_suite(settings(**option), tmp_path)
    assert missing in caught.value.remedy


def test_an_unknown_kind_of_change_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        compare_suite(settings(baseline="a", subject=["b"], kind="quantise8"), tmp_path)
    assert "quantize8" in caught.value.remedy


def test_compared_subjects_are_named_by_their_last_component(tmp_path: Path) -> None:
    subjects = [str(tmp_path / "a" / "int8"), str(tmp_path / "b" / "int8"), "org/model"]
    suite = compare_suite(settings(baseline="gpt2@abc", subject=subjects), tmp_path)
    assert [scenario.name for scenario in suite.scenarios] == ["int8", "int8~2", "org/model"]
    assert suite.node_ids()[0] == "invarlock/compare::gpt2-abc::int8::invariants"
    assert [scenario.subject for scenario in suite.scenarios] == subjects
    assert suite.checks(suite.pairs[0], suite.scenarios[0]) == (
        "invariants", "spectral", "rmt", "variance", "primary_metric", "drift", "tail",
        "guard_overhead",
    )  # fmt: skip


def test_a_relative_directory_is_named_by_its_last_component(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out" / "int8").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert display_name("./out/int8") == "int8"
    assert display_name("out/int8") == "int8"


@pytest.mark.parametrize(
    "names", [["a/x", "b/x", "c/x~2"], ["a/x y", "b/x_y"]], ids=["suffix", "slug"]
)
def test_compared_subjects_never_share_a_name_or_a_folder(tmp_path: Path, names: list[str]) -> None:
    from pytest_invarlock.path_names import slug

    subjects = [str(tmp_path / name) for name in names]
    suite = loaded_or_refused(
        lambda: compare_suite(settings(baseline="b", subject=subjects), tmp_path)
    )
    if isinstance(suite, ConfigError):
        assert suite.code == "NAME_COLLISION"
        return
    folders = [slug(scenario.name) for scenario in suite.scenarios]
    assert len(set(folders)) == len(subjects)


@PROPERTY
@given(st.text(st.sampled_from("ab/.:@[]~"), min_size=1, max_size=12))
@example("./a:::b")
def test_names_hold_nothing_that_node_ids_reserve(reference: str) -> None:
    name = display_name(reference)
    assert not any(reserved in name for reserved in ("[", "]", "::", "@"))


@pytest.mark.parametrize(
    ("tier", "factor"),
    [("conservative", 1.3 * 1.05), ("balanced", 1.65), ("aggressive", 1.8 * 1.15)],
)
def test_outliers_are_planned_beyond_the_tiers_margin_and_deadband(
    tier: str, factor: float, tmp_path: Path
) -> None:
    suite = load_suite("demo", Settings({"tier": Setting((tier,), "here")}), tmp_path)
    assert suite.plan.outlier_factor == pytest.approx(factor)
