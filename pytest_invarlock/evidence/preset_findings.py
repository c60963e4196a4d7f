"""Whether a pack's calibrated presets hold what they say of themselves, and were in force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_invarlock.calibration.preset_document import limit_blocks, rate_and_interval
from pytest_invarlock.calibration.preset_file import preset_path
from pytest_invarlock.calibration.requirement import calibration_problem
from pytest_invarlock.evidence.findings import Finding, Stage
from pytest_invarlock.evidence.json_difference import first_difference
from pytest_invarlock.evidence.pack_schemas import POLICY
from pytest_invarlock.policy.calibrated_preset import META, CalibratedPreset, tightened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.evidence.pack_files import PackMetadata, Policies


def preset_findings(metadata: PackMetadata, policies: Policies) -> list[Finding]:
    """SEMANTIC_MISMATCH where a preset contradicts itself, or a policy is laxer than it.

    That its limits follow from its benign runs is a requirement of the verdict.
    """
    findings = []
    for model, preset in metadata.presets.items():
        if preset is None:
            continue
        different = first_difference(_again(model, preset), dict(preset))
        if different is not None:
            findings.append(_mismatch(preset_path(model), f"contradicts itself: {different}"))
        elif calibration_problem(preset) is None:
            limits = CalibratedPreset.of(preset)
            of_model = {id(p): p for (name, _), p in policies.items() if name == model}
            findings += [
                _mismatch(POLICY, f"is laxer than the preset of {model!a}, which was in force")
                for policy in of_model.values()
                if tightened(policy, limits).document() != policy.document()
            ]
    return findings


def _again(model: str, preset: Mapping[str, Any]) -> dict[str, Any]:
    """The preset with its model's name, its blocks and its rate of alarms made of the rest."""
    meta = preset[META]
    held_out = {**meta["held_out"], **rate_and_interval(meta["held_out"])}
    return {
        **preset,
        **limit_blocks(meta["limits"]),
        META: {**meta, "model": model, "held_out": held_out},
    }


def _mismatch(path: str, text: str) -> Finding:
    return Finding("SEMANTIC_MISMATCH", Stage.SEMANTICS, path, text)
