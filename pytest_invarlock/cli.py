"""The ``invarlock`` console script: a list of modules, each of which registers its commands."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from pytest_invarlock.errors import InvarlockError

# Each has ``register(commands: CommandTable) -> None`` and imports nothing heavy to do so.
COMMAND_MODULES = (
    "pytest_invarlock.run_commands",
    "pytest_invarlock.evidence.commands",
    "pytest_invarlock.evidence.pack_commands",
    "pytest_invarlock.regate_commands",
    "pytest_invarlock.doctor.commands",
    "pytest_invarlock.plugin_commands",
    "pytest_invarlock.report_commands",
)
PYTEST_FRONTS = ("run", "certify")
"""Commands with pytest's exit statuses; what stands after ``--`` is for pytest."""
EXIT_USAGE = 2
EXIT_PYTEST_USAGE = 4
EXIT_MISSING = 3
EXIT_CRASHED = 70
EXIT_INTERRUPTED = 130


class CommandTable:
    """Where a module adds its commands, at the top or in a group such as ``evidence-pack``."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._top = parser.add_subparsers(metavar="COMMAND", required=True)
        self._groups: dict[str, argparse._SubParsersAction[argparse.ArgumentParser]] = {}

    def add(self, name: str, summary: str) -> argparse.ArgumentParser:
        """A new command's parser; ``set_defaults(run=...)`` takes arguments to an exit status."""
        return self._top.add_parser(name, help=summary, description=summary, allow_abbrev=False)

    def add_to(self, group: str, name: str, summary: str) -> argparse.ArgumentParser:
        """As :meth:`add`, for ``invarlock GROUP NAME``; the group is made when first named."""
        if group not in self._groups:
            parser = self._top.add_parser(group, help=f"{group} commands", allow_abbrev=False)
            self._groups[group] = parser.add_subparsers(metavar="COMMAND", required=True)
        return self._groups[group].add_parser(
            name, help=summary, description=summary, allow_abbrev=False
        )


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command of :data:`COMMAND_MODULES`."""
    parser = argparse.ArgumentParser(
        prog="invarlock",
        description="regression gates for changed language models, with evidence others can check",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    table = CommandTable(parser)
    for name in COMMAND_MODULES:
        import_module(name).register(table)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status (2: usage; 4 for the fronts to pytest, as there)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        from pytest_invarlock import __version__

        print(f"pytest-invarlock {__version__}")
        return 0
    options = _parsed(arguments)
    try:
        status: int = options.run(options)
    except InvarlockError as error:
        from pytest_invarlock.evidence.plain_text import plain

        # It may name what a stranger's pack names, in lines of ours.
        lines = map(plain, f"invarlock: {error.code}: {error}".splitlines())
        print("\n".join(lines), file=sys.stderr)
        return EXIT_USAGE
    except OSError as error:
        print(f"invarlock: {error}", file=sys.stderr)
        return EXIT_MISSING
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        # Python's own status of a crash is 1, which here means "valid, but not PASS".
        traceback.print_exc()
        raise SystemExit(EXIT_CRASHED) from error
    return status


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    own, for_pytest = list(arguments), []
    is_front = own[:1] and own[0] in PYTEST_FRONTS
    if is_front and "--" in own:
        end = own.index("--")
        own, for_pytest = own[:end], own[end + 1 :]
    try:
        options = build_parser().parse_args(own)
    except SystemExit as stop:
        if is_front and stop.code == EXIT_USAGE:
            raise SystemExit(EXIT_PYTEST_USAGE) from stop
        raise
    options.pytest_arguments = for_pytest
    return options
