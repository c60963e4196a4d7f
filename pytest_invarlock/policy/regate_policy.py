"""The policy under which a pack's records are judged again: another tier, or a policy file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_invarlock.errors import ConfigError, EvidenceError
from pytest_invarlock.evidence.strict_json import loads
from pytest_invarlock.policy.calibrated_preset import ORIGIN as PRESET
from pytest_invarlock.policy.calibrated_preset import CalibratedPreset, tightened
from pytest_invarlock.policy.decision_policy import (
    KNOWN_CHECKS,
    POLICY_FORMAT,
    DecisionPolicy,
    policies_by_scenario,
    policy_from_document,
)
from pytest_invarlock.policy.metric_limits import (
    AccuracyLimits,
    DriftLimits,
    MetricLimits,
    TailLimits,
)
from pytest_invarlock.policy.quick_schema import first_violation
from pytest_invarlock.policy.tiers import Tier, load_profile, load_tier
from pytest_invarlock.policy.yaml_document import parse_yaml

MAX_POLICY_BYTES = 4 * 2**20
POLICIES_FORMAT = "invarlock-policies-v1"
Policies = Mapping[tuple[str, str], DecisionPolicy]
SUITE_FILE = "suite file"
_OF_THE_RUN = ("floors.", "minimum_signal_fraction.", "run.", "bootstrap_replicates")
"""What a suite file says of how much is needed, which a tier says nothing about."""


@dataclass(frozen=True, slots=True)
class OtherPolicy:
    """What records are judged by instead of their run's own policy: a tier, or whole policies.

    ``name`` is what the user gave, by its last component. ``limits`` is a policy that takes the
    expectations of the run; ``policies`` are those of a file that states its own.
    """

    name: str
    tier: Tier | None = None
    limits: DecisionPolicy | None = None
    policies: Policies = field(default_factory=dict)

    @property
    def parameters(self) -> Mapping[str, Mapping[str, Any]]:
        """The arguments that a tier demands of other packages' guards, by guard."""
        return {} if self.tier is None else self.tier.foreign

    def replacing(self, old: Policies, presets: Mapping[str, Mapping[str, Any]]) -> Policies:
        """The policy of every scenario of ``old``.

        Args:
            old: the policies of the run, by (model, scenario).
            presets: by model, the calibrated presets of the run, which tighten a tier's limits.

        Raises:
            ConfigError: UNKNOWN_SCENARIO where the given policies say nothing of a scenario.
        """
        if self.tier is not None or self.limits is not None:
            made = {id(policy): self._instead_of(policy, presets) for policy in old.values()}
            return {key: made[id(policy)] for key, policy in old.items()}
        missing = next((key for key in sorted(old) if key not in self.policies), None)
        if missing is not None:
            raise ConfigError(
                f"{self.name}: says nothing about scenario {missing[1]!r} of model {missing[0]!r}",
                remedy="give a policy of all the pack's scenarios, or one without expectations",
                code="UNKNOWN_SCENARIO",
            )
        return {key: self.policies[key] for key in old}

    def _instead_of(
        self, policy: DecisionPolicy, presets: Mapping[str, Mapping[str, Any]]
    ) -> DecisionPolicy:
        if self.tier is not None:
            return _under_preset(under_tier(policy, self.tier), presets)
        return replace(self.limits or policy, expectations=policy.expectations)


def other_policy(tier: str | None, file: Path | None) -> OtherPolicy:
    """The tier of a shipped name or a YAML file, or the policies of a JSON or YAML file.

    A file holds one policy as packs hold it, or a list of them (``metadata/policy.json``). One
    without expectations takes those of the pack.

    Raises:
        ConfigError: an unknown tier, a file that breaks the grammar, or a policy that no run could
            have (REGATE_POLICY).
        FileNotFoundError: there is no such file.
    """
    if tier is not None:
        if Path(tier).suffix in (".yaml", ".yml"):
            Path(tier).stat()  # no such file is another exit status than a wrong name
        return OtherPolicy(Path(tier).name, tier=load_tier(tier))
    if file is None:
        raise ConfigError("no policy is given", remedy="give --tier or --policy", code="REGATE")
    documents = _read_policies(file)
    if len(documents) == 1 and not documents[0]["expectations"]:
        return OtherPolicy(file.name, limits=policy_from_document(documents[0]))
    return OtherPolicy(file.name, policies=policies_by_scenario(documents))


