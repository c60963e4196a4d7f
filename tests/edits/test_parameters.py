"""The schema of parameters and the functions that take them are one list, with one kind each."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest

from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.edits.registry import EDITS
from pytest_invarlock.faults.structural import VIEW_FAULTS
from pytest_invarlock.plan import EditSpec
from pytest_invarlock.policy.edit_names import declared_kind, edit_names, parameter_problem
from pytest_invarlock.policy.resources import schema, strict_validator

ALL = {**EDITS, **VIEW_FAULTS}
KNOWN_KINDS = {
    "cast",
    "quantize8",
    "quantize4",
    "prune",
    "finetune",
    "merge",
    "reparametrized",
    "any",
}


def leaf(rules: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in rules:
        found: dict[str, Any] = schema("edits")["shared"][rules["$ref"].rpartition("/")[2]]
        return found
    return rules


def test_the_schema_names_what_can_be_applied() -> None:
    assert set(edit_names()) == set(ALL)


def test_the_fifteen_faults_of_the_original_are_there() -> None:
    assert {
        "nan_injection", "inf_injection", "shape_mismatch", "missing_tensors", "extreme_quant",
        "scale_explosion", "rank_collapse", "norm_collapse", "weight_tying_break",
        "rmt_norm_noise", "spectral_moderate_scale", "ve_mlp_scale_skew", "rmt_norm_noise_strong",
        "spectral_moderate_scale_mlp", "ve_mlp_scale_skew_up",
    } <= set(ALL)  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_parameters_are_those_of_the_function(name: str) -> None:
    taken = [
        p for p in inspect.signature(ALL[name]).parameters.values() if p.kind is p.KEYWORD_ONLY
    ]
    properties = schema("edits")["$defs"][name]["properties"]
    assert {p.name for p in taken} == set(properties)
    for parameter in taken:
        rules = leaf(properties[parameter.name])
        assert rules["description"], parameter.name
        if parameter.default not in (None, inspect.Parameter.empty, ()):
            value = json.loads(json.dumps(parameter.default))
            assert strict_validator()(rules).is_valid(value), (parameter.name, value)


@pytest.mark.parametrize("name", ALL)
def test_an_unknown_parameter_is_a_problem(name: str) -> None:
    assert parameter_problem(EditSpec(name, {"strength": 1})) is not None


@pytest.mark.parametrize("name", ALL)
def test_every_kind_is_a_word_guards_know(name: str) -> None:
    assert declared_kind(EditSpec(name)) in KNOWN_KINDS


@pytest.mark.parametrize(
    ("name", "parameters", "kind"),
    [
        ("noop", {}, "cast"),
        ("quant_rtn", {"bitwidth": 8}, "quantize8"),
        ("quant_rtn", {"bits": 7}, "quantize4"),
        ("quant_rtn", {"bitwidth": 4}, "quantize4"),
        ("quant_rtn", {"bitwidth": 3}, "any"),
        ("fp8_quant", {}, "quantize8"),
        ("magnitude_prune", {"sparsity": 0.3}, "prune"),
        ("magnitude_prune", {"sparsity": 0.31}, "any"),
        ("lowrank_svd", {"rank": 4}, "any"),
        ("fold_norm_gain", {}, "reparametrized"),
        ("dtype_round_trip", {}, "cast"),
        ("nan_injection", {}, "any"),
    ],
)
def test_kinds(name: str, parameters: dict[str, Any], kind: str) -> None:
    assert declared_kind(EditSpec(name, parameters)) == kind


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("quant_rtn", {"bitwidth": 4, "layers": [1], "include": ["head"]}),
        ("fp8_quant", {"scaled": True}),
        ("magnitude_prune", {"sparsity": 0.5}),
        ("lowrank_svd", {"energy": 0.5}),
        ("nan_injection", {}),
        ("rmt_norm_noise", {}),
        ("permute_mlp_neurons", {}),
    ],
)
def test_what_an_edit_returns_is_the_records_edit_block(
    name: str, parameters: dict[str, Any], tiny_model: Any
) -> None:
    model = tiny_model("llama")
    coverage = apply_edit(EditSpec(name, parameters), EditJournal(model, tensor_digests(model)))
    rules = schema("record")["properties"]["facts"]["properties"]["edit"]
    # As the record is read back: strict JSON.
    strict_validator()(rules).validate(json.loads(json.dumps(coverage, allow_nan=False)))
    assert ("details" in coverage) is (name != "nan_injection")
