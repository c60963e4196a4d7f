"""WikiText's rows: headings told from paragraphs, and the article each paragraph belongs to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_invarlock.data.rows import Row, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# `` = Title = `` heads an article, `` = = Section = = `` a section of it, and so on.
_HEADING = re.compile(r"^\s*(=(?: =)*) .+ \1\s*$")


def heading_level(text: str) -> int:
    """1 for the title of an article, 2 for a section's, …; 0 for a row that is no heading."""
    found = _HEADING.match(text)
    return found.group(1).count("=") if found else 0


def paragraphs(rows: Iterable[Row], text_field: str) -> Iterator[Row]:
    """The rows that hold a paragraph, with column ``article``: the ordinal of the last title.

    Empty rows and headings are dropped. Text of a split that stands before its first title is an
    article of its own.
    """
    article = -1
    part: str | None = None
    titled = False
    for row in rows:
        text = text_of(row, text_field)
        if row.part != part:
            part, titled = row.part, False
        level = heading_level(text)
        if level == 1 or (text.strip() and not titled):
            article += 1
            titled = True
        if level == 0 and text.strip():
            yield Row(row.where, {**row.values, "article": article}, row.part)