def dropped(old: Policies, new: Policies) -> tuple[str, ...]:
    """The keys that a suite file or a preset had set in ``old`` and that no longer count."""
    return tuple(
        sorted(
            {
                key
                for scenario, policy in old.items()
                for key, origin in policy.provenance.items()
                if origin in (SUITE_FILE, PRESET) and new[scenario].provenance.get(key) != origin
            }
        )
    )


def under_tier(policy: DecisionPolicy, tier: Tier) -> DecisionPolicy:
    """``policy`` with the limits of ``tier``; what the run was to show and rest on stays.

    Kept: expectations, profile, floors (but for the tier's floor of tokens where the profile
    enforces it), replicates, shares of signals, and the guards of other packages that were
    demanded, in their mode. What a suite file had set of the tier's own limits is dropped.
    """
    own = {key: origin for key, origin in policy.provenance.items() if key.startswith(_OF_THE_RUN)}
    kept = tuple(n for n in policy.checks if n not in KNOWN_CHECKS and n not in tier.checks)
    demanded = (*tier.checks, *kept)
    order = [name for name in policy.checks if name in demanded]
    provenance = {**tier.provenance, **own, "tier": "--tier"}
    if tier.file_digest is not None:
        provenance["tier_file"] = tier.file_digest
    return replace(
        policy,
        tier=tier.name,
        checks=tuple(dict.fromkeys([*order, *demanded])),
        modes={**tier.modes, **{name: policy.modes[name] for name in kept}},
        guards={name: dict(limits) for name, limits in tier.guards.items()},
        primary_metric=MetricLimits(
            ratio_limit=tier.ratio_limit,
            catastrophic_ratio=tier.catastrophic_ratio,
            alpha=tier.alpha,
            bootstrap_alpha=tier.bootstrap_alpha,
            bootstrap_replicates=policy.primary_metric.bootstrap_replicates,
            direction=tier.direction,
        ),
        accuracy=AccuracyLimits(**tier.accuracy),
        tail=TailLimits(**tier.tail),
        drift=DriftLimits(**tier.drift),
        floors=replace(policy.floors, tokens=_token_floor(policy, tier)),
        provenance=provenance,
    )


def _token_floor(policy: DecisionPolicy, tier: Tier) -> int | None:
    if policy.provenance.get("floors.tokens") == SUITE_FILE:
        return policy.floors.tokens
    try:
        enforced = load_profile(policy.profile).token_floor_enforced
    except ConfigError:
        # A profile of another version: it enforced a floor where the policy has one.
        enforced = policy.floors.tokens is not None
    return tier.token_floor if enforced else None


def _under_preset(
    policy: DecisionPolicy, presets: Mapping[str, Mapping[str, Any]]
) -> DecisionPolicy:
    models = {model for model, _ in policy.expectations}
    for model in sorted(models & set(presets)):
        policy = tightened(policy, CalibratedPreset.of(presets[model]))
    return policy


def _read_policies(file: Path) -> list[dict[str, Any]]:
    with file.open("rb") as stream:
        data = stream.read(MAX_POLICY_BYTES + 1)
    try:
        if file.suffix in (".yaml", ".yml"):
            value = parse_yaml(data[:MAX_POLICY_BYTES].decode("utf-8"), name=file.name).value
        else:
            value = loads(data, max_bytes=MAX_POLICY_BYTES, what=file.name)
    except (EvidenceError, UnicodeDecodeError) as error:
        raise _wrong(file, str(error)) from error
    if isinstance(value, dict) and value.get("format") == POLICY_FORMAT:
        value = {"format": POLICIES_FORMAT, "policies": [value]}
    broken = first_violation("policies", value)
    if broken is not None:
        where = "/".join(map(str, broken.absolute_path)) or "document"
        raise _wrong(file, f"{where}: {broken.message[:200]}")
    documents: list[dict[str, Any]] = value["policies"]
    if not documents:
        raise _wrong(file, "holds no policy")
    return documents


def _wrong(file: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{file.name}: is no decision policy: {why}",
        remedy="give one such as a pack's metadata/policy.json holds",
        code="REGATE_POLICY",
    )
