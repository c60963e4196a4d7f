"""A model's preset in the run directory: one YAML for reuse, the same as JSON for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.atomic import write_bytes, write_json
from pytest_invarlock.evidence.strict_json import loads
from pytest_invarlock.policy.calibrated_preset import META, preset_name
from pytest_invarlock.policy.quick_schema import first_violation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FOLDER = "presets"
MAX_BYTES = 16_000_000


def preset_path(model: str) -> str:
    """Where a model's preset stands as JSON, in a run directory and in a pack."""
    return f"{FOLDER}/{preset_name(model)}.json"


def write_preset(run: Path, document: Mapping[str, Any]) -> Path:
    """Write a preset's YAML, then its JSON, each whole or not at all; returns the YAML's path.

    Raises EvidenceError where the run's folder cannot be written.
    """
    path = run / FOLDER / f"{preset_name(document[META]['model'])}.yaml"
    text = yaml.safe_dump(dict(document), sort_keys=True, allow_unicode=True, width=100)
    try:
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, text.encode())
        # Last: where the JSON is, both are.
        write_json(path.with_suffix(".json"), dict(document))
    except OSError as error:
        raise EvidenceError(
            f"{run.name}: cannot be written: {error.strerror}",
            remedy="give a writable folder with --invarlock-out",
            code="OUT_UNWRITABLE",
        ) from error
    return path


def read_presets(run: Path, models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By model, the presets that a run wrote; those it did not are left out.

    Raises EvidenceError where a file is none of this version.
    """
    found = {model: read_preset(run, model) for model in models}
    presets = {model: preset for model, preset in found.items() if preset is not None}
    for model, preset in presets.items():
        broken = first_violation("calibrated_preset", preset)
        if broken is not None:
            raise EvidenceError(
                f"{preset_name(model)}.json: is no preset of this version: {broken.message[:200]}",
                remedy="run the suite again",
                code="PRESET_SCHEMA",
            )
    return presets


def read_preset(run: Path, model: str) -> dict[str, Any] | None:
    """The preset of ``model`` that a run wrote; None where it wrote none."""
    path = run / preset_path(model)
    if not path.is_file():
        return None
    document: Any = loads(path.read_bytes(), max_bytes=MAX_BYTES)
    return dict(document)
