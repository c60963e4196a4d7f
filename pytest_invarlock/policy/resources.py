"""Read the data shipped under ``pytest_invarlock.policies``, only through importlib.resources."""

from __future__ import annotations

import json
import math
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "pytest_invarlock.policies"


def read_text(*parts: str) -> str:
    """The text of a shipped file, as in ``read_text("tiers", "balanced.yaml")``."""
    return files(PACKAGE).joinpath(*parts).read_text(encoding="utf-8")


def names(folder: str, suffix: str) -> list[str]:
    """The sorted names, without ``suffix``, of the files in a shipped folder."""
    entries = files(PACKAGE).joinpath(folder).iterdir()
    return sorted(e.name.removesuffix(suffix) for e in entries if e.name.endswith(suffix))


def _is_integer(checker: Any, instance: Any) -> bool:
    """``64.0`` is no count: it would reach places that index with it."""
    del checker
    return isinstance(instance, int) and not isinstance(instance, bool)


def _is_number(checker: Any, instance: Any) -> bool:
    """NaN compares as within any limits, and infinity is none."""
    return _is_integer(checker, instance) or (
        isinstance(instance, float) and math.isfinite(instance)
    )


def _unique_items(validator: Any, asked: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """``uniqueItems`` in one walk; jsonschema compares objects pair by pair, which takes hours."""
    from jsonschema import ValidationError

    del schema
    if asked and validator.is_type(instance, "array"):
        texts = {_text(item) for item in instance}
        if len(texts) < len(instance):
            yield ValidationError(f"{instance!r} has non-unique elements")


def _text(item: Any) -> str:
    try:
        return json.dumps(item, sort_keys=True)
    except TypeError:
        # YAML has dates, and keys that are no text.
        return repr(item)


def _any_of(validator: Any, branches: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """``anyOf`` that asks each branch for its first error; jsonschema keeps every one of them."""
    from jsonschema import ValidationError

    del schema
    if not any(validator.evolve(schema=branch).is_valid(instance) for branch in branches):
        yield ValidationError(f"{instance!r} is not valid under any of the given schemas")


def _one_of(validator: Any, branches: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """``oneOf``, likewise."""
    from jsonschema import ValidationError

    del schema
    valid = [one for one in branches if validator.evolve(schema=one).is_valid(instance)]
    if not valid:
        yield ValidationError(f"{instance!r} is not valid under any of the given schemas")
    elif len(valid) > 1:
        told = ", ".join(map(repr, valid))
        yield ValidationError(f"{instance!r} is valid under each of {told}")


@cache
def strict_validator() -> Any:
    """jsonschema's draft 2020-12 validator class: counts are integers, numbers are finite.

    Items are the same where their JSON texts are: 1 and 1.0 are two. Memory and time grow with the
    document and no faster, whatever is wrong with it.
    """
    from jsonschema.validators import Draft202012Validator, extend

    checker = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "number": _is_number}
    )
    return extend(  # type: ignore[no-untyped-call]
        Draft202012Validator,
        {"uniqueItems": _unique_items, "anyOf": _any_of, "oneOf": _one_of},
        type_checker=checker,
    )


@cache
def schema(name: str) -> dict[str, Any]:
    """The shipped JSON Schema ``name`` (draft 2020-12)."""
    value = json.loads(read_text("schemas", f"{name}.schema.json"))
    if not isinstance(value, dict):
        raise TypeError(f"schema {name} is not an object")
    return value
