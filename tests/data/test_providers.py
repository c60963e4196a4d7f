"""Local providers and what all share: errors that name the line, identities that name nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_invarlock.data import get_provider
from pytest_invarlock.data.documents import Document, Example, TextPair
from pytest_invarlock.data.registry import PROVIDERS
from pytest_invarlock.errors import ConfigError, DataError
from pytest_invarlock.plan import DataSource
from pytest_invarlock.policy.dataset_kinds import KINDS
from pytest_invarlock.policy.resources import schema


def jsonl(tmp_path: Path, content: str | bytes, kind: str = "local_jsonl", **fields: Any) -> Any:
    path = tmp_path / "texts.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return get_provider(kind, file=str(path), **fields)


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def refusal(provider: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        provider.documents()
    return caught.value


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "a"', "nonsense", '"text"', "[1]", "7", '{"text": 7}', '{"text": null}',
        '{"text": "lone \\ud800 surrogate"}', "[" * 100_000,
    ],
    ids=lambda line: line[:20],
)  # fmt: skip
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str) -> None:
    error = refusal(jsonl(tmp_path, f'{{"text": "good"}}\n\n{line}\n'))
    assert error.code == "DATA_BAD_LINE"
    assert "texts.jsonl:3: " in error.cause


def test_a_line_that_is_not_utf_8_is_named_with_its_number(tmp_path: Path) -> None:
    error = refusal(jsonl(tmp_path, b'{"text": "good"}\n{"text": "\xff"}\n'))
    assert "texts.jsonl:2: " in error.cause


def test_an_absent_field_is_named_with_the_nearest(tmp_path: Path) -> None:
    error = refusal(jsonl(tmp_path, '{"texts": "a", "number": 1}\n'))
    assert "has no field 'text'" in error.cause
    assert error.remedy == "did you mean 'texts'?"
    assert error.code == "DATA_FIELD"


def test_an_absent_id_field_is_named(tmp_path: Path) -> None:
    error = refusal(jsonl(tmp_path, '{"text": "a", "id": 1}\n{"text": "b"}\n', id_field="id"))
    assert "texts.jsonl:2: has no field 'id'" in error.cause


@pytest.mark.parametrize("content", ["", "\n\n", '{"text": ""}\n{"text": "  "}\n'])
def test_a_file_without_text_is_refused(tmp_path: Path, content: str) -> None:
    error = refusal(jsonl(tmp_path, content))
    assert error.code == "DATA_EMPTY"
    assert "texts.jsonl" in error.cause


@pytest.mark.parametrize("name", ["absent.jsonl", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    error = refusal(get_provider("local_jsonl", path=str(tmp_path / name)))
    assert error.code == "DATA_UNREADABLE"
    assert str(tmp_path) in error.cause


def test_a_provider_without_a_source_is_a_usage_error() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.file"):
        get_provider("local_jsonl")
    with pytest.raises(ConfigError, match=r"dataset\.file"):
        get_provider("local_jsonl", DataSource("local_jsonl"))
    with pytest.raises(ConfigError, match=r"dataset\.dataset_name"):
        get_provider("hf_text", DataSource("hf_text"))


def test_an_unknown_provider_or_argument_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        get_provider("pydocs")
    assert caught.value.code == "UNKNOWN_PROVIDER"
    assert caught.value.remedy == "did you mean 'pydoc'?"
    with pytest.raises(ConfigError) as caught:
        get_provider("local_jsonl", file="x", text_feild="a")
    assert caught.value.remedy == "did you mean 'text_field'?"


def test_registry_settings_and_schemas_know_the_same_kinds() -> None:
    assert set(PROVIDERS) == set(KINDS)
    for name in ("suite", "preset"):
        assert set(schema(name)["$defs"]["provider_kind"]["enum"]) == set(KINDS)


def test_each_row_is_a_document_of_its_own(tmp_path: Path) -> None:
    provider = jsonl(tmp_path, '{"text": "a"}\n{"text": "a"}\r\n{"text": " "}\n{"text": "c"}')
    assert list(provider.documents()) == [Document("a"), Document("a"), Document("c")]
    assert provider.notes == ("1 rows without text are left out",)


def test_rows_of_one_id_are_one_document_in_file_order(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "doc": 1}, {"text": "b", "doc": "1"}, {"text": "c", "doc": 1},
        {"text": "line\u2028one", "doc": "z"},
    ]  # fmt: skip
    content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    documents = jsonl(tmp_path, content, id_field="doc").documents()
    assert [document.text for document in documents] == ["a\nc", "b", "line\u2028one"]
    assert [document.texts for document in documents] == [("a", "c"), ("b",), ("line\u2028one",)]
    assert {document.arm for document in documents} == {None}


def test_dedup_drops_what_occurred_before_and_says_how_often(tmp_path: Path) -> None:
    content = lines(*({"text": text} for text in "abacab"))
    provider = jsonl(tmp_path, content, dedup=True)
    assert [document.text for document in provider.documents()] == ["a", "b", "c"]
    assert provider.notes == ("3 documents occurred before and are dropped",)
    assert provider.identity()["dedup"] is True
    assert len(jsonl(tmp_path, content).documents()) == 6


def test_max_samples_bounds_the_rows_that_are_read(tmp_path: Path) -> None:
    provider = jsonl(tmp_path, lines({"text": "a"}, {"text": "b"}) + "broken", max_samples=2)
    assert len(provider.documents()) == 2
    assert provider.identity()["max_samples"] == 2


def test_the_digest_covers_bytes_and_columns(tmp_path: Path) -> None:
    content = '{"text": "a", "body": "b", "id": 1}\n'
    digests = {
        jsonl(tmp_path, content).source_digest(),
        jsonl(tmp_path, content + "\n").source_digest(),
        jsonl(tmp_path, content, text_field="body").source_digest(),
        jsonl(tmp_path, content, id_field="id").source_digest(),
    }
    assert len(digests) == 4
    assert jsonl(tmp_path, content).source_digest() in digests


def test_private_data_has_an_identity_that_identifies_nothing(tmp_path: Path) -> None:
    private = jsonl(tmp_path, lines({"text": "canary"}))
    assert private.identity() == {
        "provider": "local_jsonl", "shareable": False, "split_fallback": False, "dedup": False,
        "max_samples": None, "digest": None,
    }  # fmt: skip
    shared = jsonl(tmp_path, lines({"text": "canary"}), shareable=True).identity()
    assert shared["digest"].startswith("sha256:")
    assert str(tmp_path) not in json.dumps(shared)


def test_every_identity_is_one_that_a_record_may_hold(tmp_path: Path) -> None:
    import jsonschema

    record = schema("record")["properties"]["facts"]["properties"]["plan"]["properties"]["source"]
    for provider in (
        jsonl(tmp_path, lines({"text": "a"})),
        jsonl(tmp_path, lines({"text": "a"}), shareable=True),
        get_provider("pydoc", shareable=False),
        get_provider("pydoc"),
    ):
        jsonschema.validate(provider.identity(), record)


def test_a_directory_or_pattern_gives_its_files_in_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.json"):
        (tmp_path / name).write_text(lines({"text": name}))
    for argument in ({"path": str(tmp_path)}, {"data_files": str(tmp_path / "*.jsonl")}):
        documents = get_provider("local_jsonl", **argument).documents()
        assert [document.text for document in documents] == ["a.jsonl", "b.jsonl"]
    listed = [str(tmp_path / name) for name in ("c.json", "a.jsonl")]
    documents = get_provider("local_jsonl", data_files=listed).documents()
    assert [document.text for document in documents] == ["c.json", "a.jsonl"]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "a[1].jsonl").write_text(lines({"text": "x"}))
    provider = get_provider("local_jsonl", file=str(tmp_path / "a[1].jsonl"))
    assert provider.documents() == [Document("x")]


def test_a_directory_or_pattern_without_files_is_refused(tmp_path: Path) -> None:
    assert "holds no *.jsonl" in refusal(get_provider("local_jsonl", path=str(tmp_path))).cause
    error = refusal(get_provider("local_jsonl", data_files=str(tmp_path / "*.jsonl")))
    assert "matches no file" in error.cause


def test_pairs_are_read_by_the_seeds_names_and_by_dots(tmp_path: Path) -> None:
    content = lines({"translation": {"en": "a", "fr": "b"}}, {"translation": {"en": "c", "fr": "d"}})  # fmt: skip
    provider = jsonl(
        tmp_path, content, "local_jsonl_pairs",
        src_field="translation.en", tgt_field="translation.fr",
    )  # fmt: skip
    assert list(provider.documents()) == [
        Document(pairs=(TextPair("a", "b"),)), Document(pairs=(TextPair("c", "d"),))
    ]  # fmt: skip
    wrong = jsonl(tmp_path, content, "local_jsonl_pairs", src_field="translation.eng")
    assert refusal(wrong).remedy == "did you mean 'translation.en'?"


@pytest.mark.parametrize("row", [{"source": "", "target": "b"}, {"source": "a", "target": " \n"}])
def test_an_empty_side_of_a_pair_is_refused(tmp_path: Path, row: dict[str, str]) -> None:
    content = lines({"source": "a", "target": "b"}, row)
    error = refusal(jsonl(tmp_path, content, "local_jsonl_pairs"))
    assert "texts.jsonl:2: field" in error.cause
    assert "is empty" in error.cause


@pytest.mark.parametrize(
    ("row", "fields", "example"),
    [
        ({"label": 1, "c": ["x", "y"]}, {"choices_field": "c"}, Example("q", ("x", "y"), 1)),
        ({"label": "1", "c": ["x", "y"]}, {"choices_field": "c"}, Example("q", ("x", "y"), 1)),
        ({"label": "y", "c": ["x", "y"]}, {"choices_field": "c"}, Example("q", ("x", "y"), 1)),
        ({"label": "1", "c": ["1", "0"]}, {"choices_field": "c"}, Example("q", ("1", "0"), 0)),
        ({"label": 0}, {"labels": ["no", "yes"]}, Example("q", ("no", "yes"), 0)),
        ({"label": True}, {"labels": ["no", "yes"]}, Example("q", ("no", "yes"), 1)),
        ({"label": "yes"}, {"labels": ["no", "yes"]}, Example("q", ("no", "yes"), 1)),
    ],
)
def test_a_label_is_a_choice_or_its_place(
    tmp_path: Path, row: dict[str, Any], fields: dict[str, Any], example: Example
) -> None:
    provider = jsonl(tmp_path, lines({"text": "q", **row}), "local_jsonl_choices", **fields)
    assert list(provider.documents()) == [Document(examples=(example,))]


def test_without_choices_the_labels_that_occur_are_the_choices(tmp_path: Path) -> None:
    content = lines({"text": "q", "label": 5}, {"text": "r", "label": 2}, {"text": "s", "label": 5})
    documents = jsonl(tmp_path, content, "local_jsonl_choices").documents()
    examples = [document.examples[0] for document in documents]
    assert [example.choices for example in examples] == [("2", "5")] * 3
    assert [example.label for example in examples] == [1, 0, 1]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"label": 2, "c": ["x", "y"]}, "label 2"),
        ({"label": -1, "c": ["x", "y"]}, "label -1"),
        ({"label": "z", "c": ["x", "y"]}, "label 'z'"),
        ({"label": None, "c": ["x", "y"]}, "label None"),
        ({"label": 0, "c": ["x"]}, "fewer than two"),
        ({"label": 0, "c": "xy"}, "no list"),
        ({"label": 0, "c": ["x", 7]}, "not text"),
        ({"label": 0, "c": ["x", ""]}, "empty choice"),
        ({"label": 0, "c": ["x", "y"], "text": " "}, "is empty"),
        ({"c": ["x", "y"]}, "no field 'label'"),
    ],
)
def test_a_bad_example_is_named_with_its_line(
    tmp_path: Path, row: dict[str, Any], words: str
) -> None:
    content = lines({"text": "q", "label": 0, "c": ["x", "y"]}, {"text": "q", **row})
    error = refusal(jsonl(tmp_path, content, "local_jsonl_choices", choices_field="c"))
    assert "texts.jsonl:2: " in error.cause
    assert words in error.cause


def test_data_of_another_kind_than_the_metrics_is_a_usage_error(
    tmp_path: Path, word_tokenizer: Any
) -> None:
    counts = {"preview_n": 1, "final_n": 1, "seq_len": 40, "stride": 40}
    text = jsonl(tmp_path, lines({"text": "a"}))
    for provider, metric in ((text, "accuracy"), (get_provider("pydoc"), "accuracy")):
        with pytest.raises(ConfigError) as caught:
            provider.windows(word_tokenizer(), **counts, metric=metric)
        assert caught.value.code == "METRIC_OF_OTHER_DATA"
    pairs = jsonl(tmp_path, lines({"source": "a", "target": "b"}), "local_jsonl_pairs")
    with pytest.raises(ConfigError) as caught:
        pairs.windows(word_tokenizer(), **counts)
    assert "metric ppl_causal reads text" in caught.value.cause


def test_a_provider_draws_windows_by_itself(texts: Path, tokenizer: object) -> None:
    provider = get_provider("local_jsonl", file=str(texts))
    windows = provider.windows(tokenizer, preview_n=10, final_n=10, seq_len=48, stride=100)
    assert (len(windows.preview), len(windows.final)) == (10, 10)
    assert windows.overlap_fraction == 0.0
