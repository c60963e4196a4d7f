"""Windows: each token is scored at most once, arms share no document, and all of it is seeded."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_invarlock.data.providers import Document, Provider
from pytest_invarlock.data.windows import MIN_SCORED_TOKENS, WindowSet, _cut, draw_windows
from pytest_invarlock.errors import DataError
from pytest_invarlock.plan import WindowSelection

if TYPE_CHECKING:
    from collections.abc import Sequence

PROPERTY = settings(deadline=None, max_examples=80, database=None, derandomize=True)
SELECTION = WindowSelection(seq_len=64, stride=64, preview_windows=20, final_windows=20)


class WhitespaceTokenizer:
    """Words ``w<number>`` to their numbers; ``bos`` is put first as some tokenizers do."""

    def __init__(self, bos: int | None = None) -> None:
        self.bos_token_id = bos

    def __call__(self, text: str, *, add_special_tokens: bool = True, **_: Any) -> dict[str, Any]:
        ids = [int(word[1:]) if word[1:].isdigit() else 0 for word in text.split()]
        prefix = [self.bos_token_id] if add_special_tokens and self.bos_token_id is not None else []
        return {"input_ids": prefix + ids}


class Texts(Provider):
    kind = "texts"

    def __init__(self, documents: Sequence[Document]) -> None:
        self._documents = documents

    def documents(self) -> Sequence[Document]:
        return self._documents

    def source_digest(self) -> str:
        return "sha256:" + "0" * 64


def words(start: int, count: int) -> str:
    return " ".join(f"w{number}" for number in range(start, start + count))


def documents(count: int = 80, length: int = 200) -> list[Document]:
    return [Document(words(10_000 * n, length + n % 7)) for n in range(count)]


def drawn(
    texts: Sequence[Document] | None = None,
    selection: WindowSelection = SELECTION,
    *,
    draw: int = 0,
    bos: int | None = None,
    context: int | None = None,
) -> WindowSet:
    provider = Texts(documents() if texts is None else texts)
    return draw_windows(provider, WhitespaceTokenizer(bos), selection, draw=draw, context=context)


def content(windows: WindowSet) -> dict[str, list[tuple[int, int, bytes]]]:
    return {
        arm: [(w.document, w.first_scored, w.tokens.tobytes()) for w in members]
        for arm, members in windows.arms.items()
    }


def test_too_little_text_is_an_error_that_names_the_counts() -> None:
    with pytest.raises(DataError) as caught:
        drawn(documents(10))
    assert caught.value.code == "DATA_TOO_SMALL"
    # 4 of 10 documents are in the final arm, 3 full windows and a last piece too short in each.
    assert caught.value.cause == (
        "the final arm holds 12 windows in 4 documents, 20 were asked for"
    ) or caught.value.cause == ("the preview arm holds 9 windows in 3 documents, 20 were asked for")


def test_text_drawn_twice_does_not_count_twice() -> None:
    copies = [Document(words(0, 200), "final") for _ in range(40)]
    others = [Document(words(10_000 * n, 200), "preview") for n in range(1, 40)]
    with pytest.raises(DataError, match="the final arm holds 3 windows in 40 documents"):
        drawn([*copies, *others])


def test_a_duplicate_is_drawn_once() -> None:
    texts = [Document(words(10_000 * (n // 2), 65), "final") for n in range(60)]
    texts += [Document(words(10_000 * n, 65), "preview") for n in range(100, 140)]
    windows = drawn(texts, replace(SELECTION, final_windows=30))
    tokens = [window.tokens.tobytes() for window in windows.final]
    assert len(set(tokens)) == len(tokens) == 30


@PROPERTY
@given(
    length=st.integers(0, 700),
    seq_len=st.integers(33, 200),
    stride=st.integers(1, 250),
    prefix=st.sampled_from([(), (7,)]),
)
def test_no_token_is_scored_twice(
    length: int, seq_len: int, stride: int, prefix: tuple[int, ...]
) -> None:
    tokens = np.arange(length, dtype=np.int32) + 1000
    windows = _cut(tokens, 0, seq_len, min(stride, seq_len), prefix)
    scored = Counter(
        int(token) for window in windows for token in window.tokens[window.first_scored :]
    )
    assert set(scored.values()) <= {1}
    assert set(scored) <= set(tokens.tolist())
    for window in windows:
        assert len(window.tokens) <= seq_len
        last = window.tokens[-1] == tokens[-1]
        assert window.n_scored >= (MIN_SCORED_TOKENS if last else min(stride, MIN_SCORED_TOKENS))
        assert window.first_scored >= 1
        assert tuple(window.tokens[: len(prefix)]) == prefix
        body = window.tokens[len(prefix) :]
        assert body.tolist() == list(range(int(body[0]), int(body[0]) + len(body)))


@PROPERTY
@given(length=st.integers(100, 700), seq_len=st.integers(40, 200), overlap=st.integers(1, 100))
@example(length=111, seq_len=40, overlap=9)
def test_with_overlap_all_but_ends_is_scored(length: int, seq_len: int, overlap: int) -> None:
    stride = max(1, seq_len - overlap)
    windows = _cut(np.arange(length, dtype=np.int32), 0, seq_len, stride, ())
    scored = sum(window.n_scored for window in windows)
    # The first token has no context, and fewer than 32 at the end are no window.
    assert length - 1 - (MIN_SCORED_TOKENS - 1) <= scored <= length - 1


@pytest.mark.parametrize(("length", "windows"), [(64, 1), (64 + 32, 1), (64 + 33, 2), (128, 2)])
def test_a_last_piece_that_scores_fewer_than_32_is_dropped(length: int, windows: int) -> None:
    assert len(_cut(np.arange(length, dtype=np.int32), 0, 64, 64, ())) == windows


@pytest.mark.parametrize("bos", [None, 5])
def test_the_shortest_window_that_may_be_asked_for_can_be_drawn(bos: int | None) -> None:
    from pytest_invarlock.policy.resources import schema

    least = schema("suite")["properties"]["dataset"]["properties"]["seq_len"]["minimum"]
    windows = drawn(selection=replace(SELECTION, seq_len=least, stride=least), bos=bos)
    assert len(windows.final) == 20


def test_arms_share_no_document() -> None:
    windows = drawn()
    assert not {w.document for w in windows.preview} & {w.document for w in windows.final}
    assert windows.n_documents == {"preview": 20, "final": 20}


@PROPERTY
@given(count=st.integers(7, 120), seed=st.integers(0, 5))
def test_arms_hold_their_exact_shares(count: int, seed: int) -> None:
    texts = [Document(words(10_000 * n, 40)) for n in range(count)]
    asked = WindowSelection(64, 64, int(count * 0.3 + 1e-9), int(count * 0.4 + 1e-9), seed=seed)
    windows = drawn(texts, asked)
    assert len(windows.final) == asked.final_windows
    with pytest.raises(DataError):
        drawn(texts, replace(asked, final_windows=asked.final_windows + 2))


def test_arms_the_provider_names_are_kept() -> None:
    texts = [Document(words(10_000 * n, 200), "final" if n % 2 else "preview") for n in range(40)]
    windows = drawn(texts)
    assert {w.document % 2 for w in windows.final} == {1}
    assert {w.document % 2 for w in windows.preview} == {0}


def test_every_document_is_drawn_before_any_twice() -> None:
    for wanted in (20, 40, 60):
        windows = drawn(selection=replace(SELECTION, final_windows=wanted))
        counts = Counter(window.document for window in windows.final)
        assert max(counts.values()) - min([*counts.values()] if wanted >= 32 else [1]) <= 1
        assert len(counts) == min(wanted, 32)


def test_a_document_gives_at_most_eight_windows() -> None:
    texts = [
        Document(words(10_000 * n, 64 * 30), "final" if n < 4 else "preview") for n in range(8)
    ]
    windows = drawn(texts, replace(SELECTION, final_windows=32, preview_windows=8))
    assert set(Counter(w.document for w in windows.final).values()) == {8}
    with pytest.raises(DataError, match="holds 32 windows in 4 documents, 33 were asked"):
        drawn(texts, replace(SELECTION, final_windows=33, preview_windows=8))


def test_the_same_seed_and_draw_give_the_same_windows() -> None:
    first, second = drawn(draw=3), drawn(draw=3)
    assert content(first) == content(second)
    assert first.digest == second.digest


def test_another_draw_samples_the_same_arms_anew() -> None:
    first, second = drawn(), drawn(draw=1)
    assert content(first)["final"] != content(second)["final"]
    assert content(first)["preview"] != content(second)["preview"]
    everything = replace(SELECTION, final_windows=90, preview_windows=70)
    for arm in ("final", "preview"):
        documents_of = [
            {w.document for w in drawn(selection=everything, draw=k).arms[arm]} for k in (0, 1)
        ]  # type: ignore[index]
        assert documents_of[0] == documents_of[1]


def test_another_seed_gives_other_windows() -> None:
    assert content(drawn()) != content(drawn(selection=replace(SELECTION, seed=1)))


def test_a_beginning_of_sequence_token_heads_every_window_and_is_never_scored() -> None:
    windows = drawn(bos=99_999_999)
    for window in (*windows.final, *windows.preview):
        assert window.tokens[0] == 99_999_999
        assert 99_999_999 not in window.tokens[window.first_scored :]
        assert len(window.tokens) <= 64
    # With a prefix, the first token of a document can be predicted too.
    assert any(window.first_scored == 1 for window in windows.final)


def test_seq_len_is_capped_at_the_models_context_with_a_note() -> None:
    windows = drawn(selection=replace(SELECTION, seq_len=512, stride=512), context=48)
    assert windows.seq_len == 48
    assert max(len(window.tokens) for window in windows.final) == 48
    assert windows.notes == ("seq_len 512 capped at the model's context of 48 tokens",)
    assert drawn(context=64).notes == ()


@pytest.mark.parametrize(
    "change",
    [
        {"seq_len": 63},
        {"stride": 32},
        {"preview_windows": 19},
        {"final_windows": 19},
        {"max_windows_per_document": 7},
        {"seed": 1},
    ],
)
def test_the_digest_changes_with_every_setting(change: dict[str, int]) -> None:
    assert drawn(selection=replace(SELECTION, **change)).digest != drawn().digest


def test_the_digest_changes_with_draw_context_prefix_token_and_arm() -> None:
    changed = documents()
    changed[17] = Document(changed[17].text + " w5")
    fixed = [Document(d.text, "final" if n < 40 else "preview") for n, d in enumerate(documents())]
    moved = [Document(d.text, "final" if n < 41 else "preview") for n, d in enumerate(documents())]
    digests = [
        drawn().digest, drawn(draw=1).digest, drawn(context=63).digest, drawn(bos=1).digest,
        drawn(changed).digest, drawn(fixed).digest, drawn(moved).digest,
    ]  # fmt: skip
    assert len(set(digests)) == len(digests)


@settings(PROPERTY, max_examples=20)
@given(document=st.integers(0, 79), position=st.integers(0, 199))
def test_the_digest_changes_with_any_single_token(document: int, position: int) -> None:
    texts = documents()
    parts = texts[document].text.split()
    parts[position] = "w999999"
    texts[document] = Document(" ".join(parts))
    assert drawn(texts).digest != drawn().digest


def test_keyed_hashes_hang_on_the_salt_and_hold_no_tokens() -> None:
    windows = drawn()
    hashes = windows.keyed_hashes(b"salt")
    assert hashes == drawn().keyed_hashes(b"salt")
    assert hashes != windows.keyed_hashes(b"pepper")
    assert {len(h) for h in hashes["final"]} == {32}
    assert len(set(hashes["final"] + hashes["preview"])) == 40
    assert json.dumps(hashes)
