"""Policies of the run that derives presets: no scenario is judged without its model's own limits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.calibration.in_force import plan_in_force, policy_in_force
from pytest_invarlock.calibration.preset_file import write_preset
from pytest_invarlock.decision import Outcome
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.policy.plan_settings import build_policy
from pytest_invarlock.policy.settings import Settings

from .made import preset

if TYPE_CHECKING:
    from pathlib import Path

CLEAN = Expectation("clean", Strictness.MUST_PASS)
POLICY = build_policy({"profile": "dev"}, Settings(), {("m", "rtn"): CLEAN})


def plan(**more: Any) -> dict[str, Any]:
    other = replace(POLICY, expectations={("other", "rtn"): CLEAN})
    return {"policies": [POLICY.document(), other.document()], **more}


@pytest.mark.parametrize("outcome", [None, Outcome.FAIL, Outcome.ERROR])
def test_without_a_preset_that_held_nothing_is_judged(
    tmp_path: Path, outcome: Outcome | None
) -> None:
    if outcome is not None:
        write_preset(tmp_path, preset("m", outcome))
    with pytest.raises(EvidenceError, match="m has no limits to be judged by") as caught:
        policy_in_force(tmp_path, POLICY, "m")
    assert caught.value.code == "CALIBRATION"
    planned = plan(calibrations=["m", "other"])
    assert plan_in_force(planned, tmp_path) == planned


def test_each_models_policy_is_tightened_by_its_own_preset(tmp_path: Path) -> None:
    write_preset(tmp_path, preset("m"))
    own = policy_in_force(tmp_path, POLICY, "m")
    assert own.drift.band < POLICY.drift.band
    planned = plan(calibrations=["m", "other"])
    found = plan_in_force(planned, tmp_path)
    assert found["policies"] == [own.document(), planned["policies"][1]]


def test_a_run_that_planned_no_calibration_takes_none(tmp_path: Path) -> None:
    write_preset(tmp_path, preset("m"))
    assert plan_in_force(plan(), tmp_path) == plan()
