"""Which files hold which split of a Hub data set: as its card says, else as their names say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from pytest_invarlock.data.tables import is_data_file
from pytest_invarlock.errors import DataError
from pytest_invarlock.policy.nearest import nearest

if TYPE_CHECKING:
    from pathlib import Path

CARD = "README.md"
EVERY_DATA_FILE = tuple(
    f"**{extension}{packed}"
    for extension in (".parquet", ".arrow", ".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson")
    for packed in ("", ".gz")
)
DEFAULT_CONFIG = "default"
_FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---", re.DOTALL)
_SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


@dataclass(frozen=True, slots=True)
class CardConfig:
    """A configuration as the card declares it: glob patterns of each split's files."""

    name: str
    patterns: Mapping[str, tuple[str, ...]]
    is_default: bool = False


def card_configs(folder: Path, dataset_name: str) -> tuple[CardConfig, ...]:
    """The configurations that the card's metadata declare with their files; often none.

    Raises:
        DataError: ``DATASET_CARD`` for metadata that are no YAML, or lead out of the snapshot.
    """
    card = folder / CARD
    found = _FRONT_MATTER.match(card.read_text(encoding="utf-8")) if card.is_file() else None
    if found is None:
        return ()
    try:
        metadata = yaml.safe_load(found.group(1))
        declared = (metadata or {}).get("configs") or []
        return tuple(
            CardConfig(entry["config_name"], _patterns(entry), bool(entry.get("default")))
            for entry in declared
            if "data_files" in entry
        )
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{dataset_name}: the metadata of its card (README.md) declare no usable data files",
            remedy="name another revision, or download its files and use provider local_file",
            code="DATASET_CARD",
        ) from error


def _patterns(entry: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    declared = entry["data_files"]
    if isinstance(declared, Mapping):
        declared = [{"split": split, "path": path} for split, path in declared.items()]
    if isinstance(declared, str) or all(isinstance(item, str) for item in declared):
        declared = [{"split": "train", "path": declared}]
    patterns: dict[str, tuple[str, ...]] = {}
    for item in declared:
        paths = [item["path"]] if isinstance(item["path"], str) else list(item["path"])
        for path in paths:
            if ".." in PurePosixPath(path).parts or path.startswith("/") or "://" in path:
                raise ValueError(path)
        patterns[str(item["split"])] = tuple(paths)
    return patterns


def choose_config(
    configs: tuple[CardConfig, ...], wanted: str | None, dataset_name: str
) -> CardConfig:
    """The configuration asked for, or the only or default one; raises DataError listing all."""
    names = [config.name for config in configs]
    if wanted is None:
        marked = [
            c for c in configs if c.is_default or c.name == DEFAULT_CONFIG or len(configs) == 1
        ]
        if marked:
            return marked[0]
        raise DataError(
            f"{dataset_name}: has several configurations, and config_name names none",
            remedy=f"give one of {', '.join(names)}",
            code="DATASET_CONFIG",
        )
    if wanted not in names:
        raise DataError(
            f"{dataset_name}: has no configuration {wanted!r}; it has {', '.join(names)}",
            remedy=nearest(wanted, names, "configuration"),
            code="DATASET_CONFIG",
        )
    return configs[names.index(wanted)]


def files_by_name(folder: Path) -> dict[str, list[Path]]:
    """Data files below ``folder`` by the split that a word of their path names; none: train."""
    splits: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and is_data_file(path):
            splits.setdefault(_split_of(path.relative_to(folder).as_posix()), []).append(path)
    return splits


def _split_of(path: str) -> str:
    words = re.split(r"[/._\-\s\d]+", path.lower())
    for word in reversed(words):
        for split, names in _SPLIT_WORDS.items():
            if word in names:
                return split
    return "train"
