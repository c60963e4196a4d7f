"""Memory of models that are no more."""

from __future__ import annotations

import gc

import torch


def free_memory() -> None:
    """Return unreferenced model memory to the system and the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
