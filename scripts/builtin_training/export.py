"""Writes a trained model the way the package ships it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel


def write(model: PreTrainedModel, folder: Path) -> str:
    """Write ``model.safetensors`` in bf16 and ``config.json`` into ``folder``.

    Returns:
        The SHA-256 of ``model.safetensors``, in hexadecimal.

    Raises:
        ValueError: if the configuration names a path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16)  # type: ignore[arg-type]
    model.save_pretrained(folder)
    # safetensors' own mode lets only the owner read it.
    (folder / "model.safetensors").chmod(0o644)
    # Nothing is generated; without the file the loaders fall back on config.json.
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = folder / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings.pop("_name_or_path", None)
    if any(isinstance(value, str) and "/" in value for value in settings.values()):
        raise ValueError(f"{config} names a path")
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="ascii")
    return weights_sha256(folder)


def weights_sha256(folder: Path) -> str:
    """SHA-256 of the weights file in ``folder``, in hexadecimal."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
