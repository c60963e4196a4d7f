"""Baseline losses, computed once per host, pair and draw: a file per key under a lock."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock

from pytest_invarlock.evidence.atomic import write_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_invarlock.plan import Arm

Losses = Mapping["Arm", "NDArray[np.float64]"]


def cached_losses(folder: Path | None, key: str, compute: Callable[[], Losses]) -> Losses:
    """The losses stored under ``key``, else those of ``compute``, stored for whoever comes next.

    Args:
        folder: where files and locks go; None keeps nothing.
        key: a digest of everything that changes the losses' bits.
        compute: makes the losses, float64 (n_windows,) by arm; only one process at a time calls it.
    """
    if folder is None:
        return compute()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key.removeprefix('sha256:')}.npz"
    with FileLock(path.with_suffix(".lock")):
        if path.is_file():
            with np.load(path, allow_pickle=False) as stored:
                return {"preview": stored["preview"], "final": stored["final"]}
        losses = compute()
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, preview=losses["preview"], final=losses["final"])
        write_bytes(path, buffer.getvalue())
    return losses
