"""ThresholdGuard on a model with a plain layer and one named as an attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from threshold_guard import ThresholdGuard


class TwoLayers(torch.nn.Module):
    """A plain linear layer, and one in scope ``attn``."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(10, 10)
        self.attn = torch.nn.Linear(10, 10)


class StubAdapter:
    """As much of an adapter as a guard may ask for."""

    def describe(self, model: Any) -> dict[str, Any]:
        """Its type."""
        del model
        return {"model_type": "test"}


@pytest.fixture
def model() -> TwoLayers:
    return TwoLayers()


@pytest.fixture
def adapter() -> StubAdapter:
    return StubAdapter()


def prepared(model: TwoLayers, adapter: StubAdapter, **limits: Any) -> ThresholdGuard:
    guard = ThresholdGuard(**limits)
    guard.prepare(model, adapter, None, None)
    return guard


def test_prepare_captures_baselines(model: TwoLayers, adapter: StubAdapter) -> None:
    answer = ThresholdGuard().prepare(model, adapter, None, None)
    assert answer["ready"] is True
    assert answer["baseline_params"] > 0


def test_validate_passes_normal_weights(model: TwoLayers, adapter: StubAdapter) -> None:
    answer = prepared(model, adapter, max_magnitude=100.0).validate(model, adapter, {})
    assert answer["passed"] is True
    assert answer["action"] == "continue"


def test_validate_fails_large_weights(model: TwoLayers, adapter: StubAdapter) -> None:
    answer = prepared(model, adapter, max_magnitude=0.01).validate(model, adapter, {})
    assert answer["passed"] is False
    assert answer["action"] == "abort"
    assert "violations" in answer["metrics"]


def test_validate_warns_near_threshold(model: TwoLayers, adapter: StubAdapter) -> None:
    guard = prepared(model, adapter, max_magnitude=100.0, warn_magnitude=0.01)
    answer = guard.validate(model, adapter, {})
    assert answer["passed"] is True
    assert answer["action"] == "warn"


def test_scope_filtering(model: TwoLayers, adapter: StubAdapter) -> None:
    guard = prepared(model, adapter, scope="attn")
    assert len(guard._baseline_magnitudes) == 2
    assert all("attn" in name for name in guard._baseline_magnitudes)


def test_what_is_not_finite_is_too_large(model: TwoLayers, adapter: StubAdapter) -> None:
    guard = prepared(model, adapter)
    model.fc.weight.data[0, 0] = float("nan")
    answer = guard.validate(model, adapter, {})
    assert (answer["passed"], answer["metrics"]["violation_count"]) == (False, 1)
    assert answer["metrics"]["violations"][0]["magnitude"] is None


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(ValueError, match="none of all, ffn, attn"):
        ThresholdGuard(scope="atn")


@pytest.mark.parametrize("limit", [0.01, 0.05, 100.0])
def test_the_recorded_numbers_give_the_same_answer_again(
    model: TwoLayers, adapter: StubAdapter, limit: float
) -> None:
    guard = prepared(model, adapter, max_magnitude=limit, warn_magnitude=limit / 2)
    answer = guard.validate(model, adapter, {})
    again = ThresholdGuard(max_magnitude=limit, warn_magnitude=limit / 2).judge(
        answer["metrics"], {}
    )
    assert (again["passed"], again["action"]) == (answer["passed"], answer["action"])
