"""A first look at whether a JSON value satisfies a schema: what it accepts, jsonschema accepts.

Verification reads hundreds of large documents that nearly always fit. Each keyword becomes a
function that is built once; a schema with a keyword that is not known here is left to the library,
as is every value that is not accepted: the library alone refuses, and says why.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from pytest_invarlock.policy.resources import schema, strict_validator

if TYPE_CHECKING:
    from jsonschema import ValidationError

Predicate = Callable[[Any], bool]

_TYPES: Mapping[str, frozenset[type]] = {
    "object": frozenset({dict}),
    "array": frozenset({list}),
    "string": frozenset({str}),
    "integer": frozenset({int}),
    "number": frozenset({int, float}),
    "boolean": frozenset({bool}),
    "null": frozenset({type(None)}),
}
_NUMBERS = _TYPES["number"]
_RANGE = frozenset({"type", "minimum", "maximum"})
_LARGEST = sys.float_info.max
_NO_RULE = frozenset({"$schema", "$defs", "title", "description", "properties", "then", "else"})
# Where a wrong "no" of a part would be a wrong "yes" of the whole.
_EXACT = frozenset({"oneOf", "not"})


class UnknownKeyword(Exception):  # noqa: N818 - no error: the library takes such a schema
    """Raised where a schema says something that has no function here."""


def quick_accept(schema: Mapping[str, Any]) -> Predicate:
    """Whether a value read from JSON or YAML certainly satisfies ``schema``.

    False says nothing: the library has to look. Counts are integers, as for `strict_validator`.
    """
    try:
        return _Compiler(schema).compiled(schema)
    except UnknownKeyword:
        return lambda _: False


@cache
def quick_look(schema_name: str) -> Predicate:
    """`quick_accept` of the shipped schema of that name, made once."""
    return quick_accept(schema(schema_name))


def first_violation(schema_name: str, value: Any) -> ValidationError | None:
    """What jsonschema finds wrong with ``value`` first; None where it satisfies the schema.

    Counts are integers and numbers finite, as for `strict_validator`.
    """
    if quick_look(schema_name)(value):
        return None
    found: ValidationError | None = next(_validator(schema_name).iter_errors(value), None)
    return found


@cache
def _validator(schema_name: str) -> Any:
    return strict_validator()(schema(schema_name))


class _Compiler:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._known: dict[str, Predicate] = {}

    def compiled(self, schema: Any) -> Predicate:
        """The function of one schema, which asks those of its keywords in turn."""
        if isinstance(schema, bool):
            return lambda _: schema
        asked = {key: value for key, value in schema.items() if key not in _NO_RULE}
        if _is_range(asked):
            return _range(asked)
        if "properties" in schema:
            asked.setdefault("additionalProperties", True)
        return _every([self._rule(keyword, value, schema) for keyword, value in asked.items()])

    def _rule(self, keyword: str, value: Any, schema: Mapping[str, Any]) -> Predicate:
        if keyword == "$ref":
            return self._reference(value)
        if keyword == "additionalProperties":
            return self._additional(value, schema)
        if keyword == "items":
            item = self.compiled(value)
            return lambda v: type(v) is not list or all(map(item, v))
        if keyword == "contains":
            wanted = self.compiled(value)
            return lambda v: type(v) is not list or any(map(wanted, v))
        if keyword == "propertyNames":
            name = self.compiled(value)
            return lambda v: type(v) is not dict or all(map(name, v))
        if keyword in ("anyOf", "allOf"):
            branches = [self.compiled(one) for one in value]
            return _some(branches) if keyword == "anyOf" else _every(branches)
        if keyword == "if":
            return self._conditional(schema)
        if keyword in _EXACT:
            return _by_library({keyword: value})
        if keyword not in _PLAIN:
            raise UnknownKeyword(keyword)
        return _PLAIN[keyword](value)

    def _reference(self, pointer: str) -> Predicate:
        """The function of ``#/$defs/NAME``, built when it is first asked: a schema may recur."""
        prefix, _, name = pointer.rpartition("/")
        if prefix != "#/$defs" or name not in self._root.get("$defs", {}):
            raise UnknownKeyword(pointer)
        if name not in self._known:
            self._known[name] = lambda value: self._known[name](value)
            self._known[name] = self.compiled(self._root["$defs"][name])
        return lambda value: self._known[name](value)

    def _conditional(self, schema: Mapping[str, Any]) -> Predicate:
        """``if``, ``then``, ``else``: where the condition is not certain, both have to hold."""
        certain, then, other = (
            self.compiled(schema.get(keyword, True)) for keyword in ("if", "then", "else")
        )
        return lambda value: then(value) and (certain(value) or other(value))

    def _additional(self, rest: Any, schema: Mapping[str, Any]) -> Predicate:
        """``properties`` and ``additionalProperties`` in one walk over the members."""
        if "patternProperties" in schema:
            raise UnknownKeyword("patternProperties")
        named = {key: self.compiled(one) for key, one in schema.get("properties", {}).items()}
        other = self.compiled(rest)

        def fits(value: Any) -> bool:
            if type(value) is dict:
                for key, member in value.items():
                    if not named.get(key, other)(member):
                        return False
            return True

        return fits


