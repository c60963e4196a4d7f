"""Where a model reference leads: a shipped model, a local directory, or the Hub's offline cache.

Nothing here imports torch. A checkpoint's files are checked before anything is loaded, so that a
damaged one ends in one line that names the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from pytest_invarlock.errors import ModelLoadError
from pytest_invarlock.plan import BUILTIN_MODELS
from pytest_invarlock.policy.nearest import nearest

MAX_HEADER_BYTES = 100_000_000
_CHUNK_BYTES = 1 << 20
_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
_resources = ExitStack()


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A checkpoint directory and, for a Hub model, its repository and resolved revision.

    ``trusted`` says that code which the checkpoint brings may be run.
    """

    reference: str
    directory: Path
    repository: str | None = None
    revision: str | None = None
    trusted: bool = False


def hub_parts(reference: str) -> tuple[str, str | None] | None:
    """Repository and revision of a Hub id; None for a shipped model, a directory or a path."""
    if reference.startswith("builtin:") or _looks_like_path(reference):
        return None
    if not reference.startswith("hf:") and Path(reference).expanduser().is_dir():
        return None
    repository, _, revision = reference.removeprefix("hf:").partition("@")
    return repository, revision or None


def resolve_model(
    reference: str, *, allow_network: bool = False, trusted: bool = False
) -> ModelSource:
    """Find the checkpoint directory of ``reference`` and check its files.

    ``builtin:NAME`` is shipped; an existing directory is taken as it is; anything else is a Hub id
    (``gpt2``, ``hf:gpt2``, ``org/name@REVISION``), looked up in the Hub client's cache and fetched
    only where ``allow_network`` says so; the code it brings too, where it is ``trusted``.

    Raises:
        ModelLoadError: missing, incomplete, gated or truncated, each with its own code.
    """
    if reference.startswith("builtin:"):
        source = _builtin(reference)
    elif not reference.startswith("hf:") and Path(reference).expanduser().is_dir():
        source = ModelSource(reference, Path(reference).expanduser())
    elif _looks_like_path(reference):
        raise ModelLoadError(
            f"{reference}: no such model directory",
            remedy="give an existing directory, a Hub id, builtin:llama or builtin:gpt2",
            code="MODEL_NOT_FOUND",
        )
    else:
        source = _from_hub(reference, allow_network=allow_network, with_code=trusted)
    _check_files(source.directory)
    return replace(source, trusted=trusted)


def _looks_like_path(reference: str) -> bool:
    return reference.startswith(("/", "./", "../", "~")) or reference.count("/") > 1


def _builtin(reference: str) -> ModelSource:
    name = reference.removeprefix("builtin:")
    if name not in BUILTIN_MODELS:
        raise ModelLoadError(
            f"no shipped model is named {name!r}",
            remedy=nearest(name, list(BUILTIN_MODELS), "shipped model"),
            code="MODEL_NOT_FOUND",
        )
    shipped = files("pytest_invarlock.builtin").joinpath(name)
    return ModelSource(reference, _resources.enter_context(as_file(shipped)))


def _from_hub(reference: str, *, allow_network: bool, with_code: bool) -> ModelSource:
    if not allow_network:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = reference.removeprefix("hf:").partition("@")
    try:
        directory = snapshot_download(
            repository,
            revision=revision or None,
            local_files_only=not allow_network,
            allow_patterns=[*_PATTERNS, *(["*.py"] if with_code else [])],
        )
    except GatedRepoError as error:
        raise ModelLoadError(
            f"{repository}: the Hub serves this model only to approved accounts",
            remedy="accept its terms on the Hub and log in with `hf auth login`",
            code="MODEL_GATED",
        ) from error
    except LocalEntryNotFoundError as error:
        raise ModelLoadError(
            f"{reference}: not in the local Hub cache, and the network is off",
            remedy="give --invarlock-allow-network, or fetch it first with `hf download`",
            code="MODEL_NOT_CACHED",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ModelLoadError(
            f"{reference}: the Hub knows no such model or revision",
            remedy="check the id and revision, or name a directory",
            code="MODEL_NOT_FOUND",
        ) from error
    return ModelSource(reference, Path(directory), repository, Path(directory).name)


def _check_files(directory: Path) -> None:
    config = directory / "config.json"
    if not config.is_file():
        raise ModelLoadError(
            f"{directory}: holds no config.json",
            remedy="give a checkpoint directory as save_pretrained writes it",
            code="MODEL_INCOMPLETE",
        )
    try:
        parsed = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(
            f"{config}: is not readable JSON", remedy="restore the file", code="MODEL_INCOMPLETE"
        ) from error
    if not isinstance(parsed, dict) or "model_type" not in parsed:
        raise ModelLoadError(
            f"{config}: names no model_type", remedy="restore the file", code="MODEL_INCOMPLETE"
        )
    if (directory / "adapter_config.json").is_file():
        raise ModelLoadError(
            f"{directory}: holds an adapter (adapter_config.json), which would not be measured",
            remedy="merge the adapter into the weights first",
            code="MODEL_ADAPTER",
        )
    shards = weight_files(directory)
    for shard in shards:
        read_header(shard)


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint; raises ModelLoadError where there are none."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        shards = [directory / name for name in _shard_names(index)]
    else:
        shards = sorted(directory.glob("*.safetensors"))
    missing = [shard for shard in shards if not shard.is_file()]
    if missing or not shards:
        if not shards and any(directory.glob("*.bin")):
            raise ModelLoadError(
                f"{directory}: holds .bin weights only, which are not read",
                remedy="load the model and save it again with save_pretrained(), as safetensors",
                code="MODEL_INCOMPLETE",
            )
        what = missing[0].name if missing else "*.safetensors"
        raise ModelLoadError(
            f"{directory}: weight file {what} is missing",
            remedy="give a complete checkpoint in safetensors format",
            code="MODEL_INCOMPLETE",
        )
    return shards


def _shard_names(index: Path) -> list[str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelLoadError(
            f"{index}: is no index of weight files",
            remedy="restore the file",
            code="MODEL_INCOMPLETE",
        ) from error
    return [str(name) for name in names]


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, after checking that the data it promises are all there."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size + 1
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise _truncated(path, size, "its header is cut off or malformed")
        try:
            header = json.loads(stream.read(length))
            promised = 8 + length + _data_bytes(header)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            raise _truncated(path, size, "its header is not one of safetensors") from None
    if size != promised:
        raise _truncated(path, size, f"its header promises {promised}")
    return dict(header)


def _data_bytes(header: dict[str, Any]) -> int:
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return int(max(ends, default=0))


def _truncated(path: Path, size: int, why: str) -> ModelLoadError:
    return ModelLoadError(
        f"{path}: damaged safetensors file: {size} bytes, {why}",
        remedy="copy or download the file again",
        code="MODEL_TRUNCATED",
    )


def checkpoint_digest(directory: Path) -> str:
    """in-toto ``dirHash1`` of a checkpoint: SHA-256 over sorted ``sha256sum`` lines of its files.

    Hidden files and folders, which hold caches and version control, are left out.
    """
    paths = sorted(
        (
            path
            for path in directory.rglob("*")
            if path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(directory).parts)
        ),
        key=lambda path: path.relative_to(directory).as_posix().encode(),
    )
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_file_digest, paths))
    lines = "".join(
        f"{digest}  {path.relative_to(directory).as_posix()}\n"
        for digest, path in zip(digests, paths, strict=True)
    )
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def _file_digest(path: Path) -> str:
    content = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            content.update(chunk)
    return content.hexdigest()
