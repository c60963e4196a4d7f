"""``invarlock evidence-pack inspect|build|merge``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from pytest_invarlock.cli import CommandTable
    from pytest_invarlock.evidence.findings import Finding
    from pytest_invarlock.evidence.merge_packs import Source
    from pytest_invarlock.evidence.pack import SealedPack
    from pytest_invarlock.evidence.run_pack import SigningKey
    from pytest_invarlock.evidence.verified import VerifiedPack

GROUP = "evidence-pack"


def register(commands: CommandTable) -> None:
    """Add the commands of this module; imports nothing else of the package but shared options."""
    from pytest_invarlock.evidence.commands import trust_arguments

    inspect = commands.add_to(GROUP, "inspect", "show what a pack says of itself, unverified")
    inspect.add_argument("pack", type=Path, metavar="PACK", help="directory of the pack")
    inspect.add_argument("--json", action="store_true", help="print one JSON object")
    inspect.set_defaults(run=run_inspect)
    build = commands.add_to(GROUP, "build", "seal the folder of a finished, whole run")
    build.add_argument("run_folder", type=Path, metavar="RUN_DIR", help="folder of the run")
    build.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="new pack (default: RUN_DIR/evidence_pack)"
    )
    merge = commands.add_to(GROUP, "merge", "make one pack of packs of parts of one suite")
    merge.add_argument("packs", type=Path, nargs="+", metavar="PACK", help="a pack to verify")
    merge.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="the new pack"
    )
    trust_arguments(merge)
    for parser, run in ((build, run_build), (merge, run_merge)):
        parser.add_argument(
            "--signing-key",
            default="auto",
            metavar="FILE|auto|none",
            help="Ed25519 key that signs the pack (default: your own)",
        )
        parser.set_defaults(run=run)


def run_inspect(arguments: argparse.Namespace) -> int:
    """Print what a pack says of itself; 0 says only that it could be read."""
    from pytest_invarlock.errors import EvidenceError
    from pytest_invarlock.evidence.findings import ExitStatus, Finding, Stage
    from pytest_invarlock.evidence.inspect_pack import (
        inspect_pack,
        inspected_lines,
        inspected_object,
    )
    from pytest_invarlock.evidence.plain_text import plain
    from pytest_invarlock.evidence.strict_json import pretty

    try:
        found = inspect_pack(arguments.pack)
    except EvidenceError as error:
        print(f"invarlock: {error.code}: {plain(error.cause)}", file=sys.stderr)
        if error.code in ("MISSING_PACK", "MISSING_FILE"):
            return int(ExitStatus.MISSING)
        return int(Finding(error.code, Stage.SCHEMA, "", "").exit_status)
    if arguments.json:
        sys.stdout.write(pretty(inspected_object(found)).decode())
    else:
        print("\n".join(inspected_lines(found)))
    return 0


def run_build(arguments: argparse.Namespace) -> int:
    """Seal a run's folder; 0 says that a pack was made, whatever its verdict."""
    from pytest_invarlock.evidence.build_pack import build_pack
    from pytest_invarlock.evidence.run_pack import check_named_key, provenance_of, signing_key
    from pytest_invarlock.run_directory import RunDirectory

    _, release_review = provenance_of(RunDirectory(arguments.run_folder))
    check_named_key(arguments.signing_key, release_review=release_review)
    key = signing_key(arguments.signing_key)
    sealed = build_pack(arguments.run_folder, key.private, arguments.output)
    print("\n".join(_sealed_lines(sealed, key)))
    return 0


def run_merge(arguments: argparse.Namespace) -> int:
    """Verify each pack, then seal their union; 0 says that a pack was made.

    The exit status of the first pack that is not valid is `verify`'s.
    """
    from pytest_invarlock.evidence.commands import print_report, verify_options
    from pytest_invarlock.evidence.merge_packs import merge, read_source
    from pytest_invarlock.evidence.output_place import check_outside
    from pytest_invarlock.evidence.pack_schemas import check_schemas
    from pytest_invarlock.evidence.plain_text import plain
    from pytest_invarlock.evidence.rederive import rederive_pack
    from pytest_invarlock.evidence.run_pack import check_named_key, signing_key
    from pytest_invarlock.evidence.seal_merged import seal_merged
    from pytest_invarlock.evidence.verify import verify_pack

    check_outside(arguments.output, arguments.packs)
    options = verify_options(arguments)
    sources: list[Source] = []

    def rederive_and_keep(pack: VerifiedPack) -> list[Finding]:
        findings = rederive_pack(pack)
        if not any(finding.level == "error" for finding in findings):
            sources.append(read_source(pack))
        return findings

    for path in arguments.packs:
        report = verify_pack(path, options, rederive_and_keep, check_schemas)
        if not report.ok:
            print(f"invarlock: {path} is not merged:", file=sys.stderr)
            print_report(report, as_json=False)
            return int(report.exit_status)
    merged = merge(sources)
    check_named_key(arguments.signing_key, release_review=merged.release_review)
    key = signing_key(arguments.signing_key)
    summary = seal_merged(merged, arguments.output, key.private)
    for source in merged.sources:
        print(f"merged {source.digest} {plain(source.header.run_id)}: {source.header.verdict}")
    if summary.sealed is not None:
        print("\n".join([f"verdict {summary.word}", *_sealed_lines(summary.sealed, key)]))
    return 0


def _sealed_lines(sealed: SealedPack, key: SigningKey) -> list[str]:
    made = " (a new key of yours)" if key.created else ""
    signed = f"signed by {sealed.fingerprint}{made}" if sealed.fingerprint else "UNSIGNED"
    return [f"pack {sealed.path}", f"digest {sealed.digest}", signed]
