"""Which local files a source names: a file, a directory of JSON Lines files, or a glob pattern."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_invarlock.data.tables import JSON_LINES
from pytest_invarlock.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence


def local_files(locations: Sequence[str]) -> list[Path]:
    """The files at ``locations``, each directory's and pattern's sorted by name.

    Raises:
        DataError: a directory without JSON Lines files, or a pattern that matches no file.
    """
    found: list[Path] = []
    for location in locations:
        path = Path(location)
        if path.is_dir():
            found += _in_directory(path)
        elif glob.has_magic(location) and not path.exists():
            found += _matching(location)
        else:
            found.append(path)
    return found


def _in_directory(directory: Path) -> list[Path]:
    files = sorted(path for path in directory.iterdir() if path.suffix in JSON_LINES)
    if not files:
        raise DataError(
            f"{directory}: holds no *.jsonl file",
            remedy="name a file, a directory of *.jsonl files or a pattern",
            code="DATA_UNREADABLE",
        )
    return files


def _matching(pattern: str) -> list[Path]:
    files = sorted(
        path
        for path in map(Path, glob.glob(pattern, recursive=True))  # noqa: PTH207  absolute pattern
        if path.is_file()
    )
    if not files:
        raise DataError(
            f"{pattern}: the pattern matches no file",
            remedy="correct data_files",
            code="DATA_UNREADABLE",
        )
    return files
