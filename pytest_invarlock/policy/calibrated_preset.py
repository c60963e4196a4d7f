"""Calibrated presets: one model's own limits, as a calibration wrote them, laid over a policy.

They only tighten: where a policy's limit is the tighter one it stays, whatever a file says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invarlock_guards.judge.policy_values import read_limits

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.path_names import slug
from pytest_invarlock.policy.guard_limits import guard_policy
from pytest_invarlock.policy.schema_check import check_document
from pytest_invarlock.policy.yaml_document import YamlDocument, load_yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_invarlock.plan import Pair
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.policy.settings import Settings

SCHEMA = "invarlock-calibrated-preset-v1"
META = "_calibration_meta"
PREFIX = "calibrated_preset_"
SUFFIXES = (".yaml", ".yml")
BY_GROUP = (("rmt", "error"), ("rmt", "angle"), ("variance", "log_rms"))
ORIGIN = "preset"


@dataclass(frozen=True, slots=True)
class CalibratedPreset:
    """The limits of one model; ``source`` names the file in messages, without its folder.

    ``drift_band`` is a ratio, None where the tier's was kept; ``guards`` hold those limits that
    were derived. ``usable`` is whether they held on the draws that nothing was derived from.
    """

    source: str
    model: str
    usable: bool
    drift_band: float | None
    guards: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, document: Mapping[str, Any], source: str = "the calibration") -> CalibratedPreset:
        """The preset of a document that its schema allows."""
        band = document["primary_metric"].get("drift_band")
        return cls(
            source=source,
            model=document[META]["model"],
            usable=document[META]["usable"],
            drift_band=None if band is None else min(band["max"], 1 / band["min"]),
            guards=document["guards"],
        )


def preset_name(model: str) -> str:
    """The name, without suffix, of the files of a model's preset."""
    return f"{PREFIX}{slug(model)}"


def is_calibrated(reference: str, folder: Path | None = None) -> bool:
    """Whether a setting ``preset`` names a calibrated preset, or a directory that holds some."""
    path = (folder or Path.cwd()) / reference
    if path.is_dir():
        # The original's presets are called alike.
        return any(is_calibrated(entry.name, path) for entry in path.glob(f"{PREFIX}*"))
    if path.suffix not in SUFFIXES or not path.is_file():
        return False
    meta = load_yaml(path).value.get(META)
    return isinstance(meta, Mapping) and meta.get("schema") == SCHEMA


def chosen_calibrated(
    value: Mapping[str, Any], settings: Settings, folder: Path, pairs: Sequence[Pair]
) -> dict[str, CalibratedPreset]:
    """By pair's name the calibrated presets of ``--invarlock-preset``, else of a suite document.

    Empty where what is named is no calibrated preset.

    Raises:
        ConfigError: a file cannot be read, a model has none, or one that did not hold.
    """
    named = settings.text("preset")
    where = Path.cwd() if named is not None else folder
    reference = named if named is not None else value.get("preset")
    if reference is None or not is_calibrated(reference, where):
        return {}
    path = where / reference
    return {pair.name: _of_pair(path, pair) for pair in pairs}


def _of_pair(path: Path, pair: Pair) -> CalibratedPreset:
    file = path
    if path.is_dir():
        file = path / f"{preset_name(pair.name)}.yaml"
        if not file.is_file():
            raise _unfit(f"{path}: holds no {file.name}, the preset of {pair.name}")
    preset = read_calibrated(load_yaml(file))
    if preset.model != pair.name:
        raise _unfit(f"{file}: is the preset of {preset.model}, and {pair.name} has none")
    if not preset.usable:
        raise _unfit(f"{file}: its limits did not hold on benign runs of {pair.name}")
    return preset


def _unfit(cause: str) -> ConfigError:
    return ConfigError(
        cause,
        remedy="derive it: give the suite the key calibration, and no --invarlock-preset",
        code="CALIBRATED_PRESET",
    )


