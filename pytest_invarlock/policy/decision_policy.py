"""DecisionPolicy: every limit, floor, mode and expectation that `decide` may compare with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.evidence.strict_json import digest

POLICY_FORMAT = "invarlock-policy-v1"
KNOWN_CHECKS = ("invariants", "primary_metric")
Mode = Literal["gate", "monitor"]


class Strictness(StrEnum):
    """What a scenario's outcome must be for the suite to pass."""

    MUST_PASS = "must_pass"
    MUST_FAIL = "must_fail"
    MUST_DETECT = "must_detect"
    INFORMATIONAL = "informational"


@dataclass(frozen=True, slots=True)
class MetricLimits:
    """Limits of the primary metric; ratios are of perplexities, levels one-sided."""

    ratio_limit: float
    catastrophic_ratio: float
    alpha: float
    bootstrap_alpha: float
    bootstrap_replicates: int


@dataclass(frozen=True, slots=True)
class Floors:
    """The least evidence on which PASS or FAIL may rest, in the final arm (tokens: both arms)."""

    documents: int
    effective_documents: float
    tokens: int | None


@dataclass(frozen=True, slots=True)
class Expectation:
    """What one scenario must show: its strictness, category and the detectors that count."""

    category: str
    strictness: Strictness
    detectors_any: tuple[str, ...] = ()
    detectors_all: tuple[str, ...] = ()

    @property
    def wants_detection(self) -> bool:
        """Whether a declared detector has to FAIL."""
        return self.strictness in (Strictness.MUST_FAIL, Strictness.MUST_DETECT)


@dataclass(frozen=True, slots=True)
class DecisionPolicy:
    """What is demanded of a run. Its digest identifies it; no measurement depends on it.

    ``checks`` are the checks the tier demands of every compared subject, in order;
    ``modes`` says of each guard among them whether it gates or only monitors;
    ``expectations`` maps ``(model, scenario)`` to what that scenario must show.
    """

    tier: str
    profile: str
    checks: tuple[str, ...]
    modes: Mapping[str, Mode]
    primary_metric: MetricLimits
    floors: Floors
    on_inconclusive: Literal["fail", "xfail"]
    expectations: Mapping[tuple[str, str], Expectation]
    provenance: Mapping[str, str]

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

    def document(self) -> dict[str, Any]:
        """The policy as plain JSON values, the form that is digested and packed."""
        return {
            "format": POLICY_FORMAT,
            "tier": self.tier,
            "profile": self.profile,
            "checks": list(self.checks),
            "modes": dict(self.modes),
            "primary_metric": {
                "ratio_limit": self.primary_metric.ratio_limit,
                "catastrophic_ratio": self.primary_metric.catastrophic_ratio,
                "alpha": self.primary_metric.alpha,
                "bootstrap_alpha": self.primary_metric.bootstrap_alpha,
                "bootstrap_replicates": self.primary_metric.bootstrap_replicates,
            },
            "floors": {
                "documents": self.floors.documents,
                "effective_documents": self.floors.effective_documents,
                "tokens": self.floors.tokens,
            },
            "on_inconclusive": self.on_inconclusive,
            "expectations": [
                {
                    "model": model,
                    "scenario": scenario,
                    "category": expected.category,
                    "strictness": expected.strictness.value,
                    "detectors_any": list(expected.detectors_any),
                    "detectors_all": list(expected.detectors_all),
                }
                for (model, scenario), expected in sorted(self.expectations.items())
            ],
            "provenance": dict(self.provenance),
        }


def policies_digest(documents: Sequence[Mapping[str, Any]]) -> str:
    """The digest of a run's policies: of the one policy, or of the list where there are more."""
    return digest(documents[0] if len(documents) == 1 else list(documents))


def policy_from_document(document: Mapping[str, Any]) -> DecisionPolicy:
    """Rebuild a policy from the (schema-checked) form that `DecisionPolicy.document` writes.

    Raises ConfigError where a guard among the checks has no mode.
    """
    for check in document["checks"]:
        if check != "primary_metric" and check not in document["modes"]:
            raise ConfigError(
                f"the policy demands {check} and gives it no mode",
                remedy="do not use this policy",
                code="POLICY_MODE",
            )
    return DecisionPolicy(
        tier=document["tier"],
        profile=document["profile"],
        checks=tuple(document["checks"]),
        modes=dict(document["modes"]),
        primary_metric=MetricLimits(**document["primary_metric"]),
        floors=Floors(**document["floors"]),
        on_inconclusive=document["on_inconclusive"],
        expectations={
            (entry["model"], entry["scenario"]): Expectation(
                category=entry["category"],
                strictness=Strictness(entry["strictness"]),
                detectors_any=tuple(entry["detectors_any"]),
                detectors_all=tuple(entry["detectors_all"]),
            )
            for entry in document["expectations"]
        },
        provenance=dict(document["provenance"]),
    )
