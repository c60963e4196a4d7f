"""NaNCheckGuard on a model of one layer."""

from __future__ import annotations

import pytest
import torch
from nan_check_guard import NaNCheckGuard


@pytest.mark.parametrize(("strict", "action"), [(True, "abort"), (False, "warn")])
def test_nan_is_found_and_named(strict: bool, action: str) -> None:
    model = torch.nn.Linear(4, 4)
    guard = NaNCheckGuard(strict=strict)
    assert guard.prepare(model, None, None, {})["ready"] is True
    model.weight.data[1, 2] = float("nan")
    answer = guard.validate(model, None, {})
    assert (answer["passed"], answer["action"]) == (False, action)
    assert answer["metrics"] == {"nan_param_count": 1, "nan_params": ["weight"]}


def test_a_model_without_nan_passes() -> None:
    answer = NaNCheckGuard().validate(torch.nn.Linear(4, 4), None, {})
    assert (answer["passed"], answer["action"]) == (True, "continue")
    assert answer["metrics"] == {"checked_params": 2}
