"""Which edits and faults a suite file may name, with which parameters, and of which kind they are.

No torch needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.deploy_names import DEPLOY, deploy_kind
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.policy.resources import schema, strict_validator
from pytest_invarlock.policy.schema_check import dotted

if TYPE_CHECKING:
    from jsonschema import ValidationError

    from pytest_invarlock.plan import EditSpec, Scenario
    from pytest_invarlock.policy.yaml_document import KeyPath, YamlDocument


KINDS: Mapping[str, str] = {
    "noop": "cast",
    "dtype_round_trip": "cast",
    "dtype_change": "cast",
    "fp8_quant": "quantize8",
    "quant_rtn": "quantize4",
    "magnitude_prune": "prune",
    "rescale_gated_pair": "reparametrized",
    "permute_mlp_neurons": "reparametrized",
    "rotate_value_output_heads": "reparametrized",
    "fold_norm_gain": "reparametrized",
}
"""The kind of change each edit declares to the guards; what is not listed is of kind ``any``."""

LIGHT_PRUNING = 0.30
"""Up to this sparsity the guards' limits for ``prune`` hold; beyond it, those for ``any``."""


STRUCTURAL_FAULTS = (
    "dtype_change", "missing_tensors", "shape_mismatch", "tokenizer_mismatch",
    "weight_tying_break",
)  # fmt: skip
"""Faults of a view of the checkpoint: what it loads as is not what its files hold."""


def declared_kind(edit: EditSpec) -> str:
    """The kind of change that ``edit``, with its parameters, declares: a word of `KINDS`' values.

    Round-to-nearest is ``quantize8`` from 8 bits, ``quantize4`` from 4, and ``any`` below;
    pruning beyond `LIGHT_PRUNING` is ``any``, as is a low-rank approximation.
    """
    if edit.name == DEPLOY:
        return deploy_kind(edit.parameters)
    if edit.name == "quant_rtn":
        bits = edit.parameters.get("bitwidth", edit.parameters.get("bits", 0))
        return "quantize8" if bits >= 8 else KINDS[edit.name] if bits >= 4 else "any"
    if edit.name == "magnitude_prune" and edit.parameters.get("sparsity", 1) > LIGHT_PRUNING:
        return "any"
    return KINDS.get(edit.name, "any")


def kind_of(scenario: Scenario) -> str:
    """The kind of change that ``scenario`` declares: the one it names, else its edit's own."""
    if scenario.kind is not None:
        return scenario.kind
    return "any" if scenario.edit is None else declared_kind(scenario.edit)


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
    error = _first_error(edit)
    if error is not None:
        _refuse(error, document, path)
    _check_layers_once(edit, document, path)


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
    error = _first_error(edit)
    return layers_twice(edit) if error is None else _message(error)


def layers_twice(edit: EditSpec) -> str | None:
    """A phrase where the layers of an edit stand in its scope and beside it; None elsewhere."""
    if "layers" in edit.parameters and "@" in str(edit.parameters.get("scope", "")):
        return "layers stand in scope and in layers"
    return None


def check_values(edit: EditSpec, document: YamlDocument, path: KeyPath) -> None:
    """Raise ConfigError with file and line for a wrong value of a known edit, as far as given.

    Whether parameters are missing is not asked: those of a clean edit are looked up later.
    """
    properties = schema("edits")["$defs"][edit.name]["properties"]
    given = {key: value for key, value in edit.parameters.items() if key in properties}
    rules = {**schema("edits"), "properties": {key: properties[key] for key in given}}
    error = next(strict_validator()(rules).iter_errors(given), None)
    if error is not None:
        _refuse(error, document, path)
    _check_layers_once(edit, document, path)


def _check_layers_once(edit: EditSpec, document: YamlDocument, path: KeyPath) -> None:
    problem = layers_twice(edit)
    if problem is not None:
        at = (*path, "plan", "layers")
        raise ConfigError(
            f"{document.name}:{document.line_of(at)}: {dotted(at)}: {problem}",
            remedy="keep one of the two",
            code="BAD_VALUE",
        )


def _refuse(error: ValidationError, document: YamlDocument, path: KeyPath) -> NoReturn:
    at = (*path, "plan", *error.absolute_path)
    raise ConfigError(
        f"{document.name}:{document.line_of(at)}: {dotted(at)}: {_message(error)}",
        remedy=_description(error) or "see the parameters of the edit",
        code="BAD_VALUE",
    )


def _first_error(edit: EditSpec) -> ValidationError | None:
    rules = {**schema("edits"), "$ref": f"#/$defs/{edit.name}"}
    found: ValidationError | None = next(
        strict_validator()(rules).iter_errors(dict(edit.parameters)), None
    )
    return found


def _message(error: ValidationError) -> str:
    # What jsonschema says of "not" names neither key nor reason; the schema's description does.
    return _description(error) if error.validator == "not" else str(error.message)


def _description(error: ValidationError) -> str:
    rules = error.schema
    return str(rules.get("description", "")) if isinstance(rules, Mapping) else ""
