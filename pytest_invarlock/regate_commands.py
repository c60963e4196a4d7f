"""``invarlock regate``: what would another policy have said of the same records?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from pytest_invarlock.cli import CommandTable
    from pytest_invarlock.evidence.findings import Finding
    from pytest_invarlock.evidence.verified import VerifiedPack
    from pytest_invarlock.regate import Regated


def register(commands: CommandTable) -> None:
    """Add the command; imports nothing else of the package but the shared options."""
    from pytest_invarlock.evidence.commands import trust_arguments

    parser = commands.add("regate", "judge a pack's records again under another policy")
    parser.add_argument("pack", type=Path, metavar="PACK", help="directory of the pack")
    other = parser.add_mutually_exclusive_group(required=True)
    other.add_argument("--tier", metavar="NAME|FILE", help="limits: a tier, or a file of one")
    other.add_argument(
        "--policy", dest="policy_file", type=Path, metavar="FILE",
        help="a decision policy, as a pack's metadata/policy.json holds it",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write the new verdict there, as JSON"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    trust_arguments(parser)
    parser.set_defaults(run=run_regate)


def run_regate(arguments: argparse.Namespace) -> int:
    """Verify the pack, judge its records again, and print old and new beside each other.

    Exit status as `verify`'s; of a valid pack 0 where the new verdict is PASS, else 1.
    """
    from pytest_invarlock.errors import ConfigError
    from pytest_invarlock.evidence.commands import print_report, verify_options
    from pytest_invarlock.evidence.findings import ExitStatus
    from pytest_invarlock.evidence.output_place import check_outside
    from pytest_invarlock.evidence.pack_schemas import check_schemas
    from pytest_invarlock.evidence.rederive import rederive_pack
    from pytest_invarlock.evidence.strict_json import pretty
    from pytest_invarlock.evidence.verify import verify_pack
    from pytest_invarlock.policy.regate_policy import other_policy
    from pytest_invarlock.regate import regate

    other = other_policy(arguments.tier, arguments.policy_file)
    if arguments.output is not None:
        check_outside(arguments.output, [arguments.pack])
    made: list[Regated] = []
    misfits: list[ConfigError] = []

    def rederive_and_regate(pack: VerifiedPack) -> list[Finding]:
        # Here, because a pack's files may be read only while it is being verified.
        findings = rederive_pack(pack)
        if not any(finding.level == "error" for finding in findings):
            try:
                made.append(regate(pack, other))
            except ConfigError as error:
                # The given policy does not fit: no fault of the pack.
                misfits.append(error)
        return findings

    report = verify_pack(
        arguments.pack, verify_options(arguments), rederive_and_regate, check_schemas
    )
    if report.ok and misfits:
        raise misfits[0]
    if not report.ok or not made:
        print_report(report, as_json=arguments.json)
        return int(report.exit_status)
    found = made[0]
    if arguments.output is not None:
        from pytest_invarlock.evidence.atomic import write_json

        write_json(arguments.output, found.document())
    if arguments.json:
        sys.stdout.write(pretty(found.document()).decode())
    else:
        from pytest_invarlock.regate_text import regate_lines

        print("\n".join(regate_lines(found)))
    passes = found.verdict.verdict == "PASS"
    return int(ExitStatus.PASS if passes else ExitStatus.NOT_PASS)
