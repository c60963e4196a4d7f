"""Write the table of settings into ``docs/settings.md``; ``--check`` only compares."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_invarlock.policy.settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
START = "<!-- settings table: written by scripts/settings_table.py -->"
END = "<!-- end of settings table -->"


def table() -> str:
    """One row a setting: option, default, meaning; ini and environment names follow by rule."""
    rows = ["| option | ini, environment | default | meaning |", "|---|---|---|---|"]
    for spec in SETTINGS:
        cells = (f"`{spec.usage}`", f"`{spec.dest}`, `{spec.environment}`", spec.default, spec.help)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
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
            print(f"{PAGE} is stale: run python scripts/settings_table.py", file=sys.stderr)
        return int(page != current)
    PAGE.write_text(current, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
