"""The quick look at a schema accepts nothing that the library refuses, and accepts what fits."""

from __future__ import annotations

import math
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_invarlock.policy.quick_schema import quick_accept
from pytest_invarlock.policy.resources import names, schema, strict_validator

# YAML has NaN, infinities and dates besides what JSON has.
scalars = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        1,
        -1,
        64,
        64.0,
        1.0,
        0.5,
        math.nan,
        math.inf,
        -math.inf,
        date(2026, 1, 1),
        "",
        "a",
        "ab",
        "sha256:0",
        "x" * 9,
    ]
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4)
    ),
    max_leaves=10,
)
SCHEMAS = {
    "closed object": {
        "type": "object", "additionalProperties": False, "required": ["a"],
        "properties": {"a": {"type": "integer", "minimum": 0}, "b": {"type": ["number", "null"]}},
    },
    "open object": {"properties": {"a": {"type": "string"}}, "minProperties": 1},
    "mapping": {"additionalProperties": {"type": "number", "exclusiveMaximum": 1}},
    "names": {"propertyNames": {"enum": ["a", "b"]}, "maxProperties": 2},
    "unique": {"type": "array", "uniqueItems": True, "minItems": 1, "maxItems": 3},
    "enum": {"enum": ["a", 1, None, True]},
    "const": {"const": 1},
    "any": {"anyOf": [{"type": "string", "pattern": "^a"}, {"type": "array", "items": {"type": "null"}}]},
    "all": {"allOf": [{"type": "number"}, {"maximum": 1, "minimum": -1}]},
    "one": {"oneOf": [{"type": "number"}, {"const": 1}, {"type": "integer"}]},
    "not": {"not": {"type": "number", "minimum": 0}},
    "if": {"if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"type": "object"}},
    "dependent": {"dependentRequired": {"a": ["b", "c"]}},
    "contains": {"contains": {"const": "a"}, "maxLength": 2},
    "recurring": {
        "$ref": "#/$defs/tree",
        "$defs": {"tree": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#/$defs/tree"}}]}},
    },
}  # fmt: skip
FITTING = {
    "closed object": {"a": 3, "b": None}, "open object": {"a": "", "z": 1}, "mapping": {"a": 0.5},
    "names": {"a": 1}, "unique": [1, True, "a"], "enum": True, "const": 1, "any": [None],
    "all": 0.5, "one": 0.5, "not": -1, "if": {"a": 1, "b": 2}, "dependent": {"a": 1, "b": 1, "c": 1},
    "contains": ["b", "a"], "recurring": [1, [2, []]],
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_accepted_the_library_accepts(name):
    accepts, validator = quick_accept(SCHEMAS[name]), strict_validator()(SCHEMAS[name])

    @settings(max_examples=60, deadline=None, database=None)
    @given(values)
    def look(value):
        assert not accepts(value) or validator.is_valid(value)

    look()
    assert accepts(FITTING[name])
    assert validator.is_valid(FITTING[name])


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        ({"type": "integer"}, 64.0),
        ({"type": "integer"}, True),
        ({"const": 1}, True),
        ({"enum": [0]}, False),
        ({"uniqueItems": True}, [1, 1.0]),
        ({"minLength": 1}, ""),
        ({"patternProperties": {"a": {}}, "additionalProperties": False}, {"b": 1}),
        ({"unevaluatedProperties": False}, {"b": 1}),
    ],
)
def test_what_does_not_fit_is_left_to_the_library(wanted, value):
    assert not quick_accept(wanted)(value)


def test_an_unknown_keyword_leaves_all_to_the_library():
    assert not quick_accept({"unevaluatedProperties": False})({})


@pytest.mark.parametrize("name", ["record", "certificate", "runtime_manifest", "environment"])
def test_the_schemas_of_large_documents_are_known_to_the_last_keyword(name):
    assert name in names("schemas", ".schema.json")
    quick = quick_accept(schema(name))
    assert quick.__qualname__ != quick_accept({"unevaluatedItems": False}).__qualname__


def test_a_long_list_of_objects_is_looked_through_once_for_repetitions():
    unique = strict_validator()({"uniqueItems": True})
    many = [{"a": [number]} for number in range(30_000)]
    assert unique.is_valid(many)
    assert not unique.is_valid([*many, {"a": [7]}])
    assert unique.is_valid([1, True, 1.0, "1"])


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf"])
def test_of_branches_that_do_not_fit_no_more_than_the_first_error_is_made(keyword):
    made = []

    class Counted(dict):
        def __contains__(self, key):
            made.append(key)
            return super().__contains__(key)

    wanted = {keyword: [{"type": "array", "items": {"required": ["a"]}}, {"type": "string"}]}
    first = next(strict_validator()(wanted).iter_errors([Counted() for _ in range(1000)]))
    assert "is not valid under any of the given schemas" in first.message
    assert not first.context
    assert len(made) == 1
    assert strict_validator()(wanted).is_valid("text")
    assert not strict_validator()({"oneOf": [{}, {"type": "string"}]}).is_valid("text")
