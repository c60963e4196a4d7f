"""Validate a YAML document by a shipped JSON Schema, naming file, line, key and nearest key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.policy.quick_schema import quick_look
from pytest_invarlock.policy.resources import schema, strict_validator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jsonschema import ValidationError

    from pytest_invarlock.policy.yaml_document import YamlDocument


def check_document(document: YamlDocument, schema_name: str) -> None:
    """Raise ConfigError for the topmost violation of ``schema_name``."""
    found = schema_violations(document, schema_name)
    if found:
        raise found[0].error


@dataclass(frozen=True, slots=True)
class SchemaViolation:
    """What is wrong at ``path`` of a document: the error, and whether the key itself is unknown."""

    path: tuple[str | int, ...]
    error: ConfigError
    unknown_key: bool


def schema_violations(document: YamlDocument, schema_name: str) -> list[SchemaViolation]:
    """Every violation of ``schema_name``, topmost first, each unknown key by itself."""
    if quick_look(schema_name)(document.value):
        return []
    validator = strict_validator()(schema(schema_name))
    errors = sorted(
        validator.iter_errors(document.value),
        key=lambda error: (
            document.line_of(tuple(error.absolute_path)),
            list(map(str, error.path)),
        ),
    )
    return [violation for error in errors for violation in _violations(document, error)]


def _violations(document: YamlDocument, error: ValidationError) -> Iterator[SchemaViolation]:
    path = tuple(error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = sorted(_properties(error))
        for unknown in (key for key in error.instance if key not in known):
            at = (*path, unknown)
            text = f"{document.place(at)}: unknown key {dotted(at)!r}"
            remedy = nearest(unknown, known, "key")
            yield SchemaViolation(at, ConfigError(text, remedy=remedy, code="UNKNOWN_KEY"), True)
        return
    where = dotted(path) or "the document"
    wrong = ConfigError(
        f"{document.place(path)}: {where}: {error.message}",
        remedy=str(_rules(error).get("description", "see the grammar of suite files")),
        code="BAD_VALUE",
    )
    yield SchemaViolation(path, wrong, False)


def _rules(error: ValidationError) -> Mapping[str, Any]:
    return error.schema if isinstance(error.schema, Mapping) else {}


def _properties(error: ValidationError) -> dict[str, Any]:
    properties = _rules(error).get("properties", {})
    return properties if isinstance(properties, dict) else {}


def dotted(path: tuple[str | int, ...]) -> str:
    """``("scenarios", 2, "edit")`` as ``scenarios[2].edit``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text
