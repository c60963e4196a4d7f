"""Pinned revisions: the file that names them, and references with their commit put in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.earlier_runs import named_run, newest_run, run_folders
from pytest_invarlock.errors import ConfigError
from pytest_invarlock.evidence.atomic import write_json
from pytest_invarlock.evidence.model_revisions import STATE_FILE as FILE_NAME
from pytest_invarlock.policy.settings import NEWEST

if TYPE_CHECKING:
    from pytest_invarlock.plan import MeasurementPlan, Pair, Scenario
    from pytest_invarlock.policy.suite import Suite

KINDS = ("models", "datasets")


@dataclass(frozen=True, slots=True)
class Revisions:
    """What a file pins: by kind and Hub id (with ``@revision`` where one was typed), its entry.

    ``origin`` is how the file was named.
    """

    origin: str
    entries: Mapping[str, Mapping[str, Mapping[str, Any]]]

    def entry(self, kind: str, name: str) -> Mapping[str, Any] | None:
        """The entry of a model or data set, or None."""
        return self.entries.get(kind, {}).get(name)


@dataclass(frozen=True, slots=True)
class Pins:
    """What every worker of a session loads: references as typed, with the commit instead.

    ``models`` maps a reference to one with its commit, ``datasets`` a Hub data set to its commit;
    ``document`` is what the runs' ``state/model_revisions.json`` holds, None where nothing is to
    be written.
    """

    models: Mapping[str, str] = field(default_factory=dict)
    datasets: Mapping[str, str] = field(default_factory=dict)
    document: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, plain: Mapping[str, Any] | None) -> Pins:
        """The pins of a `plain`; none of None."""
        return cls(**plain) if plain else cls()

    def plain(self) -> dict[str, Any]:
        """The pins as plain values, which can be sent to another process."""
        document = None if self.document is None else dict(self.document)
        return {"models": dict(self.models), "datasets": dict(self.datasets), "document": document}

    def pair(self, pair: Pair) -> Pair:
        """``pair`` with its baseline's commit; its name stays."""
        return replace(pair, baseline=self.models.get(pair.baseline, pair.baseline))

    def scenario(self, scenario: Scenario) -> Scenario:
        """``scenario`` with its subject's commit."""
        subject = scenario.subject
        if subject is None or subject not in self.models:
            return scenario
        return replace(scenario, subject=self.models[subject])

    def plan(self, plan: MeasurementPlan) -> MeasurementPlan:
        """``plan`` with its data set's commit, where its provider reads one of the Hub."""
        name = hub_dataset(plan)
        if name is None or name not in self.datasets:
            return plan
        return replace(plan, source=replace(plan.source, revision=self.datasets[name]))

    def write(self, state: Path, suite: str) -> None:
        """Write ``state/model_revisions.json`` of a run, unless there is nothing to write."""
        path = state / FILE_NAME
        if self.document is not None and not path.is_file():
            write_json(path, {**self.document, "suite": suite})


def hub_dataset(plan: MeasurementPlan) -> str | None:
    """The id of the Hub data set that a plan reads; None for any other data."""
    if plan.source.provider == "wikitext2":
        return plan.source.dataset_name or "Salesforce/wikitext"
    return plan.source.dataset_name if plan.source.provider.startswith("hf_") else None


def read_revisions(path: Path, origin: str) -> Revisions:
    """The file of ``--invarlock-revisions`` or of an earlier run.

    Raises:
        ConfigError: it is missing (REVISIONS_MISSING), or is no such file (REVISIONS_FILE).
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{origin}: no such file",
            remedy="give a model_revisions.json of a run that had the network",
            code="REVISIONS_MISSING",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _malformed(origin, "is not readable JSON") from error
    if not isinstance(document, dict) or not isinstance(document.get("models"), dict):
        raise _malformed(origin, "has no mapping 'models'")
    for kind in KINDS:
        for name, entry in document.get(kind, {}).items():
            revision = entry.get("revision") if isinstance(entry, dict) else None
            if not isinstance(revision, str) or not revision:
                raise _malformed(origin, f"{kind}.{name} names no revision")
    return Revisions(origin, {kind: document.get(kind, {}) for kind in KINDS})


def newest_revisions(out: Path, suite: str) -> Revisions | None:
    """Those of the newest earlier run of ``suite`` that wrote some; None without one."""
    for run in reversed(run_folders(out, suite, f"sweep-{suite}")):
        path = run / "state" / FILE_NAME
        if path.is_file():
            return read_revisions(path, f"{run.name}/state/{FILE_NAME}")
    return None


def resumed_revisions(out: Path, suite: Suite, reference: str, root: Path) -> Revisions | None:
    """Those of the run that a session continues; None where there is none, or it wrote none.

    Args:
        out: the output folder.
        suite: of which the newest run is meant, where ``reference`` is ``newest``.
        reference: what setting ``resume`` names.
        root: where a relative path starts.

    Raises ConfigError where the reference is no run (UNKNOWN_RUN), or the file no such file.
    """
    if reference == NEWEST:
        name = f"sweep-{suite.name}" if suite.sweeps else suite.name
        run = newest_run(out, name, suite.node_prefix, session="")
    else:
        run = named_run(out, reference, root)
    path = None if run is None else run.state / FILE_NAME
    if run is None or path is None or not path.is_file():
        return None
    return read_revisions(path, f"{run.run_id}/state/{FILE_NAME}")


def _malformed(origin: str, what: str) -> ConfigError:
    return ConfigError(
        f"{origin}: {what}",
        remedy='give {"models": {"org/name": {"revision": "COMMIT"}}}',
        code="REVISIONS_FILE",
    )
