"""Write ``docs/migration.md`` from ``policies/migration.yaml``; ``--check`` only compares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from generated_page import ROOT, write_or_check

from pytest_invarlock.policy.migration import OldVariable, old_variables
from pytest_invarlock.policy.settings import SPECS

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = """\
# Migration from the original's variables

Every variable of the original, and what became of it. This page is written by
`scripts/migration_table.py` from `policies/migration.yaml`.

A variable that is still read stands where `INVARLOCK_X_Y` stands: below the command line and the
variable of the new name, above ini files. Each run that reads one says so, on the terminal and in
the certificate.
"""


def page() -> str:
    """The whole page."""
    variables = old_variables()
    read = [old for old in variables if old.setting or old.argument]
    honoured = [old for old in variables if old.honoured]
    dropped = [old for old in variables if old.dropped]
    return "\n".join(
        [
            HEAD,
            "## Still read\n",
            *_rows("is", [(old, _meaning(old)) for old in read]),
            "\nAn argument of a provider counts wherever that provider is chosen: in a setting, a\n"
            "suite file or a preset. It beats file and preset; what the setting of the data says\n"
            "itself (`hf_text:NAME`) beats it.\n",
            "## Read by others\n",
            *_rows("read by", [(old, old.honoured or "") for old in honoured]),
            "\n## Dropped\n",
            *_rows("reason, and what there is instead", [(o, o.dropped or "") for o in dropped]),
            "",
        ]
    )


def _meaning(old: OldVariable) -> str:
    if old.setting:
        spec = SPECS[old.setting]
        if old.name == spec.environment:
            return f"`--invarlock-{spec.name}`, under the same name"
        ignored = f"; {', '.join(old.ignored)} counts as not set" if old.ignored else ""
        return f"`--invarlock-{spec.name}`{ignored}"
    return f"argument `{old.argument}` of data provider `{old.of}`"


def _rows(heading: str, rows: Sequence[tuple[OldVariable, str]]) -> list[str]:
    return [
        f"| variable | {heading} |",
        "|---|---|",
        *(f"| `{old.name}` | {text} |" for old, text in rows),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, or with ``--check`` compare; exit status 1 where the page is stale."""
    target = ROOT / "docs" / "migration.md"
    return write_or_check(target, "migration_table.py", lambda _: page(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
