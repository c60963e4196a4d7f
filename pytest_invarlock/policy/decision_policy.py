"""DecisionPolicy: every limit, floor, mode and expectation that `decide` may compare with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.evidence.strict_json import digest
from pytest_invarlock.policy.deploy_limits import DEPLOYABLE, DeployLimits, no_limits
from pytest_invarlock.policy.guard_limits import GuardPolicy, guard_policy
from pytest_invarlock.policy.guard_preparation import LOOSE_PROFILE
from pytest_invarlock.policy.metric_limits import (
    AccuracyLimits,
    DriftLimits,
    Floors,
    MetricLimits,
    TailLimits,
)

POLICY_FORMAT = "invarlock-policy-v1"
# Checks of ours whose mode stands in their own limits, or that have none; of all others, guards
# and `guard_overhead`, it stands in `modes`.
METRIC_CHECKS = ("primary_metric", "drift", "tail")
KNOWN_GUARDS = ("invariants", "spectral", "rmt", "variance")
GUARD_OVERHEAD = "guard_overhead"
KNOWN_CHECKS = (*KNOWN_GUARDS, *METRIC_CHECKS, GUARD_OVERHEAD)
NO_SIGN = ("drift", GUARD_OVERHEAD)
"""Checks on the sampling and on the guards: that they fire says nothing of the subject."""
GuardMode = Literal["gate", "monitor", "remediate"]
"""``remediate`` gates too; only guard ``variance`` has it."""


class Strictness(StrEnum):
    """What a scenario's outcome must be for the suite to pass."""

    MUST_PASS = "must_pass"
    MUST_FAIL = "must_fail"
    MUST_DETECT = "must_detect"
    INFORMATIONAL = "informational"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What one scenario must show: its strictness, category and the detectors that count.

    ``primary_guard`` is the check that is meant to see the change; with ``primary_guard_required``
    it must fire on at least one model of the run. ``deployable`` demands that check as well, and
    lets a run without the backend be skipped.
    """

    category: str
    strictness: Strictness
    detectors_any: tuple[str, ...] = ()
    detectors_all: tuple[str, ...] = ()
    primary_guard: str | None = None
    primary_guard_required: bool = False
    deployable: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigError where a guard is required and unnamed, or nothing must be detected."""
        if self.primary_guard_required and not (self.primary_guard and self.wants_detection):
            raise ConfigError(
                f"primary_guard_required of a scenario that is {self.strictness.value}"
                + ("" if self.primary_guard else " and names no primary_guard"),
                remedy="drop the key, or name the guard of a must_fail or must_detect scenario",
                code="PRIMARY_GUARD",
            )

    @property
    def wants_detection(self) -> bool:
        """Whether a declared detector has to FAIL."""
        return self.strictness in (Strictness.MUST_FAIL, Strictness.MUST_DETECT)

    def document(self) -> dict[str, Any]:
        """The expectation as plain JSON values; what of the guard, only where it is given."""
        return {
            "category": self.category,
            "strictness": self.strictness.value,
            "detectors_any": list(self.detectors_any),
            "detectors_all": list(self.detectors_all),
            **({} if self.primary_guard is None else {"primary_guard": self.primary_guard}),
            **({"primary_guard_required": True} if self.primary_guard_required else {}),
            **({"deployable": True} if self.deployable else {}),
        }

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Expectation:
        """The expectation of a `document`."""
        return cls(
            category=document["category"],
            strictness=Strictness(document["strictness"]),
            detectors_any=tuple(document["detectors_any"]),
            detectors_all=tuple(document["detectors_all"]),
            primary_guard=document.get("primary_guard"),
            primary_guard_required=document.get("primary_guard_required", False),
            deployable=document.get("deployable", False),
        )


