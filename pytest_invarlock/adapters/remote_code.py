"""Checkpoints that bring Python code of their own: refused, unless running it was allowed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pytest_invarlock.adapters.readings import CLASS_OF
from pytest_invarlock.errors import ModelLoadError

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_invarlock.adapters.model_source import ModelSource


def own_class(directory: Path) -> str | None:
    """The class that a checkpoint brings and transformers has not, as ``auto_map`` names it.

    None where it brings none, or where transformers has a class for its ``model_type``: then that
    one is loaded, and no code of the checkpoint. Imports transformers only where one is named.
    """
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    auto_map = config.get("auto_map") if isinstance(config, dict) else None
    if not isinstance(auto_map, dict):
        return None
    wanted = ("AutoConfig", *CLASS_OF.values())
    named = [auto_map[key] for key in wanted if isinstance(auto_map.get(key), str)]
    if not named or _is_known(config.get("model_type")):
        return None
    return str(named[-1])


def runs_own_code(source: ModelSource) -> bool:
    """Whether loading ``source`` runs code of its own.

    Raises:
        ModelLoadError: it would, and it is not trusted (MODEL_REMOTE_CODE).
    """
    named = own_class(source.directory)
    if named is not None and not source.trusted:
        raise ModelLoadError(
            f"{source.reference}: needs its own code ({named}), which is not run",
            remedy="read it, then give --invarlock-allow-remote-code and pin a revision",
            code="MODEL_REMOTE_CODE",
        )
    return named is not None


def _is_known(model_type: object) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return isinstance(model_type, str) and model_type in CONFIG_MAPPING
