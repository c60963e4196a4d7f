"""Load tiers (limits) and profiles (counts, floors, strictness) from shipped or own files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.decision_policy import METRIC_CHECKS
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.policy.resources import names, read_text
from pytest_invarlock.policy.schema_check import check_document
from pytest_invarlock.policy.yaml_document import YamlDocument, load_yaml, parse_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.policy.decision_policy import Direction, Mode


@dataclass(frozen=True, slots=True)
class Tier:
    """Limits: which checks are demanded, in which mode, and how much change they allow.

    ``accuracy``, ``tail`` and ``drift`` hold the file's keys, which are the fields of
    `AccuracyLimits`, `TailLimits` and `DriftLimits`.
    """

    name: str
    checks: tuple[str, ...]
    modes: Mapping[str, Mode]
    ratio_limit: float
    catastrophic_ratio: float
    alpha: float
    bootstrap_alpha: float
    direction: Direction
    accuracy: Mapping[str, Any]
    tail: Mapping[str, Any]
    drift: Mapping[str, Any]
    token_floor: int
    provenance: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Profile:
    """Counts and floors: how much is measured, and how little a verdict may rest on."""

    name: str
    preview_windows: int
    final_windows: int
    guard_calibration_windows: int
    bootstrap_replicates: int
    documents: int
    effective_documents: float
    token_floor_enforced: bool
    determinism: Literal["throughput", "strict"]


def load_tier(reference: str, folder: Path | None = None) -> Tier:
    """The tier of a shipped name or of a YAML file, looked for in ``folder``."""
    value = _load("tiers", reference, "tier", folder).value
    metric = value["primary_metric"]
    for check in value["checks"]:
        if check not in METRIC_CHECKS and check not in value["guards"]:
            raise ConfigError(
                f"tier {reference}: lists check {check!r} and gives guards.{check} no mode",
                remedy=f"add guards: {{{check}: {{mode: gate}}}}",
                code="TIER_MODE",
            )
    return Tier(
        name=value["name"],
        checks=tuple(value["checks"]),
        modes={name: guard["mode"] for name, guard in value["guards"].items()},
        ratio_limit=float(metric["ratio_limit"]),
        catastrophic_ratio=float(metric["catastrophic_ratio"]),
        alpha=float(metric["alpha"]),
        bootstrap_alpha=float(metric["bootstrap_alpha"]),
        direction=metric.get("direction", "non_inferiority"),
        accuracy=dict(value["accuracy"]),
        tail=dict(value["tail"]),
        drift=dict(value["drift"]),
        token_floor=value["token_floor"],
        provenance=dict(value["provenance"]),
    )


def load_profile(reference: str) -> Profile:
    """The profile of a shipped name."""
    value: dict[str, Any] = _load("profiles", reference, "profile").value
    floors = value["floors"]
    return Profile(
        name=value["name"],
        preview_windows=value["windows"]["preview"],
        final_windows=value["windows"]["final"],
        guard_calibration_windows=value["windows"]["guard_calibration"],
        bootstrap_replicates=value["bootstrap_replicates"],
        documents=floors["documents"],
        effective_documents=float(floors["effective_documents"]),
        token_floor_enforced=floors["token_floor"] == "enforced",
        determinism=value["determinism"],
    )


def _load(folder: str, reference: str, what: str, base: Path | None = None) -> YamlDocument:
    shipped = names(folder, ".yaml")
    if reference in shipped:
        text = read_text(folder, f"{reference}.yaml")
        document = parse_yaml(text, name=f"{folder}/{reference}.yaml")
    elif Path(reference).suffix in (".yaml", ".yml"):
        document = load_yaml((base or Path()) / reference)
    else:
        raise ConfigError(
            f"no {what} is named {reference!r}",
            remedy=nearest(reference, shipped, what),
            code=f"UNKNOWN_{what.upper()}",
        )
    check_document(document, what)
    return document
