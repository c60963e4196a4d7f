"""A page of the docs that a script writes: made anew, or compared with what it should be."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parents[1]


def row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def with_table(page: str, name: str, script: str, table: str) -> str:
    """``page`` with ``table`` between the comments that name the table and its script.

    Raises ValueError where the page lacks them.
    """
    start, end = f"<!-- {name}: written by scripts/{script} -->", f"<!-- end of {name} -->"
    before, found, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page lacks the comments that enclose the {name}")
    return f"{before}{start}\n\n{table}\n\n{end}{after}"


def write_or_check(
    page: Path, script: str, made: Callable[[str], str], arguments: Sequence[str] | None
) -> int:
    """Write ``page``, or with ``--check`` compare; exit status 1 where it is stale.

    Args:
        page: which need not exist.
        script: the name of the script that writes it.
        made: the page as it should be, of the page as it is.
        arguments: of the command line; None: this process's.
    """
    parser = argparse.ArgumentParser(description=f"Writes {page.relative_to(ROOT)}.")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    new = made(old)
    if not options.check:
        page.write_text(new, encoding="utf-8")
        return 0
    if old != new:
        print(f"{page} is stale: run python scripts/{script}", file=sys.stderr)
    return int(old != new)
