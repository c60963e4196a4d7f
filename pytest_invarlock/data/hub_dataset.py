"""One configuration of a Hub data set at one revision: its splits, their files and rows.

The files are read as they lie in the Hub client's cache. No code of the data set is run, and no
second cache is written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_invarlock.data.hub_cache import HubCache
from pytest_invarlock.data.hub_layout import (
    CARD,
    DEFAULT_CONFIG,
    EVERY_DATA_FILE,
    CardConfig,
    card_configs,
    choose_config,
    files_by_name,
)
from pytest_invarlock.data.rows import Row
from pytest_invarlock.data.tables import table_rows
from pytest_invarlock.errors import DataError
from pytest_invarlock.policy.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

FALLBACK_SPLITS = ("validation", "test", "train")


@dataclass(frozen=True, slots=True)
class HubSplits:
    """What was found: the splits to read, in order, each with its files.

    ``revision`` is the commit; ``fallback`` says that the default split was absent.
    """

    dataset_name: str
    config_name: str | None
    revision: str
    split: str
    files: tuple[tuple[str, tuple[Path, ...]], ...]
    fallback: bool

    def rows(self) -> Iterator[Row]:
        """The rows of all splits, named by split and number."""
        name = (
            f"{self.dataset_name} ({self.config_name})" if self.config_name else self.dataset_name
        )
        for split, paths in self.files:
            number = 0
            for path in paths:
                for row in table_rows(path):
                    number += 1
                    yield Row(f"{name}: {split} row {number}", row.values, split)


def find_splits(
    cache: HubCache, *, config_name: str | None, split: str | None, default_split: str
) -> HubSplits:
    """Find the files of a split, or of several joined by ``+``.

    Args:
        cache: the data set, its revision, and whether the network may be used.
        config_name: the configuration; None where there is one, or a default one.
        split: the split asked for; None takes ``default_split`` or, where that is absent, the
            first of validation, test, train, and says so.
        default_split: the provider's own choice.

    Raises:
        DataError: not cached, not found, gated; an unknown configuration; a missing split.
    """
    folder = cache.snapshot([CARD])
    # One commit throughout, whatever is pushed meanwhile.
    cache = replace(cache, revision=folder.name)
    configs = card_configs(folder, cache.dataset_name)
    if configs:
        config = choose_config(configs, config_name, cache.dataset_name)
        names, fallback = _chosen(list(config.patterns), split, default_split, cache.dataset_name)
        files = _declared_files(cache, config, names)
        config_name = config.name
    else:
        base = _folder_of(cache, config_name)
        by_name = files_by_name(base)
        if not by_name:
            raise cache.not_cached("none of its data files is")
        names, fallback = _chosen(list(by_name), split, default_split, cache.dataset_name)
        files = [(name, tuple(by_name[name])) for name in names]
    return HubSplits(
        cache.dataset_name, config_name, folder.name, "+".join(names), tuple(files), fallback
    )


def _is_inner(folder: Path, name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and (folder / name).is_dir()


def _folder_of(cache: HubCache, config_name: str | None) -> Path:
    """Without a card that declares files: the folder named as the configuration, or the whole."""
    folder = cache.snapshot(EVERY_DATA_FILE)
    if config_name is None or config_name == DEFAULT_CONFIG:
        return folder
    if _is_inner(folder, config_name):
        return folder / config_name
    inner = sorted(path.name for path in folder.iterdir() if path.is_dir())
    raise DataError(
        f"{cache.dataset_name}: has no configuration {config_name!r}",
        remedy=nearest(config_name, [DEFAULT_CONFIG, *inner], "configuration"),
        code="DATASET_CONFIG",
    )


def _declared_files(
    cache: HubCache, config: CardConfig, names: Sequence[str]
) -> list[tuple[str, tuple[Path, ...]]]:
    folder = cache.snapshot([pattern for name in names for pattern in config.patterns[name]])
    files = []
    for name in names:
        paths = sorted(
            {
                path
                for pattern in config.patterns[name]
                for path in folder.glob(pattern)
                if path.is_file()
            }
        )
        if not paths:
            raise cache.not_cached(f"split {name} of configuration {config.name} is not")
        files.append((name, tuple(paths)))
    return files


def _chosen(
    known: Sequence[str], wanted: str | None, default: str, dataset_name: str
) -> tuple[list[str], bool]:
    """The names of the splits to read, and whether they are a fallback."""
    if wanted is None and default not in known:
        for name in FALLBACK_SPLITS:
            if name in known:
                return [name], True
    names = (wanted or default).split("+")
    for name in names:
        if name not in known:
            raise DataError(
                f"{dataset_name}: has no split {name!r}; it has {', '.join(known)}",
                remedy=nearest(name, list(known), "split")
                if "[" not in name
                else "name whole splits, joined by +, and bound the rows with max_samples",
                code="DATASET_SPLIT",
            )
    if len(set(names)) < len(names):
        raise DataError(
            f"{dataset_name}: split {wanted!r} names one split twice",
            remedy="name each split once",
            code="DATASET_SPLIT",
        )
    return names, False
