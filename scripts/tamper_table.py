"""Write the tamper table into ``docs/tamper-table.md``; ``--check`` only compares."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.evidence.tamper import TABLE  # noqa: E402 - the tests are no installed package

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = ROOT / "docs" / "tamper-table.md"
START = "<!-- tamper table: written by scripts/tamper_table.py -->"
END = "<!-- end of tamper table -->"


def table() -> str:
    """One line of the page for each of the table; a repeated row number is left out."""
    rows = ["| row | what is done | finding | exit |", "|---|---|---|---|"]
    before = 0
    for line in TABLE:
        number = "" if line.row == before else str(line.row)
        code = f"`{line.code}`" if line.code.isupper() else line.code
        status = "≥ 4" if line.code == "any" else str(line.status)
        cells = (number, line.attack, code, status)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        before = line.row
    return "\n".join(rows)


def with_table(page: str) -> str:
    """``page`` with the current table between its marker comments."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{PAGE.name} lacks the comments that enclose the table")
    return f"{before}{START}\n\n{table()}\n\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, or with ``--check`` compare; exit status 1 where the page is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    page = PAGE.read_text(encoding="utf-8")
    current = with_table(page)
    if options.check:
        if page != current:
            print(f"{PAGE} is stale: run python scripts/tamper_table.py", file=sys.stderr)
        return int(page != current)
    PAGE.write_text(current, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
