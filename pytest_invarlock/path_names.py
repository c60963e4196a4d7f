"""File names for model and scenario names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pytest_invarlock.errors import ConfigError


def slug(name: str) -> str:
    """A path segment for a model or scenario name: letters, digits and ``._~-`` only."""
    text = name.replace("/", "--").replace(":", "-")
    text = re.sub(r"[^A-Za-z0-9._~-]", "_", text)
    return text if text.strip(".") else "_" + text


def without_absolute_paths(text: str) -> str:
    """``text`` with absolute paths made relative to the current folder, or cut to the last part.

    Failure texts end in junit files, which people upload.
    """

    def shortened(match: re.Match[str]) -> str:
        path = Path(match.group())
        if path.is_relative_to(Path.cwd()):
            return path.relative_to(Path.cwd()).as_posix()
        return path.name

    return re.sub(r"(?<![\w.~:/])/(?:[^\s/:()']+/)+[^\s/:()']+", shortened, text)


def check_distinct(names: Iterable[str], what: str) -> None:
    """Raise ConfigError where two names would share a folder, letter case aside."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(slug(name).casefold(), name)
        if other != name:
            raise ConfigError(
                f"{what}s {other!r} and {name!r} would share a folder",
                remedy=f"rename one {what}",
                code="NAME_COLLISION",
            )
