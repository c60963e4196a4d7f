"""``invarlock verify`` and ``invarlock evidence-pack keygen|verify``."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_invarlock.cli import CommandTable
    from pytest_invarlock.evidence.verify import VerifyOptions

GROUP = "evidence-pack"


def register(commands: CommandTable) -> None:
    """Add the commands of this module; imports nothing else of the package."""
    summary = "check signature, files and verdict of an evidence pack"
    for parser in (commands.add("verify", summary), commands.add_to(GROUP, "verify", summary)):
        _verify_arguments(parser)
    keygen = commands.add_to(GROUP, "keygen", "make an Ed25519 signing key, print its fingerprint")
    keygen.add_argument("file", type=Path, metavar="FILE", help="PEM file to create (mode 0600)")
    keygen.set_defaults(run=run_keygen)


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pack", type=Path, metavar="PACK", help="directory of the pack")
    parser.add_argument(
        "--expected-fingerprint",
        action="append",
        default=[],
        metavar="SHA256",
        help="signer you trust, as keygen printed it; may repeat",
    )
    parser.add_argument(
        "--trust-store", type=Path, metavar="FILE", help="YAML or JSON file of signers you trust"
    )
    parser.add_argument(
        "--allow-unsigned", action="store_true", help="accept a pack that has no signature"
    )
    parser.add_argument(
        "--dsse-lenient", action="store_true", help="accept every envelope that DSSE allows"
    )
    parser.add_argument("--policy", metavar="DIGEST", help="refuse another policy than this")
    parser.add_argument("--expect-run", metavar="RUN", help="refuse another run than this")
    parser.add_argument("--not-before", metavar="TIME", help="refuse packs sealed before this")
    parser.add_argument(
        "--strict",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="extra files are errors (default), or warnings",
    )
    parser.add_argument(
        "--run-guard-code",
        action="store_true",
        help="import other packages' guards that are installed, and judge their metrics again",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run_verify)


def run_keygen(arguments: argparse.Namespace) -> int:
    """Make a key; the fingerprint alone goes to stdout, so that scripts can keep it."""
    from pytest_invarlock.evidence.keys import fingerprint, generate_key, public_path_of

    path: Path = arguments.file
    public = generate_key(path)
    print(f"private key {path} (keep it), public key {public_path_of(path)}", file=sys.stderr)
    print(fingerprint(public))
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Verify a pack and print what was found."""
    from pytest_invarlock.evidence.pack_schemas import check_schemas
    from pytest_invarlock.evidence.rederive import rederive_pack
    from pytest_invarlock.evidence.verify import verify_pack
    from pytest_invarlock.evidence.verify_text import report_lines, report_object

    rederive = (
        partial(rederive_pack, run_guard_code=True) if arguments.run_guard_code else rederive_pack
    )
    report = verify_pack(arguments.pack, _options(arguments), rederive, check_schemas)
    if arguments.json:
        from pytest_invarlock.evidence.strict_json import pretty

        sys.stdout.write(pretty(report_object(report)).decode())
    else:
        print("\n".join(report_lines(report)))
    return int(report.exit_status)


def _options(arguments: argparse.Namespace) -> VerifyOptions:
    from pytest_invarlock.evidence.verify import VerifyOptions

    return VerifyOptions(
        expected_fingerprints=tuple(arguments.expected_fingerprint),
        trust_store=arguments.trust_store,
        allow_unsigned=arguments.allow_unsigned,
        strict=arguments.strict,
        dsse_lenient=arguments.dsse_lenient,
        expect_policy=arguments.policy,
        expect_run=arguments.expect_run,
        not_before=arguments.not_before,
    )
