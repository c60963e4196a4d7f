"""The policies of the run that derives presets: a model's scenarios are judged under its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_invarlock.calibration.preset_file import read_presets
from pytest_invarlock.calibration.requirement import calibration_problem
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.policy.calibrated_preset import CalibratedPreset, tightened
from pytest_invarlock.policy.decision_policy import policy_from_document

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_invarlock.policy.decision_policy import DecisionPolicy


def policy_in_force(run: Path, policy: DecisionPolicy, model: str) -> DecisionPolicy:
    """``policy`` under the preset that this run derived for ``model``.

    Raises:
        EvidenceError: ``CALIBRATION`` where there is none, or it did not hold: nothing is judged
            by the tier's limits instead.
    """
    preset = read_presets(run, [model]).get(model)
    problem = calibration_problem(preset)
    if preset is None or problem is not None:
        raise EvidenceError(
            f"{model} has no limits to be judged by: {problem}",
            remedy="run calibration::preset of this model with it, or give --invarlock-preset",
            code="CALIBRATION",
        )
    return tightened(policy, CalibratedPreset.of(preset))


def plan_in_force(plan: Mapping[str, Any], run: Path) -> dict[str, Any]:
    """A part of a run's plan with the policies that its scenarios were judged under.

    Where a preset is missing or did not hold nothing was judged; the policy stays as planned.
    """
    models = list(plan.get("calibrations", ()))
    presets = {
        model: CalibratedPreset.of(preset)
        for model, preset in read_presets(run, models).items()
        if calibration_problem(preset) is None
    }
    policies = []
    for document in plan["policies"]:
        own = {entry["model"] for entry in document["expectations"]} & set(presets)
        for model in sorted(own):
            document = tightened(policy_from_document(document), presets[model]).document()
        policies.append(document)
    return {**plan, "policies": policies}
