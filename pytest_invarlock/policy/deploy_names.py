"""Which backends a suite file may deploy with, and which kind of change their schemes are.

No torch needed, and nothing of a backend is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import EditSpec
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.policy.schema_check import dotted
from pytest_invarlock.registered import BACKENDS, registered

if TYPE_CHECKING:
    from pytest_invarlock.policy.yaml_document import KeyPath, YamlDocument

DEPLOY = "deploy"
"""The key of a suite file, and the name under which plans and records hold what was done."""
SCHEMES: Mapping[str, Mapping[str, str]] = {
    "torchao": {"int8_weight_only": "quantize8", "int4_weight_only": "quantize4"}
}
"""The schemes of the built-in backends, each with the kind of change that guards take it for."""


def backend_names() -> list[str]:
    """The built-in backends, then those of other installed packages."""
    return [*SCHEMES, *(name for name in registered(BACKENDS) if name not in SCHEMES)]


def deploy_kind(parameters: Mapping[str, Any]) -> str:
    """The kind of change of a deployment: its scheme's, ``any`` for another package's."""
    schemes = SCHEMES.get(parameters.get("backend", ""), {})
    return schemes.get(parameters.get("scheme", ""), "any")


def deploy_spec(value: Mapping[str, str], document: YamlDocument, path: KeyPath) -> EditSpec:
    """The deployment of a scenario's ``deploy`` key.

    Raises:
        ConfigError: no backend has that name, or a built-in one has no such scheme. Whether what
            it rests on is installed is asked when it is measured.
    """
    backend, scheme = value["backend"], value["scheme"]
    if backend not in backend_names():
        raise _unknown(document, (*path, "backend"), "backend", backend, backend_names())
    if backend in SCHEMES and scheme not in SCHEMES[backend]:
        raise _unknown(document, (*path, "scheme"), "scheme", scheme, list(SCHEMES[backend]))
    return EditSpec(DEPLOY, {"backend": backend, "scheme": scheme})


def _unknown(
    document: YamlDocument, path: KeyPath, what: str, name: str, known: list[str]
) -> ConfigError:
    return ConfigError(
        f"{document.place(path)}: {dotted(path)}: no {what} is named {name!r}",
        remedy=nearest(name, known, what),
        code=f"UNKNOWN_{what.upper()}",
    )
