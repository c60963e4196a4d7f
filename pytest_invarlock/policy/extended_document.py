"""``extends``: a suite file on top of another, and a scenario on top of a shipped one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.policy.resources import names, read_text
from pytest_invarlock.policy.yaml_document import YamlDocument, load_yaml, parse_yaml

if TYPE_CHECKING:
    from pytest_invarlock.policy.yaml_document import KeyPath

SUFFIXES = (".yaml", ".yml")
MAX_FILES = 50
"""How many files may extend one another; more would end in Python's own limit."""
SHIPPED_FOLDERS = ("suites", "presets")
# What a preset says of itself, and not of a suite.
_ABOUT_ITSELF = ("name", "description")


def extended(document: YamlDocument, folder: Path, seen: tuple[str, ...] = ()) -> YamlDocument:
    """``document`` laid over what it extends; itself where it extends nothing.

    Mappings are merged key by key; anything else, lists too, is replaced whole. Relative file
    names of all of them start at ``folder``, that of the first file.

    Args:
        document: a parsed suite file or run configuration.
        folder: the only folder from which files may be extended.
        seen: the files on the way here, to find cycles.

    Raises:
        ConfigError: no such name, a file outside ``folder``, or a cycle.
    """
    if "extends" not in document.value:
        return with_shipped_scenarios(document)
    reference = document.value["extends"]
    if not isinstance(reference, str) or not reference:
        raise _error(document, "names no file", "give a shipped name, or a file in this folder")
    if reference in _shipped():
        base = _shipped_document(reference)
    else:
        path = _confined(document, reference, folder)
        chain = seen or (str(Path(document.name).resolve()),)
        if str(path) in chain:
            raise _error(document, f"{reference!r} leads back to itself", "break the cycle")
        if len(chain) > MAX_FILES:
            raise _error(document, f"{MAX_FILES} files extend one another", "merge some of them")
        base = extended(load_yaml(path), folder, (*chain, str(path)))
    over = _over(document, base)
    if "scenarios" in over.value and not seen:
        # What is shipped gives everything but its name.
        over.value.setdefault("name", name_of_file(document.name))
    return with_shipped_scenarios(over)


def name_of_file(file: str) -> str:
    """The name of a suite that gives itself none: its file's, without suffixes."""
    name = Path(file).name
    for suffix in (*SUFFIXES, ".invarlock"):
        name = name.removesuffix(suffix)
    return as_word(name)


def as_word(text: str) -> str:
    """``text`` as a name: letters, digits and ``_ . + -`` only."""
    word = re.sub(r"[^A-Za-z0-9_.+-]+", "-", text).lstrip(".+-")
    return word or "run"


def with_shipped_scenarios(document: YamlDocument) -> YamlDocument:
    """``document``, each scenario with ``extends: NAME`` laid over the shipped one of that name.

    Raises ConfigError for a name that is no shipped scenario's.
    """
    scenarios = document.value.get("scenarios")
    if not isinstance(scenarios, list):
        return document
    laid = []
    for index, scenario in enumerate(scenarios):
        if isinstance(scenario, Mapping) and "extends" in scenario:
            name = scenario["extends"]
            shipped = shipped_scenarios()
            if not isinstance(name, str) or name not in shipped:
                raise ConfigError(
                    f"{document.place(('scenarios', index, 'extends'))}: "
                    f"scenarios[{index}].extends: no shipped scenario is named {name!r}",
                    remedy=nearest(str(name), list(shipped), "scenario"),
                    code="UNKNOWN_SCENARIO",
                )
            scenario = _merged(scenario, shipped[name])
            del scenario["extends"]
        laid.append(scenario)
    return replace(document, value={**document.value, "scenarios": laid})


@cache
def shipped_scenarios() -> dict[str, dict[str, Any]]:
    """The scenarios under ``policies/scenarios``, by their ids."""
    return {
        scenario["id"]: scenario
        for file in names("scenarios", ".yaml")
        for scenario in parse_yaml(
            read_text("scenarios", f"{file}.yaml"), name=f"scenarios/{file}.yaml"
        ).value["scenarios"]
    }


def _shipped() -> list[str]:
    return [name for folder in SHIPPED_FOLDERS for name in names(folder, ".yaml")]


def _shipped_document(name: str) -> YamlDocument:
    folder = next(folder for folder in SHIPPED_FOLDERS if name in names(folder, ".yaml"))
    document = parse_yaml(read_text(folder, f"{name}.yaml"), name=f"{folder}/{name}.yaml")
    for key in _ABOUT_ITSELF:
        document.value.pop(key, None)
    return document


def _confined(document: YamlDocument, reference: str, folder: Path) -> Path:
    """The file that ``reference`` names, if it lies, links followed, below ``folder``."""
    if Path(reference).suffix not in SUFFIXES:
        raise _error(
            document,
            f"nothing shipped is named {reference!r}",
            nearest(reference, _shipped(), "name"),
        )
    if "\0" in reference:
        raise _error(document, f"{reference!r} is no file name", "name a file in this folder")
    path = (folder / reference).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise _error(
            document, f"{reference!r} lies outside the file's own folder", "copy it into the folder"
        )
    return path


def _error(document: YamlDocument, cause: str, remedy: str) -> ConfigError:
    return ConfigError(
        f"{document.place(('extends',))}: extends: {cause}", remedy=remedy, code="EXTENDS"
    )


def _over(upper: YamlDocument, lower: YamlDocument) -> YamlDocument:
    lines: dict[KeyPath, int] = {}
    origins: dict[KeyPath, str] = {}
    value = _merged(upper.value, lower.value)
    del value["extends"]
    for document in (lower, upper):
        replaced = _replaced(document.value, lower.value) if document is upper else []
        for old in replaced:
            for path in [path for path in lines if path[: len(old)] == old]:
                lines.pop(path)
                origins.pop(path)
        for path, line in document.lines.items():
            lines[path] = line
            origins[path] = document.origins.get(path, document.name)
    lines.pop(("extends",), None)
    return YamlDocument(upper.name, value, lines, origins)


def _merged(upper: Mapping[str, Any], lower: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        under = lower.get(key)
        both = isinstance(value, Mapping) and isinstance(under, Mapping)
        merged[key] = _merged(value, under) if both else value  # type: ignore[arg-type]
    return merged


def _replaced(
    upper: Mapping[str, Any], lower: Mapping[str, Any], at: KeyPath = ()
) -> list[KeyPath]:
    """The paths below which nothing of ``lower`` is left."""
    found: list[KeyPath] = []
    for key, value in upper.items():
        under = lower.get(key)
        if isinstance(value, Mapping) and isinstance(under, Mapping):
            found += _replaced(value, under, (*at, key))
        else:
            found.append((*at, key))
    return found
