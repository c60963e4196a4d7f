"""Read the data shipped under ``pytest_invarlock.policies``, only through importlib.resources."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

PACKAGE = "pytest_invarlock.policies"


def read_text(*parts: str) -> str:
    """The text of a shipped file, as in ``read_text("tiers", "balanced.yaml")``."""
    return files(PACKAGE).joinpath(*parts).read_text(encoding="utf-8")


def names(folder: str, suffix: str) -> list[str]:
    """The sorted names, without ``suffix``, of the files in a shipped folder."""
    entries = files(PACKAGE).joinpath(folder).iterdir()
    return sorted(e.name.removesuffix(suffix) for e in entries if e.name.endswith(suffix))


@cache
def schema(name: str) -> dict[str, Any]:
    """The shipped JSON Schema ``name`` (draft 2020-12)."""
    value = json.loads(read_text("schemas", f"{name}.schema.json"))
    if not isinstance(value, dict):
        raise TypeError(f"schema {name} is not an object")
    return value
