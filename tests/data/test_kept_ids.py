"""Kept token ids: those of the tokenizer at hand, asked for once, and never another's."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pytest_invarlock.data import kept_ids
from pytest_invarlock.data.special_tokens import token_ids

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = "ka lo mi ne"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were tokenised, with nothing kept from before."""
    texts: list[str] = []

    def counted(tokenizer: Any, text: str) -> Any:
        texts.append(text)
        return token_ids(tokenizer, text)

    monkeypatch.setattr(kept_ids, "_KEPT", kept_ids._Kept())
    monkeypatch.setattr(kept_ids, "token_ids", counted)
    return texts


def test_a_text_is_tokenised_once_for_equal_tokenizers(tokenizer: Any, asked: list[str]) -> None:
    first = kept_ids.ids_of(tokenizer)(TEXT)
    again = kept_ids.ids_of(copy.deepcopy(tokenizer))(TEXT)
    assert first.tolist() == again.tolist() == token_ids(tokenizer, TEXT).tolist()
    assert asked == [TEXT]
    with pytest.raises(ValueError, match="read-only"):
        again[0] = 1


def added(tokenizer: Any) -> None:
    tokenizer.add_tokens(["lo"])


def split(tokenizer: Any) -> None:
    tokenizer.split_special_tokens = True


def lowered(tokenizer: Any) -> None:
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("ka", "mi")


@pytest.mark.parametrize("change", [added, split, lowered])
def test_a_changed_tokenizer_is_asked_itself(
    change: Callable[[Any], None], tokenizer: Any, asked: list[str]
) -> None:
    text = f"{TEXT} <|end|>"
    kept_ids.ids_of(tokenizer)(text)
    other = copy.deepcopy(tokenizer)
    change(other)
    found = kept_ids.ids_of(other)(text)
    assert asked == [text, text]
    assert found.tolist() == token_ids(other, text).tolist() != token_ids(tokenizer, text).tolist()


def test_a_tokenizer_whose_pipeline_cannot_be_read_is_asked_each_time(asked: list[str]) -> None:
    def words(text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [len(word) for word in text.split()]}

    for _ in range(2):
        assert kept_ids.ids_of(words)("a bcd").tolist() == [1, 3]
    assert asked == ["a bcd"] * 2


def test_no_more_is_kept_than_is_allowed(
    tokenizer: Any, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = kept_ids.ids_of(tokenizer)
    monkeypatch.setattr(kept_ids, "MAX_TOKENS", len(ids(TEXT)))
    for _ in range(2):
        np.testing.assert_array_equal(ids("ka"), token_ids(tokenizer, "ka"))
        ids(TEXT)
    assert asked == [TEXT, "ka", "ka"]
