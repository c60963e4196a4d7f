"""Whether a session's named suites could run to their end here; asked before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_invarlock.preflight.outlook import Outlook, look_ahead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_invarlock.activation import Activation, VirtualSuite
    from pytest_invarlock.items import CheckItem
    from pytest_invarlock.policy.suite import Suite


def check_ready(config: pytest.Config, activation: Activation) -> None:
    """Pin revisions for all workers, and refuse what could not be measured.

    Suites found while collecting a folder are not among the named: of theirs only loading tells.
    Raises pytest.UsageError with the one line of the first problem.
    """
    found = outlook_of(config, activation, named_suites(activation))
    if found.problems:
        error = found.problems[0]
        raise pytest.UsageError(f"{error} [{error.code}]")
    activation.pins = found.pins.plain()
    activation.outlook_notes = tuple(found.notes)


def only_collect(config: pytest.Config) -> None:
    """Make the session one of ``--co``, with a line a file instead of the tree of items."""
    config.option.collectonly = True
    if config.option.verbose == 0:
        config.option.verbose = -2


def plan_lines(
    config: pytest.Config, activation: Activation, items: Sequence[CheckItem]
) -> tuple[str, ...]:
    """What ``--invarlock-plan`` prints of the suites that ``items`` are of, on their models."""
    from pytest_invarlock.preflight.planned import planned_document, planned_lines

    suites: dict[str, tuple[Suite, list[str], set[str]]] = {}
    for item in items:
        suite = item.suite
        _, node_ids, models = suites.setdefault(suite.node_prefix, (suite, [], set()))
        node_ids.append(item.nodeid)
        models.add(item.pair.name)
    lines: list[str] = []
    for suite, node_ids, models in suites.values():
        pairs = tuple(pair for pair in suite.pairs if pair.name in models)
        asked = replace(suite, pairs=pairs)
        found = outlook_of(config, activation, [asked], may_ask=False)
        lines += planned_lines(planned_document(asked, found, activation.out, node_ids))
    return tuple(lines)


def outlook_of(
    config: pytest.Config,
    activation: Activation,
    suites: Sequence[Suite],
    *,
    may_ask: bool = True,
) -> Outlook:
    """`look_ahead` with this session's output folder and number of workers."""
    asked = config.getoption("tx", None)
    workers = len(asked) if isinstance(asked, list) and asked else 1
    return look_ahead(
        suites,
        activation.settings,
        activation.out,
        config.invocation_params.dir,
        workers=workers,
        may_ask=may_ask,
    )


def named_suites(activation: Activation) -> list[Suite]:
    """The suites that a session was told of, with the models that were asked for."""
    return [*(_narrowed(one) for one in activation.virtual), *activation.file_suites]


def _narrowed(virtual: VirtualSuite) -> Suite:
    suite = virtual.suite
    if not virtual.selectors:
        return suite
    heads = {
        node_id.removeprefix(f"{suite.node_prefix}::").split("::", 1)[0]
        for node_id in suite.node_ids()
        if virtual.selects(node_id)
    }
    return replace(suite, pairs=tuple(pair for pair in suite.pairs if pair.name in heads))