def _is_range(schema: Mapping[str, Any]) -> bool:
    """Whether ``schema`` asks for a number within bounds, or for that or null, and no more."""
    if not {"type"} < schema.keys() <= _RANGE:
        return False
    return _allowed(schema["type"]) <= _NUMBERS | {type(None)}


def _range(schema: Mapping[str, Any]) -> Predicate:
    """``type``, ``minimum`` and ``maximum`` in one: most values of a record are numbers."""
    allowed = _allowed(schema["type"])
    # NaN is between nothing; infinities, and integers beyond all floats, are left to the library.
    least = max(schema.get("minimum", -_LARGEST), -_LARGEST)
    most = min(schema.get("maximum", _LARGEST), _LARGEST)
    if type(None) in allowed:
        return lambda v: v is None or (type(v) in allowed and least <= v <= most)
    return lambda v: type(v) in allowed and least <= v <= most


# Plain loops in both: generators take twice as long, and these are called for every value.
def _every(rules: Sequence[Predicate]) -> Predicate:
    if len(rules) == 1:
        return rules[0]
    if len(rules) == 2:
        first, second = rules
        return lambda value: first(value) and second(value)

    def fits(value: Any) -> bool:
        for rule in rules:  # noqa: SIM110
            if not rule(value):
                return False
        return True

    return fits


def _some(rules: Sequence[Predicate]) -> Predicate:
    def fits(value: Any) -> bool:
        for rule in rules:  # noqa: SIM110
            if rule(value):
                return True
        return False

    return fits


def _by_library(schema: Mapping[str, Any]) -> Predicate:
    if '"$ref"' in json.dumps(schema):
        raise UnknownKeyword("$ref")
    # Made when it is first asked: few documents hold what needs it, and its import takes a while.
    validator = cache(lambda: strict_validator()(schema))
    return lambda value: bool(validator().is_valid(value))


def _dependent(wanted: Mapping[str, list[str]]) -> Predicate:
    return lambda v: (
        type(v) is not dict
        or all(key not in v or set(names) <= v.keys() for key, names in wanted.items())
    )


def _allowed(names: str | Sequence[str]) -> frozenset[type]:
    return frozenset().union(*(_TYPES[one] for one in ([names] if type(names) is str else names)))


def _type(value: Any) -> Predicate:
    allowed = _allowed(value)
    if float not in allowed:
        return lambda v: type(v) in allowed
    # Of NaN and the infinities, which YAML has, the difference is NaN.
    return lambda v: type(v) in allowed and (type(v) is not float or v - v == 0.0)


def _enum(values: list[Any]) -> Predicate:
    if any(isinstance(value, dict | list) for value in values):
        raise UnknownKeyword("enum")
    # True is not 1; that 1.0 is 1 is left to the library.
    allowed = {(type(value), value) for value in values}
    return lambda v: type(v) not in (dict, list) and (type(v), v) in allowed


def _unique(asked: bool) -> Predicate:
    if not asked:
        return lambda _: True

    def fits(value: Any) -> bool:
        if type(value) is not list or len(value) < 2:
            return True
        if any(type(one) in (dict, list) for one in value):
            return False
        return len({(type(one) is bool, one) for one in value}) == len(value)

    return fits


def _number(compare: Callable[[Any, Any], bool]) -> Callable[[Any], Predicate]:
    return lambda limit: lambda v: type(v) not in _NUMBERS or compare(v, limit)


def _length(
    kind: type[list[Any] | dict[str, Any] | str], compare: Callable[[int, int], bool]
) -> Callable[[Any], Predicate]:
    return lambda limit: lambda v: type(v) is not kind or compare(len(v), limit)


def _at_least(found: Any, limit: Any) -> bool:
    return bool(found >= limit)


def _at_most(found: Any, limit: Any) -> bool:
    return bool(found <= limit)


def _required(names: list[str]) -> Predicate:
    wanted = frozenset(names)
    return lambda v: type(v) is not dict or wanted <= v.keys()


def _pattern(text: str) -> Predicate:
    search = re.compile(text).search
    return lambda v: type(v) is not str or search(v) is not None


_PLAIN: Mapping[str, Callable[[Any], Predicate]] = {
    "type": _type,
    "enum": _enum,
    "const": lambda value: _enum([value]),
    "required": _required,
    "dependentRequired": _dependent,
    "pattern": _pattern,
    "uniqueItems": _unique,
    "minimum": _number(_at_least),
    "maximum": _number(_at_most),
    "exclusiveMinimum": _number(lambda found, limit: bool(found > limit)),
    "exclusiveMaximum": _number(lambda found, limit: bool(found < limit)),
    "minItems": _length(list, _at_least),
    "maxItems": _length(list, _at_most),
    "minProperties": _length(dict, _at_least),
    "maxProperties": _length(dict, _at_most),
    "minLength": _length(str, _at_least),
    "maxLength": _length(str, _at_most),
}
