"""The tuning pool: windows from documents that no verdict rests on, and none of them elsewhere."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest
from transformers import PreTrainedTokenizerFast

from pytest_invarlock.data import get_provider
from pytest_invarlock.data.documents import Document, Example
from pytest_invarlock.data.sampling import arms_of, tuning_arms
from pytest_invarlock.data.windows import draw_windows
from pytest_invarlock.errors import DataError
from pytest_invarlock.plan import ARMS, WindowSelection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_invarlock.data.window_set import WindowSet

SELECTION = WindowSelection(seq_len=64, stride=64, preview_windows=20, final_windows=20)
TUNING = replace(SELECTION, pool="tuning")


def documents(count: int = 200, length: int = 200) -> list[Document]:
    return [
        Document(" ".join(f"w{n}" for n in range(1000 * d + 10, 1000 * d + 10 + length + d % 7)))
        for d in range(count)
    ]


@pytest.fixture(scope="session")
def draw(word_tokenizer: Any, texts_provider: Any) -> Any:
    def drawn(selection: WindowSelection, texts: Sequence[Document], **how: Any) -> WindowSet:
        return draw_windows(texts_provider(texts), word_tokenizer(), selection, draw=0, **how)

    return drawn


def places(windows: WindowSet) -> set[int]:
    return {int(w.targets[-1]) // 1000 for arm in ARMS for w in windows.arms[arm]}


def test_too_few_documents_are_an_error_that_names_count_and_remedy(draw: Any) -> None:
    with pytest.raises(DataError, match="the tuning arm holds 3 of 20 documents") as caught:
        draw(TUNING, documents(20))
    assert caught.value.code == "DATA_TOO_SMALL"
    assert "--invarlock-dataset" in caught.value.remedy
    assert len(draw(TUNING, documents(27)).preview) > 0


def test_no_document_of_the_tuning_pool_is_in_another_arm(draw: Any) -> None:
    texts = documents()
    keys = [document.content() for document in texts]
    arms = arms_of(texts, keys, SELECTION.seed)
    tuning = {index for index, arm in enumerate(arms) if arm == "tuning"}
    assert len(tuning) == 30
    found = places(draw(TUNING, texts))
    assert found <= tuning
    assert len(found) == 23  # 3 of 30 for the preview, and 20 windows of 27 for the final arm.
    for wanted in (20, 60, 100):
        certified = replace(SELECTION, preview_windows=wanted, final_windows=wanted)
        assert not places(draw(certified, texts)) & tuning


def test_a_document_that_stands_in_another_arm_too_is_not_tuned_on() -> None:
    contents = [b"a", b"b", b"c", b"d", b"e", b"a"]
    arms = ["tuning"] * 5 + ["final"]
    split = tuning_arms(arms, contents, 0)
    assert split[0] == split[5] == "unused"
    assert sorted(split[1:5]) == ["final", "final", "preview", "preview"]


def contents(windows: WindowSet) -> set[bytes]:
    return {window.content() for arm in ARMS for window in windows.arms[arm]}


def cut_beside_the_tuning_arm(draw: Any, texts: Sequence[Document], convention: str) -> set[bytes]:
    """Every window that any draw could certify on."""
    found: set[bytes] = set()
    for wanted in (20, 40, 60):
        chosen = replace(
            SELECTION, preview_windows=wanted, final_windows=wanted, convention=convention,
            max_windows_per_document=99,
        )  # fmt: skip
        found |= contents(draw(chosen, texts))
    return found


@pytest.mark.parametrize("convention", ["document", "concatenated", "row"])
def test_no_window_of_boilerplate_is_tuned_on(draw: Any, convention: str) -> None:
    # Two windows of every three stand in all documents alike.
    common = " ".join(f"w{n}" for n in range(128 if convention != "row" else 64))
    own = [document.text for document in documents(200, 64)]
    texts = [Document(f"{common} {text}") for text in own]
    if convention == "row":
        texts = [Document(f"{common} {text}", rows=(common, text)) for text in own]
    tuned = draw(replace(TUNING, convention=convention, max_windows_per_document=99), texts)
    certified = cut_beside_the_tuning_arm(draw, texts, convention)
    assert contents(tuned)
    assert not contents(tuned) & certified
    if convention != "concatenated":
        assert any("another arm holds them too" in note for note in tuned.notes)


def test_documents_that_differ_by_a_space_share_no_window_with_the_other_arms(draw: Any) -> None:
    texts = documents(200, 100)
    texts += [Document(f"{document.text} ") for document in texts[:40]]
    keys = [document.content() for document in texts]
    arms = arms_of(texts, keys, SELECTION.seed)
    torn = {i for i in range(40) if "tuning" in (one := {arms[i], arms[i + 200]}) and len(one) > 1}
    assert torn
    found = places(draw(TUNING, texts))
    assert found
    assert not found & torn


def test_where_every_window_stands_elsewhere_too_there_is_nothing_to_tune_on(draw: Any) -> None:
    common = " ".join(f"w{n}" for n in range(128))
    texts = [Document(f"{common} w{n}") for n in range(1000, 1200)]
    with pytest.raises(DataError, match="holds no windows for the preview arm that no other arm"):
        draw(TUNING, texts)


def test_the_split_follows_content_and_seed_and_not_the_order() -> None:
    contents = [str(n).encode() for n in range(44)]
    split = tuning_arms(["tuning"] * 44, contents, 0)
    assert (split.count("preview"), split.count("final")) == (4, 40)
    backwards = tuning_arms(["tuning"] * 44, contents[::-1], 0)
    assert backwards[::-1] == split
    assert tuning_arms(["tuning"] * 44, contents, 1) != split


def test_as_many_windows_as_there_are_and_a_note_that_says_so(draw: Any) -> None:
    windows = draw(replace(TUNING, preview_windows=500, final_windows=500), documents())
    assert (windows.n_drawn("preview"), windows.n_drawn("final")) == (9, 81)
    assert windows.n_documents == {"preview": 3, "final": 27}
    assert windows.notes[-1] == (
        "measured on the tuning arm, which no verdict rests on: "
        "9 preview windows of 3 documents, 81 final windows of 27 documents"
    )


def test_what_certification_draws_is_what_it_was() -> None:
    assert "pool" not in SELECTION.document()
    assert TUNING.document() == {**SELECTION.document(), "pool": "tuning"}


def test_pool_and_seed_stand_in_the_digest(draw: Any) -> None:
    texts = documents()
    made = {draw(s, texts).digest for s in (SELECTION, TUNING, replace(TUNING, seed=1))}
    assert len(made) == 3


def test_the_shipped_text_gives_forty_documents_to_judge_by() -> None:
    shipped = files("pytest_invarlock.builtin").joinpath("llama", "tokenizer.json")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(shipped))
    selection = WindowSelection(64, 64, 96, 96, pool="tuning")
    windows = draw_windows(get_provider("pydoc"), tokenizer, selection, draw=0)
    assert windows.n_documents == {"preview": 4, "final": 40}
    assert windows.n_drawn("final") == 96


def test_examples_are_counted_and_not_their_choices(draw: Any) -> None:
    texts = [
        Document("", examples=(Example(f"w{9 * n + 100}", ("w1", f"w{9 * n + 101}"), 0),))
        for n in range(60)
    ]
    windows = draw(TUNING, texts, metric="accuracy")
    assert (windows.n_drawn("preview"), len(windows.preview)) == (2, 4)
    assert (windows.n_drawn("final"), len(windows.final)) == (7, 14)


# The calibration pool: the same documents, in halves that every draw makes anew.


def test_a_calibration_reads_the_tuning_documents_alone_in_halves_of_its_own(
    word_tokenizer: Any, texts_provider: Any
) -> None:
    texts = documents()
    keys = [document.content() for document in texts]
    tuning = {i for i, arm in enumerate(arms_of(texts, keys, SELECTION.seed)) if arm == "tuning"}
    selection = replace(SELECTION, pool="calibration")
    drawn = [
        draw_windows(texts_provider(texts), word_tokenizer(), selection, draw=draw)
        for draw in range(3)
    ]
    for windows in drawn:
        assert places(windows) <= tuning
        assert windows.n_documents == {"preview": 15, "final": 15}
    previews = {frozenset(int(w.targets[-1]) // 1000 for w in w_set.preview) for w_set in drawn}
    assert len(previews) == 3


def test_too_few_documents_for_a_calibration_are_an_error() -> None:
    arms, contents = ["tuning"] * 3, [b"a", b"b", b"c"]
    with pytest.raises(DataError, match="the tuning arm holds 3 of 3 documents"):
        tuning_arms(arms, contents, 0, halves_of=0)
