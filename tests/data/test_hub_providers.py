"""Hub data sets, from a cache laid out as the Hub client does: what is read, and every refusal."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_invarlock.data import get_provider
from pytest_invarlock.errors import DataError
from pytest_invarlock.policy.resources import schema

COMMIT = "b08601e04326c79dfdd32d625aee71d232d685c3"
TEXT = [{"text": "one"}, {"text": "two"}]
CARD = """---
configs:
- config_name: en
  default: true
  data_files:
  - split: train
    path: [en/a.jsonl, en/b.jsonl]
- config_name: fr
  data_files: fr/*.jsonl
---
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")


def provider(hub: Any, kind: str = "hf_text", name: str = "org/data", **fields: Any) -> Any:
    if kind != "wikitext2":
        fields["dataset_name"] = name
    return get_provider(kind, cache_dir=str(hub.folder), **fields)


def refusal(found: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        found.documents()
    return caught.value


def texts(found: Any) -> list[str]:
    return [document.text for document in found.documents()]


def tree(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def test_wikitext_is_read_from_the_cache_without_headings(hub: Any) -> None:
    hub.add_wikitext(articles=4)
    found = provider(hub, "wikitext2")
    assert len(found.documents()) == 4 * 3 * 2
    assert not any("=" in text for text in texts(found))
    assert found.identity() | {"digest": None} == {
        "provider": "wikitext2", "shareable": True, "split_fallback": False, "dedup": False,
        "max_samples": None, "digest": None, "dataset_name": "Salesforce/wikitext",
        "config_name": "wikitext-2-raw-v1", "split": "validation", "revision": COMMIT,
    }  # fmt: skip


def test_articles_are_documents_across_joined_splits(hub: Any) -> None:
    hub.add_wikitext(articles=4)
    found = provider(hub, "wikitext2", split="validation+test", id_field="article")
    assert len(found.documents()) == 8
    assert {len(document.texts) for document in found.documents()} == {6}
    assert found.identity()["split"] == "validation+test"


def test_wikitext_is_found_under_its_former_name(hub: Any) -> None:
    hub.add_wikitext(articles=2, name="wikitext")
    found = provider(hub, "wikitext2")
    assert len(found.documents()) == 12
    assert found.identity()["dataset_name"] == "wikitext"


def test_wikitext_that_is_nowhere_is_named_as_users_know_it(hub: Any) -> None:
    error = refusal(provider(hub, "wikitext2"))
    assert error.code == "DATASET_NOT_CACHED"
    assert error.cause.startswith("Salesforce/wikitext")
    assert "--invarlock-allow-network" in error.remedy
    hub.add_wikitext()
    assert refusal(provider(hub, "wikitext2", split="trian")).code == "DATASET_SPLIT"


def test_the_rows_are_those_that_the_datasets_library_reads(hub: Any, tmp_path: Path) -> None:
    import datasets

    # The library reads no snapshot that lacks the first configuration's files; we do.
    snapshot = hub.add_wikitext(articles=3, configs=("wikitext-103-raw-v1", "wikitext-2-raw-v1"))
    theirs = datasets.load_dataset(
        str(snapshot), "wikitext-2-raw-v1", split="validation+test", cache_dir=str(tmp_path / "c")
    )
    found = provider(hub, name="Salesforce/wikitext", config_name="wikitext-2-raw-v1", split="validation+test")  # fmt: skip
    assert [row.values["text"] for row in found.rows()] == list(theirs["text"])


def test_reading_writes_nothing(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_wikitext(articles=2)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = tree(tmp_path)
    found = provider(hub, "wikitext2")
    found.documents()
    found.identity()
    assert tree(tmp_path) == before


def test_a_configuration_is_chosen_as_the_card_says(hub: Any) -> None:
    files = {
        "en/a.jsonl": TEXT[:1], "en/b.jsonl": TEXT[1:], "fr/x.jsonl": [{"text": "un"}],
        "en/other.jsonl": [{"text": "no"}],
    }  # fmt: skip
    hub.add("org/data", files, CARD)
    assert texts(provider(hub)) == ["one", "two"]
    assert texts(provider(hub, config_name="fr")) == ["un"]
    error = refusal(provider(hub, config_name="frr"))
    assert error.code == "DATASET_CONFIG"
    assert "it has en, fr" in error.cause
    assert error.remedy == "did you mean 'fr'?"


def test_a_card_may_map_splits_to_files(hub: Any) -> None:
    card = "---\nconfigs:\n- config_name: a\n  data_files: {test: x.jsonl, train: [y.jsonl]}\n---\n"
    hub.add("org/data", {"x.jsonl": TEXT[:1], "y.jsonl": TEXT[1:]}, card)
    assert texts(provider(hub, split="test+train")) == ["one", "two"]


def test_several_configurations_without_a_default_are_listed(hub: Any) -> None:
    hub.add("org/data", {"en/a.jsonl": TEXT}, CARD.replace("  default: true\n", ""))
    error = refusal(provider(hub))
    assert error.code == "DATASET_CONFIG"
    assert error.remedy == "give one of en, fr"


@pytest.mark.parametrize(
    "card",
    [
        "---\nconfigs:\n- config_name: [\n---\n",
        "---\nconfigs:\n- data_files: x\n---\n",
        "---\nconfigs: 7\n---\n",
        "---\nconfigs:\n- config_name: a\n  data_files: ../../secret.jsonl\n---\n",
        "---\nconfigs:\n- config_name: a\n  data_files: /etc/passwd\n---\n",
        "---\nconfigs:\n- config_name: a\n  data_files: https://elsewhere/x.csv\n---\n",
    ],
)
def test_a_card_that_cannot_be_used_is_refused(hub: Any, card: str) -> None:
    hub.add("org/data", {"train.jsonl": TEXT}, card)
    assert refusal(provider(hub)).code == "DATASET_CARD"


def test_without_a_card_file_names_tell_the_splits(hub: Any) -> None:
    hub.add(
        "org/data",
        {
            "data/train-00000-of-00002.parquet": TEXT[:1],
            "data/train-00001-of-00002.parquet": TEXT[1:],
            "data/dev.jsonl": [{"text": "three"}],
            "notes.md": b"no data",
        },
    )
    assert texts(provider(hub)) == ["three"]
    found = provider(hub, split="train")
    assert texts(found) == ["one", "two"]
    assert [row.where for row in found.rows()] == [
        "org/data: train row 1", "org/data: train row 2"
    ]  # fmt: skip


def test_without_a_card_a_folder_is_a_configuration(hub: Any) -> None:
    hub.add("org/data", {"a/train.jsonl": TEXT, "b/train.jsonl": TEXT[:1]})
    found = provider(hub, config_name="b", split="train")
    assert texts(found) == ["one"]
    assert found.identity()["config_name"] == "b"
    assert refusal(provider(hub, config_name="c", split="train")).code == "DATASET_CONFIG"
    assert refusal(provider(hub, config_name="../..", split="train")).code == "DATASET_CONFIG"


@pytest.mark.parametrize(("present", "read"), [(("train", "test"), "test"), (("train",), "train")])
def test_an_absent_default_split_falls_back_and_says_so(
    hub: Any, present: tuple[str, ...], read: str
) -> None:
    hub.add("org/data", {f"{name}.jsonl": [{"text": name}] for name in present})
    found = provider(hub)
    assert texts(found) == [read]
    assert found.identity()["split_fallback"] is True
    assert found.identity()["split"] == read
    assert found.notes == (f"the data set has no split validation: {read} is read instead",)


def test_a_split_that_was_asked_for_is_never_replaced(hub: Any) -> None:
    hub.add("org/data", {"test.jsonl": TEXT, "train.jsonl": TEXT})
    error = refusal(provider(hub, split="validation"))
    assert error.code == "DATASET_SPLIT"
    assert "it has test, train" in error.cause
    assert refusal(provider(hub, split="test+tran")).remedy == "did you mean 'train'?"
    assert "max_samples" in refusal(provider(hub, split="train[:10]")).remedy
    assert "twice" in refusal(provider(hub, split="test+test")).cause


def test_only_odd_splits_need_to_be_named(hub: Any) -> None:
    card = "---\nconfigs:\n- config_name: a\n  data_files:\n  - {split: dev2, path: x.jsonl}\n---\n"
    hub.add("org/data", {"x.jsonl": TEXT}, card)
    assert refusal(provider(hub)).code == "DATASET_SPLIT"
    assert texts(provider(hub, split="dev2")) == ["one", "two"]


def test_a_revision_is_read_and_recorded(hub: Any) -> None:
    other = "0" * 39 + "1"
    hub.add("org/data", {"test.jsonl": TEXT})
    hub.add("org/data2", {"test.jsonl": TEXT})
    old = hub.folder / "datasets--org--data" / "snapshots" / other
    old.mkdir()
    (old / "test.jsonl").write_text(json.dumps({"text": "older"}))
    assert texts(provider(hub)) == ["one", "two"]
    found = provider(hub, revision=other)
    assert texts(found) == ["older"]
    assert found.identity()["revision"] == other
    error = refusal(provider(hub, revision="2" * 40))
    assert error.code == "DATASET_NOT_CACHED"
    assert "2222" in error.cause


def test_a_data_set_that_is_only_partly_cached_is_refused(hub: Any) -> None:
    hub.add("org/data", {"en/other.jsonl": TEXT}, CARD)
    error = refusal(provider(hub))
    assert error.code == "DATASET_NOT_CACHED"
    assert "split train of configuration en" in error.cause
    hub.add("org/code", {"data.py": b"raise SystemExit"})
    assert refusal(provider(hub, name="org/code")).code == "DATASET_NOT_CACHED"


def test_partly_cached_wikitext_with_the_asked_configuration_is_enough(hub: Any) -> None:
    # `add_wikitext` declares wikitext-103 first, and holds none of its files.
    hub.add_wikitext(articles=1)
    assert len(provider(hub, "wikitext2", split="train").documents()) == 6


def test_a_name_that_is_no_data_sets_is_refused(hub: Any) -> None:
    assert refusal(provider(hub, name="a/b/c")).code == "DATASET_NOT_FOUND"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("GatedRepoError", "DATASET_GATED"),
        ("RepositoryNotFoundError", "DATASET_NOT_FOUND"),
        ("RevisionNotFoundError", "DATASET_NOT_FOUND"),
        ("LocalEntryNotFoundError", "DATASET_NOT_CACHED"),
        ("IncompleteSnapshotError", "DATASET_NOT_CACHED"),
    ],
)
def test_what_the_hub_answers_is_a_typed_error(
    hub: Any, monkeypatch: pytest.MonkeyPatch, error: str, code: str
) -> None:
    import httpx2
    import huggingface_hub
    from huggingface_hub import errors

    response = httpx2.Response(403, request=httpx2.Request("GET", "https://hub"))
    of = {"LocalEntryNotFoundError": {}, "IncompleteSnapshotError": {"snapshot_path": "x"}}
    raised = getattr(errors, error)("no", **of.get(error, {"response": response}))
    calls: list[dict[str, Any]] = []

    def answer(*_: Any, **arguments: Any) -> str:
        calls.append(arguments)
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    assert refusal(provider(hub, allow_network=True)).code == code
    assert calls[0]["local_files_only"] is False
    assert calls[0]["repo_type"] == "dataset"


def test_the_network_is_asked_only_where_allowed_and_only_for_what_is_read(
    hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    snapshot = hub.add_wikitext(articles=1)
    asked: list[tuple[bool, tuple[str, ...]]] = []

    def answer(*_: Any, local_files_only: bool, allow_patterns: list[str], **__: Any) -> str:
        asked.append((local_files_only, tuple(allow_patterns)))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name)
    provider(hub, "wikitext2", allow_network=True).documents()
    assert asked == [(False, ("README.md",)), (False, ("wikitext-2-raw-v1/validation-*",))]
    assert "HF_HUB_OFFLINE" not in os.environ
    provider(hub, "wikitext2").documents()
    assert asked[2][0] is True
    assert (os.environ["HF_HUB_OFFLINE"], os.environ["HF_DATASETS_OFFLINE"]) == ("1", "1")


def test_a_missing_column_names_the_nearest_and_the_row(hub: Any) -> None:
    hub.add("org/data", {"test.parquet": [{"sentence": "a"}]})
    error = refusal(provider(hub, text_field="sentense"))
    assert error.code == "DATA_FIELD"
    assert error.cause == "org/data: test row 1: has no field 'sentense'"
    assert error.remedy == "did you mean 'sentence'?"


def test_a_truncated_parquet_file_is_named(hub: Any) -> None:
    hub.add("org/data", {"test.parquet": b"PAR1 cut off"})
    assert refusal(provider(hub)).code == "DATA_DAMAGED"


def test_a_split_without_text_is_refused(hub: Any) -> None:
    hub.add("org/data", {"test.jsonl": [{"text": " "}]})
    error = refusal(provider(hub))
    assert error.cause == "org/data (default) test: holds no text in field 'text'"


def test_identities_are_ones_that_a_record_may_hold(hub: Any) -> None:
    import jsonschema

    allowed = schema("record")["properties"]["facts"]["properties"]["plan"]["properties"]["source"]
    hub.add("org/data", {"test.jsonl": TEXT})
    for shareable in (None, True, False):
        identity = provider(hub, shareable=shareable).identity()
        jsonschema.validate(identity, allowed)
        assert ("org/data" in json.dumps(identity)) is (shareable is not False)
        assert (identity["digest"] is None) is (shareable is False)
        assert identity["split_fallback"] is True
        assert str(hub.folder) not in json.dumps(identity)


def test_pairs_and_choices_come_from_the_hub_too(hub: Any) -> None:
    hub.add("org/pairs", {"train.parquet": [{"translation": {"en": "a", "fr": "b"}}]})
    found = provider(
        hub, "hf_seq2seq", "org/pairs", src_field="translation.en", tgt_field="translation.fr"
    )
    assert found.documents()[0].pairs[0].target == "b"
    hub.add("org/choices", {"test.parquet": [{"ctx": "q", "endings": ["a", "b"], "label": "1"}]})
    found = provider(hub, "hf_choices", "org/choices", text_field="ctx", choices_field="endings")
    assert found.documents()[0].examples[0].choices == ("a", "b")
    assert found.documents()[0].examples[0].label == 1
