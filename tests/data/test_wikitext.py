"""WikiText's rows: headings, and which article a paragraph belongs to."""

from __future__ import annotations

import pytest

from pytest_invarlock.data.rows import Row
from pytest_invarlock.data.wikitext import heading_level, paragraphs


@pytest.mark.parametrize(
    ("text", "level"),
    [
        (" = Robert Boulter = \n", 1), (" = = Career = = \n", 2), (" = = = 2000 = = = \n", 3),
        (" = A = B = \n", 1), (" plain text \n", 0), ("", 0), (" x = y = z \n", 0), (" = \n", 0),
    ],
)  # fmt: skip
def test_headings_have_their_level(text: str, level: int) -> None:
    assert heading_level(text) == level


def test_paragraphs_know_their_article_and_nothing_else_is_left() -> None:
    texts = ["", " before \n", " = A = \n", "", " a1 \n", " = = S = = \n", " a2 \n", " = B = \n", " b \n"]  # fmt: skip
    rows = [Row(str(n), {"text": text}, "validation") for n, text in enumerate(texts)]
    rows += [Row("t0", {"text": " tail \n"}, "test"), Row("t1", {"text": " = C = \n"}, "test")]
    rows += [Row("t2", {"text": " c \n"}, "test")]
    found = [
        (row.values["text"].strip(), row.values["article"]) for row in paragraphs(rows, "text")
    ]
    assert found == [("before", 0), ("a1", 1), ("a2", 1), ("b", 2), ("tail", 3), ("c", 4)]
