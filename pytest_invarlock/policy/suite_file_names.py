"""How a file must be named for pytest to take it for a suite."""

from __future__ import annotations

from pathlib import PurePath

from pytest_invarlock.errors import ConfigError

SUITE_FILE_SUFFIXES = (".invarlock.yaml", ".invarlock.yml")
"""Names by which a suite file is found in a folder."""
YAML_SUFFIXES = (".yaml", ".yml")
# pytest ends a file's name there, and looks for the rest in it.
_ENDS_A_NAME = ("[", "::")


def check_suite_file_name(name: str) -> None:
    """Raise ConfigError where pytest, given ``name``, would not get to a suite file."""
    if PurePath(name).suffix not in YAML_SUFFIXES:
        raise ConfigError(
            f"{name}: is not named as YAML", remedy="name it .yaml or .yml", code="NOT_A_SUITE"
        )
    for part in _ENDS_A_NAME:
        if part in name:
            raise ConfigError(
                f"{name}: pytest takes what follows {part!r} for a part of the file, not its name",
                remedy=f"rename it without {part!r}",
                code="FILE_NAME",
            )
