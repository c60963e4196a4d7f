"""A guard that bounds the size of the subject's weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pytest_invarlock.core.api import Guard

SCOPES: dict[str, tuple[str, ...]] = {
    "all": ("",),
    "ffn": ("mlp", "ffn"),
    "attn": ("attn", "attention"),
}
"""What the name of a parameter has to hold to be in a scope."""
SHOWN = 3
"""How many violations an answer lists at most."""


class ThresholdGuard(Guard):
    """The largest absolute value of each parameter stays below two limits.

    Args:
        max_magnitude: what is larger, or not finite, asks for an abort.
        warn_magnitude: what is larger asks for a warning.
        scope: which parameters count: ``all``, ``ffn`` or ``attn``.
    """

    name = "threshold"

    def __init__(
        self, max_magnitude: float = 100.0, warn_magnitude: float = 50.0, scope: str = "all"
    ) -> None:
        if scope not in SCOPES:
            raise ValueError(f"scope {scope!r} is none of {', '.join(SCOPES)}")
        self.max_magnitude = max_magnitude
        self.warn_magnitude = warn_magnitude
        self.scope = scope
        self._baseline_magnitudes: dict[str, float] = {}

    def prepare(self, model: Any, adapter: Any, calib: Any, policy: Any) -> dict[str, Any]:
        """Note how large the baseline's parameters are, to tell it beside a violation."""
        del adapter, calib, policy
        self._baseline_magnitudes = dict(self._magnitudes(model))
        count = len(self._baseline_magnitudes)
        return {"ready": count > 0, "baseline_params": count, "scope": self.scope}

    def validate(self, model: Any, adapter: Any, context: Any) -> dict[str, Any]:
        """Compare the subject's parameters with the limits."""
        del adapter, context
        found = dict(self._magnitudes(model))
        # Not "above": of NaN nothing is true.
        over = [name for name, size in found.items() if not size <= self.max_magnitude]
        near = [n for n, size in found.items() if n not in over and size > self.warn_magnitude]
        finite = [size for size in found.values() if math.isfinite(size)]
        metrics: dict[str, Any] = {
            "max_magnitude": max(finite, default=None),
            "not_finite": len(found) - len(finite),
        }
        answer = {**self.judge(metrics, {}), "warnings": near, "metrics": metrics}
        if over:
            metrics["violation_count"] = len(over)
            metrics["violations"] = [self._told(name, found[name]) for name in over[:SHOWN]]
        elif near:
            metrics["warning_count"] = len(near)
        return answer

    def judge(self, metrics: Any, policy: Any) -> dict[str, Any]:
        """The answer from its numbers alone: what ``verify --run-guard-code`` asks again."""
        del policy
        largest = metrics["max_magnitude"] or 0.0
        if metrics["not_finite"] or largest > self.max_magnitude:
            passed, action = False, "abort"
            message = f"some parameter exceeds {self.max_magnitude:g}"
        elif largest > self.warn_magnitude:
            passed, action = True, "warn"
            message = f"some parameter exceeds {self.warn_magnitude:g}"
        else:
            passed, action = True, "continue"
            message = f"no parameter exceeds {self.warn_magnitude:g}"
        return {"passed": passed, "action": action, "message": message}

    def _magnitudes(self, model: Any) -> Iterator[tuple[str, float]]:
        for name, parameter in model.named_parameters():
            if any(part in name.lower() for part in SCOPES[self.scope]):
                yield name, parameter.detach().abs().max().item()

    def _told(self, name: str, size: float) -> dict[str, Any]:
        return {
            "param": name,
            # JSON has no word for NaN or infinity.
            "magnitude": size if math.isfinite(size) else None,
            "baseline": self._baseline_magnitudes.get(name),
        }
