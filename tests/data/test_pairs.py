"""Encoder-decoder windows: both sides with their special tokens, from pairs or halves of text."""

from __future__ import annotations

from typing import Any

from pytest_invarlock.data.conventions import lengths_of
from pytest_invarlock.data.documents import Document, TextPair
from pytest_invarlock.data.pairs import HALVES_NOTE, PairCutter
from pytest_invarlock.data.text_windows import TextCutter
from pytest_invarlock.data.windows import draw_windows
from pytest_invarlock.plan import WindowSelection

EOS = 1


def pair_documents(count: int, words: Any, pairs: int = 1) -> list[Document]:
    return [
        Document(
            pairs=tuple(
                TextPair(
                    words(1000 * n + 10 + 50 * k, 5 + k), words(500_000 + 1000 * n + 50 * k, 4)
                )
                for k in range(pairs)
            )
        )
        for n in range(count)
    ]


def test_both_sides_end_as_the_tokenizer_ends_them(word_tokenizer: Any, words: Any) -> None:
    cutter = PairCutter(pair_documents(2, words), word_tokenizer(suffix=(EOS,)), 64)
    (piece,) = cutter.cut([1])[1]
    window = piece.windows[0]
    assert window.tokens.tolist() == [*range(1010, 1015), EOS]
    assert window.targets.tolist() == [*range(501_000, 501_004), EOS]
    assert window.positions.tolist() == [0, 1, 2, 3, 4]
    assert cutter.notes == ()


def test_long_sides_are_cut_and_counted(word_tokenizer: Any, words: Any) -> None:
    document = Document(pairs=(TextPair(words(10, 30), words(100, 5)),))
    cutter = PairCutter([document], word_tokenizer(suffix=(EOS,)), 20)
    window = cutter.cut([0])[0][0].windows[0]
    assert window.tokens.tolist() == [*range(10, 29), EOS]
    assert cutter.notes == ("1 sources or targets are cut at seq_len",)


def test_pairs_are_drawn_with_documents_kept_together(
    word_tokenizer: Any, texts_provider: Any, words: Any
) -> None:
    provider = texts_provider(pair_documents(60, words, pairs=3))
    windows = draw_windows(
        provider, word_tokenizer(suffix=(EOS,)), WindowSelection(64, 64, 40, 40), draw=0,
        reading="seq2seq", metric="ppl_seq2seq",
    )  # fmt: skip
    assert windows.n_documents == {"preview": 18, "final": 24}
    assert windows.overlap_fraction == windows.duplicate_fraction == 0.0
    of = {arm: {int(w.tokens[0]) // 1000 for w in ws} for arm, ws in windows.arms.items()}
    assert not of["preview"] & of["final"]
    assert windows.reading == "seq2seq"


def test_text_is_split_in_halves_and_says_so(
    word_tokenizer: Any, texts_provider: Any, words: Any
) -> None:
    provider = texts_provider([Document(words(1000 * n + 10, 150)) for n in range(60)])
    windows = draw_windows(
        provider, word_tokenizer(suffix=(EOS,)), WindowSelection(64, 16, 20, 20), draw=0,
        reading="seq2seq", metric="ppl_seq2seq",
    )  # fmt: skip
    assert HALVES_NOTE in windows.notes
    assert windows.overlap_fraction == 0.0
    for window in windows.final:
        source, target = window.tokens.tolist(), window.targets.tolist()
        assert (source[-1], target[-1]) == (EOS, EOS)
        joined = source[:-1] + target[:-1]
        assert joined == list(range(joined[0], joined[0] + len(joined)))
        assert len(joined) == 64  # 22 are left, too few for a window
        assert window.positions.tolist() == list(range(len(target)))


def test_only_second_halves_count_as_scored(word_tokenizer: Any, words: Any) -> None:
    selection = WindowSelection(64, 64, 1, 1)
    cutter = TextCutter(
        [Document(words(100, 128))], word_tokenizer(suffix=(EOS,)), "document",
        lengths_of(selection, None), "seq2seq",
    )  # fmt: skip
    pieces = cutter.cut([0])[0]
    assert [piece.scored.tolist() for piece in pieces] == [
        list(range(32, 64)), list(range(96, 128))
    ]  # fmt: skip
