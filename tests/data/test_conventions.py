"""How text is cut: every token scored at most once, and the named conventions as they are defined."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_invarlock.data.conventions import (
    MIN_SCORED_TOKENS,
    check_convention,
    chunks,
    lengths_of,
    rolling,
    sliding,
)
from pytest_invarlock.data.documents import Document
from pytest_invarlock.data.text_windows import TextCutter
from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import CONVENTIONS, WindowSelection

PROPERTY = settings(deadline=None, max_examples=80, database=None, derandomize=True)


def selection(convention: Any, seq_len: int = 64, stride: int | None = None) -> WindowSelection:
    return WindowSelection(seq_len, stride or seq_len, 1, 1, convention=convention)


def cut(
    texts: list[str], tokenizer: Any, convention: Any, seq_len: int = 64, stride: int | None = None,
    context: int | None = None,
) -> tuple[list[Any], TextCutter]:  # fmt: skip
    lengths = lengths_of(selection(convention, seq_len, stride), context)
    cutter = TextCutter([Document(text) for text in texts], tokenizer, convention, lengths)
    pieces = cutter.cut(range(len(texts)))
    return [piece for index in sorted(pieces) for piece in pieces[index]], cutter


@PROPERTY
@given(
    length=st.integers(0, 700), room=st.integers(33, 200), stride=st.integers(1, 250),
    first=st.sampled_from([0, 1]), least=st.sampled_from([1, MIN_SCORED_TOKENS]),
)  # fmt: skip
def test_no_token_is_scored_twice(
    length: int, room: int, stride: int, first: int, least: int
) -> None:
    spans = sliding(length, room, min(stride, room), first=first, least_last=least)
    scored = Counter(place for span in spans for place in range(span.first, span.end))
    assert set(scored.values()) <= {1}
    assert set(scored) <= set(range(first, length))
    for span in spans:
        assert 0 <= span.start <= span.first < span.end <= length
        assert span.first >= span.start + first
        assert span.end - span.start <= room
        if span.end == length:
            assert span.end - span.first >= least


@PROPERTY
@given(length=st.integers(100, 700), seq_len=st.integers(40, 200), overlap=st.integers(1, 100))
@example(length=111, seq_len=40, overlap=9)
def test_with_overlap_all_but_ends_is_scored(length: int, seq_len: int, overlap: int) -> None:
    stride = max(1, seq_len - overlap)
    spans = sliding(length, seq_len, stride, first=1, least_last=MIN_SCORED_TOKENS)
    scored = sum(span.end - span.first for span in spans)
    # The first token has no context, and fewer than 32 at the end are no window.
    assert length - 1 - (MIN_SCORED_TOKENS - 1) <= scored <= length - 1
    spans = sliding(length, seq_len, stride, first=1)
    assert sum(span.end - span.first for span in spans) == length - 1


@pytest.mark.parametrize(("length", "windows"), [(64, 1), (64 + 32, 1), (64 + 33, 2), (128, 2)])
def test_a_last_piece_that_scores_fewer_than_32_is_dropped(length: int, windows: int) -> None:
    assert len(sliding(length, 64, 64, first=1, least_last=MIN_SCORED_TOKENS)) == windows


def by_definition(
    tokens: list[int], prefix: int, seq_len: int
) -> list[tuple[list[int], list[int]]]:
    """(read, predicted) of rolling windows, straight from their description."""
    windows = []
    done = 0
    while done < len(tokens):
        end = min(done + seq_len, len(tokens))
        read = [prefix, *tokens][:end] if done == 0 else tokens[max(end - seq_len - 1, 0) : end - 1]
        windows.append((read, tokens[done:end]))
        done = end
    return windows


@PROPERTY
@given(length=st.integers(1, 300), seq_len=st.integers(2, 80))
def test_rolling_windows_score_every_token_once_with_all_the_context_that_fits(
    length: int, seq_len: int
) -> None:
    spans = rolling(length, seq_len)
    assert [t for s in spans for t in range(s.first, s.end)] == list(range(length))
    for span in spans:
        read = span.end - 1 - span.start
        assert read <= seq_len
        assert read == seq_len or span.start == -1


def test_lm_eval_windows_are_those_of_the_definition(word_tokenizer: Any, words: Any) -> None:
    tokenizer = word_tokenizer(bos=1, eos=2)
    pieces, _ = cut([words(100, 150)], tokenizer, "lm-eval-word", context=64)
    expected = by_definition(list(range(100, 250)), 1, 64)
    assert [
        (p.windows[0].tokens.tolist(), p.windows[0].targets.tolist()) for p in pieces
    ] == expected
    for piece in pieces:
        window = piece.windows[0]
        assert window.positions[-1] == len(window.tokens) - 1
        assert len(window.positions) == len(window.targets)
        # The token before each target is the one that is read there.
        for position, target in zip(window.positions, window.targets, strict=True):
            assert window.tokens[position] in (target - 1, 1)
    # Without a begin-of-sequence token the end-of-sequence token stands first.
    pieces, _ = cut([words(100, 10)], word_tokenizer(eos=2), "lm-eval-word", context=64)
    assert pieces[0].windows[0].tokens[0] == 2


@pytest.mark.parametrize(
    "text",
    ["one two three", "  lead  and\ttail \n", "Ümläut 日本語 test — x", "a" * 400 + " b", "x"],
)
def test_the_words_of_a_documents_windows_add_up_to_its_words(tokenizer: Any, text: str) -> None:
    tokenizer_with_start = tokenizer
    for repeats in (1, 7, 40):
        document = text * repeats
        pieces, _ = cut([document], tokenizer_with_start, "lm-eval-word", context=32)
        counts = [piece.windows[0].words for piece in pieces]
        assert sum(counts) == len(document.split())
        assert min(counts, default=1) >= 1
        scored = np.concatenate([piece.scored for piece in pieces])
        assert scored.tolist() == list(range(len(scored)))


def test_lm_eval_needs_a_start_token_and_offsets(word_tokenizer: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        cut(["w5 w6"], word_tokenizer(), "lm-eval-word")
    assert caught.value.code == "NO_START_TOKEN"
    slow = word_tokenizer(bos=1)
    slow.is_fast = False
    with pytest.raises(ConfigError) as caught:
        cut(["w5 w6"], slow, "lm-eval-word")
    assert caught.value.code == "NO_OFFSETS"


@pytest.mark.parametrize("prefix", [(), (1,)])
def test_llama_cpp_scores_the_second_half_of_each_chunk(
    word_tokenizer: Any, words: Any, prefix: tuple[int, ...]
) -> None:
    texts = [words(10_000 * n, 300) for n in range(1, 7)]
    stream = [10_000 * n + k for n in range(1, 7) for k in range(300)]
    pieces, _ = cut(texts, word_tokenizer(prefix), "llama.cpp-512")
    assert len(pieces) == 1800 // 512
    for number, piece in enumerate(pieces):
        window = piece.windows[0]
        chunk = stream[512 * number : 512 * (number + 1)]
        assert window.positions.tolist() == list(range(256, 511))
        assert window.targets.tolist() == chunk[257:512]
        assert window.tokens.tolist() == [*prefix, *chunk[len(prefix) :]]
        assert window.document == stream.index(chunk[257]) // 300


def test_gptq_scores_all_but_the_first_token_of_each_chunk(word_tokenizer: Any, words: Any) -> None:
    texts = [words(10_000 * n, 1500) for n in range(1, 5)]
    stream = [1] + [10_000 * n + k for n in range(1, 5) for k in range(1500)]
    pieces, _ = cut(texts, word_tokenizer((1,)), "gptq-2048")
    assert [piece.windows[0].tokens.tolist() for piece in pieces] == [
        stream[2048 * n : 2048 * (n + 1)] for n in range(len(stream) // 2048)
    ]
    assert {piece.windows[0].n_scored for piece in pieces} == {2047}
    assert pieces[0].windows[0].span == (0, 1500)


def test_the_separators_of_the_named_conventions_are_tokenised_with_the_text(
    tokenizer: Any,
) -> None:
    texts = [f"ka lo mi {n}" * 60 for n in range(20)]
    for convention, separator in (("llama.cpp-512", "\n"), ("gptq-2048", "\n\n")):
        pieces, _ = cut(texts, tokenizer, convention)
        joined = tokenizer.decode(pieces[0].windows[0].tokens)
        assert separator.join(texts).startswith(joined)


@pytest.mark.parametrize("eos", [None, 2])
def test_concatenated_windows_run_over_documents_and_score_each_token_once(
    word_tokenizer: Any, words: Any, eos: int | None
) -> None:
    texts = [words(1000 * n, 50) for n in range(1, 9)]
    ending = [] if eos is None else [eos]
    stream = [t for n in range(1, 9) for t in [*range(1000 * n, 1000 * n + 50), *ending]]
    pieces, cutter = cut(texts, word_tokenizer(eos=eos), "concatenated", 64, 40)
    windows = [piece.windows[0] for piece in pieces]
    assert [t for window in windows for t in window.targets.tolist()] == stream[1:]
    scored = np.concatenate([piece.scored for piece in pieces])
    assert scored.tolist() == list(range(1, len(stream)))
    for window in windows:
        assert (window.document + 1) * 1000 <= window.targets[0] or window.targets[0] == eos
        assert 0 <= window.span[0] < window.span[1] <= 50 + len(ending)
    assert cutter.notes == ()


def test_a_row_is_a_window_and_long_ones_are_counted(word_tokenizer: Any, words: Any) -> None:
    documents = [Document("x", rows=(words(100, 40), words(200, 100))), Document(words(300, 1))]
    lengths = lengths_of(selection("row"), None)
    cutter = TextCutter(documents, word_tokenizer(), "row", lengths)
    pieces = cutter.cut([0, 1])
    windows = [piece.windows[0] for piece in pieces[0]]
    assert [window.tokens.tolist() for window in windows] == [
        list(range(100, 140)), list(range(200, 264))
    ]  # fmt: skip
    assert [window.span for window in windows] == [(0, 40), (40, 104)]
    assert pieces[1] == []
    assert cutter.notes == ("1 documents are too short for a window", "1 rows are cut at seq_len")


@pytest.mark.parametrize(("convention", "needs"), [("llama.cpp-512", 512), ("gptq-2048", 2048)])
def test_a_context_that_is_too_short_for_a_named_convention_is_refused(
    convention: Any, needs: int
) -> None:
    assert lengths_of(selection(convention), needs).seq_len == needs
    assert lengths_of(selection(convention), None).stride == needs
    with pytest.raises(ConfigError) as caught:
        lengths_of(selection(convention), needs - 1)
    assert caught.value.code == "CONTEXT_TOO_SHORT"
    assert convention in caught.value.cause


def test_lm_eval_takes_the_models_whole_context() -> None:
    assert lengths_of(selection("lm-eval-word", 64), 1024).seq_len == 1024
    assert lengths_of(selection("lm-eval-word", 64), None).seq_len == 64


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_conventions_are_refused_where_they_say_nothing(convention: Any) -> None:
    check_convention(convention, "causal", "text")
    for reading, content, allowed in (
        ("masked", "text", ("document", "concatenated", "row")),
        ("seq2seq", "text", ("document", "concatenated", "row")),
        ("seq2seq", "pairs", ("document", "row")),
        ("causal", "choices", ("document", "row")),
    ):
        if convention in allowed:
            check_convention(convention, reading, content)  # type: ignore[arg-type]
        else:
            with pytest.raises(ConfigError) as caught:
                check_convention(convention, reading, content)  # type: ignore[arg-type]
            assert caught.value.code == "CONVENTION_OF_OTHER_KIND"


def test_windows_without_room_for_text_are_refused(word_tokenizer: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        cut(["w5 w6"], word_tokenizer((1, 2)), "document", 3)
    assert caught.value.code == "SEQ_LEN"


def test_only_whole_chunks_are_kept() -> None:
    assert [(s.start, s.first, s.end) for s in chunks(25, 10, 6)] == [(0, 6, 10), (10, 16, 20)]
    assert chunks(9, 10, 6) == []
