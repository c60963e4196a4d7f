"""Presets: shipped ones, files and directories; what is wrong with one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import METRICS
from pytest_invarlock.policy.presets import load_preset
from pytest_invarlock.policy.resources import names, schema

OWN = "dataset: {provider: local_jsonl, file: t.jsonl}\neval: {metric: {kind: accuracy}}\n"


def refusal(reference: str, folder: Path | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_preset(reference, folder)
    return caught.value


def test_every_shipped_preset_says_what_it_is_for() -> None:
    assert names("presets", ".yaml") == ["accuracy", "causal", "masked", "seq2seq"]
    for name in names("presets", ".yaml"):
        preset = load_preset(name)
        assert preset.description.endswith(".")
        assert preset.metric in METRICS
        assert {"provider", "seq_len", "stride"} <= set(preset.dataset)


def test_a_file_and_the_only_file_of_a_directory_are_presets(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    for preset in (load_preset("own.yaml", tmp_path), load_preset(str(tmp_path))):
        assert (preset.name, preset.metric, preset.folder) == ("own", "accuracy", tmp_path)


def test_a_directory_with_none_or_several_is_refused(tmp_path: Path) -> None:
    assert "holds 0 preset files (none)" in refusal(str(tmp_path)).cause
    for name in ("a.yaml", "b.yml"):
        (tmp_path / name).write_text(OWN)
    assert "holds 2 preset files (a.yaml, b.yml)" in refusal(str(tmp_path)).cause


def test_an_unknown_name_or_key_names_the_nearest(tmp_path: Path) -> None:
    assert refusal("casual").remedy == "did you mean 'causal'?"
    (tmp_path / "own.yaml").write_text(OWN.replace("file:", "flie:"))
    error = refusal("own.yaml", tmp_path)
    assert error.cause == f"{tmp_path}/own.yaml:1: unknown key 'dataset.flie'"
    assert refusal("absent.yaml", tmp_path).code == "UNREADABLE_FILE"


def test_suite_and_preset_have_one_grammar_of_data() -> None:
    suite, preset = schema("suite"), schema("preset")
    for block in ("dataset", "eval"):
        assert suite["properties"][block] == preset["properties"][block]
    for name in ("text", "labels", "provider_kind"):
        assert suite["$defs"][name] == preset["$defs"][name]
    inside = preset["properties"]["dataset"]["properties"]["provider"]["else"]["properties"]
    beside = preset["properties"]["dataset"]["properties"]
    assert {k: v for k, v in inside.items() if k != "kind"}.items() <= beside.items()
