"""Ladders and what is tuned: shipped steps, broken files, scopes, and names of models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import EditSpec, Pair, Scenario
from pytest_invarlock.policy.resources import names, read_text
from pytest_invarlock.policy.settings import Settings, collect_settings
from pytest_invarlock.policy.tuned import CLEAN_EDITS, TunedParameters, model_key
from pytest_invarlock.policy.tuning_ladder import (
    check_tunable,
    read_ladders,
    shipped_ladders,
    stated_scope,
    steps_of,
    tuned_scenarios,
)
from pytest_invarlock.policy.yaml_document import parse_yaml

if TYPE_CHECKING:
    from pathlib import Path

LADDERS = """\
quant_rtn: [{bits: 4}]
fp8_quant: [{format: e5m2, scaled: false}]
magnitude_prune: [{sparsity: 0.1}]
lowrank_svd: [{rank: 8}]
"""


def clean(name: str, **own: Any) -> EditSpec:
    return EditSpec(name, {"clean": True, **own})


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("bits: 4", "bits: 9", "l.yaml:1: quant_rtn[0]: quant_rtn: 9 is greater"),
        ("bits: 4", "sparsity: 1", "unknown key 'quant_rtn[0].sparsity'"),
        ("[{sparsity: 0.1}]", "[]", "magnitude_prune"),
        ("rank: 8", "rank: 8, energy: 0.5", "l.yaml:4: lowrank_svd[0]"),
        ("lowrank_svd: [{rank: 8}]\n", "", "'lowrank_svd' is a required property"),
    ],
)
def test_a_broken_ladder_names_file_and_line(old: str, new: str, cause: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_ladders(parse_yaml(LADDERS.replace(old, new), name="l.yaml"))
    assert cause in caught.value.cause
    assert set(read_ladders(parse_yaml(LADDERS, name="l.yaml"))) == set(CLEAN_EDITS)


def test_every_shipped_ladder_goes_from_strong_to_weak() -> None:
    ladders = shipped_ladders()
    assert set(ladders) == set(CLEAN_EDITS)
    sparsities = [step["sparsity"] for step in ladders["magnitude_prune"]]
    assert sparsities == sorted(sparsities, reverse=True)
    assert (sparsities[0], sparsities[-1]) == (0.5, 0.05)
    energies = [step["energy"] for step in ladders["lowrank_svd"]]
    assert energies == sorted(energies)
    # Fewer bits first, and at equal bits more weights that share a scale.
    rounding = [(s["bits"], -s.get("group_size", 10**6)) for s in ladders["quant_rtn"]]
    assert rounding == sorted(rounding)
    assert {bits for bits, _ in rounding} == set(range(2, 9))
    assert len(ladders["fp8_quant"]) == 4


def test_the_weakest_steps_are_at_most_as_strong_as_the_defaults() -> None:
    defaults = json.loads(read_text("tuned", "default.json"))["defaults"]
    for name, steps in shipped_ladders().items():
        default = {k: v for k, v in defaults[name].items() if k != "status"}
        assert default in [dict(step) for step in steps]


def test_a_step_keeps_what_the_scenario_says_itself() -> None:
    steps = steps_of(clean("quant_rtn", scope="ffn@layers=0,2", include=["head"]))
    assert steps[0].parameters == {"bits": 2}
    assert steps[0].edit == EditSpec(
        "quant_rtn", {"scope": "ffn@layers=0,2", "include": ["head"], "bitwidth": 2}
    )


@pytest.mark.parametrize(
    ("own", "stated"),
    [({}, {"scope": "all"}), ({"scope": "attn"}, {"scope": "attn"}),
     ({"scope": "ffn", "layers": [1]}, {"scope": "ffn"}), ({"scope": "ffn@layers=0,2"}, {})],
)  # fmt: skip
def test_a_stated_scope_never_widens_the_scenarios_own(
    tmp_path: Path, own: dict[str, Any], stated: dict[str, str]
) -> None:
    edit = clean("magnitude_prune", **own)
    assert stated_scope(edit) == stated
    entry = {"status": "selected", "sparsity": 0.2, **stated_scope(edit)}
    (tmp_path / "t.json").write_text(json.dumps({"models": {"a/b": {"magnitude_prune": entry}}}))
    made = collect_settings({"invarlock_tuned": str(tmp_path / "t.json")}.get, {}.get, {})
    used = TunedParameters(made).resolved(edit, "a/b").edit.parameters
    assert used == {"scope": "all", "sparsity": 0.2} | own


def test_a_models_name_holds_no_path_and_is_found_again(tmp_path: Path) -> None:
    local = tmp_path / "models" / "My-Model"
    local.mkdir(parents=True)
    assert model_key(str(local)) == "My-Model"
    assert model_key("hf:org/name@abc") == "org/name"
    assert model_key("builtin:llama") == "builtin:llama"
    entry = {"status": "selected", "sparsity": 0.2}
    models = {
        key: {"magnitude_prune": entry}
        for key in (model_key(str(local)), model_key("hf:org/name@abc"))
    }
    (tmp_path / "t.json").write_text(json.dumps({"models": models}))
    made = collect_settings({"invarlock_tuned": str(tmp_path / "t.json")}.get, {}.get, {})
    for reference in (str(local), "hf:org/name@abc"):
        found = TunedParameters(made).resolved(clean("magnitude_prune"), reference)
        assert found.source == "file"


def test_what_one_file_cannot_hold() -> None:
    first = Scenario("a", edit=clean("quant_rtn", scope="ffn"))
    with pytest.raises(ConfigError, match="no clean edit"):
        check_tunable((), (), "it")
    with pytest.raises(ConfigError, match="models 'x' and 'y' have one name in a file"):
        check_tunable((Pair("x", "org/m@1"), Pair("y", "org/m@2")), (first,), "it")
    for other in (
        Scenario("b", edit=clean("quant_rtn", scope="attn")),
        Scenario("b", edit=clean("quant_rtn", scope="ffn"), kind="quantize4"),
    ):
        with pytest.raises(ConfigError, match="'a' and 'b' say different things of quant_rtn"):
            check_tunable((Pair("x", "m"),), (first, other), "it")
    same = Scenario("b", edit=clean("quant_rtn", scope="ffn"))
    check_tunable((Pair("x", "m"),), (first, same), "it")
    assert tuned_scenarios((first, same)) == (first,)


@pytest.mark.parametrize("model", ["builtin:llama", "builtin:gpt2"])
def test_the_shipped_models_have_their_own(model: str) -> None:
    assert "builtin" in names("tuned", ".json")
    document = json.loads(read_text("tuned", "builtin.json"))
    meta = document["_meta"]
    assert meta["tier"] == "balanced"
    assert meta["tool"].startswith("pytest-invarlock ")
    assert meta["command"] == (
        "pytest --invarlock-suite=edits --invarlock-tier=balanced --invarlock-profile=dev "
        "--invarlock-tune"
    )
    for name in CLEAN_EDITS:
        entry = document["models"][model][name]
        evidence = meta["evidence"][model][name]
        passed = evidence["steps"][-1]
        assert entry["status"] == "selected"
        assert passed["outcome"] == "PASS"
        assert passed["ratio_upper"] < passed["limit"]
        # What is shipped follows from the shipped ladder: its first step that passed.
        tried = [step["parameters"] for step in evidence["steps"]]
        assert tried == [dict(step) for step in shipped_ladders()[name]][: len(tried)]
        assert all(step["outcome"] != "PASS" for step in evidence["steps"][:-1])
        assert passed["parameters"].items() <= entry.items()
        found = TunedParameters(Settings()).resolved(clean(name, scope="ffn"), model)
        assert found.source == "shipped"
