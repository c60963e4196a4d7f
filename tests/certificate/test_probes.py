"""Probes: they compare with the baseline, and what was not measured is neither stable nor a signal."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest

from pytest_invarlock.certificate.probes import FILES, SCHEMAS, make_probe, probes_of
from pytest_invarlock.core.engine import error_record, measure
from pytest_invarlock.decide import decide
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.strict_json import canonical
from pytest_invarlock.plan import (
    PROBES,
    DataSource,
    EditSpec,
    MeasurementPlan,
    Pair,
    Scenario,
    WindowSelection,
)
from pytest_invarlock.policy.decision_policy import DecisionPolicy, Expectation, Strictness
from pytest_invarlock.policy.guard_limits import guard_policy
from pytest_invarlock.policy.plan_settings import build_policy
from pytest_invarlock.policy.resources import schema, strict_validator
from pytest_invarlock.policy.settings import Settings
from pytest_invarlock.policy.tiers import load_tier
from pytest_invarlock.records import Record

PAIR = Pair("builtin:llama", "builtin:llama")
SCENARIO = Scenario("skew", edit=EditSpec("ve_mlp_scale_skew"), probes=PROBES)
PLAN = MeasurementPlan(
    source=DataSource("pydoc"),
    windows=WindowSelection(64, 64, preview_windows=10, final_windows=10, guard_windows=2),
    device="cpu", dtype="float32", threads=1, batch_tokens=512,
)  # fmt: skip
RULES: dict[str, Any] = {
    "rules": guard_policy("variance", load_tier("balanced").guards["variance"]).proposal_rules(),
    "remediation": None,
}
MEASURED: dict[str, Any] = RULES | {
    "n_eligible": 2, "reason": None, "scales": {"a.down": 0.97},
    "ab": {"documents": [0, 1, 2], "gains": [1.0, 1.1, 0.9], "tokens": [10.0, 10.0, 10.0]},
    "ab_reason": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def record() -> Record:
    return measure(PAIR, SCENARIO, PLAN)


def policy(**guards: Any) -> DecisionPolicy:
    expected = {(PAIR.name, SCENARIO.name): Expectation("error", Strictness.INFORMATIONAL)}
    return build_policy({"profile": "dev", "guards": guards}, Settings(), expected)


def changed(record: Record, guard: str, **values: Any) -> Record:
    evidence = copy.deepcopy(dict(record.facts.guards[guard])) | values
    return replace(
        record, facts=replace(record.facts, guards={**record.facts.guards, guard: evidence})
    )


def probe(name: str, record: Record, **guards: Any) -> dict[str, Any]:
    made = make_probe(name, record, policy(**guards), run_id="r")
    canonical(made)
    return made


def grown(record: Record, **values: Any) -> Record:
    """``record`` in which the first site of attention has ``values``."""
    sites = copy.deepcopy(record.facts.guards["rmt"]["sites"])
    next(row for row in sites if row["family"] == "attn").update(values)
    return changed(record, "rmt", sites=sites)


def family(made: dict[str, Any], name: str) -> dict[str, Any]:
    (row,) = (row for row in made["families"] if row["family"] == name)
    return dict(row)


def test_growth_beyond_the_band_is_unstable(record: Record) -> None:
    one = grown(record, fedge=math.log(1.09))
    made = probe("rmt", one)
    row = family(made, "attn")
    assert (made["status"], made["stable"]) == ("measured", False)
    assert row["growth"] == pytest.approx(0.09)
    assert (row["unstable"], row["epsilon"]) == (True, 0.08)
    sites = one.facts.guards["rmt"]["sites"]
    assert row["module"] == next(s["module"] for s in sites if s["family"] == "attn")
    wide = probe("rmt", one, rmt={"epsilon_by_family": {"attn": 0.1}})
    assert (wide["stable"], family(wide, "attn")["unstable"]) == (True, False)


def test_each_family_tells_its_largest_growth(record: Record) -> None:
    made = probe("rmt", record)
    sites = record.facts.guards["rmt"]["sites"]
    for row in made["families"]:
        own = [site for site in sites if site["family"] == row["family"]]
        assert row["growth"] == pytest.approx(math.expm1(max(site["fedge"] for site in own)))
        assert row["n_modules"] == len(own)
    assert made["check"]["outcome"] == decide(record.facts, policy()).check("rmt").outcome.value


def test_outputs_that_are_not_finite_are_unstable(record: Record) -> None:
    made = probe("rmt", grown(record, fedge=None, finite=False))
    row = family(made, "attn")
    assert (made["stable"], row["unstable"]) == (False, True)
    assert (row["growth"], row["reason"]) == (None, "non_finite")


def test_an_edge_that_is_not_known_is_not_stable(record: Record) -> None:
    made = probe("rmt", grown(record, fedge=None))
    assert made["stable"] is family(made, "attn")["unstable"] is None
    assert family(made, "attn")["reason"] == "no_edge_of_some"
    none = probe("rmt", changed(record, "rmt", sites=[]))
    assert (none["status"], none["stable"]) == ("not_evaluated", None)


@pytest.mark.parametrize("name", PROBES)
def test_without_evidence_it_says_why(name: str, record: Record) -> None:
    facts = record.facts
    rest = {key: value for key, value in facts.guards.items() if key != name}
    unread = {**rest, name: {"not_evaluated": "a tensor is missing"}}
    failed = error_record(PAIR, SCENARIO, PLAN, "OUT_OF_MEMORY")
    for found, said in (
        (replace(record, facts=replace(facts, guards=rest)), "no evidence"),
        (replace(record, facts=replace(facts, guards=unread)), "a tensor is missing"),
        (failed, "OUT_OF_MEMORY"),
    ):
        made = probe(name, found)
        assert made["status"] == "not_evaluated"
        assert said in made["reason"]
        assert made["check"]["outcome"] == "ERROR"
        assert made["stable" if name == "rmt" else "signal"] is None


def test_proposals_that_gain_enough_are_a_signal(record: Record) -> None:
    made = probe("variance", changed(record, "variance", proposals=MEASURED))
    assert (made["status"], made["signal"]) == ("measured", True)
    assert made["proposals"] == [{"module": "a.down", "scale": 0.97}]
    gain = made["gain"]
    assert (gain["mean"], gain["n_documents"], gain["one_sided"]) == (pytest.approx(0.1), 3, True)
    assert gain["lower"] < gain["mean"]
    assert gain["upper"] is None
    asked = {"min_effect_lognll": 0.2}
    small = probe("variance", changed(record, "variance", proposals=MEASURED), variance=asked)
    assert (small["signal"], small["min_effect_lognll"]) == (False, 0.2)


@pytest.mark.parametrize(
    ("proposals", "status", "signal", "said"),
    [
        (None, "not_measured", None, "no proposal"),
        (
            RULES | {"n_eligible": 0, "reason": "no branch was edited", "scales": {}, "ab": None,
             "ab_reason": "no branch was edited"},
            "not_applicable", None, "no branch was edited",
        ),
        (
            RULES | {"n_eligible": 3, "reason": "no branch is off", "scales": {}, "ab": None,
             "ab_reason": "no branch is off"},
            "measured", False, "no branch is off",
        ),
        (
            MEASURED | {"ab": None, "ab_reason": "a loss was not finite"},
            "measured", None, "a loss was not finite",
        ),
    ],
)  # fmt: skip
def test_what_was_not_tried_is_no_signal(
    proposals: Any, status: str, signal: bool | None, said: str, record: Record
) -> None:
    made = probe("variance", changed(record, "variance", proposals=proposals))
    assert (made["status"], made["signal"], made["gain"]) == (status, signal, None)
    assert said in made["reason"]


def test_proposals_of_other_rules_are_no_signal(record: Record) -> None:
    other = MEASURED | {"rules": MEASURED["rules"] | {"scope": "both"}}
    made = probe("variance", changed(record, "variance", proposals=other))
    assert (made["status"], made["signal"], made["gain"]) == ("not_measured", None, None)


@pytest.mark.parametrize("name", PROBES)
def test_the_schema_takes_no_other_key_and_wants_all(name: str, record: Record) -> None:
    made = probe(name, record)
    valid = strict_validator()(schema(SCHEMAS[name]))
    assert valid.is_valid(made)
    assert not valid.is_valid({**made, "more": 1})
    for key in made:
        assert not valid.is_valid({k: v for k, v in made.items() if k != key})


def test_one_that_does_not_fit_its_schema_is_never_written(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_invarlock.certificate.probes._rmt", lambda *_: {"status": "fine"})
    with pytest.raises(EvidenceError) as caught:
        make_probe("rmt", record, policy(), run_id="r")
    assert caught.value.code == "PROBE_SCHEMA"


def test_who_asks_is_told_by_model_where_models_differ() -> None:
    told = [{"scenario": "s", "probes": ["rmt"]}, {"scenario": "s", "model": "m", "probes": []}]
    assert probes_of(told, "n", "s") == ("rmt",)
    assert probes_of(told, "m", "s") == probes_of(told, "n", "other") == ()
    assert set(FILES) == set(PROBES)
