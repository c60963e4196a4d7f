"""Clean edits: which parameters a model gets, from which file, and how mistakes read."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import DataSource, EditSpec, MeasurementPlan, WindowSelection
from pytest_invarlock.policy.decision_policy import Strictness
from pytest_invarlock.policy.settings import Settings, collect_settings
from pytest_invarlock.policy.suite import Suite, load_suite
from pytest_invarlock.policy.tuned import (
    CLEAN_EDITS,
    TunedParameters,
    directory_name,
    model_key,
    other_data,
)

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


def test_skipped_says_which_file_and_why_and_asks_no_other(tmp_path: Path) -> None:
    entry = {"status": "skipped", "reason": "small"}
    made = settings(tmp_path / "t.json", {"models": {"a/b": {"quant_rtn": entry}}})
    loaded = suite(tmp_path, made)
    there, other = (loaded.scenarios_of(pair)[0] for pair in loaded.pairs)
    assert there.skipped == f"{tmp_path}/t.json:4: models.a/b.quant_rtn: status is skipped: small"
    assert there.edit == EditSpec("quant_rtn", {"clean": True, "scope": "ffn"})
    assert (other.skipped, other.edit.parameters["bitwidth"]) == (None, 8)
    assert loaded.notes[0] == "tuned: skipped (quant_rtn of a/b)"
    assert not any("file" in note and "a/b" in note for note in loaded.notes)


def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ckpt-1000").mkdir()
    (tmp_path / "latest").symlink_to("ckpt-1000", target_is_directory=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "ckpt-1000")


@pytest.mark.parametrize("model", [".", "../latest", "../ckpt-1000", "~/latest", "../latest/"])
def test_what_is_tuned_for_a_folder_is_found_by_every_name_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    at_home(tmp_path, monkeypatch)
    assert model_key(model) == "ckpt-1000"
    other = {"quant_rtn": {**SELECTED, "bits": 5}}
    value = {"models": {"latest": other, model_key(model): {"quant_rtn": SELECTED}}}
    made = settings(tmp_path / "t.json", value)
    assert resolved(made, "quant_rtn", model) == ({"bitwidth": 4, "group_size": 16}, "file")


def test_the_last_name_is_enough_of_a_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = settings(tmp_path / "t.json", {"models": {"final": {"quant_rtn": SELECTED}}})
    for model in ("someorg/final", "hf:someorg/final", "someorg/final@abc"):
        assert resolved(made, "quant_rtn", model)[1] == "default"
    (tmp_path / "someorg" / "final").mkdir(parents=True)
    assert resolved(made, "quant_rtn", "someorg/final")[1] == "file"
    assert resolved(made, "quant_rtn", "hf:someorg/final")[1] == "default"
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "final").symlink_to(tmp_path / "someorg")
    assert resolved(made, "quant_rtn", "./link/final")[1] == "file"
    assert resolved(made, "quant_rtn", "~nobody-of-this-name/x")[1] == "default"


DATA = {
    "provider": "hf_text", "arms": "seeded", "convention": "document", "seq_len": 512,
    "stride": 512, "seed": 0,
    "source": {"provider": "hf_text", "dataset_name": "a/texts", "config_name": None,
               "split": "train", "max_samples": None, "dedup": False, "digest": "sha256:0"},
}  # fmt: skip
PLAN = MeasurementPlan(
    DataSource("hf_text", dataset_name="a/texts"), WindowSelection(512, 512, 24, 24)
)


def source(**change: Any) -> MeasurementPlan:
    return replace(PLAN, source=replace(PLAN.source, **change))


def windows(**change: Any) -> MeasurementPlan:
    return replace(PLAN, windows=replace(PLAN.windows, **change))


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (PLAN, None),
        (source(split="train"), None),
        (windows(seed=3), "on the documents of another split: seed 0, here 3"),
        (source(split="test"), "on the documents of another split: split train, here test"),
        (source(dataset_name="b"), "on the documents of another split: dataset_name a/texts, he"),
        (source(max_samples=9), "on the documents of another split: max_samples all, here 9"),
        (source(dedup=True), "on the documents of another split: dedup False, here True"),
        (source(provider="pydoc"), "of another split: provider hf_text, here pydoc"),
        (windows(convention="row"), "on windows that are cut otherwise: convention document, here"),
        (windows(stride=64), "on windows that are cut otherwise: stride 512, here 64"),
    ],
)
def test_what_was_tuned_on_is_compared_with_what_is_measured(plan, words) -> None:
    found = other_data(DATA, plan)
    assert (found is None) if words is None else (words in found)


def test_a_split_that_the_provider_gives_hangs_on_no_seed() -> None:
    assert other_data({**DATA, "arms": "provider"}, windows(seed=3)) is None
    assert other_data({}, windows(seed=3)) is None


@pytest.mark.parametrize("known", [True, False])
def test_user_and_certificate_are_told_of_another_split(tmp_path: Path, known: bool) -> None:
    data = {"provider": "pydoc", "arms": "seeded", "seed": 7, "source": {"provider": "pydoc"}}
    meta = {"_meta": {"evidence": {"a/b": {"quant_rtn": {"data": data}}} if known else ["own"]}}
    made = settings(tmp_path / "t.json", {**meta, "models": {"a/b": {"quant_rtn": SELECTED}}})
    notes = suite(tmp_path, made).plan.notes
    told = "tuned on the documents of another split: seed 7, here 0 (quant_rtn of a/b)"
    assert (told in notes) is known


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
        "tuned: default (quant_rtn of c/d); --invarlock-tune finds the model's own, "
        "--invarlock-tuned=FILE gives them",
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
