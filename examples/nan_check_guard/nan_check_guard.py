"""A guard that looks for NaN among the parameters of the subject."""

from __future__ import annotations

from typing import Any

import torch

from pytest_invarlock.core.api import Guard

SHOWN = 5
"""How many names an answer lists at most."""


class NaNCheckGuard(Guard):
    """No parameter of the subject holds NaN.

    Args:
        strict: NaN asks for an abort; without it, for a warning.
    """

    name = "nan_check"

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict

    def prepare(self, model: Any, adapter: Any, calib: Any, policy: Any) -> dict[str, Any]:
        """Nothing of the baseline is needed."""
        del model, adapter, calib, policy
        return {"ready": True, "checked_params": 0}

    def validate(self, model: Any, adapter: Any, context: Any) -> dict[str, Any]:
        """Look at every parameter."""
        del adapter, context
        found = {name: bool(torch.isnan(value).any()) for name, value in model.named_parameters()}
        broken = [name for name, has_nan in found.items() if has_nan]
        if not broken:
            return {
                "passed": True,
                "action": "continue",
                "message": f"none of {len(found)} parameters holds NaN",
                "metrics": {"checked_params": len(found)},
            }
        return {
            "passed": False,
            "action": "abort" if self.strict else "warn",
            "message": f"{len(broken)} of {len(found)} parameters hold NaN",
            "metrics": {"nan_param_count": len(broken), "nan_params": broken[:SHOWN]},
            "violations": [{"kind": "nan", "module": name} for name in broken[:SHOWN]],
        }
