"""The guard contract: what a guard is given, what it answers. Standard library only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Action = Literal["continue", "warn", "rollback", "abort"]
Status = Literal["passed", "warned", "failed", "not_evaluated"]

GuardEvidence = Mapping[str, Any]
"""What a guard measured, as strict-JSON values; the only input of its judge."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken condition: where, what was found, and what was allowed."""

    kind: str
    module: str
    value: str | float | int | None = None
    threshold: str | float | int | None = None
    family: str | None = None

    def document(self) -> dict[str, Any]:
        """The violation as plain JSON values."""
        return {
            "kind": self.kind,
            "module": self.module,
            "family": self.family,
            "value": self.value,
            "threshold": self.threshold,
        }


@dataclass(frozen=True, slots=True)
class GuardResult:
    """What a judge concludes from evidence.

    ``passed`` is None where nothing could be judged; ``reason`` then says why, and a policy that
    demands the guard turns that into an error, never into a pass. ``expected_changes`` are
    differences the declared kind of change allows; ``warnings`` are findings that do not decide,
    each with the limit it broke. ``metrics`` of a built-in guard are numbers and texts; another's
    are what it gave.
    """

    guard: str
    passed: bool | None
    action: Action
    reason: str
    text: str
    metrics: Mapping[str, Any] = field(default_factory=dict)
    violations: tuple[Violation, ...] = ()
    expected_changes: tuple[Violation, ...] = ()
    warnings: tuple[Violation, ...] = ()

    @property
    def status(self) -> Status:
        """``passed`` and ``action`` in one word: what warns has passed, or failed and let pass."""
        if self.passed is None:
            return "not_evaluated"
        if self.action == "warn":
            return "warned"
        return "passed" if self.passed else "failed"


class Guard(ABC):
    """A comparison of a baseline with its subject.

    ``prepare`` sees the baseline, ``validate`` the subject; a guard that sees only one of them
    cannot fail on a change and is not a guard.
    """

    name: str

    def prepare(
        self, model: Any, adapter: Any, calib: Any, policy: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Look at the baseline; returns at least ``{"ready": bool}``."""
        del model, adapter, calib, policy
        return {"ready": True}

    @abstractmethod
    def validate(self, model: Any, adapter: Any, context: Any) -> GuardResult | dict[str, Any]:
        """Look at the subject and conclude."""
