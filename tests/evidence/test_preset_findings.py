"""Calibrated presets in a pack: what each says of itself, and whether its limits were in force."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_invarlock.evidence.preset_findings import preset_findings
from pytest_invarlock.policy.calibrated_preset import META, CalibratedPreset, tightened
from pytest_invarlock.policy.decision_policy import DecisionPolicy

from ..calibration.made import preset
from ..checks.made import policy

LAX = policy(guards={"rmt": {}, "spectral": {}, "variance": {}})


def found(document: Any, rules: DecisionPolicy) -> list[str]:
    metadata: Any = SimpleNamespace(presets={"m": document})
    return [one.message for one in preset_findings(metadata, {("m", "s"): rules})]


def made() -> Any:
    return json.loads(json.dumps(preset("m")))


def test_a_preset_in_force_is_found_sound() -> None:
    rules = tightened(LAX, CalibratedPreset.of(made()))
    assert rules.guards != LAX.guards
    assert found(made(), rules) == []
    assert found(None, rules) == []


def test_a_policy_that_is_laxer_than_its_models_preset_is_found() -> None:
    rules = tightened(LAX, CalibratedPreset.of(made()))
    for lax in (LAX, replace(rules, drift=replace(rules.drift, band=1.05))):
        assert found(made(), lax) == ["is laxer than the preset of 'm', which was in force"]
    # One that did not hold was not in force, and fails the run.
    unsound = made()
    unsound[META]["held_out"].update(unjudged=1)
    assert found(unsound, LAX) == []


CONTRADICTIONS: dict[str, Callable[[Any], Any]] = {
    "model": lambda value: value[META].update(model="other"),
    "limit": lambda value: value["guards"]["rmt"]["error"].update(strict=1.0),
    "band": lambda value: value["primary_metric"].clear(),
    "rate": lambda value: value[META]["held_out"].update(false_positive_rate=0.5),
    "interval": lambda value: value[META]["held_out"]["interval"].__setitem__(1, 0.01),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_preset_that_contradicts_itself_is_found(name: str) -> None:
    rules = tightened(LAX, CalibratedPreset.of(made()))
    other = copy.deepcopy(made())
    CONTRADICTIONS[name](other)
    assert [text.startswith("contradicts itself: ") for text in found(other, rules)] == [True]
