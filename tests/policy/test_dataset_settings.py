"""Settings of data: every way to name it, what beats what, and what is assumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import DataSource, MeasurementPlan
from pytest_invarlock.policy.dataset_kinds import KINDS, SOURCE_ARGUMENTS
from pytest_invarlock.policy.dataset_settings import data_source, wikitext_is_cached
from pytest_invarlock.policy.plan_settings import build_plan
from pytest_invarlock.policy.settings import collect_settings


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hub cache, and the working directory beside it."""
    for name in ("HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def cached(hub: Path, name: str = "datasets--Salesforce--wikitext") -> None:
    snapshot = hub / name / "snapshots" / ("0" * 40) / "wikitext-2-raw-v1"
    snapshot.mkdir(parents=True)
    (snapshot / "validation-00000-of-00001.parquet").touch()


def plan(
    dataset: str | None = None, value: dict[str, Any] | None = None, folder: Path = Path("/suite"),
    **options: Any,
) -> MeasurementPlan:  # fmt: skip
    made = {"invarlock_dataset": dataset} | {f"invarlock_{k}": v for k, v in options.items()}
    return build_plan(value or {}, collect_settings(made.get, {}.get, {}), folder)


def refusal(*arguments: Any, **options: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        plan(*arguments, **options)
    return caught.value


def test_a_kind_and_its_argument_name_data(tmp_path: Path) -> None:
    assert plan("pydoc").source == DataSource("pydoc")
    assert plan("wikitext2").source == DataSource("wikitext2")
    assert plan("wikitext2:train").source.split == "train"
    assert plan("hf_text:org/data").source.dataset_name == "org/data"
    assert plan("local_jsonl:t.jsonl").source.locations == (str(tmp_path / "t.jsonl"),)
    assert plan("local_file:/x/t.csv").source.locations == ("/x/t.csv",)
    assert plan("hf_text:org/data", allow_network=True).source.allow_network


@pytest.mark.parametrize(
    "text", ["local_jsonl", "local_jsonl:", "hf_text", "pydoc:x", "wikitext2:", "csv", "wikitxt2"]
)
def test_a_value_that_names_no_data_is_refused(text: str) -> None:
    error = refusal(text)
    assert error.cause.startswith(f"--invarlock-dataset: {text!r} cannot be used")
    if text == "wikitxt2":
        assert error.remedy == "did you mean 'wikitext2'?"


@pytest.mark.parametrize(
    "text",
    [
        '{"kind": "local_jsonl", "file": "t.jsonl", "id_field": "doc"}',
        "{kind: local_jsonl, file: t.jsonl, id_field: doc}",
        "{provider: local_jsonl, file: t.jsonl, id_field: doc}",
        "{provider: {kind: local_jsonl, file: t.jsonl}, id_field: doc}",
        "{dataset: {provider: {kind: local_jsonl, file: t.jsonl, id_field: doc}}}",
    ],
)
def test_a_mapping_names_data_in_every_spelling(tmp_path: Path, text: str) -> None:
    expected = DataSource("local_jsonl", (str(tmp_path / "t.jsonl"),), id_field="doc")
    assert plan(text).source == expected
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "data.yaml").write_text(text)
    # In a file, names start at the file's folder.
    located = DataSource("local_jsonl", (str(tmp_path / "in" / "t.jsonl"),), id_field="doc")
    assert plan("in/data.yaml").source == located


def test_a_mapping_may_hold_counts_too() -> None:
    windows = plan('{"provider": "pydoc", "seq_len": 100, "preview_n": 7, "final_n": 7}').windows
    assert (windows.seq_len, windows.final_windows) == (100, 7)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"kind": "pydocs"}', "dataset.provider.kind"),
        ('{"kind": "pydoc", "sead": 1}', "dataset.provider.sead"),
        ('{"provider": "pydoc", "sede": 1}', "dataset.sede"),
        ('{"provider": "pydoc", "seq_len": 5}', "dataset.seq_len"),
        ("{provider: [pydoc}", "not valid YAML"),
        ("absent.yaml", "cannot be read"),
        ('{"provider": {"kind": "local_file", "file": "a"}, "file": "b"}', "dataset.file"),
        ('{"provider": "pydoc", "file": "a"}', "dataset.file: provider pydoc takes no such"),
        ('{"provider": "hf_text"}', "dataset.dataset_name: provider hf_text needs it"),
        ('{"provider": "local_jsonl"}', "dataset"),
        ('{"seq_len": 64, "text_field": "a"}', "dataset.text_field is given, and no provider"),
    ],
)
def test_a_mapping_with_a_fault_is_refused_naming_the_key(text: str, words: str) -> None:
    assert words in refusal(text).cause


def test_all_arguments_of_the_seeds_are_known(tmp_path: Path) -> None:
    source = data_source(
        "local_file",
        {
            "file": "a.jsonl", "path": "d", "data_files": ["x/*.jsonl", "/y.jsonl"],
            "src_field": "s", "tgt_field": "t", "label_field": "l", "labels": ["a", 1],
            "choices_field": None, "max_samples": 5, "dedup": True, "shareable": True,
        },
        tmp_path,
    )  # fmt: skip
    assert source.locations == tuple(
        str(tmp_path / name) for name in ("a.jsonl", "d", "x/*.jsonl", "/y.jsonl")
    )
    assert (source.source_field, source.target_field, source.label_field) == ("s", "t", "l")
    assert source.labels == ("a", "1")
    assert (source.max_samples, source.dedup, source.shareable) == (5, True, True)
    assert {name for kind in KINDS.values() for name in kind.arguments} == set(SOURCE_ARGUMENTS)


def test_our_names_of_a_pairs_sides_beat_the_seeds(tmp_path: Path) -> None:
    given = {"file": "a", "src_field": "s", "source_field": "ours"}
    assert data_source("local_jsonl_pairs", given, tmp_path).source_field == "ours"


