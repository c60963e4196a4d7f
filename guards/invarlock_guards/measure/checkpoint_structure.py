"""The structure of a checkpoint as the invariants guard compares it, by headers and by its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from invarlock_guards.measure.checkpoint_layout import stored_names, unread_names
from invarlock_guards.measure.invariants import ModelStructure, config_values
from invarlock_guards.measure.row_blocks import bitwise_equal

if TYPE_CHECKING:
    from invarlock_guards.measure.checkpoint_files import CheckpointFiles
    from invarlock_guards.measure.checkpoint_layout import CheckpointLayout


@dataclass(frozen=True, slots=True)
class CheckpointSide:
    """One of two checkpoints: its files, its own layout, and what else identifies it.

    Attributes:
        files: its headers.
        layout: of its own architecture and configuration.
        config: the configuration's values as its architecture reads them, defaults filled in; None
            takes ``config.json`` as it stands.
        tokenizer: a fingerprint of the tokenizer, None where that is not compared.
    """

    files: CheckpointFiles
    layout: CheckpointLayout
    config: Mapping[str, Any] | None = None
    tokenizer: str | None = None


def checkpoint_structure(
    side: CheckpointSide, non_finite: Mapping[str, int] | None = None
) -> ModelStructure:
    """What `invarlock_guards.measure.invariants.read_structure` would read of the loaded model.

    Dtypes are those stored. Headers alone are read, but for tensors stored under two names that
    the configuration ties, which are one where their bits are equal.

    Args:
        side: the checkpoint.
        non_finite: how many elements are NaN or infinite, by stored name; None says nothing of it.
    """
    files, layout = side.files, side.layout
    stored = stored_names(layout, files)
    ties = _ties(files, layout, stored)
    counts = non_finite or {}
    first = {name: group[0] for group in ties for name in group}
    distinct = {first.get(name, name): place for name, place in stored.items()}
    return ModelStructure(
        tensors={
            name: (files.tensors[place].shape, files.tensors[place].dtype)
            for name, place in stored.items()
        },
        ties=frozenset(ties),
        config=config_values(files.config if side.config is None else side.config),
        tokenizer=side.tokenizer,
        non_finite={name: counts[place] for name, place in distinct.items() if counts.get(place)},
        n_parameters=sum(files.tensors[place].n_elements for place in distinct.values()),
        unread=unread_names(layout, files),
    )


def read_as(structure: ModelStructure, dtype: str) -> ModelStructure:
    """``structure`` with floating tensors in the dtype that a loader casts them to.

    Args:
        structure: of a checkpoint's files.
        dtype: a torch dtype name; ``auto`` leaves them as stored.
    """
    if dtype == "auto":
        return structure
    tensors = {
        name: (shape, dtype if "float" in stored else stored)
        for name, (shape, stored) in structure.tensors.items()
    }
    return replace(structure, tensors=tensors)


def _ties(
    files: CheckpointFiles, layout: CheckpointLayout, stored: Mapping[str, str]
) -> list[tuple[str, ...]]:
    """The groups of ``layout`` that are one tensor here too, each sorted."""
    ties = []
    for group in layout.ties:
        places = list(dict.fromkeys(stored[name] for name in group if name in stored))
        first, *others = places or [""]
        if places and all(
            bitwise_equal(files.tensor(first), files.tensor(other)) for other in others
        ):
            ties.append(tuple(sorted(group)))
    return ties