def read_calibrated(document: YamlDocument) -> CalibratedPreset:
    """The calibrated preset in a file.

    Raises ConfigError for what the schema or a guard does not know, or a limit out of range.
    """
    check_document(document, "calibrated_preset")
    guards: Mapping[str, Mapping[str, Any]] = document.value["guards"]
    for name, limits in guards.items():
        # Limits of single groups are laid over a policy's three; alone they are none.
        whole = {k: v for k, v in limits.items() if (name, k) not in BY_GROUP}
        guard_policy(name, whole, place=document.name)
    for name, key in BY_GROUP:
        _check_groups(document, name, key, guards.get(name, {}).get(key, {}))
    return CalibratedPreset.of(document.value, Path(document.name).name)


def _check_groups(document: YamlDocument, name: str, key: str, given: Mapping[str, float]) -> None:
    filled = {"strict": 1.0, "compression": 1.0, "open": 1.0} | dict(given)
    try:
        read_limits(key, filled)
    except ValueError as error:
        raise ConfigError(
            f"{document.name}: guards.{name}.{error}",
            remedy="derive the preset anew",
            code="GUARD_LIMITS",
        ) from error


def tightened(policy: DecisionPolicy, preset: CalibratedPreset) -> DecisionPolicy:
    """``policy`` with those limits of ``preset`` that are tighter, each with its provenance.

    What a suite file says itself is left as it is.
    """
    provenance = dict(policy.provenance)
    drift = policy.drift
    band = preset.drift_band
    if band is not None and band < drift.band and not _is_own(policy, "drift.band"):
        drift = replace(drift, band=band)
        provenance["drift.band"] = ORIGIN
    guards = {name: dict(limits) for name, limits in policy.guards.items()}
    for name, derived in preset.guards.items():
        if name not in guards:
            continue
        for key, value in derived.items():
            place = f"guards.{name}.{key}"
            if _is_own(policy, place):
                continue
            before = guards[name].get(key, getattr(guard_policy(name, guards[name]), key))
            tight = _tighter(name, key, before, value)
            if tight != before:
                guards[name][key] = tight
                provenance[place] = ORIGIN
    return replace(policy, drift=drift, guards=guards, provenance=provenance)


def _is_own(policy: DecisionPolicy, key: str) -> bool:
    return policy.provenance.get(key) == "suite file"


def _tighter(name: str, key: str, before: Any, value: Any) -> Any:
    """The tighter of two limits of one key, by family or group where it has some."""
    if (name, key) in BY_GROUP:
        limits = read_limits(key, before)
        return {
            group: min(getattr(limits, group), value.get(group, getattr(limits, group)))
            for group in ("strict", "compression", "open")
        }
    if key == "min_effect_lognll":
        # A floor: the higher one demands more.
        return max(before, value)
    if key == "family_limits":
        # The guard itself takes the lower of this and the limit of the kind.
        return _merged(before, value)
    return {**before, **{f: min(v, before.get(f, v)) for f, v in value.items()}}


def _merged(before: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """Of nested limits the lower ones."""
    merged = dict(before)
    for key, limit in value.items():
        if key not in merged:
            merged[key] = limit
        elif isinstance(limit, Mapping):
            merged[key] = _merged(merged[key], limit)
        else:
            merged[key] = min(merged[key], limit)
    return merged


def policies_of_pairs(
    policy: DecisionPolicy, presets: Mapping[str, CalibratedPreset | None]
) -> dict[str, DecisionPolicy]:
    """By pair's name its own policy, which speaks of its own scenarios alone.

    A pair whose preset is still to be derived (None) has that of the suite until then.
    """
    found = {}
    for name, preset in presets.items():
        expectations = {key: of for key, of in policy.expectations.items() if key[0] == name}
        own = replace(policy, expectations=expectations)
        found[name] = own if preset is None else tightened(own, preset)
    return found
