"""A checkpoint directory by the headers of its safetensors files; tensors are read when asked for.

A tensor is mapped from its file and let go with the last reference to it: nothing is copied, and
no more of a file is in memory than what is being looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    import torch

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES: Mapping[str, str] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "BOOL": "bool", "C64": "complex64",
}  # fmt: skip
"""torch's name of each dtype of the format; others, such as packed ones, keep the format's own."""


class CheckpointError(ValueError):
    """A checkpoint's file that is missing or cannot be read.

    Attributes:
        path: of the file or directory.
        problem: what is the matter with it.
        remedy: what to do about it; an imperative phrase.
    """

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        self.path = path
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{path}: {problem} ({remedy})")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor by its header: the file it is in, its shape, and its dtype by torch's name."""

    file: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def n_elements(self) -> int:
        """How many numbers it has."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def is_floating(self) -> bool:
        """Whether its dtype is one of floating-point numbers, real or complex."""
        return "float" in self.dtype or "complex" in self.dtype


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """What the headers of a checkpoint directory say.

    Attributes:
        directory: the checkpoint's.
        tensors: by the name they are stored under, in the order of files and names.
        config: the values of ``config.json``.
        lost: names that the index promises and no file holds.
        device: torch's name of the device that tensors are read to.
    """

    directory: Path
    tensors: Mapping[str, StoredTensor]
    config: Mapping[str, Any]
    lost: frozenset[str] = field(default=frozenset())
    device: str = "cpu"

    def tensor(self, name: str) -> torch.Tensor:
        """The stored tensor ``name``, mapped from its file.

        Raises:
            CheckpointError: the file is gone or damaged, or torch has no such dtype.
        """
        file = self.tensors[name].file
        try:
            # Opened anew each time: a mapping lives as long as any tensor of it.
            with safe_open(file, framework="pt", device=self.device) as opened:
                found: torch.Tensor = opened.get_tensor(name)
        except (
            OSError, SafetensorError, AttributeError, KeyError, RuntimeError, TypeError,
        ) as error:  # fmt: skip
            raise CheckpointError(
                file, f"tensor {name} cannot be read: {_told(error)}", "copy the file again"
            ) from error
        return found


def read_checkpoint(directory: Path, device: str = "cpu") -> CheckpointFiles:
    """Read ``config.json``, the index if there is one, and the header of every weight file.

    ``device`` is where tensors go when they are asked for.

    Raises:
        CheckpointError: a file is missing, cannot be read, or is shorter or longer than its header
            says; there are no safetensors files; or two files hold a tensor of one name.
    """
    tensors: dict[str, StoredTensor] = {}
    files, promised = _weight_files(directory)
    for file in files:
        for name, stored in _header(file):
            if name in tensors:
                raise CheckpointError(
                    file, f"tensor {name} is in {tensors[name].file.name} too",
                    "remove the file that is not the checkpoint's",
                )  # fmt: skip
            tensors[name] = stored
    config = _mapping(directory / "config.json")
    return CheckpointFiles(directory, tensors, config, promised - tensors.keys(), device)


def _weight_files(directory: Path) -> tuple[list[Path], frozenset[str]]:
    """The weight files, and the names of tensors that an index promises.

    One ``model.safetensors`` is the whole checkpoint, as it is to transformers, whatever else
    lies beside it.
    """
    if (directory / WHOLE).is_file():
        return [directory / WHOLE], frozenset()
    index = directory / INDEX
    if index.is_file():
        weight_map = _mapping(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(index, "has no weight_map", "restore the file")
        names = sorted({str(file) for file in weight_map.values()})
        if any(Path(name).name != name for name in names):
            raise CheckpointError(index, "names files outside its folder", "restore the file")
        return [directory / name for name in names], frozenset(weight_map)
    files = sorted(directory.glob("*.safetensors"))
    if files:
        return files, frozenset()
    if any(directory.glob("*.bin")):
        raise CheckpointError(
            directory, "holds .bin weights only, which are not read: safetensors are needed",
            "load the model and save it again with save_pretrained()",
        )  # fmt: skip
    raise CheckpointError(directory, "holds no *.safetensors", "name a checkpoint's directory")


def _header(file: Path) -> Iterator[tuple[str, StoredTensor]]:
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                part = opened.get_slice(name)
                dtype = part.get_dtype()
                yield name, StoredTensor(file, tuple(part.get_shape()), DTYPES.get(dtype, dtype))
    except (OSError, SafetensorError) as error:
        missing = not file.is_file()
        problem = "is missing" if missing else f"no whole safetensors file: {_told(error)}"
        raise CheckpointError(file, problem, "copy or download the file again") from error


def _mapping(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(file, f"cannot be read: {_told(error)}", "restore it") from error
    if not isinstance(found, dict):
        raise CheckpointError(file, "holds no JSON object", "restore the file")
    return found


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
