"""All that is wrong with a suite file or run configuration, and what it says as far as it is right.

A run stops at the first error. Here the wrong parts are taken out of the document one after
another, and the rest is read on by the same functions that a run reads it with.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_invarlock.doctor.findings import Finding, at, of_error
from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.extended_document import extended
from pytest_invarlock.policy.plan_settings import build_plan, build_policy
from pytest_invarlock.policy.run_configuration import (
    is_run_configuration,
    only_scenario,
    run_notes,
    suite_value,
)
from pytest_invarlock.policy.schema_check import SchemaViolation, schema_violations
from pytest_invarlock.policy.settings import Settings
from pytest_invarlock.policy.suite import Suite, load_suite_file
from pytest_invarlock.policy.suite_scenarios import ScenarioEntry, located, scenario_entries
from pytest_invarlock.policy.yaml_document import YamlDocument, load_yaml

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_invarlock.plan import MeasurementPlan
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.policy.yaml_document import KeyPath

_PLACEHOLDER = "unreadable-"
# What an error of this code does not know is named by the setting, else at the key.
_NAMED_BY: tuple[tuple[str, str, KeyPath], ...] = (
    ("UNKNOWN_TIER", "tier", ("tier",)),
    ("UNKNOWN_TIER", "tier", ("auto", "tier")),
    ("UNKNOWN_PRESET", "preset", ("preset",)),
)


@dataclass(slots=True)
class Configuration:
    """A file as far as it could be read.

    ``kind`` is ``suite`` or ``run_configuration``; ``suite`` None where a run would not start;
    ``runs_remote_code`` whether a run may run code that models bring;
    ``value`` holds the blocks of a suite document, wrong ones left out; ``models`` and ``entries``
    come with the key that names them.
    """

    file: Path
    findings: list[Finding] = field(default_factory=list)
    kind: str | None = None
    document: YamlDocument | None = None
    value: dict[str, Any] | None = None
    models: list[tuple[KeyPath, str]] = field(default_factory=list)
    entries: list[tuple[KeyPath, ScenarioEntry]] = field(default_factory=list)
    plan: MeasurementPlan | None = None
    policy: DecisionPolicy | None = None
    suite: Suite | None = None
    runs_remote_code: bool = False

    def refuse(self, error: ConfigError, path: KeyPath | None = None) -> None:
        """Note an error, once."""
        found = of_error(error, self.document, path)
        if not any((one.code, one.message) == (found.code, found.message) for one in self.findings):
            self.findings.append(found)


def read_configuration(file: Path, settings: Settings, root: Path) -> Configuration:
    """Read ``file`` with ``settings``; every error becomes a finding, none is raised.

    ``root`` is where node ids start.
    """
    read = Configuration(file)
    try:
        read.document = load_yaml(file)
        read.document = extended(read.document, file.parent)
    except ConfigError as error:
        read.refuse(error)
        return read
    read.kind = "run_configuration" if is_run_configuration(read.document.value) else "suite"
    violations = schema_violations(read.document, read.kind)
    for violation in violations:
        read.refuse(violation.error, violation.path)
    usable = mended(read.document, violations)
    if schema_violations(usable, read.kind):
        read.findings.append(
            Finding(
                "NOT_READ_FURTHER", "note", "what follows from these keys was not looked at",
                remedy="mend the errors, and ask again", file=str(file),
            )
        )  # fmt: skip
        return read
    _read_blocks(read, usable, settings, {violation.path[:1] for violation in violations})
    if not any(finding.severity == "error" for finding in read.findings):
        try:
            read.suite = load_suite_file(file, settings, root)
            read.runs_remote_code = settings.flag("allow-remote-code")
        except ConfigError as error:
            read.refuse(error)
    return read


def mended(document: YamlDocument, violations: list[SchemaViolation]) -> YamlDocument:
    """``document`` without what the schema refuses: the key, or the whole scenario it stands in."""
    value = copy.deepcopy(document.value)
    # From the end: taking an item out of a list moves those behind it.
    for violation in reversed(violations):
        path = violation.path
        if path[:1] == ("scenarios",) and len(path) > 1 and not violation.unknown_key:
            value["scenarios"][path[1]] = _placeholder(path[1])
        elif path:
            _remove(value, path)
    return YamlDocument(document.name, value, document.lines, document.origins)


def _placeholder(index: int | str) -> dict[str, Any]:
    return {
        "id": f"{_PLACEHOLDER}{index}", "strictness": "informational", "edit": {"name": "noop"},
    }  # fmt: skip


def _remove(value: Any, path: KeyPath) -> None:
    for part in path[:-1]:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            # Taken out already, with a key above it.
            return
    if isinstance(value, dict):
        value.pop(path[-1], None)
    elif isinstance(value, list):
        value[:] = [item for index, item in enumerate(value) if index != path[-1]]


def _read_blocks(
    read: Configuration, usable: YamlDocument, settings: Settings, wrong: set[KeyPath]
) -> None:
    folder = read.file.parent
    value: dict[str, Any] = usable.value
    if read.kind == "run_configuration":
        try:
            value = suite_value(usable, folder)
        except ConfigError as error:
            read.refuse(error)
            return
        read.models = [(("model", "id"), model) for model in value["models"]]
        _read_only_scenario(read, usable, folder)
        _note_what_is_not_followed(read, usable)
    else:
        read.models = [
            (("models", index), located(model, folder))
            for index, model in enumerate(value["models"])
        ]
        _read_scenarios(read, usable, folder)
    read.value = value
    try:
        read.plan = build_plan(value, settings, folder)
    except ConfigError as error:
        # A count that was taken out leaves the other one alone.
        if error.code != "UNEQUAL_ARMS" or ("dataset",) not in wrong:
            read.refuse(error, _key_of(error, usable, settings))
    try:
        read.policy = build_policy(value, settings, {}, folder)
    except ConfigError as error:
        read.refuse(error, _key_of(error, usable, settings))


def _key_of(error: ConfigError, usable: YamlDocument, settings: Settings) -> KeyPath | None:
    """The key of the file that names what ``error`` does not know, unless a setting names it."""
    for code, setting, path in _NAMED_BY:
        if error.code == code and settings.text(setting) is None and path in usable.lines:
            return path
    return None


def _read_only_scenario(read: Configuration, usable: YamlDocument, folder: Path) -> None:
    key = "edit" if "edit" in usable.value else "subject"
    try:
        read.entries = [((key,), only_scenario(usable, folder))]
    except ConfigError as error:
        read.refuse(error)


def _read_scenarios(read: Configuration, usable: YamlDocument, folder: Path) -> None:
    """Each scenario by itself, with stand-ins for the others, so that one does not hide another."""
    count = len(usable.value["scenarios"])
    for index in range(count):
        scenarios = [_placeholder(other) for other in range(count)]
        scenarios[index] = usable.value["scenarios"][index]
        alone = YamlDocument(
            usable.name, {**usable.value, "scenarios": scenarios}, usable.lines, usable.origins
        )
        if scenarios[index] == _placeholder(index):
            continue
        try:
            entry = scenario_entries(alone, Settings(), folder)[index]
        except ConfigError as error:
            read.refuse(error)
        else:
            read.entries.append((("scenarios", index), entry))


def _note_what_is_not_followed(read: Configuration, usable: YamlDocument) -> None:
    for note in run_notes(usable.value):
        subject = note.partition(": ")[0].partition(" ")[0]
        path = tuple(subject.split("."))
        place = at(usable, path) if path in usable.lines else {"file": usable.name}
        read.findings.append(Finding("NOT_FOLLOWED", "note", note, **place))
