"""File names for model and scenario names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pytest_invarlock.errors import ConfigError

# Where a path can start and end: not inside another one, nor inside a word or an address.
_START = r"(?<![\w.~/])"
_END = r"(?![\w.~-])"
_FILE_URL = re.compile(r"\bfile:(?://[^/\s]*)?(?=/)")
_HOMES = ("/home", "/Users")
# Folders may hold blanks, but not at their ends: the next word of a sentence is no part of a path.
_OUTSIDE = re.compile(
    _START
    + r"(?:/(?=[^\s/:()'\"]+[^\n/:()'\"]*/)|~[\w.-]*/|(?:[\w.~-]+/)*\.\./)"
    + r"(?:[^\s/:()'\",;](?:[^\n/:()'\",;]*[^\s/:()'\",;])?/+)*[^\s/:()'\",;]*"
)


def slug(name: str) -> str:
    """A path segment for a model or scenario name: letters, digits and ``._~-`` only."""
    text = name.replace("/", "--").replace(":", "-")
    text = re.sub(r"[^A-Za-z0-9._~-]", "_", text)
    return text if text.strip(".") else "_" + text


def without_absolute_paths(text: str, known: Iterable[str | Path] = ()) -> str:
    """``text`` with paths below the current folder made relative, and all others cut to their name.

    Failure texts end in junit files, which people upload. A home folder becomes ``~``.

    Args:
        text: what is to be shown.
        known: absolute paths that may stand in it, whatever characters they hold.
    """
    text = _FILE_URL.sub("", text)
    here = Path.cwd()
    if here != Path(here.anchor):
        text = re.sub(_START + re.escape(str(here)) + r"/(?=[^\s/])", "", text)
        text = re.sub(_START + re.escape(str(here)) + _END, ".", text)
    for path in sorted({str(path) for path in known}, key=len, reverse=True):
        if Path(path).is_absolute() and Path(path).name:
            text = re.sub(
                _START + re.escape(path) + _END, Path(path).name.replace("\\", r"\\"), text
            )
    home = Path.home()
    if home != Path(home.anchor):
        text = re.sub(_START + re.escape(str(home)) + _END, "~", text)
    return _OUTSIDE.sub(_last_part, text)


def _last_part(match: re.Match[str]) -> str:
    path = Path(match.group())
    return "~" if path.parent.as_posix() in _HOMES else path.name


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
