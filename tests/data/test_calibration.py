"""The guards' windows: of documents and contents of neither arm, few, and the same every time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pytest_invarlock.data.documents import Document
from pytest_invarlock.data.window_set import Window, first_counted, n_counted
from pytest_invarlock.data.windows import draw_windows
from pytest_invarlock.plan import ARMS, WindowSelection

if TYPE_CHECKING:
    from pytest_invarlock.data.window_set import WindowSet

SELECTION = WindowSelection(
    seq_len=64, stride=64, preview_windows=20, final_windows=20, guard_windows=7
)
DOCUMENTS = [
    Document(" ".join(f"w{n}" for n in range(1000 * d + 10, 1000 * d + 210 + d % 7)))
    for d in range(200)
]


@pytest.fixture
def drawn(word_tokenizer: Any, texts_provider: Any) -> Any:
    def of(texts: list[Document], draw: int = 0, **selection: Any) -> WindowSet:
        chosen = replace(SELECTION, **selection)
        return draw_windows(texts_provider(texts), word_tokenizer(), chosen, draw=draw)

    return of


def contents(windows: tuple[Window, ...]) -> list[bytes]:
    return [window.tokens.tobytes() for window in windows]


def documents(windows: tuple[Window, ...]) -> set[int]:
    return {int(token) // 1000 for window in windows for token in window.tokens}


@pytest.mark.parametrize("draw", range(3))
def test_no_document_and_no_content_is_of_an_arm(drawn: Any, draw: int) -> None:
    windows = drawn(DOCUMENTS, draw)
    assert len(windows.calibration) == 7
    for arm in ARMS:
        assert not documents(windows.calibration) & documents(windows.arms[arm])
    # The same text again, as other documents: what an arm holds is not drawn for the guards too.
    copies = [Document(f"{document.text} w{d}") for d, document in enumerate(DOCUMENTS)]
    twice = drawn(DOCUMENTS + copies, draw)
    held = {content for arm in ARMS for content in contents(twice.arms[arm])}
    assert len(twice.calibration) > 0
    assert not set(contents(twice.calibration)) & held


@pytest.mark.parametrize("count", [1, 5, 16])
def test_there_are_at_most_as_many_as_the_selection_says(drawn: Any, count: int) -> None:
    windows = drawn(DOCUMENTS, guard_windows=count)
    assert len(windows.calibration) == count
    assert len(set(contents(windows.calibration))) == count


def test_they_are_the_same_every_time_and_others_in_another_draw(drawn: Any) -> None:
    one, again, other = drawn(DOCUMENTS), drawn(DOCUMENTS), drawn(DOCUMENTS, 1)
    assert contents(one.calibration) == contents(again.calibration)
    assert contents(one.calibration) != contents(other.calibration)
    assert documents(one.calibration) != documents(other.calibration)


def test_the_arms_do_not_depend_on_them(drawn: Any) -> None:
    few, many = drawn(DOCUMENTS, guard_windows=1), drawn(DOCUMENTS, guard_windows=16)
    for arm in ARMS:
        for one, other in zip(few.arms[arm], many.arms[arm], strict=True):
            assert np.array_equal(one.tokens, other.tokens)


def test_choices_are_counted_by_their_examples() -> None:
    plain = [Window.causal(np.arange(9, dtype=np.int32), 1, document) for document in range(5)]
    choices = [replace(window, example=number // 2) for number, window in enumerate(plain)]
    assert (n_counted(plain), n_counted(choices), n_counted([])) == (5, 3, 0)
    assert first_counted(plain, 2) == tuple(plain[:2])
    assert first_counted(choices, 2) == tuple(choices[:4])
    assert first_counted([], 2) == ()
