"""What a planned calibration demands of the verdict; the same function tells and re-derives it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_invarlock.calibration.benign_run import BenignRun
from pytest_invarlock.calibration.derive import derived_again
from pytest_invarlock.policy.calibrated_preset import META
from pytest_invarlock.policy.calibration import KEY
from pytest_invarlock.run_requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_invarlock.verdict import RunVerdict, Verdict

NAME = "calibration_holds"


def with_calibrations(
    verdict: RunVerdict, models: Sequence[str], presets: Mapping[str, Mapping[str, Any]]
) -> RunVerdict:
    """``verdict`` with the requirement that every planned calibration ended well; else FAIL.

    Args:
        verdict: of the run's scenarios.
        models: those whose calibration was planned; none: nothing is demanded.
        presets: by model, the documents of the presets that there are.
    """
    if not models:
        return verdict
    failures = []
    for model in models:
        problem = calibration_problem(presets.get(model))
        if problem is not None:
            failures.append({"model": model, "scenario": KEY, "reason": problem})
    text = f"{len(models) - len(failures)} of {len(models)} models have limits that held"
    rule = Requirement(NAME, not failures, text, tuple(failures))
    word: Verdict = "FAIL" if failures else verdict.verdict
    return replace(verdict, verdict=word, requirements=(*verdict.requirements, rule))


def calibration_problem(preset: Mapping[str, Any] | None) -> str | None:
    """Why a preset may not be relied on; None where nothing stands against it.

    Its limits are derived again from what it says of benign runs, and its own word that it is
    usable counts for nothing beside the counts of its held-out draws.
    """
    if preset is None:
        return "no preset was derived"
    meta = preset[META]
    held_out = meta["held_out"]
    if held_out["alarms"] or held_out["unjudged"] or not held_out["n"]:
        return (
            f"{held_out['alarms']} alarms in {held_out['n']} held-out benign runs, "
            f"{held_out['unjudged']} not judged"
        )
    if not meta["usable"]:
        return "the preset calls itself not usable"
    runs = [BenignRun(**run) for run in meta["statistics"]]
    other = derived_again(runs, meta["limits"])
    return None if other is None else f"limit {other} does not follow from the benign runs"
