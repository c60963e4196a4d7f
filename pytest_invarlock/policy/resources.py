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
        texts = {json.dumps(item, sort_keys=True) for item in instance}
        if len(texts) < len(instance):
            yield ValidationError(f"{instance!r} has non-unique elements")


@cache
def strict_validator() -> Any:
    """jsonschema's draft 2020-12 validator class: counts are integers, numbers are finite.

    Items are the same where their JSON texts are: 1 and 1.0 are two.
    """
    from jsonschema.validators import Draft202012Validator, extend

    checker = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "number": _is_number}
    )
    return extend(  # type: ignore[no-untyped-call]
        Draft202012Validator, {"uniqueItems": _unique_items}, type_checker=checker
    )


@cache
def schema(name: str) -> dict[str, Any]:
    """The shipped JSON Schema ``name`` (draft 2020-12)."""
    value = json.loads(read_text("schemas", f"{name}.schema.json"))
    if not isinstance(value, dict):
        raise TypeError(f"schema {name} is not an object")
    return value
