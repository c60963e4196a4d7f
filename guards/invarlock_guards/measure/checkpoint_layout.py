"""How a model names, ties and uses the tensors of a checkpoint, and where each of them is stored.

A layout is read from a model without numbers (on the meta device), or, where there is none that
fits, from the names the tensors are stored under.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from invarlock_guards.measure.canonical_layout import Unit, canonical_units
from invarlock_guards.measure.checkpoint_names import roles_by_name
from invarlock_guards.measure.weight_change import weight_pairs

if TYPE_CHECKING:
    from invarlock_guards.measure.checkpoint_files import CheckpointFiles


@dataclass(frozen=True, slots=True)
class CheckpointLayout:
    """What an architecture makes of a checkpoint's tensors.

    Attributes:
        shapes: of every tensor that the architecture stores, by its name there, tied ones too.
        ties: groups of names that the configuration makes one tensor.
        roles: role and family of each parameter, in model order; of tied ones the first.
        units: what the parametrisation leaves free, or the reason why that is not known.
        prefix: what checkpoints of the base model alone leave out of every name, or empty.
        ignored: patterns of stored names that are known not to be read.
        renamed: the stored names of those that a loader renames.
    """

    shapes: Mapping[str, tuple[int, ...]]
    ties: tuple[tuple[str, ...], ...]
    roles: Mapping[str, tuple[str, str]]
    units: list[Unit] | str
    prefix: str = ""
    ignored: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)


def layout_of(model: torch.nn.Module) -> CheckpointLayout:
    """The layout of ``model``'s architecture and configuration; its numbers are not read."""
    state = model.state_dict(keep_vars=True)
    groups: dict[int, list[str]] = {}
    for name, tensor in state.items():
        # Tied tensors are one object; on the meta device nothing has an address.
        groups.setdefault(id(tensor), []).append(name)
    prefix = getattr(model, "base_model_prefix", None)
    patterns: Any = getattr(model, "_keys_to_ignore_on_load_unexpected", None)
    return CheckpointLayout(
        shapes={name: tuple(tensor.shape) for name, tensor in state.items()},
        ties=tuple(tuple(names) for names in groups.values() if len(names) > 1),
        roles={pair.name: (pair.role, pair.family) for pair in weight_pairs(model, {}, {})},
        units=canonical_units(model),
        prefix=f"{prefix}." if isinstance(prefix, str) and prefix else "",
        ignored=tuple(patterns or ()),
    )


def layout_by_names(files: CheckpointFiles, reason: str) -> CheckpointLayout:
    """The layout of the tensors of ``files`` under the names they are stored under.

    ``reason`` says why there is no architecture, and so no `Unit`.
    """
    shapes = {name: stored.shape for name, stored in files.tensors.items()}
    # Tensors of integers too: packed weights are nothing else.
    return CheckpointLayout(shapes, (), roles_by_name(shapes), reason)


def stored_names(layout: CheckpointLayout, files: CheckpointFiles) -> dict[str, str]:
    """Under which name of ``files`` each name of ``layout`` is stored; of tied names one will do.

    A name that is missing is left out.
    """
    found: dict[str, str] = {}
    for name in layout.shapes:
        base = name.removeprefix(layout.prefix)
        place = next(
            (p for p in (name, base, layout.renamed.get(name)) if p in files.tensors), None
        )
        if place is not None:
            found[name] = place
    for group in layout.ties:
        present = [found[name] for name in group if name in found]
        for name in group if present else ():
            found.setdefault(name, present[0])
    return {name: found[name] for name in layout.shapes if name in found}


def unread_names(layout: CheckpointLayout, files: CheckpointFiles) -> frozenset[str]:
    """The names of ``files`` that ``layout`` has no place for, but those known not to be read."""
    unused = files.tensors.keys() - set(stored_names(layout, files).values())
    return frozenset(name for name in unused if not any(re.search(p, name) for p in layout.ignored))


def renamed_names(layout: CheckpointLayout, files: CheckpointFiles) -> dict[str, str]:
    """Stored names of parameters whose name is not stored, told by their shapes.

    The one parameter of a shape that is not there is the one tensor of that shape that nothing
    else is. That is sound of a checkpoint that is known to load, so of the baseline alone.
    """
    stored = stored_names(layout, files)
    missing = _by_shape({n: layout.shapes[n] for n in layout.roles if n not in stored})
    unread = {n: files.tensors[n].shape for n in unread_names(layout, files)}
    spare = _by_shape(unread)
    return {
        names[0]: spare[shape][0]
        for shape, names in missing.items()
        if len(names) == 1 and len(spare.get(shape, ())) == 1
    }


def _by_shape(shapes: Mapping[str, tuple[int, ...]]) -> dict[tuple[int, ...], list[str]]:
    found: dict[tuple[int, ...], list[str]] = {}
    for name, shape in shapes.items():
        found.setdefault(shape, []).append(name)
    return found


def misfit(layout: CheckpointLayout, files: CheckpointFiles) -> str | None:
    """Why ``layout`` does not describe ``files``: a parameter not stored, or of another shape."""
    stored = stored_names(layout, files)
    for name in layout.roles:
        if name not in stored:
            return f"{name}, which its configuration asks for, is not stored under that name"
        if files.tensors[stored[name]].shape != layout.shapes[name]:
            return f"{name} has another shape than its configuration says"
    return None


def packed(layout: CheckpointLayout, files: CheckpointFiles) -> str | None:
    """Why the numbers of ``files`` are not those ``layout`` computes with, or None if they are.

    A packed parameter may have the name and shape of an unpacked one; what unpacks it, such as its
    scales, is then stored beside it and not among what the architecture asks for.
    """
    stored = stored_names(layout, files)
    dtypes = {name: files.tensors[stored[name]].dtype for name in layout.roles if name in stored}
    for name, dtype in dtypes.items():
        if "float" not in dtype:
            return f"{name} is stored as {dtype}"
    small = next((name for name, dtype in dtypes.items() if dtype.startswith("float8")), None)
    if small is not None and unread_names(layout, files):
        return f"{small} is stored as {dtypes[small]}, beside tensors that are not parameters"
    return None
