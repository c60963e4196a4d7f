"""Presets: data, lengths and metric for a kind of model, shipped or in a file of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.calibrated_preset import is_calibrated
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.policy.resources import names, read_text
from pytest_invarlock.policy.schema_check import check_document
from pytest_invarlock.policy.yaml_document import YamlDocument, load_yaml, parse_yaml

if TYPE_CHECKING:
    from pytest_invarlock.policy.settings import Settings

SUFFIXES = (".yaml", ".yml")
# What the original's calibrated presets hold beside data, metric and band of the drift.
_SHARED = ("guards", "primary_metric")
_NOT_USED = ("_calibration_meta", "assurance")
_NO_KEY_USED = ("model", "guards")


@dataclass(frozen=True, slots=True)
class Preset:
    """What a preset file says; relative file names in ``dataset`` start at ``folder``.

    ``drift_band`` is a limit of the drift, as in `DriftLimits`; ``unused`` lists the keys of the
    original's calibrated presets that are checked and not used.
    """

    name: str
    description: str
    dataset: Mapping[str, Any]
    metric: str | None
    folder: Path
    drift_band: float | None = None
    unused: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell of keys that are not used."""
        if not self.unused:
            return ()
        return (f"preset {self.name}: not used: {', '.join(self.unused)}",)


def chosen_preset(value: Mapping[str, Any], settings: Settings, folder: Path) -> Preset | None:
    """The preset of ``--invarlock-preset``, else of a suite document in ``folder``; or None.

    One that a calibration wrote holds limits and no data: `calibrated_preset` reads it.
    """
    named = settings.text("preset")
    if named is not None and not is_calibrated(named):
        return load_preset(named)
    if "preset" not in value or is_calibrated(value["preset"], folder):
        return None
    return load_preset(value["preset"], folder)


def load_preset(reference: str, folder: Path | None = None) -> Preset:
    """The preset of a shipped name, of a YAML file, or of the one YAML file in a directory.

    Args:
        reference: the name, file or directory; relative ones are looked for in ``folder``.
        folder: None is the working directory.

    Raises:
        ConfigError: no such preset, none or several in a directory, or an unknown key.
    """
    shipped = names("presets", ".yaml")
    if reference in shipped:
        text = read_text("presets", f"{reference}.yaml")
        document = parse_yaml(text, name=f"presets/{reference}.yaml")
        return _preset(document, reference, Path.cwd())
    path = (folder or Path.cwd()) / Path(reference)
    if path.is_dir():
        path = _only_file(path)
    elif path.suffix not in SUFFIXES:
        raise ConfigError(
            f"no preset is named {reference!r}",
            remedy=nearest(reference, shipped, "preset"),
            code="UNKNOWN_PRESET",
        )
    return _preset(load_yaml(path), path.stem, path.parent)


def _only_file(directory: Path) -> Path:
    files = sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES)
    if len(files) != 1:
        found = ", ".join(path.name for path in files) or "none"
        raise ConfigError(
            f"{directory}: holds {len(files)} preset files ({found}), one is needed",
            remedy="name the file itself",
            code="UNKNOWN_PRESET",
        )
    return files[0]


def _preset(document: YamlDocument, name: str, folder: Path) -> Preset:
    check_document(document, "preset")
    value = document.value
    _check_calibrated(document)
    band = value.get("primary_metric", {}).get("drift_band")
    return Preset(
        name=name,
        description=value.get("description", ""),
        dataset=value.get("dataset", {}),
        metric=value.get("eval", {}).get("metric", {}).get("kind"),
        folder=folder,
        drift_band=None if band is None else drift_band_of(document, band),
        unused=(
            *(key for key in _NOT_USED if key in value),
            *(f"{block}.{key}" for block in _NO_KEY_USED for key in value.get(block, {})),
        ),
    )


def _check_calibrated(document: YamlDocument) -> None:
    """Check the blocks that the original's presets share with its run configurations."""
    shared = {key: document.value[key] for key in _SHARED if key in document.value}
    value = {"model": {"id": "any"}, **shared}
    check_document(
        YamlDocument(document.name, value, document.lines, document.origins), "run_configuration"
    )


def drift_band_of(document: YamlDocument, band: Mapping[str, float]) -> float:
    """The ratio, either way, that lies within ``min`` and ``max``: the tighter of both sides."""
    sides = [band["max"]] if "max" in band else []
    if "min" in band:
        sides.append(1 / band["min"])
    if not sides:
        raise ConfigError(
            f"{document.place(('primary_metric', 'drift_band'))}: primary_metric.drift_band: empty",
            remedy="give min below 1 and max above 1",
            code="BAD_VALUE",
        )
    return float(min(sides))
