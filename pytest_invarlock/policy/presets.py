"""Presets: data, lengths and metric for a kind of model, shipped or in a file of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.policy.resources import names, read_text
from pytest_invarlock.policy.schema_check import check_document
from pytest_invarlock.policy.yaml_document import load_yaml, parse_yaml

if TYPE_CHECKING:
    from pytest_invarlock.policy.settings import Settings
    from pytest_invarlock.policy.yaml_document import YamlDocument

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Preset:
    """What a preset file says; relative file names in ``dataset`` start at ``folder``."""

    name: str
    description: str
    dataset: Mapping[str, Any]
    metric: str | None
    folder: Path


def chosen_preset(value: Mapping[str, Any], settings: Settings, folder: Path) -> Preset | None:
    """The preset of ``--invarlock-preset``, else of a suite document in ``folder``; or None."""
    named = settings.text("preset")
    if named is not None:
        return load_preset(named)
    return load_preset(value["preset"], folder) if "preset" in value else None


def load_preset(reference: str, folder: Path | None = None) -> Preset:
    """The preset of a shipped name, of a YAML file, or of the one YAML file in a directory.

    Args:
        reference: the name, file or directory; relative ones are looked for in ``folder``.
        folder: None is the working directory.

    Raises:
        ConfigError: no such preset, none or several in a directory, or an unknown key.
    """
    shipped = names("presets", ".yaml")
    if reference in shipped:
        text = read_text("presets", f"{reference}.yaml")
        document = parse_yaml(text, name=f"presets/{reference}.yaml")
        return _preset(document, reference, Path.cwd())
    path = (folder or Path.cwd()) / Path(reference)
    if path.is_dir():
        path = _only_file(path)
    elif path.suffix not in SUFFIXES:
        raise ConfigError(
            f"no preset is named {reference!r}",
            remedy=nearest(reference, shipped, "preset"),
            code="UNKNOWN_PRESET",
        )
    return _preset(load_yaml(path), path.stem, path.parent)


def _only_file(directory: Path) -> Path:
    files = sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES)
    if len(files) != 1:
        found = ", ".join(path.name for path in files) or "none"
        raise ConfigError(
            f"{directory}: holds {len(files)} preset files ({found}), one is needed",
            remedy="name the file itself",
            code="UNKNOWN_PRESET",
        )
    return files[0]


def _preset(document: YamlDocument, name: str, folder: Path) -> Preset:
    check_document(document, "preset")
    value = document.value
    return Preset(
        name=name,
        description=value.get("description", ""),
        dataset=value.get("dataset", {}),
        metric=value.get("eval", {}).get("metric", {}).get("kind"),
        folder=folder,
    )