def test_files_of_the_suite_start_at_its_folder() -> None:
    value = {"dataset": {"provider": {"kind": "local_jsonl", "path": "texts"}, "dedup": True}}
    source = plan(value=value).source
    assert source.locations == ("/suite/texts",)
    assert source.dedup
    value = {"dataset": {"provider": "hf_text", "dataset_name": "a/b", "cache_dir": "cache"}}
    assert plan(value=value).source.cache_dir == "/suite/cache"


def test_options_beat_the_suite_that_its_preset_and_that_the_profile(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "dataset: {provider: local_jsonl, file: p.jsonl, id_field: doc, seq_len: 100, stride: 50,"
        " seed: 3}\neval: {metric: {kind: ppl_mlm}}\n"
    )
    value: dict[str, Any] = {"preset": "p.yaml", "dataset": {"seq_len": 200}}
    made = plan(value=value, folder=tmp_path, preview_windows="9", final_windows="9")
    assert made.source == DataSource("local_jsonl", (str(tmp_path / "p.jsonl"),), id_field="doc")
    windows = made.windows
    assert (windows.seq_len, windows.stride, windows.seed) == (200, 50, 3)
    assert (windows.preview_windows, windows.final_windows) == (9, 9)
    assert made.metric == "ppl_mlm"
    value["eval"] = {"metric": {"kind": "ppl_causal"}}
    value["dataset"] = {"provider": "local_jsonl", "path": "s"}
    made = plan(value=value, folder=tmp_path, seq_len="300")
    # Its own files, and the preset's column, for both name the same kind of provider.
    assert made.source == DataSource("local_jsonl", (str(tmp_path / "s"),), id_field="doc")
    assert (made.metric, made.windows.seq_len, made.windows.final_windows) == (
        "ppl_causal",
        300,
        64,
    )
    assert plan("pydoc", value=value, folder=tmp_path).source == DataSource("pydoc")
    named = plan(preset="p.yaml", value={"dataset": {"seed": 8}})
    assert (named.windows.seed, named.windows.seq_len) == (8, 100)
    assert named.source.locations == (str(tmp_path / "p.jsonl"),)


def test_nothing_named_takes_wikitext_where_it_is_at_hand(no_cache: Path) -> None:
    assert not wikitext_is_cached()
    assert plan().source.provider == "pydoc"
    networked = plan(allow_network=True, profile="ci").source
    assert networked == DataSource(
        "wikitext2", split="validation+test", id_field="article", allow_network=True
    )
    cached(no_cache)
    for profile in ("dev", "ci", "ci_cpu", "release"):
        made = plan(profile=profile)
        assert made.source == DataSource("wikitext2", split="validation+test", id_field="article")
        assert made.notes == ()


@pytest.mark.parametrize("profile", ["ci", "ci_cpu", "release"])
def test_profiles_for_evidence_take_no_stand_in(profile: str) -> None:
    error = refusal(profile=profile)
    assert error.code == "NO_DATASET"
    assert profile in error.cause
    assert "pydoc" in error.remedy


def test_dev_takes_the_shipped_text_and_says_so() -> None:
    made = plan(profile="dev")
    assert made.source == DataSource("pydoc")
    assert len(made.notes) == 1
    assert "pydoc" in made.notes[0]


@pytest.mark.parametrize(
    ("variable", "below"),
    [("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub"),
     ("XDG_CACHE_HOME", "huggingface/hub"), ("HOME", ".cache/huggingface/hub")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["datasets--Salesforce--wikitext", "datasets--wikitext"])
def test_the_cache_is_looked_for_where_the_hub_client_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, below: str, name: str
) -> None:
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(variable, str(tmp_path / "here"))
    assert not wikitext_is_cached()
    cached(tmp_path / "here" / below, name)
    assert wikitext_is_cached()


@pytest.mark.parametrize(
    ("kind", "adapter", "metric"),
    [
        (None, None, "auto"), ("auto", None, "auto"), (None, "hf_mlm", "auto"),
        ("auto", "hf_seq2seq", "auto"), ("ppl_mlm", "hf_mlm", "ppl_mlm"),
        ("accuracy", "hf_seq2seq", "accuracy"),
    ],
)  # fmt: skip
def test_metric_and_adapter_reach_the_plan(
    kind: str | None, adapter: str | None, metric: str
) -> None:
    value: dict[str, Any] = {"dataset": {"provider": "pydoc", "mask_probability": 0.3}}
    value |= {"eval": {"metric": {"kind": kind}}} if kind else {}
    value |= {"run": {"adapter": adapter}} if adapter else {}
    made = plan(value=value)
    assert (made.metric, made.adapter) == (metric, adapter or "auto")
    assert made.mask_probability == 0.3


@pytest.mark.parametrize(
    ("profile", "strict"), [("dev", False), ("ci_cpu", False), ("ci", True), ("release", True)]
)
def test_pairing_is_strict_where_evidence_is_made(profile: str, strict: bool) -> None:
    assert plan("pydoc", profile=profile).strict_pairing is strict


def test_named_conventions_fix_their_lengths() -> None:
    for convention, length in (("llama.cpp-512", 512), ("gptq-2048", 2048)):
        windows = plan(json.dumps({"provider": "pydoc", "convention": convention})).windows
        assert (windows.seq_len, windows.stride, windows.convention) == (length, length, convention)
        for key in ("seq_len", "stride"):
            given = {"provider": "pydoc", "convention": convention, key: 100}
            error = refusal(json.dumps(given))
            assert error.code == "CONVENTION_LENGTH"
            assert f"dataset.{key} is 100" in error.cause
    assert plan("pydoc").windows.convention == "document"
