"""Checkpoints that lie on this machine already, found without asking anybody."""

from __future__ import annotations

import os

from pytest_invarlock.adapters.model_source import ModelSource, resolve_model

_OFFLINE = "HF_HUB_OFFLINE"


def local_source(reference: str, *, trusted: bool = False) -> ModelSource:
    """Where ``reference`` lies on this machine.

    Raises:
        ModelLoadError: as `resolve_model` does without the network.
    """
    before = os.environ.get(_OFFLINE)
    try:
        return resolve_model(reference, trusted=trusted)
    finally:
        # Looking without the network must not take it from the workers, which inherit this.
        if before is None:
            os.environ.pop(_OFFLINE, None)
