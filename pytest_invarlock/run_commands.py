"""``invarlock run`` and ``invarlock certify``: thin fronts to pytest, with its exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pytest_invarlock.cli import EXIT_PYTEST_USAGE
from pytest_invarlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_invarlock.cli import CommandTable

PLUGIN = "invarlock"
"""The plugin's entry point: ``-p`` with it works where plugins are not loaded by themselves too."""
# Options of `certify`, each of the setting that it is named after.
_CERTIFY = (
    ("adapter", "NAME", "auto, hf_causal, hf_mlm, hf_seq2seq, or an installed one"),
    ("profile", "NAME", "dev, ci_cpu, ci, release"),
    ("tier", "NAME|FILE", "conservative, balanced, aggressive, or a file"),
    ("preset", "NAME|FILE|DIR", "data, lengths and metric"),
    ("out", "DIR", "everything written goes under here"),
)


def register(commands: CommandTable) -> None:
    """Add the commands of this module; imports nothing else of the package."""
    run = commands.add("run", "run a suite file or run configuration, as `pytest FILE` does")
    run.add_argument(
        "-c", "--config", action="append", required=True, metavar="FILE", help="the file to run"
    )
    run.add_argument("--out", metavar="DIR", help="everything written goes under here")
    run.set_defaults(run=run_configuration)
    certify = commands.add("certify", "compare checkpoints with their baseline")
    certify.add_argument("--baseline", required=True, metavar="MODEL", help="the baseline")
    certify.add_argument(
        "--subject", action="append", required=True, metavar="MODEL", help="a subject; may repeat"
    )
    for name, metavar, help_text in _CERTIFY:
        certify.add_argument(f"--{name}", metavar=metavar, help=help_text)
    certify.set_defaults(run=run_certify)
    for parser in (run, certify):
        parser.epilog = "What stands after -- goes to pytest. The exit status is pytest's own."


def run_configuration(arguments: argparse.Namespace) -> int:
    """``pytest FILE`` in place of this process; returns 4 for what cannot be a suite file."""
    try:
        path = suite_file(arguments.config)
    except ConfigError as error:
        print(f"invarlock: {error.code}: {error}", file=sys.stderr)
        return EXIT_PYTEST_USAGE
    out = [] if arguments.out is None else [f"--invarlock-out={arguments.out}"]
    return _pytest([str(path), *out, *arguments.pytest_arguments])


def run_certify(arguments: argparse.Namespace) -> NoReturn:
    """``pytest --invarlock-baseline=… --invarlock-subject=…`` in place of this process."""
    given = [("baseline", arguments.baseline)]
    given += [("subject", subject) for subject in arguments.subject]
    given += [(name, getattr(arguments, name)) for name, _, _ in _CERTIFY]
    options = [f"--invarlock-{name}={value}" for name, value in given if value is not None]
    _pytest([*options, *arguments.pytest_arguments])


def suite_file(names: Sequence[str]) -> Path:
    """The one file of ``names``, if pytest would take it for a suite.

    Raises:
        ConfigError: several files, none there, a directory, no YAML, or YAML of another purpose.
    """
    from pytest_invarlock.policy.run_configuration import names_a_suite
    from pytest_invarlock.policy.suite_file_names import (
        SUITE_FILE_SUFFIXES,
        check_suite_file_name,
    )
    from pytest_invarlock.policy.yaml_document import load_yaml

    if len(names) > 1:
        raise ConfigError(
            f"-c names {len(names)} files, {names[0]} and {names[1]} among them",
            remedy="run one at a time",
            code="SEVERAL_FILES",
        )
    path = Path(names[0])
    if path.is_dir():
        raise ConfigError(
            f"{path}: is a directory",
            remedy="name a file in it, or run `pytest` on the directory",
            code="NOT_A_FILE",
        )
    if not path.exists():
        raise ConfigError(f"{path}: no such file", remedy="check the path", code="FILE_MISSING")
    check_suite_file_name(names[0])
    load_yaml(path)
    if not path.name.endswith(SUITE_FILE_SUFFIXES) and not names_a_suite(path):
        raise ConfigError(
            f"{path}: is neither a suite nor a run configuration",
            remedy="give models and scenarios, or model.id with an edit or subject",
            code="NOT_A_SUITE",
        )
    # pytest would take a leading dash for an option.
    return path if not names[0].startswith("-") else path.absolute()


def _pytest(arguments: list[str]) -> NoReturn:
    """Become pytest.

    A fresh interpreter, in which nothing of the plugin was imported before pytest could rewrite
    its assertions; the same process, so that signals and the exit status are pytest's own.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # -P: as with the console script, the current folder is not where modules are looked for.
    command = [sys.executable, "-P", "-m", "pytest", "-p", PLUGIN, *arguments]
    os.execv(sys.executable, command)  # noqa: S606  a shell would read the arguments
