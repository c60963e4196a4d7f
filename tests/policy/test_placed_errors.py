"""Errors of values that only a plan or policy judges: with the file and line of their key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_invarlock.adapters.registry import BUILT_IN_ADAPTERS, GROUP
from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy import adapter_names
from pytest_invarlock.policy.settings import collect_settings
from pytest_invarlock.policy.suite import load_suite_file

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_invarlock.policy.suite import Suite

SUITE = """\
name: s
models: ["builtin:llama"]
profile: dev
{block}
scenarios:
  - {{id: a, strictness: must_pass, edit: {{name: noop}}}}
"""
RUN = """\
model: {{id: "builtin:gpt2"{model}}}
edit: {{name: noop}}
profile: dev
{block}
"""


def load(folder: Path, text: str, **option: str) -> Suite:
    (folder / "s.yaml").write_text(text)
    made = {f"invarlock_{name}": value for name, value in option.items()}
    return load_suite_file(folder / "s.yaml", collect_settings(made.get, {}.get, {}), folder)


def refusal(folder: Path, text: str, **option: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, **option)
    return caught.value


@pytest.mark.parametrize(
    ("block", "cause"),
    [
        ("tier: balancd", "no tier is named 'balancd'"),
        ("preset: casual", "no preset is named 'casual'"),
        ("dataset: {provider: pydoc, revision: x}", "dataset.revision: provider pydoc takes no"),
        ("dataset: {provider: {kind: pydoc, revision: x}}", "dataset.revision: provider pydoc"),
        ("dataset: {provider: hf_text}", "dataset.dataset_name: provider hf_text needs it"),
        ("dataset: {provider: local_jsonl}", "dataset.file: provider local_jsonl needs it"),
        ("dataset: {text_field: x}", "dataset.text_field is given, and no provider is named"),
        ("dataset: {provider: pydoc, preview_n: 9, final_n: 8}", "the arms differ in size"),
        ("dataset: {provider: pydoc, convention: gptq-2048, seq_len: 99}", "dataset.seq_len is 99"),
        (
            "run: {adapter: hf_casual}\ndataset: {provider: pydoc}",
            "no adapter is named 'hf_casual'",
        ),
    ],
)
def test_a_value_of_the_file_is_placed(tmp_path: Path, block: str, cause: str) -> None:
    for text in (SUITE, RUN):
        if block.startswith("tier") and text is RUN:
            continue
        error = refusal(tmp_path, text.format(block=block, model=""))
        assert error.cause.startswith(f"{tmp_path}/s.yaml:4: {cause}")
        assert error.remedy


def test_keys_of_a_run_configuration_are_placed(tmp_path: Path) -> None:
    for block, model, line in (
        ("dataset: {provider: pydoc}\nauto: {tier: balancd}", "", 5),
        ("dataset: {provider: pydoc}", ", adapter: hf_casual", 1),
    ):
        error = refusal(tmp_path, RUN.format(block=block, model=model))
        assert error.cause.startswith(f"{tmp_path}/s.yaml:{line}: no ")


def test_a_value_of_an_extended_file_is_placed_there(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(SUITE.format(block="tier: balancd"))
    error = refusal(tmp_path, "extends: base.yaml\n")
    assert error.cause.startswith(f"{tmp_path}/base.yaml:4: no tier")


@pytest.mark.parametrize(
    ("name", "value", "cause"),
    [
        ("tier", "balancd", "no tier is named"),
        ("adapter", "hf_casual", "--invarlock-adapter: no adapter is named"),
        ("dataset", '{"kind": "pydoc", "revision": "x"}', "dataset.revision: provider pydoc takes"),
        ("preview_windows", "9", "the arms differ in size"),
    ],
)
def test_what_a_setting_says_is_not_blamed_on_the_file(
    tmp_path: Path, name: str, value: str, cause: str
) -> None:
    block = "tier: balanced\nrun: {adapter: auto}\ndataset: {provider: pydoc, preview_n: 8}"
    error = refusal(tmp_path, SUITE.format(block=block), **{name: value})
    assert error.cause.startswith(cause)


@pytest.mark.parametrize(
    ("block", "provider"),
    [("{provider: pydoc, split: validation}", "pydoc"),
     ("{provider: {kind: local_jsonl, file: d.jsonl}, split: validation}", "local_jsonl"),
     ("{provider: {kind: local_jsonl, file: d.jsonl, split: validation}}", "local_jsonl")],
)  # fmt: skip
def test_a_split_of_data_without_splits_is_noted_and_not_used(
    tmp_path: Path, block: str, provider: str
) -> None:
    for text in (SUITE, RUN):
        suite = load(tmp_path, text.format(block=f"dataset: {block}", model=""))
        assert suite.plan.source.split is None
        note = f"dataset.split: provider {provider} has no splits: validation is not used"
        assert note in suite.notes
    wikitext = load(tmp_path, SUITE.format(block="dataset: {provider: wikitext2, split: test}"))
    assert (wikitext.plan.source.split, wikitext.notes) == ("test", ())


def test_the_built_in_adapters_are_those_of_the_registry() -> None:
    assert tuple(BUILT_IN_ADAPTERS) == adapter_names.BUILT_IN
    assert adapter_names.GROUP == GROUP


def test_an_installed_adapter_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    entry = EntryPoint("mine", "package:Adapter", GROUP)
    monkeypatch.setattr(adapter_names, "entry_points", lambda group: [entry])
    assert load(tmp_path, SUITE.format(block="dataset: {provider: pydoc}"), adapter="mine").plan.adapter == "mine"  # fmt: skip
