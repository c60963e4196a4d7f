"""The pytest11 entry point: options, markers and hooks, each delegating in a line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.settings import SETTINGS, collect_settings
from pytest_invarlock.stash import ACTIVATION, CONTROLLER

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

pytest_plugins = ("pytest_invarlock.fixtures",)

MARKER = (
    "invarlock(baseline, subject=None, edit=None, tier, profile, dataset, kind): compare a model "
    "with its baseline; the test uses the fixture of the same name"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Every setting as an option and as an ini key."""
    group = parser.getgroup("invarlock", "gates for changed language models")
    for spec in SETTINGS:
        default = f" (default: {spec.default})" if spec.default else ""
        text = f"{spec.help}{default}; ini {spec.dest}, env {spec.environment}"
        option = f"--invarlock-{spec.name}"
        if spec.flag:
            group.addoption(option, dest=spec.dest, action="store_true", default=None, help=text)
        elif spec.implied:
            group.addoption(
                option, dest=spec.dest, nargs="?", const=spec.implied, default=None,
                metavar=spec.metavar, help=text,
            )  # fmt: skip
        else:
            action = "append" if spec.repeatable else "store"
            group.addoption(
                option, dest=spec.dest, action=action, default=None, metavar=spec.metavar, help=text
            )
        parser.addini(spec.dest, spec.help, type="string", default="")


def pytest_load_initial_conftests(args: list[str]) -> None:
    """Give options that stand alone their value: argparse would take the next argument for it."""
    alone = {f"--invarlock-{spec.name}": spec.implied for spec in SETTINGS if spec.implied}
    end = args.index("--") if "--" in args else len(args)
    args[:end] = [f"{arg}={alone[arg]}" if arg in alone else arg for arg in args[:end]]


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """``--invarlock-list-suites`` prints and ends the session."""
    try:
        settings = collect_settings(config.getoption, config.getini, os.environ)
        if not settings.flag("list-suites"):
            return None
    except ConfigError as error:
        raise pytest.UsageError(f"{error} [{error.code}]") from error
    from pytest_invarlock.reporting.suites import list_suites

    return list_suites()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read settings and named suites; set up the controller."""
    from pytest_invarlock.activation import activate, check_outputs
    from pytest_invarlock.session import RunController

    config.addinivalue_line("markers", MARKER)
    activation = activate(config)
    if not hasattr(config, "workerinput"):
        controller = RunController(config, activation)
        if activation.settings.flag("plan") and controller.expects_suites:
            from pytest_invarlock.readiness import only_collect

            only_collect(config)
        if activation.named and not config.option.collectonly:
            from pytest_invarlock.readiness import check_ready, named_suites

            check_outputs(activation)
            controller.check_release(named_suites(activation))
            check_ready(config, activation)
        config.stash[CONTROLLER] = controller
        config.pluginmanager.register(controller, "invarlock-controller")
        if config.pluginmanager.hasplugin("xdist"):
            from pytest_invarlock.distribution import DistributionHooks

            config.pluginmanager.register(
                DistributionHooks(lambda: controller.expects_suites), "invarlock-distribution"
            )


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Named suites are children of the session; they need no file in the user's tree."""
    report = yield
    if isinstance(collector, pytest.Session) and collector.config.stash[ACTIVATION].virtual:
        from pytest_invarlock.collection import suite_nodes

        report.result.extend(suite_nodes(collector))
    return report


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Suite files: ``*.invarlock.yaml``, and whatever file was named as a suite."""
    if file_path.suffix not in (".yaml", ".yml"):
        return None
    from pytest_invarlock.collection import suite_file_node

    return suite_file_node(file_path, parent)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse broken suite files, and markers with wrong arguments."""
    if hasattr(config, "workerinput"):
        # A usage error in a worker would be an internal error: there, collectors and tests fail.
        return
    activation = config.stash[ACTIVATION]
    # pytest_collection_finish runs even after a usage error.
    activation.refused = True
    if activation.broken_files:
        raise pytest.UsageError(activation.broken_files[0])
    if any(item.get_closest_marker("invarlock") for item in items):
        from pytest_invarlock.marker import check_markers

        check_markers(items)
        if not config.option.collectonly:
            from pytest_invarlock.items import CheckItem

            # Suites in folders and marker tests are known only now.
            ours = [item for item in items if isinstance(item, CheckItem)]
            suites = {item.suite.node_prefix: item.suite for item in ours}
            config.stash[CONTROLLER].check_release(list(suites.values()))
    activation.refused = False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Put the checks of a scenario together again, whatever reordered the items.

    This late because ``--ff`` and ``--nf`` reorder after every ``pytest_collection_modifyitems``.
    """
    if any(item.get_closest_marker("invarlock") for item in session.items):
        from pytest_invarlock.collection import regrouped

        session.items[:] = regrouped(session.items)
        activation = session.config.stash[ACTIVATION]
        if activation.settings.flag("plan") and not activation.refused:
            from pytest_invarlock.items import CheckItem
            from pytest_invarlock.readiness import plan_lines

            ours = [item for item in session.items if isinstance(item, CheckItem)]
            activation.planned = plan_lines(session.config, activation, ours)
        if not session.config.option.collectonly and not session.config.stash[ACTIVATION].refused:
            from pytest_invarlock.marker import is_marker_test

            if any(map(is_marker_test, session.items)):
                from pytest_invarlock.lending import plan_markers

                plan_markers(session.config, session.items)


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Progress reports are no test outcomes."""
    return ("", "", "") if report.when == "progress" else None  # type: ignore[comparison-overlap]
