"""Digests of tensors and of whole models, over names, dtypes, shapes and bytes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def tensor_digest(tensor: torch.Tensor) -> str:
    """Hex SHA-256 of dtype, shape and bytes of ``tensor`` (any dtype and device)."""
    head = f"{tensor.dtype}|{tuple(tensor.shape)}|".encode()
    if is_traceable_wrapper_subclass(tensor):
        return hashlib.sha256(head + _packed(tensor).encode()).hexdigest()
    flat = tensor.detach().contiguous().reshape(-1).cpu()
    content = hashlib.sha256(head)
    # Read where they lie: no copy of a tensor's bytes is made.
    content.update(flat.view(torch.uint8).numpy().data)
    return content.hexdigest()


def _packed(tensor: Any) -> str:
    """A line for each plain part of a packed tensor, which has no bytes of its own."""
    names, _ = tensor.__tensor_flatten__()
    parts = {name: tensor_digest(getattr(tensor, name)) for name in names}
    return "".join(f"{type(tensor).__name__}.{name} {parts[name]}\n" for name in names)


def model_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every logical tensor of ``model`` by name: parameters and buffers, tied names both listed."""
    return model.state_dict(keep_vars=True)


def tensor_digests(model: torch.nn.Module) -> dict[str, str]:
    """The digest of each logical tensor; storage shared by tied names is hashed once."""
    by_storage: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    digests = {}
    for name, tensor in model_tensors(model).items():
        # A packed tensor has no address.
        place = id(tensor) if is_traceable_wrapper_subclass(tensor) else tensor.data_ptr()
        key = (place, tuple(tensor.shape), tuple(tensor.stride()))
        if key not in by_storage:
            by_storage[key] = tensor_digest(tensor)
        digests[name] = by_storage[key]
    return digests


def tensors_overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one storage reach over common bytes.

    Views whose elements interleave count too: that they share none would have to be searched for.
    """
    if one.untyped_storage().data_ptr() != other.untyped_storage().data_ptr():
        return False
    (start, end), (begin, stop) = _reach(one), _reach(other)
    return max(start, begin) < min(end, stop)


def _reach(tensor: torch.Tensor) -> tuple[int, int]:
    """The first byte of a tensor, and the first behind it, in its storage."""
    start = int(tensor.storage_offset()) * tensor.element_size()
    if not tensor.numel():
        return start, start
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = int(sum((size - 1) * stride for size, stride in steps))
    return start, start + (last + 1) * tensor.element_size()


def edited_digests(
    model: torch.nn.Module, touched: Iterable[str], known: Mapping[str, str]
) -> dict[str, str]:
    """The digests after an edit of the tensors ``touched``; the others' are ``known``."""
    tensors = model_tensors(model)
    written: dict[int, list[torch.Tensor]] = {}
    for name in touched:
        written.setdefault(tensors[name].untyped_storage().data_ptr(), []).append(tensors[name])
    return {
        name: tensor_digest(tensor)
        if any(
            tensors_overlap(tensor, other)
            for other in written.get(tensor.untyped_storage().data_ptr(), ())
        )
        else known[name]
        for name, tensor in tensors.items()
    }


def combined_digest(digests: Mapping[str, str]) -> str:
    """``sha256:`` over sorted ``<digest>  <name>`` lines: the identity of loaded tensors."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
