"""``invarlock doctor``: what the package makes of a file, a machine or a model."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import InvarlockError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_invarlock.cli import CommandTable
    from pytest_invarlock.doctor.findings import Finding
    from pytest_invarlock.doctor.preflight import Preflight

EXIT_ERRORS = 1
EXIT_USAGE = 2
EXIT_MISSING = 3


def register(commands: CommandTable) -> None:
    """Add the command of this module; imports nothing else of the package."""
    parser = commands.add("doctor", "tell what a run would do and what is wrong; measure nothing")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--config", metavar="FILE", type=Path, help="preflight of a suite file or run configuration"
    )
    what.add_argument(
        "--families",
        metavar="MODEL",
        help="which weights are ffn, attn, embed and other (builtin:llama, a directory, a Hub id)",
    )
    what.add_argument(
        "--weights",
        metavar=("BASELINE", "SUBJECT"),
        nargs=2,
        help="invariants and spectral between two checkpoints' files; loads no model",
    )
    parser.add_argument(
        "--kind", metavar="KIND", help="the declared kind of change, for --weights (default any)"
    )
    # The second name is the one that messages about models name.
    parser.add_argument(
        "--allow-network",
        "--invarlock-allow-network",
        action="store_true",
        help="count on the network; only --families fetches",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run_doctor)


def run_doctor(arguments: argparse.Namespace) -> int:
    """Print what was found; 0 without errors, 1 with, 2 for usage, 3 for what is missing.

    Raises ModelLoadError or AdapterError of ``--families``, which the command line tells in a line.
    """
    if arguments.kind is not None and arguments.weights is None:
        print("invarlock doctor: --kind is for --weights", file=sys.stderr)
        return EXIT_USAGE
    if arguments.families is not None:
        return _families(arguments)
    if arguments.weights is not None:
        return _weights(arguments)
    if arguments.config is not None and not arguments.config.is_file():
        return _no_file(arguments.config, as_json=arguments.json)
    from pytest_invarlock.doctor.document import doctor_document, doctor_lines
    from pytest_invarlock.doctor.findings import Finding, of_error

    try:
        found = _look(arguments)
    except InvarlockError as error:
        # Whoever reads the JSON is promised a document, whatever happens.
        _print_only(of_error(error), as_json=arguments.json, path=arguments.config)
        return EXIT_ERRORS
    except Exception as error:
        if arguments.json:
            crashed = Finding(
                "CRASHED", "error", f"{type(error).__name__}: {error}",
                remedy="report it, with the traceback that was printed beside this",
            )  # fmt: skip
            _print_only(crashed, as_json=True, path=arguments.config)
        raise
    if arguments.json:
        _print_json(doctor_document(found))
    else:
        _print_lines(doctor_lines(found))
    has_errors = any(finding.severity == "error" for finding in found.findings)
    return EXIT_ERRORS if has_errors else 0


def _look(arguments: argparse.Namespace) -> Preflight:
    from pytest_invarlock.doctor.preflight import look_at_file, look_at_machine
    from pytest_invarlock.policy.settings import collect_settings

    given = {"invarlock_allow_network": arguments.allow_network}
    settings = collect_settings(given.get, lambda _: None, os.environ)
    if arguments.config is None:
        return look_at_machine(settings, os.environ)
    return look_at_file(arguments.config, settings, os.environ)


def _no_file(path: Path, *, as_json: bool) -> int:
    from pytest_invarlock.doctor.findings import Finding

    if path.exists():
        code, message, remedy = "NOT_A_FILE", "is a directory", "name a file in it"
    else:
        code, message, remedy = "FILE_MISSING", "no such file", "check the path"
    finding = Finding(code, "error", message, remedy, file=str(path))
    _print_only(finding, as_json=as_json, path=path)
    return EXIT_USAGE if path.exists() else EXIT_MISSING


def _print_only(finding: Finding, *, as_json: bool, path: Path | None) -> None:
    from pytest_invarlock.doctor.document import only_finding

    if as_json:
        _print_json(only_finding(finding, [] if path is None else [str(path)]))
    else:
        _print_lines([finding.text()])


def _families(arguments: argparse.Namespace) -> int:
    from pytest_invarlock.doctor.families_report import families_document, families_lines

    document = families_document(arguments.families, allow_network=arguments.allow_network)
    if arguments.json:
        _print_json(document)
    else:
        _print_lines(families_lines(document))
    return 0


def _weights(arguments: argparse.Namespace) -> int:
    from invarlock_guards.judge.kinds import group_of

    kind = arguments.kind or "any"
    try:
        group_of(kind)
    except ValueError as error:
        print(f"invarlock doctor: --kind: {error}", file=sys.stderr)
        return EXIT_USAGE
    from pytest_invarlock.doctor.weights import compare_weights
    from pytest_invarlock.doctor.weights_document import weights_document, weights_lines

    baseline, subject = arguments.weights
    found = compare_weights(baseline, subject, kind)
    if arguments.json:
        _print_json(weights_document(found))
    else:
        _print_lines(weights_lines(found))
    if any(finding.code == "MODEL_NOT_FOUND" for finding in found.findings):
        return EXIT_MISSING
    has_errors = any(finding.severity == "error" for finding in found.findings)
    return EXIT_ERRORS if has_errors else 0


def _print_lines(lines: Iterable[str]) -> None:
    from pytest_invarlock.evidence.plain_text import plain

    # A stranger's checkpoint names its tensors: no control sequence reaches a terminal.
    print("\n".join(plain(line) for line in lines))


def _print_json(document: Mapping[str, Any]) -> None:
    from pytest_invarlock.evidence.strict_json import pretty

    sys.stdout.write(pretty(document).decode())
