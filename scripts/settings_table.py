"""Write the table of settings into ``docs/settings.md``; ``--check`` only compares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from generated_page import ROOT, row, with_table, write_or_check

from pytest_invarlock.policy.settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRIPT = "settings_table.py"


def table() -> str:
    """One row a setting: option, default, meaning; ini and environment names follow by rule."""
    rows = ["| option | ini, environment | default | meaning |", "|---|---|---|---|"]
    for spec in SETTINGS:
        names = f"`{spec.dest}`, `{spec.environment}`"
        rows.append(row((f"`{spec.usage}`", names, spec.default, spec.help)))
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, or with ``--check`` compare; exit status 1 where the page is stale."""
    return write_or_check(
        ROOT / "docs" / "settings.md",
        SCRIPT,
        lambda page: with_table(page, "settings table", SCRIPT, table()),
        arguments,
    )


if __name__ == "__main__":
    raise SystemExit(main())
