"""The preflight of a suite file: what a run of it would measure, and what keeps it from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.adapters.registry import adapter_names
from pytest_invarlock.doctor.checkpoint import ERRORS, Layout, check_blocks, lay_out
from pytest_invarlock.doctor.configuration import Configuration, read_configuration
from pytest_invarlock.doctor.dataset import DatasetFiles, check_lengths, look_at_dataset
from pytest_invarlock.doctor.environment import (
    DEFAULT_OUT,
    Environment,
    check_output_folder,
    look_at_environment,
)
from pytest_invarlock.doctor.findings import Finding, at, in_order, of_error
from pytest_invarlock.doctor.models import ModelFiles, look_at_model
from pytest_invarlock.doctor.windows import check_windows
from pytest_invarlock.errors import ConfigError, EditError
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.policy.session_settings import named_suites
from pytest_invarlock.policy.suite_file_names import check_suite_file_name
from pytest_invarlock.policy.tuned import SKIPPED_REMEDY, TunedParameters, is_clean
from pytest_invarlock.preflight.outlook import look_ahead
from pytest_invarlock.preflight.planned import planned_document

if TYPE_CHECKING:
    from pytest_invarlock.plan import EditSpec
    from pytest_invarlock.policy.settings import Settings
    from pytest_invarlock.policy.suite import Suite
    from pytest_invarlock.policy.yaml_document import KeyPath


@dataclass(slots=True)
class Preflight:
    """All that was looked at.

    ``models`` are the baselines, ``subjects`` the checkpoints that scenarios name; ``edits`` holds
    (model, scenario) with the edit's parameters and where they come from; ``plan`` is what a run
    would do and need, as `planned_document` gives it.
    """

    environment: Environment
    configuration: Configuration | None = None
    models: list[ModelFiles] = field(default_factory=list)
    subjects: list[ModelFiles] = field(default_factory=list)
    edits: dict[tuple[str, str], tuple[EditSpec, str]] = field(default_factory=dict)
    dataset: DatasetFiles | None = None
    out: str = DEFAULT_OUT
    plan: dict[str, Any] | None = None
    findings: list[Finding] = field(default_factory=list)

    def sorted_findings(self) -> list[Finding]:
        """Every finding once, errors first."""
        return in_order(self.findings)


def look_at_machine(settings: Settings, variables: Mapping[str, str]) -> Preflight:
    """The preflight of nothing in particular: the environment alone."""
    environment = look_at_environment(settings, variables, device=settings.text("device") or "auto")
    found = Preflight(environment, findings=list(environment.findings))
    _check_settings(found, settings)
    return found


def look_at_file(file: Path, settings: Settings, variables: Mapping[str, str]) -> Preflight:
    """The preflight of a suite file or run configuration; nothing is measured, loaded or fetched.

    Args:
        file: an existing file.
        settings: those that a run would have.
        variables: the environment, of which only names are told.
    """
    read = read_configuration(file, settings, Path.cwd())
    plan = read.plan
    asked = plan.device if plan is not None else settings.text("device") or "cpu"
    environment = look_at_environment(settings, variables, device=asked)
    found = Preflight(environment, read, findings=[*read.findings, *environment.findings])
    _check_settings(found, settings)
    try:
        check_suite_file_name(str(file))
    except ConfigError as error:
        found.findings.append(of_error(error))
    _look_at_checkpoints(found, read, settings)
    _resolve_edits(found, read, settings)
    if plan is not None:
        _note_assumptions(found, read, settings)
        found.dataset, findings = look_at_dataset(plan, read.document)
        found.findings += findings
        lengths = check_lengths(plan, found.models, read.document)
        found.findings += lengths
        _check_adapter(found, plan.adapter)
        if plan.adapter in adapter_names():
            has_lengths = all(finding.severity != "error" for finding in lengths)
            _look_into_checkpoints(found, read, has_lengths=has_lengths)
    from_file = read.suite.out if read.suite is not None else None
    found.out = settings.text("out") or from_file or DEFAULT_OUT
    found.findings += check_output_folder(Path(found.out))
    if read.suite is not None:
        _look_ahead(found, read.suite, settings)
    return found


def _look_ahead(found: Preflight, suite: Suite, settings: Settings) -> None:
    """Revisions, memory, disk and time; the Hub is not asked."""
    out = Path(found.out)
    outlook = look_ahead([suite], settings, out, Path.cwd(), may_ask=False)
    known = {(one.code, one.message) for one in found.findings}
    for error in outlook.problems:
        # What loading a model would end with may stand there already, with its place.
        if (error.code, error.cause) not in known:
            key = "out" if error.code == "DISK_SPACE" else None
            found.findings.append(replace(of_error(error), key=key))
    found.plan = planned_document(suite, outlook, out, data=found.dataset)


def _check_settings(found: Preflight, settings: Settings) -> None:
    """What of the settings keeps any session from starting; single values were looked at."""
    try:
        named_suites(settings, Path.cwd())
    except ConfigError as error:
        found.findings.append(of_error(error))


def _look_into_checkpoints(found: Preflight, read: Configuration, *, has_lengths: bool) -> None:
    """Which checkpoints could not be loaded, edited where asked, or measured on these windows."""
    for model in [*found.models, *found.subjects]:
        layout = _laid_out(found, read, model)
        if layout is None or model not in found.models or read.suite is None or read.suite.tunes:
            continue
        _check_blocks(found, read, model, layout)
        reader = None if found.dataset is None else found.dataset.reader
        if reader is not None and has_lengths:
            found.findings += check_windows(
                read.suite, reader, layout, model.reference, read.document
            )


def _laid_out(found: Preflight, read: Configuration, model: ModelFiles) -> Layout | None:
    if not model.is_usable or read.plan is None:
        return None
    place = _place_of_model(read, model.reference)
    try:
        return lay_out(model, read.plan.adapter)
    except ERRORS as error:
        if error.code == "MODEL_REMOTE_CODE" and read.runs_remote_code:
            told = "brings its own code, which was not run here: it was not looked into"
            found.findings.append(Finding("NOT_LAID_OUT", "note", f"{model.reference}: {told}"))
            return None
        found.findings.append(of_error(error, read.document if place else None, place))
    except ImportError:
        found.findings.append(
            Finding(
                "NOT_LAID_OUT", "note", "torch or transformers cannot be imported: models, their "
                "tokenizers and windows were not looked into", remedy="install them",
            )
        )  # fmt: skip
    # Loading is transformers' and, by a configuration, anybody's: whatever it raises is told.
    except Exception as error:  # noqa: BLE001
        found.findings.append(
            Finding(
                "NOT_LAID_OUT", "warning",
                f"{model.reference}: could not be looked into: {type(error).__name__}: {error}",
                remedy="check its config.json",
            )
        )  # fmt: skip
    return None


def _place_of_model(read: Configuration, reference: str) -> KeyPath | None:
    named = [path for path, model in read.models if model == reference]
    for path, entry in read.entries:
        if entry.scenario.subject == reference:
            named.append(path if path == ("subject",) else (*path, "subject"))
    return named[0] if named else None


def _check_blocks(found: Preflight, read: Configuration, model: ModelFiles, layout: Layout) -> None:
    """Edits of blocks that the model does not have, among those that would be run."""
    if read.suite is None:
        return
    paths = {entry.scenario.name: path for path, entry in read.entries}
    for pair, scenario in read.suite.planned():
        if pair.baseline != model.reference or scenario.edit is None:
            continue
        error = check_blocks(layout, scenario.edit.parameters)
        if error is not None:
            path = paths.get(scenario.name)
            found.findings.append(of_error(error, read.document if path else None, path))


def _look_at_checkpoints(found: Preflight, read: Configuration, settings: Settings) -> None:
    network = found.environment.hub_cache["network"]
    wanted: list[tuple[KeyPath | None, str]] = [*read.models]
    if settings.texts("model"):
        wanted = [(None, model) for model in settings.texts("model")]
    for path, reference in wanted:
        document = read.document if path is not None else None
        files, findings = look_at_model(reference, document, path, allow_network=network)
        if path is None:
            findings = [replace(one, key=settings.made["model"].origin) for one in findings]
        found.models.append(files)
        found.findings += findings
    # A scenario that a setting leaves out is not measured.
    measured = None if read.suite is None else {one.subject for one in read.suite.scenarios}
    for path, entry in read.entries:
        subject = entry.scenario.subject
        if subject is not None and (measured is None or subject in measured):
            place = path if path == ("subject",) else (*path, "subject")
            files, findings = look_at_model(subject, read.document, place, allow_network=network)
            found.subjects.append(files)
            found.findings += findings


def _resolve_edits(found: Preflight, read: Configuration, settings: Settings) -> None:
    """The parameters of every edit on every model, and whether plan or tuned file gave them."""
    try:
        parameters = TunedParameters(settings)
    except ConfigError as error:
        found.findings.append(of_error(error))
        return
    edits = [
        (path, entry.scenario.name, entry.scenario.edit)
        for path, entry in read.entries
        if entry.scenario.edit is not None
    ]
    for path, scenario, edit in edits:
        for model in found.models:
            key = (model.reference, scenario)
            if not is_clean(edit):
                found.edits[key] = (edit, "plan")
                continue
            try:
                tuned = parameters.resolved(edit, model.reference)
            except ConfigError as error:
                found.findings.append(of_error(error, read.document))
                continue
            if tuned.skipped is not None:
                skipped = EditError(tuned.skipped, remedy=SKIPPED_REMEDY, code="EDIT_SKIPPED")
                found.findings.append(of_error(skipped))
                continue
            found.edits[key] = (tuned.edit, f"tuned: {tuned.source}")
            if tuned.source == "default" and read.document is not None:
                found.findings.append(
                    Finding(
                        "TUNED_DEFAULT", "note",
                        f"{edit.name} of {model.reference} takes the shipped careful defaults",
                        remedy="give --invarlock-tuned=FILE with parameters of the model",
                        **at(read.document, path),
                    )
                )  # fmt: skip


def _note_assumptions(found: Preflight, read: Configuration, settings: Settings) -> None:
    """The notes of the plan; those on old variables stand among the environment's findings."""
    for note in read.plan.notes if read.plan is not None else ():
        if note not in settings.notes:
            found.findings.append(
                Finding("ASSUMED", "warning", note, file=str(read.file), key="dataset")
            )


def _check_adapter(found: Preflight, name: str) -> None:
    if name not in adapter_names():
        found.findings.append(
            Finding(
                "UNKNOWN_ADAPTER", "error", f"no adapter is named {name!r}",
                remedy=nearest(name, adapter_names(), "adapter"), key="adapter",
            )
        )  # fmt: skip
