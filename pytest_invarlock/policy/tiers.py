"""Load tiers (limits) and profiles (counts, floors, strictness) from shipped or own files."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.evidence.strict_json import sha256_text
from pytest_invarlock.policy.decision_policy import KNOWN_CHECKS, METRIC_CHECKS
from pytest_invarlock.policy.guard_limits import POLICY_OF, guard_policy, without_mode
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.policy.resources import names, read_text
from pytest_invarlock.policy.schema_check import check_document
from pytest_invarlock.policy.yaml_document import YamlDocument, parse_yaml, read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.policy.decision_policy import DecisionPolicy, GuardMode
    from pytest_invarlock.policy.metric_limits import Direction


@dataclass(frozen=True, slots=True)
class Tier:
    """Limits: which checks are demanded, in which mode, and how much change they allow.

    ``accuracy``, ``tail`` and ``drift`` hold the file's keys, which are the fields of
    `AccuracyLimits`, `TailLimits` and `DriftLimits`; ``guards`` the limits of each guard with some;
    ``foreign`` the parameters of other packages' guards among the checks; ``deployable`` the fields
    of `DeployLimits`, None where the file has no such block.
    ``file_digest`` is ``sha256:`` of the YAML file it was read from; None for a shipped one.
    """

    name: str
    checks: tuple[str, ...]
    modes: Mapping[str, GuardMode]
    guards: Mapping[str, Mapping[str, Any]]
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
    foreign: Mapping[str, Mapping[str, Any]]
    deployable: Mapping[str, Any] | None = None
    file_digest: str | None = None


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
    guard_window_share: float
    token_floor_enforced: bool
    determinism: Literal["throughput", "strict"]


def load_tier(reference: str, folder: Path | None = None) -> Tier:
    """The tier of a shipped name or of a YAML file, looked for in ``folder``.

    Raises ConfigError for an unknown name, a file that breaks the grammar, and a file that takes
    a shipped tier's name: readers of its verdicts would think of the shipped limits.
    """
    document = _load("tiers", reference, "tier", folder)
    value: dict[str, Any] = document.value
    is_shipped = reference in names("tiers", ".yaml")
    metric = value["primary_metric"]
    if not is_shipped and value["name"] in names("tiers", ".yaml"):
        raise ConfigError(
            f"{document.name}: the name {value['name']!r} is a shipped tier's",
            remedy="give your tier a name of its own",
            code="TIER_NAME",
        )
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
        guards=_guard_limits(document),
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
        foreign={
            name: without_mode(value["guards"][name])
            for name in value["checks"]
            if name not in KNOWN_CHECKS
        },
        deployable=value.get("deployable"),
        file_digest=None if is_shipped else sha256_text(Path(document.name).read_bytes()),
    )


def _guard_limits(document: YamlDocument) -> dict[str, dict[str, Any]]:
    limits = {
        name: without_mode(block)
        for name, block in document.value["guards"].items()
        if name in POLICY_OF
    }
    for name, values in limits.items():
        guard_policy(name, values, place=document.place(("guards", name)))
    return limits


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
        guard_window_share=float(floors["guard_window_share"]),
        token_floor_enforced=floors["token_floor"] == "enforced",
        determinism=value["determinism"],
    )


def shipped_differences(policy: DecisionPolicy) -> list[str] | None:
    """Every key in which a policy differs from the shipped tier of its name, with both values.

    None where no shipped tier has that name. Floors and replicates are compared with the profile
    of the policy's name, where that is a shipped one.
    """
    if policy.tier not in names("tiers", ".yaml"):
        return None
    tier = load_tier(policy.tier)
    metric = ("ratio_limit", "catastrophic_ratio", "alpha", "bootstrap_alpha", "direction")
    shipped: dict[str, Any] = {
        "checks": list(tier.checks),
        **{f"guards.{name}.mode": mode for name, mode in tier.modes.items()},
        **_stated_limits(tier.guards),
        **{f"primary_metric.{key}": getattr(tier, key) for key in metric},
        **{f"accuracy.{key}": value for key, value in tier.accuracy.items()},
        **{f"tail.{key}": value for key, value in tier.tail.items()},
        **{f"drift.{key}": value for key, value in tier.drift.items()},
    }
    if policy.profile in names("profiles", ".yaml"):
        profile = load_profile(policy.profile)
        shipped |= {
            "bootstrap_replicates": profile.bootstrap_replicates,
            "floors.documents": profile.documents,
            "floors.effective_documents": profile.effective_documents,
            "floors.guard_window_share": profile.guard_window_share,
            "floors.tokens": tier.token_floor if profile.token_floor_enforced else None,
        }
    if policy.deployable is not None:
        shipped |= {f"deployable.{key}": value for key, value in (tier.deployable or {}).items()}
    document = policy.document()
    stated: dict[str, Any] = {
        "checks": document["checks"],
        **{f"guards.{name}.mode": mode for name, mode in policy.modes.items()},
        **_stated_limits(policy.guards),
        **{
            f"{block}.{key}": value
            for block in ("primary_metric", "accuracy", "tail", "drift", "floors")
            for key, value in document[block].items()
        },
        **{f"deployable.{key}": value for key, value in document.get("deployable", {}).items()},
    }
    stated["bootstrap_replicates"] = stated.pop("primary_metric.bootstrap_replicates")
    return [
        f"{key} {stated.get(key)} (shipped: {shipped[key]})"
        for key in sorted(shipped)
        if stated.get(key) != shipped[key]
    ]


def _stated_limits(guards: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Every limit of every guard by its path, defaults among them."""
    return {
        f"guards.{name}.{key}": value
        for name, limits in guards.items()
        for key, value in asdict(guard_policy(name, limits)).items()
    }


def _load(folder: str, reference: str, what: str, base: Path | None = None) -> YamlDocument:
    shipped = names(folder, ".yaml")
    if reference in shipped:
        text = read_text(folder, f"{reference}.yaml")
        document = _parsed(f"{folder}/{reference}.yaml", text, what)
    elif Path(reference).suffix in (".yaml", ".yml"):
        path = (base or Path()) / reference
        document = _parsed(str(path), read_yaml(path), what)
    else:
        raise ConfigError(
            f"no {what} is named {reference!r}",
            remedy=nearest(reference, shipped, what),
            code=f"UNKNOWN_{what.upper()}",
        )
    return replace(document, value=deepcopy(document.value))


@lru_cache(maxsize=64)
def _parsed(name: str, text: str, what: str) -> YamlDocument:
    """Parsed and checked once a text: each suite, policy and comparison asks for the same few."""
    document = parse_yaml(text, name=name)
    check_document(document, what)
    return document
