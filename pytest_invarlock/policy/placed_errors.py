"""Give an error that names a key the file and line on which a suite document has that key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_invarlock.errors import ConfigError

if TYPE_CHECKING:
    from pytest_invarlock.policy.settings import Settings
    from pytest_invarlock.policy.yaml_document import KeyPath, YamlDocument

# What an error of this code speaks of, where the setting is not made.
_OF_CODE: tuple[tuple[str, str, KeyPath], ...] = (
    ("UNKNOWN_TIER", "tier", ("tier",)),
    ("UNKNOWN_TIER", "tier", ("auto", "tier")),
    ("UNKNOWN_PRESET", "preset", ("preset",)),
    ("UNKNOWN_ADAPTER", "adapter", ("run", "adapter")),
    ("UNKNOWN_ADAPTER", "adapter", ("model", "adapter")),
    ("UNEQUAL_ARMS", "preview-windows", ("dataset", "preview_n")),
    ("UNEQUAL_ARMS", "final-windows", ("dataset", "final_n")),
)
_PLACED = re.compile(r"^[^\n]*\.(?:ya?ml|json):[0-9]+: ")
_KEY = re.compile(r"^(?:suite file: )?([a-z_]+(?:\.[a-z_]+)+)\b")


@contextmanager
def placing_errors(document: YamlDocument, settings: Settings) -> Iterator[None]:
    """Raise each ConfigError that speaks of a key of ``document`` with that key's file and line."""
    try:
        yield
    except ConfigError as error:
        path = _path(error, document, settings)
        if path is None:
            raise
        cause = error.cause.removeprefix("suite file: ")
        place = document.place(path)
        raise ConfigError(f"{place}: {cause}", remedy=error.remedy, code=error.code) from error


def _path(error: ConfigError, document: YamlDocument, settings: Settings) -> KeyPath | None:
    """The key that ``error`` speaks of; None where it has a place, or a setting gave the value."""
    if _PLACED.match(error.cause):
        return None
    for code, setting, path in _OF_CODE:
        if error.code == code and setting not in settings.made and path in document.lines:
            return path
    found = _KEY.match(error.cause)
    if found is None:
        return None
    block, *rest = found[1].split(".")
    if block in settings.made:
        return None
    candidates: tuple[KeyPath, ...] = ((block, *rest), (block, "provider", *rest))
    for path in candidates:
        if path in document.lines:
            return path
    return (block,) if (block,) in document.lines else None
