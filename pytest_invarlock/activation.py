"""What this session was asked for: settings, suites and node ids, read before anything heavy."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.errors import ConfigError, SigningKeyError
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.policy.settings import NEWEST
from pytest_invarlock.policy.suite_file_names import SUITE_FILE_SUFFIXES
from pytest_invarlock.stash import ACTIVATION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_invarlock.policy.settings import Settings
    from pytest_invarlock.policy.suite import Suite

NODE_HEAD = "invarlock/"
WORKER_KEY = "invarlock"
# Settings that name a suite, or say something of all that are named.
_NAMING = ("suite", "baseline", "subject", "tune")


@dataclass(frozen=True, slots=True)
class VirtualSuite:
    """A named or ad-hoc suite, and the node ids it was narrowed to (none: all of it)."""

    suite: Suite
    selectors: tuple[str, ...] = ()

    def selects(self, node_id: str) -> bool:
        """Whether an item was asked for; whole segments are matched."""
        return not self.selectors or any(
            node_id == selector or node_id.startswith(selector + "::")
            for selector in self.selectors
        )


@dataclass(slots=True)
class Activation:
    """The session's settings and suites; all its workers share ``session`` and ``stamp``.

    ``resume`` is None, ``newest`` or the folder of the run to continue, the same in every worker.
    ``file_suites`` are those of named files; ``pins`` are the commits of Hub models that the
    controller found, as `preflight.revisions.Pins.plain` has them, ``outlook_notes`` what else it
    noted before the run, and ``planned`` the lines of ``--invarlock-plan``.
    """

    settings: Settings
    out: Path
    session: str
    stamp: str
    virtual: list[VirtualSuite] = field(default_factory=list)
    files: set[Path] = field(default_factory=set)
    broken_files: list[str] = field(default_factory=list)
    refused: bool = False
    resume: str | None = None
    file_suites: list[Suite] = field(default_factory=list)
    pins: Mapping[str, Any] = field(default_factory=dict)
    outlook_notes: tuple[str, ...] = ()
    planned: tuple[str, ...] = ()

    @property
    def named(self) -> bool:
        """Whether a suite or comparison was named, rather than found while collecting."""
        return bool(self.virtual or self.files)


def activate(config: pytest.Config) -> Activation:
    """Read settings and arguments, load named suites, and take our node ids out of the arguments.

    Raises pytest.UsageError with the one line of a ConfigError.
    """
    try:
        return _activate(config)
    except ConfigError as error:
        raise pytest.UsageError(f"{error} [{error.code}]") from error


def _activate(config: pytest.Config) -> Activation:
    from pytest_invarlock.policy.settings import collect_settings

    settings = collect_settings(
        lambda dest: config.getoption(dest, None), config.getini, os.environ
    )
    shared = getattr(config, "workerinput", {}).get(WORKER_KEY, {})
    activation = Activation(
        settings=settings,
        out=(config.invocation_params.dir / (settings.text("out") or "invarlock-out")).absolute(),
        session=shared.get("session") or secrets.token_hex(8),
        stamp=shared.get("stamp") or datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"),
        pins=shared.get("pins", {}),
    )
    settings.check()
    config.stash[ACTIVATION] = activation
    ours = [arg for arg in config.args if _is_ours(arg)]
    if ours or any(settings.text(name) for name in _NAMING):
        _load_named(config, activation, ours)
    _check_named_files(config, activation)
    for name in ("tune", "sweep", "mode", "resume", "plan"):
        _check_has_suite(config, activation, name)
    # The controller's answer: `latest` may lead to this session's own run by now.
    activation.resume = shared.get("resume") or _run_to_resume(config, activation)
    return activation


def _run_to_resume(config: pytest.Config, activation: Activation) -> str | None:
    """What setting ``resume`` names; raises ConfigError (UNKNOWN_RUN) where that is no run."""
    reference = activation.settings.implied("resume")
    if reference is None or reference == NEWEST:
        return reference
    from pytest_invarlock.earlier_runs import named_run

    return str(named_run(activation.out, reference, config.invocation_params.dir).path)


def _check_has_suite(config: pytest.Config, activation: Activation, name: str) -> None:
    """Refuse a setting made on the command line where no suite can come that it speaks of."""
    setting = activation.settings.made.get(name)
    if setting is None or not setting.origin.startswith("--") or activation.named:
        return
    folder = config.invocation_params.dir
    if not any(holds_suite_file(folder / str(arg).split("::", 1)[0]) for arg in config.args):
        raise ConfigError(
            f"{setting.origin}: no suite is named",
            remedy="name one with --invarlock-suite",
            code="NO_SUITE",
        )


def holds_suite_file(path: Path) -> bool:
    """Whether ``path`` is a suite file or a folder with one, hidden folders left out."""
    if path.is_file():
        return path.name.endswith(SUITE_FILE_SUFFIXES)
    for folder, folders, names in os.walk(path):
        del folder
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        if any(name.endswith(SUITE_FILE_SUFFIXES) for name in names):
            return True
    return False


def check_outputs(activation: Activation) -> None:
    """Before anything is measured: can the output folder be written, is the signing key usable?

    Raises pytest.UsageError with the one line of the error.
    """
    existing = next(path for path in (activation.out, *activation.out.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise pytest.UsageError(
            f"--invarlock-out: {activation.out}: cannot be written "
            "(give a writable folder) [OUT_UNWRITABLE]"
        )
    key = activation.settings.text("signing-key") or "auto"
    if key != "none":
        from pytest_invarlock.evidence.keys import load_private_key, user_signing_key_path

        path = user_signing_key_path() if key == "auto" else Path(key)
        try:
            if key != "auto" or path.exists():
                load_private_key(path)
        except SigningKeyError as error:
            raise pytest.UsageError(f"--invarlock-signing-key: {error} [{error.code}]") from error


def _check_named_files(config: pytest.Config, activation: Activation) -> None:
    """Load named suite files now: a node id in a broken one would only be called not found."""
    for argument in config.args:
        head = str(argument).split("::", 1)[0]
        path = (config.invocation_params.dir / head).resolve()
        ours = head.endswith(SUITE_FILE_SUFFIXES) or path in activation.files
        if ours or _is_plain_suite(path):
            from pytest_invarlock.policy.suite import load_suite_file

            suite = load_suite_file(path, activation.settings, config.invocation_params.dir)
            activation.files.add(path)
            activation.file_suites.append(suite)
            if suite.out is not None and activation.settings.text("out") is None:
                activation.out = (config.invocation_params.dir / suite.out).absolute()


def _is_plain_suite(path: Path) -> bool:
    """Whether a YAML file of another name holds a suite or a run configuration."""
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return False
    from pytest_invarlock.policy.run_configuration import names_a_suite

    return names_a_suite(path)


def _is_ours(argument: str) -> bool:
    """Whether an argument is one of our node ids: a known head, and ``::`` or no such path."""
    if not argument.startswith(NODE_HEAD):
        return False
    from pytest_invarlock.policy.suite import COMPARE, shipped_suites

    head = argument.split("::", 1)[0].removeprefix(NODE_HEAD)
    known = head in (COMPARE, *shipped_suites())
    if not known and "::" in argument and not Path(argument.split("::", 1)[0]).exists():
        raise ConfigError(
            f"no suite is named {head!r}",
            remedy=nearest(head, shipped_suites(), "suite"),
            code="UNKNOWN_SUITE",
        )
    return known and ("::" in argument or not Path(argument.split("::", 1)[0]).exists())


def _load_named(config: pytest.Config, activation: Activation, ours: Sequence[str]) -> None:
    from pytest_invarlock.policy.session_settings import named_suites
    from pytest_invarlock.policy.suite import COMPARE, compare_suite, load_suite, shipped_suites

    settings, root = activation.settings, config.invocation_params.dir
    by_settings = named_suites(settings, root)
    found = {} if by_settings.comparison is None else {COMPARE: by_settings.comparison}
    by_arguments = config.args_source is pytest.Config.ArgsSource.ARGS
    paths = [arg for arg in config.args if by_arguments and arg not in ours]
    wanted: dict[str, list[str]] = {}
    for argument in ours:
        wanted.setdefault(argument.split("::", 1)[0].removeprefix(NODE_HEAD), []).append(argument)
    if by_settings.suite is not None:
        reference = settings.text("suite") or ""
        if reference in shipped_suites():
            found[reference] = by_settings.suite
            wanted.setdefault(reference, [])
        else:
            activation.files.add(by_settings.suite.path.resolve())
            paths.append(str(by_settings.suite.path))
    if by_settings.comparison is not None:
        wanted.setdefault(COMPARE, [])
    elif by_settings.suite is None and not ours:
        return
    for name, selectors in wanted.items():
        if name not in found:
            is_comparison = name == COMPARE
            found[name] = (
                compare_suite(settings, root) if is_comparison else load_suite(name, settings, root)
            )
        activation.virtual.append(_narrowed(found[name], selectors))
    config.args[:] = paths
    config.args_source = pytest.Config.ArgsSource.ARGS


def _narrowed(suite: Suite, selectors: Sequence[str]) -> VirtualSuite:
    virtual = VirtualSuite(suite, tuple(s for s in selectors if "::" in s))
    for selector in virtual.selectors:
        one = VirtualSuite(suite, (selector,))
        if not any(one.selects(node_id) for node_id in suite.node_ids()):
            raise ConfigError(
                f"no item matches {selector}",
                remedy="list them with --co",
                code="UNKNOWN_NODE",
            )
    return virtual
