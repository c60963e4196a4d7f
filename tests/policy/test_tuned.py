"""Clean edits: which parameters a model gets, from which file, and how mistakes read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import EditSpec
from pytest_invarlock.policy.decision_policy import Strictness
from pytest_invarlock.policy.settings import Settings, collect_settings
from pytest_invarlock.policy.suite import Suite, load_suite
from pytest_invarlock.policy.tuned import CLEAN_EDITS, TunedParameters, directory_name

if TYPE_CHECKING:
    from pathlib import Path

SUITE = """\
name: mine
models: [a/b, c/d]
dataset: {provider: pydoc}
scenarios:
  - {id: q, strictness: must_pass, edit: {name: quant_rtn, plan: {clean: true, scope: ffn}}}
"""
SELECTED = {"status": "selected", "bits": 4, "group_size": 16, "edit_dir_name": "q"}


def settings(path: Path | None = None, value: Any = None) -> Settings:
    if path is None:
        return collect_settings({}.get, {}.get, {})
    path.write_text(value if isinstance(value, str) else json.dumps(value, indent="\t"))
    return collect_settings({"invarlock_tuned": str(path)}.get, {}.get, {})


def suite(folder: Path, made: Settings, text: str = SUITE) -> Suite:
    (folder / "my.invarlock.yaml").write_text(text)
    return load_suite(str(folder / "my.invarlock.yaml"), made, folder)


def resolved(made: Settings, name: str, model: str, **own: Any) -> tuple[dict[str, Any], str]:
    found = TunedParameters(made).resolved(EditSpec(name, {"clean": True, **own}), model)
    return dict(found.edit.parameters), found.source


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("quant_rtn", {"bitwidth": 8, "group_size": 32}),
     ("fp8_quant", {"format": "e4m3", "scaled": True}),
     ("magnitude_prune", {"sparsity": 0.10}), ("lowrank_svd", {"energy": 0.999})],
)  # fmt: skip
def test_a_model_nothing_was_tuned_for_gets_the_careful_defaults(name, parameters) -> None:
    assert resolved(settings(), name, "some/model", scope="attn") == (
        {"scope": "attn", **parameters},
        "default",
    )


@pytest.mark.parametrize("name", CLEAN_EDITS)
def test_the_models_of_the_suites_have_their_own(name: str) -> None:
    assert resolved(settings(), name, "mistralai/Mistral-7B-v0.1@abc")[1] == "shipped"


def test_a_scope_with_a_layer() -> None:
    parameters, _ = resolved(settings(), "lowrank_svd", "hf:mistralai/Mistral-7B-v0.1", scope="all")
    assert parameters == {"scope": "ffn", "layers": [15], "rank": 32}


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        ({"models": {"a/b": {"quant_rtn": SELECTED}}}, 4),
        ({"models": {"a__b": {"quant_rtn": SELECTED}}}, 4),
        ({"quant_rtn": SELECTED, "defaults": {"quant_rtn": {**SELECTED, "bits": 5}}}, 4),
        ({"defaults": {"quant_rtn": {**SELECTED, "bits": 5}}}, 5),
        ({"models": {"c/d": {"quant_rtn": SELECTED}}}, 8),
    ],
)
def test_the_order_of_lookup(tmp_path: Path, value: Any, bits: int) -> None:
    made = settings(tmp_path / "tuned.json", value)
    assert resolved(made, "quant_rtn", "a/b")[0]["bitwidth"] == bits


def test_skipped_is_no_operation(tmp_path: Path) -> None:
    made = settings(tmp_path / "t.json", {"quant_rtn": {"status": "skipped", "reason": "small"}})
    assert suite(tmp_path, made).scenarios[0].edit == EditSpec("noop")


def test_a_suite_measures_each_model_with_its_own(tmp_path: Path) -> None:
    made = settings(tmp_path / "t.json", {"models": {"a/b": {"quant_rtn": SELECTED}}})
    loaded = suite(tmp_path, made)
    edits = [(pair.name, scenario.edit) for pair, scenario in loaded.planned()]
    assert edits == [
        ("a/b", EditSpec("quant_rtn", {"scope": "ffn", "bitwidth": 4, "group_size": 16})),
        ("c/d", EditSpec("quant_rtn", {"scope": "ffn", "bitwidth": 8, "group_size": 32})),
    ]
    assert [model for model, _ in loaded.distinct_scenarios()] == ["a/b", "c/d"]
    assert loaded.notes == (
        "tuned: file (quant_rtn of a/b)",
        "tuned: default (quant_rtn of c/d); --invarlock-tuned=FILE gives the model its own",
    )
    assert [model for model, _ in suite(tmp_path, settings()).distinct_scenarios()] == [None]


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ({"quant_rtn": {"status": "failed"}}, "t.json:3: quant_rtn.status: 'failed' is not one of"),
        ({"quant_rtn": {"status": "selected", "bits": 9}}, "t.json:2: quant_rtn: quant_rtn: 9 is"),
        ({"models": {"a": {"quant": {}}}}, "t.json:4: unknown key 'models.a.quant'"),
        ({"quant_rtn": {"status": "selected", "sparsity": 1}}, "unknown key 'quant_rtn.sparsity'"),
        ("{", "not valid YAML"),
    ],
)  # fmt: skip
def test_broken_files(tmp_path: Path, value: Any, cause: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TunedParameters(settings(tmp_path / "t.json", value))
    assert cause in caught.value.cause


@pytest.mark.parametrize(
    ("edit", "cause"),
    [("{name: noop, plan: {clean: true}}", "unknown key 'scenarios[0].edit.plan.clean'"),
     ("{name: quant_rtn, plan: {clean: 1}}", "scenarios[0].edit.plan.clean: only true"),
     ("{name: quant_rtn, plan: {clean: true, bitwidth: 8}}", "bitwidth: stands beside clean")],
)  # fmt: skip
def test_what_a_clean_edit_may_not_say(tmp_path: Path, edit: str, cause: str) -> None:
    text = SUITE.partition("edit:")[0] + f"edit: {edit}}}\n"
    with pytest.raises(ConfigError) as caught:
        suite(tmp_path, settings(), text)
    assert cause in caught.value.cause


def test_strictness_per_model(tmp_path: Path) -> None:
    text = SUITE.replace(
        "strictness: must_pass", "detectors: {any: [tail]}, "
        "strictness: {default: must_fail, c/d: informational}"
    )  # fmt: skip
    loaded = suite(tmp_path, settings(), text)
    expected = [loaded.expectation(pair, scenario) for pair, scenario in loaded.planned()]
    assert [e.strictness for e in expected] == [Strictness.MUST_FAIL, Strictness.INFORMATIONAL]
    assert [loaded.checks(*planned) for planned in loaded.planned()] == [("detected",), ("signal",)]
    for bad, cause in (("c/e", "the suite has no model 'c/e'"), ("default2", "no model")):
        with pytest.raises(ConfigError) as caught:
            suite(tmp_path, settings(), text.replace("c/d: inf", f"{bad}: inf"))
        assert cause in caught.value.cause
    with pytest.raises(ConfigError, match="strictness: 'default' is a required property"):
        suite(tmp_path, settings(), text.replace("default: must_fail, ", ""))


def test_the_shipped_edits(tmp_path: Path) -> None:
    loaded = load_suite("edits", settings(), tmp_path)
    strictness = {
        (pair.name, scenario.name): loaded.expectation(pair, scenario).strictness
        for pair, scenario in loaded.planned()
    }
    assert len(loaded.scenarios) == 8
    assert sum(word is Strictness.MUST_PASS for word in strictness.values()) == 8
    assert strictness["builtin:llama", "prune_50pct_stress"] is Strictness.MUST_FAIL
    assert strictness["builtin:gpt2", "prune_50pct_stress"] is Strictness.INFORMATIONAL


def test_folder_names_of_the_original() -> None:
    assert directory_name("mistralai/Mistral-7B-v0.1") == "mistralai__mistral-7b-v01"
