"""What a deployable artefact must show: limits on its size, its reload and what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pytest_invarlock.errors import ConfigError

DEPLOYABLE = "deployable"
"""The check that a scenario with a ``deploy`` key is judged by, beside its tier's own."""
SKIPPED_CODE = "BACKEND_UNAVAILABLE"
"""The error code of a record whose backend is not installed, or does not run on the device."""
SKIPPING_PROFILE = "dev"
"""The only profile in which a deployment that was skipped leaves the verdict to the rest."""


@dataclass(frozen=True, slots=True)
class DeployLimits:
    """Limits of check ``deployable``; each is met where it is reached.

    Attributes:
        bits_overhead: the most bits stored for a packed weight, as a multiple of its scheme's.
        storage_ratio: bytes of the stored weights over those of the baseline's files.
        memory_ratio: bytes of the loaded weights over those of the loaded baseline.
        logit_difference: the largest difference of a logit after reloading, without unit.
        generated_tokens: the least number of tokens that it must generate, where it can generate.
    """

    bits_overhead: float
    storage_ratio: float
    memory_ratio: float
    logit_difference: float
    generated_tokens: int

    def __post_init__(self) -> None:
        """Raise ConfigError for a limit that everything or nothing meets."""
        for key in ("storage_ratio", "memory_ratio"):
            if not 0 < getattr(self, key) <= 1:
                raise _out_of_range(key, getattr(self, key), "a ratio above 0, at most 1")
        if not 1 <= self.bits_overhead < 2:
            # Twice the bits of a scheme are those of one that packs half as much.
            raise _out_of_range("bits_overhead", self.bits_overhead, "a multiple from 1, below 2")
        if not 0 <= self.logit_difference < float("inf"):
            raise _out_of_range("logit_difference", self.logit_difference, "0 or a little more")
        if self.generated_tokens < 1:
            raise _out_of_range("generated_tokens", self.generated_tokens, "at least 1 token")

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> DeployLimits:
        """The limits of a schema-checked mapping."""
        numbers = {one.name: float(document[one.name]) for one in fields(cls)}
        return cls(**{**numbers, "generated_tokens": int(document["generated_tokens"])})  # type: ignore[arg-type]


def no_limits(tier: str, scenario: str) -> ConfigError:
    """The error of a tier that says nothing of what ``scenario`` deploys."""
    return ConfigError(
        f"tier {tier} has no block {DEPLOYABLE}, which scenario {scenario!r} needs",
        remedy="add the block as tier balanced has it, or take a shipped tier",
        code="DEPLOY_LIMITS",
    )


def _out_of_range(key: str, value: float, remedy: str) -> ConfigError:
    return ConfigError(
        f"{DEPLOYABLE}.{key} is {value:g}", remedy=f"choose {remedy}", code="DEPLOY_LIMITS"
    )
