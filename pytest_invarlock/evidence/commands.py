"""``invarlock verify`` and ``invarlock evidence-pack keygen|verify``."""

from __future__ import annotations

import argparse
import gc
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_invarlock.cli import CommandTable
    from pytest_invarlock.evidence.findings import VerifyReport
    from pytest_invarlock.evidence.verify import PackCheck, VerifyOptions

GROUP = "evidence-pack"
GARBAGE_THRESHOLD = 50_000
"""Of `gc.set_threshold`; Python's own is 700."""
DATA_CHECK = "pytest_invarlock.data_check.check"
"""By name: it reads data and tokenizers, which nothing that verifies a pack may import."""


def register(commands: CommandTable) -> None:
    """Add the commands of this module; imports nothing else of the package."""
    summary = "check signature, files and verdict of an evidence pack"
    for parser in (commands.add("verify", summary), commands.add_to(GROUP, "verify", summary)):
        _verify_arguments(parser)
    keygen = commands.add_to(GROUP, "keygen", "make an Ed25519 signing key, print its fingerprint")
    keygen.add_argument("file", type=Path, metavar="FILE", help="PEM file to create (mode 0600)")
    keygen.set_defaults(run=run_keygen)


def trust_arguments(parser: argparse.ArgumentParser) -> None:
    """Whom to trust and what else a pack must be: for each command that verifies packs first."""
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
    parser.add_argument("--expect-run", metavar="RUN", help="refuse another run than this")
    parser.add_argument("--not-before", metavar="TIME", help="refuse packs sealed before this")
    parser.add_argument(
        "--strict",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="extra files are errors (default), or warnings",
    )
    parser.add_argument("--profile", metavar="NAME", help="refuse another profile than this")


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pack", type=Path, metavar="PACK|REPORT",
        help="directory of the pack, or one evaluation.report.json",
    )  # fmt: skip
    trust_arguments(parser)
    parser.add_argument("--policy", metavar="DIGEST", help="refuse another policy than this")
    parser.add_argument(
        "--report-assurance",
        choices=("strict", "report", "off"),
        default="report",
        help="what is demanded of the reports beside their records (default: report)",
    )
    parser.add_argument(
        "--run-guard-code",
        action="store_true",
        help="import other packages' guards that are installed, and judge their metrics again",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="SUITE",
        help="file or shipped name of the suite that was run: draw its windows again, and compare",
    )
    parser.add_argument(
        "--salt",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="state/salt of the run, for --data; may repeat, for a merged pack",
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
    """Verify a pack, or look over a single certificate, and print what was found."""
    before = gc.get_threshold()
    # Parsed JSON has no cycles to look for: reference counts free it, document by document.
    gc.set_threshold(GARBAGE_THRESHOLD)
    try:
        return _verified(arguments)
    finally:
        gc.set_threshold(*before)


def _verified(arguments: argparse.Namespace) -> int:
    from pytest_invarlock.evidence.pack_schemas import check_schemas
    from pytest_invarlock.evidence.rederive import rederive_pack
    from pytest_invarlock.evidence.verify import verify_pack

    options = verify_options(arguments)
    check_data = _data_check(arguments)
    if arguments.pack.is_file():
        return _verify_certificate(arguments, options)
    rederive = (
        partial(rederive_pack, run_guard_code=True) if arguments.run_guard_code else rederive_pack
    )
    report = verify_pack(arguments.pack, options, rederive, check_schemas, check_data)
    print_report(report, as_json=arguments.json)
    return int(report.exit_status)


def _data_check(arguments: argparse.Namespace) -> PackCheck | None:
    """What ``--data`` and ``--salt`` ask for; raises ConfigError (BAD_OPTION) for one alone."""
    from pytest_invarlock.errors import ConfigError

    if arguments.data is None and not arguments.salt:
        return None
    if arguments.data is None:
        cause = "--salt stands alone"
        remedy = "give --data=SUITE as well, the file of the suite that was run"
    elif not arguments.salt:
        cause = "--data stands alone"
        remedy = "give --salt=FILE as well, state/salt in the folder of the run"
    elif arguments.pack.is_file():
        cause, remedy = "--data: a certificate holds no windows", "verify the pack that holds it"
    else:
        check: PackCheck = import_module(DATA_CHECK).data_check(arguments.data, arguments.salt)
        return check
    raise ConfigError(cause, remedy=remedy, code="BAD_OPTION")


def _verify_certificate(arguments: argparse.Namespace, options: VerifyOptions) -> int:
    from pytest_invarlock.evidence.single_certificate import (
        certificate_lines,
        certificate_object,
        verify_certificate,
    )
    from pytest_invarlock.evidence.strict_json import pretty

    found = verify_certificate(arguments.pack, options)
    if arguments.json:
        sys.stdout.write(pretty(certificate_object(found)).decode())
    else:
        print("\n".join(certificate_lines(found)))
    return int(found.exit_status)


def print_report(report: VerifyReport, *, as_json: bool) -> None:
    """Print what a verification found, for people or as one JSON object."""
    from pytest_invarlock.evidence.strict_json import pretty
    from pytest_invarlock.evidence.verify_text import report_lines, report_object

    if as_json:
        sys.stdout.write(pretty(report_object(report)).decode())
    else:
        print("\n".join(report_lines(report)))


def verify_options(arguments: argparse.Namespace) -> VerifyOptions:
    """What the options of `trust_arguments`, and those of ``verify`` where given, demand."""
    from pytest_invarlock.evidence.verify import VerifyOptions

    of_verify = vars(arguments)
    return VerifyOptions(
        expected_fingerprints=tuple(arguments.expected_fingerprint),
        trust_store=arguments.trust_store,
        allow_unsigned=arguments.allow_unsigned,
        strict=arguments.strict,
        dsse_lenient=arguments.dsse_lenient,
        expect_policy=of_verify.get("policy"),
        expect_run=arguments.expect_run,
        not_before=arguments.not_before,
        report_assurance=of_verify.get("report_assurance", "report"),
        profile=arguments.profile,
    )