@dataclass(frozen=True, slots=True)
class DecisionPolicy:
    """What is demanded of a run. Its digest identifies it.

    A measurement depends on it only through the plan, which states what it took from here: the
    guards that are demanded, rmt's factor of outliers, variance's rules, a sequence's limit.

    ``checks`` are the checks the tier demands of every compared subject, in order;
    ``modes`` says of each guard among them whether it gates or only monitors;
    ``guards`` holds the limits of each guard that has some, as plain values;
    ``accuracy`` stands for ``primary_metric``'s limit where the plan's metric is accuracy;
    ``expectations`` maps ``(model, scenario)`` to what that scenario must show;
    ``minimum_signal_fraction`` is the least share of the informational scenarios of a category that
    must show a confirmed signal, for the categories of which one is demanded;
    ``strict_guard_prepare`` False, in profile dev only, lets a monitoring guard of another package
    that could not be prepared warn rather than be an error; ``deployable`` holds the limits of what
    scenarios deploy, None where none does.
    """

    tier: str
    profile: str
    checks: tuple[str, ...]
    modes: Mapping[str, GuardMode]
    guards: Mapping[str, Mapping[str, Any]]
    primary_metric: MetricLimits
    accuracy: AccuracyLimits
    tail: TailLimits
    drift: DriftLimits
    floors: Floors
    on_inconclusive: Literal["fail", "xfail"]
    expectations: Mapping[tuple[str, str], Expectation]
    provenance: Mapping[str, str]
    strict_guard_prepare: bool = True
    minimum_signal_fraction: Mapping[str, float] = field(default_factory=dict)
    deployable: DeployLimits | None = None
    _digest: list[str] = field(default_factory=list, init=False, repr=False, compare=False)
    _limits: dict[str, GuardPolicy] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Raise ConfigError where a scenario must be deployable and nothing says what that is."""
        demanded = [key for key, expected in self.expectations.items() if expected.deployable]
        if demanded and self.deployable is None:
            raise no_limits(self.tier, demanded[0][1])

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of the policy, which every certificate names."""
        # It grows with the scenarios, and each of them asks for it.
        if not self._digest:
            self._digest.append(digest(self.document()))
        return self._digest[0]

    def expectation(self, model: str, scenario: str) -> Expectation:
        """The expectation of a scenario; raises ConfigError for one the policy does not know."""
        try:
            return self.expectations[(model, scenario)]
        except KeyError:
            raise ConfigError(
                f"the policy says nothing about scenario {scenario!r} of model {model!r}",
                remedy="decide with the policy the run was planned with",
                code="UNKNOWN_SCENARIO",
            ) from None

    def guard_limits(self, name: str) -> GuardPolicy:
        """The limits of guard ``name``; raises ConfigError ``GUARD_LIMITS`` for what are none."""
        # Every record of a run is judged by the same.
        if name not in self._limits:
            self._limits[name] = guard_policy(name, self.guards.get(name, {}))
        return self._limits[name]

    def checks_of(self, expected: Expectation) -> tuple[str, ...]:
        """The checks of a scenario that must show ``expected``."""
        return (*self.checks, *((DEPLOYABLE,) if expected.deployable else ()))

    def gates(self, check: str) -> bool:
        """Whether ``check`` may FAIL; one that only monitors warns."""
        if check not in self.checks:
            return False
        own = {"primary_metric": "gate", "tail": self.tail.mode, "drift": self.drift.mode}
        return own.get(check, self.modes.get(check)) != "monitor"

    def document(self) -> dict[str, Any]:
        """The policy as plain JSON values, the form that is digested and packed."""
        return {
            "format": POLICY_FORMAT,
            "tier": self.tier,
            "profile": self.profile,
            "checks": list(self.checks),
            "modes": dict(self.modes),
            "guards": {name: dict(limits) for name, limits in self.guards.items()},
            "primary_metric": asdict(self.primary_metric),
            "accuracy": asdict(self.accuracy),
            "tail": asdict(self.tail),
            "drift": asdict(self.drift),
            "floors": asdict(self.floors),
            "on_inconclusive": self.on_inconclusive,
            "expectations": [
                {"model": model, "scenario": scenario, **expected.document()}
                for (model, scenario), expected in sorted(self.expectations.items())
            ],
            "provenance": dict(self.provenance),
            **({} if self.strict_guard_prepare else {"strict_guard_prepare": False}),
            **(
                {"minimum_signal_fraction": dict(self.minimum_signal_fraction)}
                if self.minimum_signal_fraction
                else {}
            ),
            **({} if self.deployable is None else {"deployable": asdict(self.deployable)}),
        }


def policies_digest(documents: Sequence[Mapping[str, Any]]) -> str:
    """The digest of a run's policies: of the one policy, or of the list where there are more."""
    return digest(documents[0] if len(documents) == 1 else list(documents))


def policy_from_document(document: Mapping[str, Any]) -> DecisionPolicy:
    """Rebuild a policy from the (schema-checked) form that `DecisionPolicy.document` writes.

    Raises ConfigError where a guard among the checks has no mode, a limit is out of range, a
    scenario has two expectations or requires a guard that need not fire, or guards are prepared
    loosely in another profile than dev.
    """
    scenarios = {(entry["model"], entry["scenario"]) for entry in document["expectations"]}
    if len(scenarios) < len(document["expectations"]):
        raise ConfigError(
            "the policy states two expectations of one scenario",
            remedy="do not use this policy",
            code="POLICY_TWICE",
        )
    for check in document["checks"]:
        if check not in METRIC_CHECKS and check not in document["modes"]:
            raise ConfigError(
                f"the policy demands {check} and gives it no mode",
                remedy="do not use this policy",
                code="POLICY_MODE",
            )
    for name, limits in document["guards"].items():
        guard_policy(name, limits)
    strict_prepare = document.get("strict_guard_prepare", True)
    if not strict_prepare and document["profile"] != LOOSE_PROFILE:
        raise ConfigError(
            f"profile {document['profile']} with strict_guard_prepare false",
            remedy="do not use this policy",
            code="POLICY_PREPARE",
        )
    return DecisionPolicy(
        tier=document["tier"],
        profile=document["profile"],
        checks=tuple(document["checks"]),
        modes=dict(document["modes"]),
        guards={name: dict(limits) for name, limits in document["guards"].items()},
        primary_metric=MetricLimits(**document["primary_metric"]),
        accuracy=AccuracyLimits(**document["accuracy"]),
        tail=TailLimits(**document["tail"]),
        drift=DriftLimits(**document["drift"]),
        floors=Floors(**document["floors"]),
        on_inconclusive=document["on_inconclusive"],
        expectations={
            (entry["model"], entry["scenario"]): Expectation.read(entry)
            for entry in document["expectations"]
        },
        provenance=dict(document["provenance"]),
        strict_guard_prepare=strict_prepare,
        minimum_signal_fraction=dict(document.get("minimum_signal_fraction", {})),
        deployable=DeployLimits.read(document["deployable"]) if "deployable" in document else None,
    )


def policies_by_scenario(
    documents: Sequence[Mapping[str, Any]],
) -> dict[tuple[str, str], DecisionPolicy]:
    """Each scenario's policy.

    Raises ConfigError ``POLICY_TWICE`` where two policies speak of one scenario: which of them
    judges it would be a matter of order.
    """
    found: dict[tuple[str, str], DecisionPolicy] = {}
    for policy in map(policy_from_document, documents):
        for key in policy.expectations:
            if key in found:
                raise ConfigError(
                    f"two policies speak of scenario {'::'.join(key)}",
                    remedy="let one policy judge each scenario",
                    code="POLICY_TWICE",
                )
            found[key] = policy
    return found
