"""The fingerprint follows a tokenizer's behaviour, not the place it was loaded from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pytest_invarlock.data.tokenizer_fingerprint import tokenizer_fingerprint

if TYPE_CHECKING:
    from pathlib import Path


class SlowTokenizer:
    """A tokenizer without a pipeline to read."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self._vocabulary = vocabulary

    def get_vocab(self) -> dict[str, int]:
        return self._vocabulary


@pytest.fixture
def saved(tokenizer: Any, tmp_path: Path) -> Path:
    tokenizer.save_pretrained(tmp_path / "here")
    return tmp_path / "here"


def changed(saved: Path, change: Any) -> str:
    import json

    path = saved / "tokenizer.json"
    pipeline = json.loads(path.read_text(encoding="utf-8"))
    change(pipeline)
    path.write_text(json.dumps(pipeline), encoding="utf-8")
    return tokenizer_fingerprint(PreTrainedTokenizerFast(tokenizer_file=str(path)))


def test_exchanging_two_tokens_changes_it(saved: Path) -> None:
    def exchange(pipeline: dict[str, Any]) -> None:
        vocabulary = pipeline["model"]["vocab"]
        first, second = list(vocabulary)[200:202]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]

    before = changed(saved, lambda _: None)
    assert changed(saved, exchange) != before


def test_dropping_a_merge_changes_it(saved: Path) -> None:
    before = changed(saved, lambda _: None)
    assert changed(saved, lambda pipeline: pipeline["model"]["merges"].pop()) != before


def test_another_pre_tokenizer_changes_it(saved: Path) -> None:
    before = changed(saved, lambda _: None)
    assert changed(saved, lambda p: p["pre_tokenizer"].update(add_prefix_space=True)) != before


def test_an_added_token_changes_it(saved: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(saved)
    before = tokenizer_fingerprint(loaded)
    loaded.add_tokens(["<new>"])
    assert tokenizer_fingerprint(loaded) != before


def test_it_survives_saving_and_loading_elsewhere(saved: Path, tmp_path: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(saved)
    loaded.save_pretrained(tmp_path / "there")
    again = AutoTokenizer.from_pretrained(tmp_path / "there")
    assert tokenizer_fingerprint(again) == tokenizer_fingerprint(loaded)
    assert tokenizer_fingerprint(loaded).startswith("sha256:")


def test_padding_and_truncating_leave_it(saved: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(saved)
    before = tokenizer_fingerprint(loaded)
    loaded(["ka lo", "mi"], padding=True, truncation=True, max_length=3)
    assert loaded.backend_tokenizer.truncation is not None
    assert tokenizer_fingerprint(loaded) == before


def test_without_a_pipeline_the_vocabulary_counts_and_not_its_order() -> None:
    fingerprint = tokenizer_fingerprint(SlowTokenizer({"a": 0, "b": 1}))
    assert fingerprint == tokenizer_fingerprint(SlowTokenizer({"b": 1, "a": 0}))
    assert fingerprint != tokenizer_fingerprint(SlowTokenizer({"b": 0, "a": 1}))
    assert fingerprint != tokenizer_fingerprint(SlowTokenizer({"a": 0}))


def test_which_tokens_are_special_and_as_what_is_part_of_it(tokenizer: Any) -> None:
    from copy import deepcopy

    other = deepcopy(tokenizer)
    other.pad_token = "a"
    assert tokenizer_fingerprint(other) != tokenizer_fingerprint(tokenizer)
