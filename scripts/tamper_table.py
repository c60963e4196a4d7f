"""Write the tamper table into ``docs/tamper-table.md``; ``--check`` only compares."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from generated_page import ROOT, row, with_table, write_or_check

sys.path.insert(0, str(ROOT))

from tests.evidence.tamper import TABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRIPT = "tamper_table.py"


def table() -> str:
    """One line of the page for each of the table; a repeated row number is left out."""
    rows = ["| row | what is done | finding | exit |", "|---|---|---|---|"]
    before = 0
    for line in TABLE:
        number = "" if line.row == before else str(line.row)
        code = f"`{line.code}`" if line.code.isupper() else line.code
        status = "≥ 4" if line.code == "any" else str(line.status)
        rows.append(row((number, line.attack, code, status)))
        before = line.row
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, or with ``--check`` compare; exit status 1 where the page is stale."""
    return write_or_check(
        ROOT / "docs" / "tamper-table.md",
        SCRIPT,
        lambda page: with_table(page, "tamper table", SCRIPT, table()),
        arguments,
    )


if __name__ == "__main__":
    raise SystemExit(main())
