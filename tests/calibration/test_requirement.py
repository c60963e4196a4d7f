"""The verdict's demand on calibrations: what is missing, alarmed or was altered makes it FAIL."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from jsonschema.validators import Draft202012Validator

from pytest_invarlock.calibration.preset_document import HeldOut
from pytest_invarlock.calibration.preset_file import read_preset, read_presets, write_preset
from pytest_invarlock.calibration.requirement import calibration_problem, with_calibrations
from pytest_invarlock.decision import Outcome
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.strict_json import canonical
from pytest_invarlock.policy.calibrated_preset import META
from pytest_invarlock.policy.resources import schema
from pytest_invarlock.run_requirements import Requirement
from pytest_invarlock.verdict import decide_run

from .made import decision, preset

PASS = replace(
    decide_run([], [], {}),
    verdict="PASS",
    requirements=(Requirement("evidence_present", True, "1 records"),),
)


def test_a_missing_preset_fails_the_run() -> None:
    verdict = with_calibrations(PASS, ["m"], {})
    assert verdict.verdict == "FAIL"
    assert verdict.broken is not None
    assert verdict.broken.failures == (
        {"model": "m", "scenario": "calibration", "reason": "no preset was derived"},
    )


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.ERROR, Outcome.INCONCLUSIVE])
def test_a_preset_that_did_not_hold_fails_the_run(outcome: Outcome) -> None:
    made = preset("m", Outcome.PASS, outcome)
    assert not made[META]["usable"]
    verdict = with_calibrations(PASS, ["m"], {"m": made})
    assert verdict.verdict == "FAIL"
    alarms, unjudged = (1, 0) if outcome is Outcome.FAIL else (0, 1)
    assert calibration_problem(made) == (
        f"{alarms} alarms in {2 - unjudged} held-out benign runs, {unjudged} not judged"
    )
    # Its own word counts for nothing.
    made[META]["usable"] = True
    assert calibration_problem(made) is not None


def test_without_held_out_runs_nothing_holds() -> None:
    made = preset()
    made[META]["held_out"] = HeldOut().document()
    assert calibration_problem(made) == "0 alarms in 0 held-out benign runs, 0 not judged"
    assert not HeldOut().holds


def test_a_limit_that_was_altered_is_named() -> None:
    made = preset()
    made[META]["limits"][0]["used"] = 1.2
    assert calibration_problem(made) == "limit drift.band does not follow from the benign runs"
    lacking = preset()
    del lacking[META]["limits"][-1]
    assert "min_effect_lognll does not follow" in str(calibration_problem(lacking))
    other = preset()
    other[META]["statistics"][0]["error"] = 0.03
    assert "guards.rmt.error.strict" in str(calibration_problem(other))


def test_calibrations_that_hold_leave_the_verdict_and_add_a_line() -> None:
    verdict = with_calibrations(PASS, ["m"], {"m": preset("m")})
    assert verdict.verdict == "PASS"
    assert verdict.requirements[-1].text == "1 of 1 models have limits that held"
    assert with_calibrations(PASS, [], {}) is PASS
    failed = replace(PASS, verdict="INCONCLUSIVE")
    assert with_calibrations(failed, ["m"], {"m": preset("m")}).verdict == "INCONCLUSIVE"
    assert with_calibrations(failed, ["m"], {}).verdict == "FAIL"


def test_held_out_counts_and_their_interval() -> None:
    found = HeldOut.of([2, 3], [decision(), decision(Outcome.FAIL), decision(Outcome.ERROR)])
    told = found.document()
    assert (told["n"], told["alarms"], told["unjudged"]) == (2, 1, 1)
    assert told["false_positive_rate"] == 0.5
    assert told["interval"] == [pytest.approx(0.0945, abs=1e-4), pytest.approx(0.9055, abs=1e-4)]
    assert found.problems() == [
        "rtn (draw 2): spectral FAIL: in words", "rtn (draw 2): spectral ERROR: in words"
    ]  # fmt: skip
    assert HeldOut.of([2], [decision(Outcome.WARN)]).holds


def test_a_preset_satisfies_its_schema_and_is_read_as_it_was_written(tmp_path: Any) -> None:
    made = preset()
    plain = json.loads(canonical(made))
    assert list(Draft202012Validator(schema("calibrated_preset")).iter_errors(plain)) == []
    assert read_preset(tmp_path, "builtin:llama") is None
    path = write_preset(tmp_path, made)
    assert path.name == "calibrated_preset_builtin-llama.yaml"
    assert read_preset(tmp_path, "builtin:llama") == plain
    assert read_presets(tmp_path, ["builtin:llama", "other"]) == {"builtin:llama": plain}
    path.with_suffix(".json").write_text(json.dumps({**plain, "extra": 1}))
    with pytest.raises(EvidenceError, match="no preset of this version"):
        read_presets(tmp_path, ["builtin:llama"])
