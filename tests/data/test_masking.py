"""Masks: decided by each window alone, never on special tokens, in the shares that are promised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_invarlock.data.conventions import lengths_of
from pytest_invarlock.data.documents import Document
from pytest_invarlock.data.masking import Masker
from pytest_invarlock.data.text_windows import TextCutter
from pytest_invarlock.errors import ConfigError, DataError
from pytest_invarlock.plan import WindowSelection

PROPERTY = settings(deadline=None, max_examples=60, database=None, derandomize=True)
CLS, SEP, MASK = 1, 2, 4
# Computed once, and again by a scalar SplitMix64 of whole numbers.
PINNED_POSITIONS = [1, 15, 32, 36]
PINNED_TOKENS = [6, 4, 4, 4]


def masker(seed: int = 0, probability: float = 0.15) -> Masker:
    special = np.array([0, CLS, SEP, MASK], dtype=np.int32)
    return Masker(seed, probability, MASK, special, np.arange(5, 1000, dtype=np.int32))


def tokens_of(seed: int, length: int = 400) -> Any:
    return np.random.default_rng(seed).integers(5, 1000, length).astype(np.int32)


def masked(tokens: Any, seed: int = 0, probability: float = 0.15) -> Any:
    return masker(seed, probability).window(tokens, np.arange(len(tokens)), 0, (0, len(tokens)))


def test_the_shares_are_those_that_are_promised() -> None:
    chosen = replaced = random = kept = total = 0
    for seed in range(200):
        tokens = tokens_of(seed)
        window = masked(tokens)
        now = window.tokens[window.positions]
        total += len(tokens)
        chosen += window.n_scored
        replaced += int(np.sum(now == MASK))
        kept += int(np.sum(now == window.targets))
        random += int(np.sum((now != MASK) & (now != window.targets)))
        untouched = np.setdiff1d(np.arange(len(tokens)), window.positions)
        assert np.array_equal(window.tokens[untouched], tokens[untouched])
        assert np.array_equal(window.targets, tokens[window.positions])
    # Five standard deviations around the binomial means.
    assert abs(chosen / total - 0.15) < 5 * (0.15 * 0.85 / total) ** 0.5
    for count, share in ((replaced, 0.8), (random, 0.1), (kept, 0.1)):
        assert abs(count / chosen - share) < 5 * (share * (1 - share) / chosen) ** 0.5


@PROPERTY
@given(seeds=st.permutations(range(8)))
def test_a_mask_hangs_on_no_other_window(seeds: list[int]) -> None:
    alone = {seed: masked(tokens_of(seed)).content() for seed in range(8)}
    assert {seed: masked(tokens_of(seed)).content() for seed in seeds} == alone


def test_masks_change_with_seed_and_content() -> None:
    tokens = tokens_of(0)
    changed = tokens.copy()
    changed[7] += 1
    first = masked(tokens).positions.tolist()
    assert first != masked(tokens, seed=1).positions.tolist()
    assert first != masked(changed).positions.tolist()
    assert first == masked(tokens).positions.tolist()


def test_a_mask_is_the_same_on_every_machine() -> None:
    window = masked(np.arange(5, 45, dtype=np.int32))
    assert window.positions.tolist() == PINNED_POSITIONS
    assert window.tokens[window.positions].tolist() == PINNED_TOKENS


@PROPERTY
@given(seed=st.integers(0, 500), probability=st.floats(1e-6, 1))
def test_special_tokens_are_never_hidden_and_something_always_is(
    seed: int, probability: float
) -> None:
    tokens = np.random.default_rng(seed).integers(0, 12, 60).astype(np.int32)
    tokens[0] = 7
    window = masked(tokens, probability=probability)
    assert window.n_scored >= 1
    assert not set(window.targets.tolist()) & {0, CLS, SEP, MASK}
    assert window.positions.tolist() == sorted(set(window.positions.tolist()))
    if probability == 1:
        assert window.n_scored == int(np.sum(~np.isin(tokens, [0, CLS, SEP, MASK])))


def test_only_candidates_are_hidden() -> None:
    tokens = tokens_of(3)
    window = masker(probability=1.0).window(tokens, np.arange(100, 110), 0, (0, 400))
    assert window.positions.tolist() == list(range(100, 110))


def test_a_window_of_special_tokens_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        masked(np.array([CLS, SEP, MASK], dtype=np.int32))
    assert caught.value.code == "NOTHING_TO_MASK"


def test_a_tokenizer_without_a_mask_token_is_refused(word_tokenizer: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Masker.of(word_tokenizer(), 0, 0.15)
    assert caught.value.code == "NO_MASK_TOKEN"


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.1, float("nan")])
def test_a_probability_that_is_none_is_refused(word_tokenizer: Any, probability: float) -> None:
    with pytest.raises(ConfigError, match="mask_probability"):
        Masker.of(word_tokenizer(mask=MASK), 0, probability)


def test_a_tokenizers_special_tokens_are_left_alone(word_tokenizer: Any) -> None:
    made = Masker.of(word_tokenizer((CLS,), (SEP,), mask=MASK), 0, 0.15)
    assert made.special.tolist() == [CLS, SEP, MASK]
    assert not set(made.special.tolist()) & set(made.vocabulary.tolist())


@pytest.mark.parametrize(("stride", "seq_len"), [(64, 64), (30, 64)])
def test_masked_windows_stand_between_the_tokenizers_own_tokens(
    word_tokenizer: Any, words: Any, stride: int, seq_len: int
) -> None:
    tokenizer = word_tokenizer((CLS,), (SEP,), mask=MASK)
    lengths = lengths_of(WindowSelection(seq_len, stride, 1, 1), None)
    document = Document(words(100, 500))
    cutter = TextCutter(
        [document], tokenizer, "document", lengths, "masked", Masker.of(tokenizer, 0, 0.15)
    )
    pieces = cutter.cut([0])[0]
    assert len(pieces) > 5
    scored: list[int] = []
    for piece in pieces:
        window = piece.windows[0]
        assert (window.tokens[0], window.tokens[-1]) == (CLS, SEP)
        assert len(window.tokens) <= seq_len
        # The document's token n is the number 100 + n.
        assert (piece.scored + 100).tolist() == window.targets.tolist()
        assert (window.positions - 1 + window.span[0] + 100).tolist() == window.targets.tolist()
        scored += piece.scored.tolist()
    assert len(set(scored)) == len(scored)
