"""Validate a YAML document by a shipped JSON Schema, naming file, line, key and nearest key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jsonschema

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.policy.resources import schema, strict_validator

if TYPE_CHECKING:
    from pytest_invarlock.policy.yaml_document import YamlDocument


def check_document(document: YamlDocument, schema_name: str) -> None:
    """Raise ConfigError for the first (deepest, then topmost) violation of ``schema_name``."""
    validator = strict_validator()(schema(schema_name))
    errors = sorted(
        validator.iter_errors(document.value),
        key=lambda error: (
            document.line_of(tuple(error.absolute_path)),
            list(map(str, error.path)),
        ),
    )
    if errors:
        raise _config_error(document, errors[0])


def _config_error(document: YamlDocument, error: jsonschema.ValidationError) -> ConfigError:
    path = tuple(error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = sorted(_properties(error))
        unknown = next(key for key in error.instance if key not in known)
        return ConfigError(
            f"{document.place((*path, unknown))}: unknown key {dotted((*path, unknown))!r}",
            remedy=nearest(unknown, known, "key"),
            code="UNKNOWN_KEY",
        )
    where = dotted(path) or "the document"
    return ConfigError(
        f"{document.place(path)}: {where}: {error.message}",
        remedy=str(_rules(error).get("description", "see the grammar of suite files")),
        code="BAD_VALUE",
    )


def _rules(error: jsonschema.ValidationError) -> Mapping[str, Any]:
    return error.schema if isinstance(error.schema, Mapping) else {}


def _properties(error: jsonschema.ValidationError) -> dict[str, Any]:
    properties = _rules(error).get("properties", {})
    return properties if isinstance(properties, dict) else {}


def dotted(path: tuple[str | int, ...]) -> str:
    """``("scenarios", 2, "edit")`` as ``scenarios[2].edit``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text
