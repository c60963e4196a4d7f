"""Which edits and faults a suite file may name, and with which parameters; no torch needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.policy.resources import schema, strict_validator
from pytest_invarlock.policy.schema_check import dotted

if TYPE_CHECKING:
    from pytest_invarlock.plan import EditSpec
    from pytest_invarlock.policy.yaml_document import KeyPath, YamlDocument


def edit_names() -> list[str]:
    """Every edit and fault, sorted."""
    return sorted(schema("edits")["$defs"])


def check_edit(edit: EditSpec, document: YamlDocument, path: KeyPath) -> None:
    """Raise ConfigError with file and line where ``edit`` is unknown or has wrong parameters."""
    known = edit_names()
    if edit.name not in known:
        raise ConfigError(
            f"{document.name}:{document.line_of((*path, 'name'))}: {dotted((*path, 'name'))}: "
            f"no edit is named {edit.name!r}",
            remedy=nearest(edit.name, known, "edit"),
            code="UNKNOWN_EDIT",
        )
    rules = schema("edits")["$defs"][edit.name]
    for key in edit.parameters:
        if key not in rules["properties"]:
            raise ConfigError(
                f"{document.name}:{document.line_of((*path, 'plan', key))}: "
                f"unknown key {dotted((*path, 'plan', key))!r}",
                remedy=nearest(key, sorted(rules["properties"]), "key")
                if rules["properties"]
                else f"{edit.name} takes no parameters",
                code="UNKNOWN_KEY",
            )
    for error in strict_validator()(rules).iter_errors(dict(edit.parameters)):
        at = (*path, "plan", *error.absolute_path)
        raise ConfigError(
            f"{document.name}:{document.line_of(at)}: {dotted(at)}: {error.message}",
            remedy=str(error.schema.get("description", f"see the parameters of {edit.name}")),
            code="BAD_VALUE",
        )


def edit_problem(edit: EditSpec) -> tuple[str, str] | None:
    """What is wrong with an edit's name or parameters, and the remedy; None where nothing is."""
    known = edit_names()
    if edit.name not in known:
        return f"no edit is named {edit.name!r}", nearest(edit.name, known, "edit")
    properties = sorted(schema("edits")["$defs"][edit.name]["properties"])
    for key in edit.parameters:
        if key not in properties:
            takes = nearest(key, properties, "parameter") if properties else "it takes none"
            return f"{edit.name} has no parameter {key!r}", takes
    problem = parameter_problem(edit)
    return None if problem is None else (f"{edit.name}: {problem}", "mend its parameters")


def parameter_problem(edit: EditSpec) -> str | None:
    """What is wrong with the parameters of a known edit, in a phrase; None where nothing is."""
    error = next(
        strict_validator()(schema("edits")["$defs"][edit.name]).iter_errors(dict(edit.parameters)),
        None,
    )
    return None if error is None else str(error.message)
