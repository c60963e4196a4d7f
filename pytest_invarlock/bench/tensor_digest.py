"""Digests of tensors and of whole models, over names, dtypes, shapes and bytes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def tensor_digest(tensor: torch.Tensor) -> str:
    """Hex SHA-256 of dtype, shape and bytes of ``tensor`` (any dtype and device)."""
    head = f"{tensor.dtype}|{tuple(tensor.shape)}|".encode()
    flat = tensor.detach().contiguous().reshape(-1).cpu()
    return hashlib.sha256(head + bytes(flat.view(torch.uint8).numpy())).hexdigest()


def model_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every logical tensor of ``model`` by name: parameters and buffers, tied names both listed."""
    return model.state_dict(keep_vars=True)


def tensor_digests(model: torch.nn.Module) -> dict[str, str]:
    """The digest of each logical tensor; storage shared by tied names is hashed once."""
    by_storage: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    digests = {}
    for name, tensor in model_tensors(model).items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()))
        if key not in by_storage:
            by_storage[key] = tensor_digest(tensor)
        digests[name] = by_storage[key]
    return digests


def edited_digests(
    model: torch.nn.Module, touched: Iterable[str], known: Mapping[str, str]
) -> dict[str, str]:
    """The digests after an edit of the tensors ``touched``; the others' are ``known``."""
    tensors = model_tensors(model)
    written = {tensors[name].data_ptr() for name in touched}
    return {
        name: tensor_digest(tensor) if tensor.data_ptr() in written else known[name]
        for name, tensor in tensors.items()
    }


def combined_digest(digests: Mapping[str, str]) -> str:
    """``sha256:`` over sorted ``<digest>  <name>`` lines: the identity of loaded tensors."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
