"""The Python API: the guard contract, and what `CoreRunner.execute` takes and returns. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from invarlock_guards.contract import Guard, GuardEvidence, GuardResult, Violation

__all__ = ["Guard", "GuardEvidence", "GuardResult", "RunConfig", "RunReport", "Violation"]

Status = Literal["pending", "running", "success", "failed", "rollback"]


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Settings of one programmatic run.

    ``max_pm_ratio`` and ``spike_threshold`` replace the tier's limit and catastrophic ratio where
    they are given;
    ``tier`` and ``profile`` name what else is demanded; ``context`` travels to the report.
    """

    device: str = "auto"
    max_pm_ratio: float | None = None
    spike_threshold: float | None = None
    tier: str = "balanced"
    profile: str = "dev"
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a programmatic run came to.

    ``status`` is ``success``, ``rollback`` (a check failed and the edit was undone) or ``failed``
    (an error, or a guard's abort); ``metrics["verdict"]`` keeps the word of the decision.
    """

    status: Status
    metrics: Mapping[str, Any]
    guards: Mapping[str, Any]
    edit: Mapping[str, Any]
    meta: Mapping[str, Any] = field(default_factory=dict)
    evaluation_windows: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
