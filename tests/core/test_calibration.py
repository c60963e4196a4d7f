"""calibrate: limits derived from benign runs, and what held-out draws say of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from jsonschema.validators import Draft202012Validator

from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.core.calibration import (
    Derived,
    calibrate,
    calibration_inputs,
    calibration_plan,
    calibration_policy,
    tier_limits,
)
from pytest_invarlock.core.determinism import resolve_plan
from pytest_invarlock.core.engine import measure
from pytest_invarlock.decide import decide
from pytest_invarlock.errors import ConfigError
from pytest_invarlock.evidence.strict_json import canonical
from pytest_invarlock.plan import (
    DataSource,
    EditSpec,
    MeasurementPlan,
    Pair,
    Scenario,
    SequentialPlan,
    WindowSelection,
)
from pytest_invarlock.policy.calibrated_preset import META, CalibratedPreset, tightened
from pytest_invarlock.policy.calibration import Calibration
from pytest_invarlock.policy.plan_settings import build_policy
from pytest_invarlock.policy.resources import schema
from pytest_invarlock.policy.settings import Settings

MODEL = "thin"
PAIR = Pair(MODEL, "nowhere")
RTN = Scenario("rtn", edit=EditSpec("quant_rtn", {"bitwidth": 8}))
DAMAGE = Scenario("damage", edit=EditSpec("quant_rtn", {"bitwidth": 3}), kind="quantize8")
POLICY = build_policy({"bootstrap_replicates": 499, "profile": "dev"}, Settings(), {})
PLAN = MeasurementPlan(
    source=DataSource("pydoc"),
    windows=WindowSelection(64, 64, preview_windows=24, final_windows=24),
    device="cpu", dtype="float32", threads=1, sequential=SequentialPlan(1.1),
)  # fmt: skip


@pytest.fixture(scope="module")
def bench(thin: str) -> Bench:
    return Bench(Pair(MODEL, thin), resolve_plan(calibration_plan(PLAN)))


def derived(bench: Bench, *benign: Scenario, told: list[str] | None = None) -> Derived:
    calibration = Calibration(2, 1, {MODEL: benign})
    progress = (told if told is not None else []).append
    return calibrate(bench, calibration, POLICY, inputs="0" * 64, progress=progress)


def test_a_benign_run_that_alarms_makes_the_preset_unusable_and_loosens_nothing(
    bench: Bench,
) -> None:
    found = derived(bench, DAMAGE)
    meta = found.document[META]
    assert not meta["usable"]
    assert meta["held_out"]["alarms"] == 1
    assert meta["held_out"]["n"] == 2  # the baseline against itself does not alarm
    assert any(
        line.startswith("damage (draw 2): spectral FAIL: ") for line in found.held_out.problems()
    )
    sigma = next(
        limit for limit in meta["limits"]
        if limit["key"] == "guards.spectral.family_limits.ffn.relative_change.strict"
    )  # fmt: skip
    assert (sigma["source"], sigma["used"], sigma["reason"]) == ("tier", 0.08, "derived is wider")


def test_limits_of_benign_runs_hold_and_are_tighter(bench: Bench) -> None:
    told: list[str] = []
    passes = bench.counters.baseline_loads
    found = derived(bench, RTN, told=told)
    meta = found.document[META]
    assert told == [f"{n}/6" for n in range(1, 7)]
    assert bench.counters.baseline_loads <= max(passes, 1)
    assert meta["usable"]
    assert meta["held_out"] | {"interval": None} == {
        "draws": [2], "n": 2, "alarms": 0, "unjudged": 0, "false_positive_rate": 0.0,
        "interval": None, "found": [],
    }  # fmt: skip
    assert len(set(meta["data"]["digests"])) == 3
    plain = json.loads(canonical(found.document))
    assert list(Draft202012Validator(schema("calibrated_preset")).iter_errors(plain)) == []
    own = tightened(POLICY, CalibratedPreset.of(found.document))
    limit, tiers = tier_limits(own).spectral, tier_limits(POLICY).spectral
    assert limit("relative_change", "strict", "ffn") < tiers("relative_change", "strict", "ffn")
    assert own.drift.band < POLICY.drift.band
    assert tier_limits(own).error["strict"] < tier_limits(POLICY).error["strict"]
    assert tier_limits(own).error["open"] == tier_limits(POLICY).error["open"]


def test_a_record_of_a_calibration_is_no_evidence(bench: Bench) -> None:
    record = measure(bench.pair, RTN, bench.plan, bench=bench)
    judged = calibration_policy(POLICY, PAIR, Calibration(2, 1, {MODEL: (RTN,)}))
    assert decide(record.facts, judged, pool="calibration").expectation_met
    refused = decide(record.facts, judged)
    assert {check.reason for check in refused.checks} == {"other_pool"}
    assert record.facts.plan["windows"]["pool"] == "calibration"


def test_a_policy_without_such_checks_has_nothing_to_derive() -> None:
    bare = replace(POLICY, checks=("invariants", "primary_metric"))
    with pytest.raises(ConfigError, match="there is no limit to derive"):
        calibration_policy(bare, PAIR, Calibration(2, 1, {MODEL: (RTN,)}))


def test_what_goes_in_changes_the_inputs() -> None:
    def inputs(calibration: Calibration, policy: object = POLICY) -> str:
        return calibration_inputs(PLAN, calibration, PAIR, policy)  # type: ignore[arg-type]

    one = inputs(Calibration(2, 1, {MODEL: (RTN,)}))
    assert one == inputs(Calibration(2, 1, {MODEL: (RTN,)}))
    assert one != inputs(Calibration(3, 1, {MODEL: (RTN,)}))
    assert one != inputs(Calibration(2, 1, {MODEL: (DAMAGE,)}))
    looser = replace(POLICY, drift=replace(POLICY.drift, band=1.2))
    assert one != inputs(Calibration(2, 1, {MODEL: (RTN,)}), looser)
