"""Drawing: arms share no document, all is seeded by content, ordinals follow the order of drawing."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_invarlock.data import text_windows
from pytest_invarlock.data.conventions import Span
from pytest_invarlock.data.documents import Document
from pytest_invarlock.data.windows import draw_windows
from pytest_invarlock.errors import ConfigError, DataError
from pytest_invarlock.plan import ARMS, WindowSelection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_invarlock.data.window_set import WindowSet

    Draw = Callable[..., WindowSet]

PROPERTY = settings(deadline=None, max_examples=15, database=None, derandomize=True)
SELECTION = WindowSelection(seq_len=64, stride=64, preview_windows=20, final_windows=20)


def words(start: int, count: int) -> str:
    return " ".join(f"w{number}" for number in range(start, start + count))


def documents(count: int = 80, length: int = 200) -> list[Document]:
    return [Document(words(10_000 * n + 10, length + n % 7)) for n in range(count)]


@pytest.fixture(scope="session")
def drawn(word_tokenizer: Any, texts_provider: Any) -> Draw:
    def draw_set(
        texts: Sequence[Document] | None = None,
        selection: WindowSelection = SELECTION,
        *,
        draw: int = 0,
        bos: int | None = None,
        context: int | None = None,
        **how: Any,
    ) -> WindowSet:
        provider = texts_provider(documents() if texts is None else texts)
        tokenizer = word_tokenizer(() if bos is None else (bos,), bos=bos, mask=4)
        return draw_windows(provider, tokenizer, selection, draw=draw, context=context, **how)

    return draw_set


def content(windows: WindowSet) -> dict[str, list[tuple[int, bytes]]]:
    return {
        arm: [(w.document, w.content()) for w in members] for arm, members in windows.arms.items()
    }


def sources(windows: WindowSet, arm: Any = "final") -> list[int]:
    """The place in the provider of each window's document, which the words tell."""
    return [int(window.targets[-1]) // 10_000 for window in windows.arms[arm]]


def test_too_little_text_is_an_error_that_names_the_counts(drawn: Draw) -> None:
    with pytest.raises(DataError) as caught:
        drawn(documents(10))
    assert caught.value.code == "DATA_TOO_SMALL"
    # 3 of 10 documents are in the preview arm, 3 full windows and a last piece too short in each.
    assert caught.value.cause == "the preview arm holds 9 windows in 3 documents, 20 were asked for"


def test_text_drawn_twice_does_not_count_twice(drawn: Draw) -> None:
    copies = [Document(words(10, 200), "final") for _ in range(40)]
    others = [Document(words(10_000 * n, 200), "preview") for n in range(1, 40)]
    with pytest.raises(DataError, match="the final arm holds 3 windows in 40 documents"):
        drawn([*copies, *others])


def test_a_duplicate_is_drawn_once(drawn: Draw) -> None:
    texts = [Document(words(10_000 * (n // 2), 65), "final") for n in range(60)]
    texts += [Document(words(10_000 * n, 65), "preview") for n in range(100, 140)]
    windows = drawn(texts, replace(SELECTION, final_windows=30))
    tokens = [window.tokens.tobytes() for window in windows.final]
    assert len(set(tokens)) == len(tokens) == 30
    assert windows.duplicate_fraction == 0.0


def test_a_window_that_both_arms_could_hold_is_drawn_once(drawn: Draw) -> None:
    """Boilerplate of many documents is no new evidence in a second arm."""
    shared = words(999_000, 65)
    own = [
        Document(words(10_000 * (2 * n + place), 65), arm)
        for n in range(20)
        for place, arm in enumerate(ARMS)
    ]
    windows = drawn([*own, Document(shared, "preview"), Document(shared, "final")])
    assert windows.duplicate_fraction == 0.0
    contents = [window.content() for arm in ARMS for window in windows.arms[arm]]
    assert len(set(contents)) == len(contents)
    same = [Document(words(10_000 * n, 65), arm) for n in range(20) for arm in ARMS]
    with pytest.raises(DataError, match="the final arm holds 0 windows"):
        drawn(same)


@pytest.mark.parametrize("bos", [None, 5])
def test_the_shortest_window_that_may_be_asked_for_can_be_drawn(
    drawn: Draw, bos: int | None
) -> None:
    from pytest_invarlock.policy.resources import schema

    least = schema("suite")["properties"]["dataset"]["properties"]["seq_len"]["minimum"]
    windows = drawn(selection=replace(SELECTION, seq_len=least, stride=least), bos=bos)
    assert len(windows.final) == 20


@pytest.mark.parametrize("convention", ["document", "concatenated", "row", "lm-eval-word"])
@pytest.mark.parametrize("stride", [64, 20])
def test_arms_share_no_document_and_windows_no_scored_token(
    drawn: Draw, convention: Any, stride: int
) -> None:
    selection = replace(SELECTION, convention=convention, stride=stride)
    windows = drawn(selection=selection, bos=5, context=64)
    assert not {w.document for w in windows.preview} & {w.document for w in windows.final}
    assert not set(sources(windows)) & set(sources(windows, "preview"))
    assert windows.overlap_fraction == 0.0
    scored = [t for arm in ARMS for w in windows.arms[arm] for t in w.targets.tolist()]
    assert len(set(scored)) == len(scored)


@pytest.mark.parametrize("convention", ["llama.cpp-512", "gptq-2048"])
def test_named_conventions_can_be_drawn(drawn: Draw, convention: Any) -> None:
    texts = [Document(words(10_000 * n + 10, 2500)) for n in range(60)]
    windows = drawn(texts, replace(SELECTION, convention=convention, preview_windows=15), bos=5)
    assert windows.seq_len == int(convention[-4:].strip("-p"))
    assert windows.overlap_fraction == 0.0
    assert {len(window.tokens) for window in windows.final} == {windows.seq_len}


def test_overlap_is_counted_on_what_is_delivered(
    drawn: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overlapping(length: int, room: int, stride: int, **_: Any) -> list[Span]:
        del stride
        return [Span(n, n + 1, n + room) for n in range(0, length - room, room // 2)]

    monkeypatch.setattr(text_windows, "sliding", overlapping)
    windows = drawn(selection=replace(SELECTION, final_windows=90, preview_windows=70))
    assert 0.2 < windows.overlap_fraction < 0.8
    assert windows.duplicate_fraction == 0.0


@PROPERTY
@given(count=st.integers(7, 120), seed=st.integers(0, 5))
def test_arms_hold_their_exact_shares(drawn: Draw, count: int, seed: int) -> None:
    texts = [Document(words(10_000 * n, 40)) for n in range(count)]
    asked = WindowSelection(64, 64, int(count * 0.3 + 1e-9), int(count * 0.4 + 1e-9), seed=seed)
    windows = drawn(texts, asked)
    assert len(windows.final) == asked.final_windows
    with pytest.raises(DataError):
        drawn(texts, replace(asked, final_windows=asked.final_windows + 2))


@PROPERTY
@given(order=st.permutations(range(80)), draw=st.integers(0, 2))
def test_the_order_of_a_providers_documents_changes_nothing(
    drawn: Draw, order: list[int], draw: int
) -> None:
    texts = documents()
    assert content(drawn([texts[n] for n in order], draw=draw)) == content(drawn(draw=draw))


def test_arms_the_provider_names_are_kept(drawn: Draw) -> None:
    texts = [Document(words(10_000 * n, 200), "final" if n % 2 else "preview") for n in range(40)]
    windows = drawn(texts)
    assert {n % 2 for n in sources(windows)} == {1}
    assert {n % 2 for n in sources(windows, "preview")} == {0}


def test_every_document_is_drawn_before_any_twice(drawn: Draw) -> None:
    for wanted in (20, 40, 60):
        windows = drawn(selection=replace(SELECTION, final_windows=wanted))
        counts = Counter(window.document for window in windows.final)
        assert max(counts.values()) - min([*counts.values()] if wanted >= 32 else [1]) <= 1
        assert len(counts) == min(wanted, 32)


@pytest.mark.parametrize("wanted", [20, 60])
def test_documents_are_numbered_in_the_order_of_drawing(drawn: Draw, wanted: int) -> None:
    windows = drawn(selection=replace(SELECTION, final_windows=wanted))
    first = list(dict.fromkeys(window.document for window in windows.final))
    assert first == sorted(first)
    preview = list(dict.fromkeys(window.document for window in windows.preview))
    assert preview == list(range(len(preview)))
    assert first == list(range(len(preview), len(preview) + len(first)))


def test_a_document_gives_at_most_eight_windows(drawn: Draw) -> None:
    texts = [
        Document(words(10_000 * n, 64 * 30), "final" if n < 4 else "preview") for n in range(8)
    ]
    windows = drawn(texts, replace(SELECTION, final_windows=32, preview_windows=8))
    assert set(Counter(w.document for w in windows.final).values()) == {8}
    with pytest.raises(DataError, match="holds 32 windows in 4 documents, 33 were asked"):
        drawn(texts, replace(SELECTION, final_windows=33, preview_windows=8))


def test_the_same_seed_and_draw_give_the_same_windows(drawn: Draw) -> None:
    first, second = drawn(draw=3), drawn(draw=3)
    assert content(first) == content(second)
    assert first.digest == second.digest


def test_another_draw_samples_the_same_arms_anew(drawn: Draw) -> None:
    first, second = drawn(), drawn(draw=1)
    assert sources(first) != sources(second)
    assert sources(first, "preview") != sources(second, "preview")
    everything = replace(SELECTION, final_windows=90, preview_windows=70)
    for arm in ARMS:
        of = [set(sources(drawn(selection=everything, draw=k), arm)) for k in (0, 1)]
        assert of[0] == of[1]


def test_another_seed_gives_other_windows(drawn: Draw) -> None:
    assert content(drawn()) != content(drawn(selection=replace(SELECTION, seed=1)))


def test_a_beginning_of_sequence_token_heads_every_window_and_is_never_scored(drawn: Draw) -> None:
    windows = drawn(bos=99_999_999)
    for window in (*windows.final, *windows.preview):
        assert window.tokens[0] == 99_999_999
        assert 99_999_999 not in window.targets
        assert len(window.tokens) <= 64
        assert window.tokens[window.positions + 1].tolist() == window.targets.tolist()
    # With a prefix, the first token of a document can be predicted too.
    assert any(window.positions[0] == 0 for window in windows.final)


def test_seq_len_is_capped_at_the_models_context_with_a_note(drawn: Draw) -> None:
    windows = drawn(selection=replace(SELECTION, seq_len=512, stride=512), context=48)
    assert windows.seq_len == 48
    assert max(len(window.tokens) for window in windows.final) == 48
    assert windows.notes == ("seq_len 512 capped at the model's context of 48 tokens",)
    assert drawn(context=64).notes == ()


def test_notes_of_provider_and_cutting_are_handed_on(drawn: Draw, texts_provider: Any) -> None:
    short = [Document(words(10_000 * n, 20)) for n in range(100, 120)]
    assert "documents are too short for a window" in drawn([*documents(), *short]).notes[0]


@pytest.mark.parametrize(
    "change",
    [
        {"seq_len": 63}, {"stride": 32}, {"preview_windows": 19}, {"final_windows": 19},
        {"max_windows_per_document": 7}, {"seed": 1}, {"convention": "row"},
    ],
)  # fmt: skip
def test_the_digest_changes_with_every_setting(drawn: Draw, change: dict[str, Any]) -> None:
    assert drawn(selection=replace(SELECTION, **change)).digest != drawn().digest


def test_the_digest_changes_with_draw_context_prefix_token_arm_and_reading(drawn: Draw) -> None:
    changed = documents()
    changed[17] = Document(changed[17].text + " w5")
    fixed = [Document(d.text, "final" if n < 40 else "preview") for n, d in enumerate(documents())]
    moved = [Document(d.text, "final" if n < 41 else "preview") for n, d in enumerate(documents())]
    masked = {"reading": "masked", "metric": "ppl_mlm"}
    digests = [
        drawn().digest, drawn(draw=1).digest, drawn(context=63).digest, drawn(bos=1).digest,
        drawn(changed).digest, drawn(fixed).digest, drawn(moved).digest,
        drawn(**masked).digest, drawn(**masked, mask_probability=0.2).digest,
    ]  # fmt: skip
    assert len(set(digests)) == len(digests)
    assert drawn(mask_probability=0.2).digest == drawn().digest


@settings(PROPERTY, max_examples=10)
@given(document=st.integers(0, 79), position=st.integers(0, 199))
def test_the_digest_changes_with_any_single_token(
    drawn: Draw, document: int, position: int
) -> None:
    texts = documents()
    parts = texts[document].text.split()
    parts[position] = "w999999"
    texts[document] = Document(" ".join(parts))
    assert drawn(texts).digest != drawn().digest


def test_keyed_hashes_hang_on_the_salt_and_hold_no_tokens(drawn: Draw) -> None:
    windows = drawn()
    hashes = windows.keyed_hashes(b"salt")
    assert hashes == drawn().keyed_hashes(b"salt")
    assert hashes != windows.keyed_hashes(b"pepper")
    assert {len(h) for h in hashes["final"]} == {32}
    assert len(set(hashes["final"] + hashes["preview"])) == 40
    assert json.dumps(hashes)


@pytest.mark.parametrize(
    ("metric", "reading"),
    [
        ("ppl_causal", "masked"), ("ppl_causal", "seq2seq"), ("ppl_mlm", "causal"),
        ("ppl_seq2seq", "causal"), ("accuracy", "masked"),
    ],
)  # fmt: skip
def test_a_metric_of_another_kind_of_model_is_refused(
    drawn: Draw, metric: Any, reading: Any
) -> None:
    with pytest.raises(ConfigError) as caught:
        drawn(metric=metric, reading=reading)
    assert caught.value.code == "METRIC_OF_OTHER_KIND"


def test_masked_windows_are_drawn_and_share_no_scored_token(drawn: Draw) -> None:
    windows = drawn(
        selection=replace(SELECTION, stride=40), bos=5, reading="masked", metric="ppl_mlm"
    )
    assert windows.reading == "masked"
    assert windows.overlap_fraction == 0.0
    assert all(4 in window.tokens or window.n_scored < 9 for window in windows.final)


def test_a_tokenizer_whose_special_tokens_change_the_text_is_refused(texts_provider: Any) -> None:
    def odd(text: str, *, add_special_tokens: bool, **_: Any) -> dict[str, Any]:
        return {"input_ids": [7, 8] if add_special_tokens else [9]}

    with pytest.raises(ConfigError) as caught:
        draw_windows(texts_provider(documents()), odd, SELECTION, draw=0)
    assert caught.value.code == "TOKENIZER_AFFIXES"
