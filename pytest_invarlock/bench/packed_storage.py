"""What a packed checkpoint holds, read from its files: no word of the backend is taken for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_LENGTH_BYTES = 8
MOST_NAMES = 100
"""No more names of what nothing explains are kept."""


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A stored tensor by its header: the format's name of its dtype, and its bytes."""

    dtype: str
    n_bytes: int


def stored_parts(folder: Path) -> dict[str, StoredPart]:
    """Every tensor of every ``*.safetensors`` below ``folder``, by name, from the headers.

    Two files' tensors of one name count as two, the second under the file's name too.

    Raises:
        ValueError: a file has no header of the format.
    """
    found: dict[str, StoredPart] = {}
    for file in sorted(folder.rglob("*.safetensors")):
        for name, entry in _header(file).items():
            start, end = entry["data_offsets"]
            key = name if name not in found else f"{file.name}:{name}"
            found[key] = StoredPart(str(entry["dtype"]), int(end) - int(start))
    return found


def storage_evidence(
    folder: Path,
    packed: Mapping[str, Sequence[str]],
    n_parameters: Mapping[str, int],
    others: Sequence[str],
) -> dict[str, Any]:
    """What of ``folder`` holds packed weights, what the rest, and what nothing accounts for.

    Args:
        folder: of the packed checkpoint.
        packed: by packed weight, the stored tensors that are said to hold it.
        n_parameters: the numbers that each packed weight stands for.
        others: the names of tensors that are not packed, and may be stored under them.
    """
    parts = stored_parts(folder)
    weights = []
    for name, count in sorted(n_parameters.items()):
        mine = [parts[part] for part in packed.get(name, ()) if part in parts]
        weights.append(
            {
                "name": name,
                "n_parameters": count,
                "stored_bytes": sum(part.n_bytes for part in mine),
                "dtypes": sorted({part.dtype for part in mine}),
            }
        )
    explained = {part for name in n_parameters for part in packed.get(name, ())}
    plain = [name for name in parts if name not in explained and name in others]
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    left = [name for name in parts if name not in explained and name not in others]
    left += [path.name for path in files if path.suffix not in (".json", ".safetensors")]
    return {
        "weights": weights,
        "storage": {
            "bytes": sum(path.stat().st_size for path in files),
            "plain_bytes": sum(parts[name].n_bytes for name in plain),
            "unexplained": left[:MOST_NAMES],
        },
    }


def checkpoint_bytes(folder: Path) -> int:
    """The bytes of the tensors in a checkpoint's own safetensors files; 0 where it has none."""
    return sum(part.n_bytes for part in stored_parts(folder).values())


def loaded_bytes(model: torch.nn.Module) -> int:
    """The memory of a model's parameters and buffers, packed or not; shared storage once."""
    storages = {}
    for tensor in (*model.parameters(), *model.buffers()):
        for part in plain_parts(tensor):
            storage = part.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def plain_parts(tensor: Any) -> Iterator[torch.Tensor]:
    """The plain tensors that ``tensor`` consists of: itself, or the parts of a packed one."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from plain_parts(getattr(tensor, name))


def _header(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        if length > file.stat().st_size:
            raise ValueError(f"{file.name}: no safetensors file")
        header = json.loads(opened.read(length))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}
