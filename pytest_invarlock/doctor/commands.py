"""``invarlock doctor``: what the package makes of a model, before anything is measured."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_invarlock.cli import CommandTable


def register(commands: CommandTable) -> None:
    """Add the command of this module; imports nothing else of the package."""
    parser = commands.add("doctor", "print what invarlock makes of a model")
    parser.add_argument(
        "--families",
        metavar="MODEL",
        required=True,
        help="which weights are ffn, attn, embed and other (builtin:llama, a directory, a Hub id)",
    )
    # The second name is the one that messages about models name.
    parser.add_argument(
        "--allow-network",
        "--invarlock-allow-network",
        action="store_true",
        help="let the Hub client fetch it",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run_doctor)


def run_doctor(arguments: argparse.Namespace) -> int:
    """Print the families of a model's weights.

    Raises ModelLoadError or AdapterError, which the command line tells in one line.
    """
    from pytest_invarlock.doctor.families_report import families_document, families_lines

    document = families_document(arguments.families, allow_network=arguments.allow_network)
    if arguments.json:
        from pytest_invarlock.evidence.strict_json import pretty

        sys.stdout.write(pretty(document).decode())
    else:
        print("\n".join(families_lines(document)))
    return 0
