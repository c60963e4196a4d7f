"""``invarlock plugins``: which guards, adapters and edits there are, and whether they import."""

from __future__ import annotations

import argparse
import inspect
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from pytest_invarlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_invarlock.cli import CommandTable
    from pytest_invarlock.registered import Registered

FORMAT = "invarlock-plugins-v1"
EXIT_BROKEN = 1
EXIT_USAGE = 2
Kind = Literal["guard", "adapter", "edit"]
KINDS: dict[str, tuple[Kind, ...]] = {
    "list": ("guard", "adapter", "edit"),
    "guards": ("guard",),
    "adapters": ("adapter",),
    "edits": ("edit",),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One plugin: ``origin`` is ``built-in`` or the distribution with its version.

    ``error`` says in one line why it cannot be used; ``code`` is the digest of another package's
    Python files.
    """

    name: str
    kind: Kind
    origin: str
    entry_point: str | None = None
    code: str | None = None
    error: str | None = None

    @property
    def status(self) -> str:
        """``ready``, or ``broken`` with the reason."""
        return "ready" if self.error is None else f"broken: {self.error}"


def register(commands: CommandTable) -> None:
    """Add the command of this module; imports nothing else of the package."""
    parser = commands.add("plugins", "list guards, adapters and edits, built-in and installed")
    parser.add_argument("what", nargs="?", choices=sorted(KINDS), default="list")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--verbose", action="store_true", help="show entry points and digests of code"
    )
    parser.add_argument("--explain", metavar="NAME", help="what one of them is and takes")
    parser.set_defaults(run=run_plugins)


def run_plugins(arguments: argparse.Namespace) -> int:
    """Print the rows; 0 where all can be used, 1 where one is broken, 2 for an unknown name."""
    from pytest_invarlock.evidence.strict_json import pretty

    rows = [row for kind in KINDS[arguments.what] for row in _ROWS[kind]()]
    if arguments.explain is not None:
        rows = [row for row in rows if row.name == arguments.explain]
        if not rows:
            print(f"invarlock: no plugin is named {arguments.explain!r}", file=sys.stderr)
            return EXIT_USAGE
    if arguments.json:
        document = {"format": FORMAT, "plugins": [asdict(r) | {"status": r.status} for r in rows]}
        sys.stdout.write(pretty(document).decode())
    elif arguments.explain is not None:
        print("\n".join(line for row in rows for line in _explained(row)))
    else:
        print("\n".join(_table(rows, verbose=arguments.verbose)))
    return EXIT_BROKEN if any(row.error is not None for row in rows) else 0


def guard_rows() -> list[Row]:
    """The built-in guards, then those that installed packages register."""
    from pytest_invarlock.policy.decision_policy import KNOWN_GUARDS
    from pytest_invarlock.policy.guard_names import NAME, RESERVED
    from pytest_invarlock.registered import GUARDS

    def refused(name: str) -> str | None:
        if name in RESERVED:
            return f"the name {name!r} is taken"
        return None if NAME.fullmatch(name) else f"the name {name!r} cannot stand in a node id"

    return _rows("guard", GUARDS, KNOWN_GUARDS, refused, ("validate",))


def adapter_rows() -> list[Row]:
    """The built-in adapters, then those that installed packages register."""
    from pytest_invarlock.policy.adapter_names import BUILT_IN
    from pytest_invarlock.registered import ADAPTERS

    def refused(name: str) -> str | None:
        return f"the name {name!r} is taken" if name in BUILT_IN else None

    return _rows("adapter", ADAPTERS, BUILT_IN, refused, ("load", "load_model", "describe"))


def edit_rows() -> list[Row]:
    """The edits and faults; no package adds one."""
    from pytest_invarlock.policy.edit_names import edit_names

    return [Row(name, "edit", "built-in", error=_without_torch()) for name in edit_names()]


_ROWS: dict[Kind, Callable[[], list[Row]]] = {
    "guard": guard_rows,
    "adapter": adapter_rows,
    "edit": edit_rows,
}


def _rows(
    kind: Kind,
    group: Any,
    built_in: Sequence[str],
    refused: Callable[[str], str | None],
    methods: Sequence[str],
) -> list[Row]:
    from pytest_invarlock.registered import registered

    found = registered(group)
    own = {name: one.value for name, entries in found.items() for one in entries if one.is_own}
    rows = [Row(name, kind, "built-in", own.get(name), error=_without_torch()) for name in built_in]
    for name, entries in found.items():
        others = [one for one in entries if not one.is_own]
        twice = "two packages register it" if len(others) > 1 else None
        rows += [
            Row(
                name,
                kind,
                _origin(one),
                one.value,
                one.code_digest(),
                refused(name) or twice or _import_problem(one, methods),
            )
            for one in others
        ]
    return rows


def _origin(one: Registered) -> str:
    return f"{one.distribution or 'unknown package'} {one.version or ''}".strip()


def _without_torch() -> str | None:
    """Why no built-in can be used, where that is so; none is imported to find out."""
    return None if find_spec("torch") is not None else "torch is not installed"


def _import_problem(one: Registered, methods: Iterable[str]) -> str | None:
    try:
        thing = one.load()
    except ConfigError as error:
        return error.cause
    if not callable(thing):
        return f"{one.value} is {type(thing).__name__}, not a class"
    if isinstance(thing, type):
        for method in methods:
            if not callable(getattr(thing, method, None)):
                return f"{one.value} has no {method}()"
    return None


def _table(rows: Sequence[Row], *, verbose: bool) -> list[str]:
    head = ["NAME", "KIND", "ORIGIN", "STATUS"]
    cells = [[row.name, row.kind, row.origin, row.status] for row in rows]
    if verbose:
        head[3:3] = ["ENTRY POINT", "CODE"]
        for row, line in zip(rows, cells, strict=True):
            line[3:3] = [row.entry_point or "-", row.code or "-"]
    widths = [max(len(line[i]) for line in (head, *cells)) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *cells)
    ]


def _explained(row: Row) -> list[str]:
    lines = [f"{row.kind} {row.name}", f"  origin       {row.origin}"]
    lines += [f"  {label:<12} {value}" for label, value in (
        ("entry point", row.entry_point), ("code", row.code), ("status", row.status)
    ) if value is not None]  # fmt: skip
    if row.error is not None or row.entry_point is None:
        return lines
    from importlib.metadata import EntryPoint

    thing = EntryPoint(row.name, row.entry_point, "").load()
    try:
        taken = str(inspect.signature(thing))
    except (TypeError, ValueError):
        taken = "what nothing tells"
    lines.append(f"  takes        {taken}")
    text = inspect.getdoc(thing)
    return [*lines, *(f"  {line}".rstrip() for line in ["", *(text or "").splitlines()])]
