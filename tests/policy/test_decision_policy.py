"""DecisionPolicy: a document that survives a round trip, and a digest that names its content."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema.validators import Draft202012Validator

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.evidence.strict_json import canonical, digest
from pytest_invarlock.policy.decision_policy import (
    KNOWN_CHECKS,
    DecisionPolicy,
    Expectation,
    Strictness,
    policies_by_scenario,
    policy_from_document,
)
from pytest_invarlock.policy.guard_limits import POLICY_OF
from pytest_invarlock.policy.metric_limits import (
    AccuracyLimits,
    DriftLimits,
    Floors,
    MetricLimits,
    TailLimits,
)
from pytest_invarlock.policy.resources import schema

PROPERTY = settings(deadline=None, max_examples=60, database=None, derandomize=True)
NAMES = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=8)
EXPECTATIONS = st.builds(
    Expectation,
    category=st.sampled_from(["clean", "stress", "error", "compare"]),
    strictness=st.sampled_from(list(Strictness)),
    detectors_any=st.sampled_from([(), ("invariants",), ("primary_metric", "invariants")]),
    detectors_all=st.sampled_from([(), ("primary_metric",)]),
    primary_guard=st.sampled_from([None, "spectral"]),
) | st.builds(
    Expectation,
    category=st.just("error"),
    strictness=st.sampled_from([Strictness.MUST_FAIL, Strictness.MUST_DETECT]),
    primary_guard=st.just("spectral"),
    primary_guard_required=st.just(True),
)
POLICIES = st.builds(
    DecisionPolicy,
    tier=NAMES,
    profile=NAMES,
    checks=st.sampled_from([KNOWN_CHECKS, ("invariants", "primary_metric")]),
    modes=st.sampled_from(
        [
            dict.fromkeys(("invariants", *POLICY_OF, "guard_overhead"), mode)
            for mode in ("gate", "monitor")
        ]
    ),
    guards=st.fixed_dictionaries(
        {},
        optional={
            "spectral": st.fixed_dictionaries({"max_caps": st.integers(0, 9)}),
            "rmt": st.fixed_dictionaries({"error": st.floats(0.01, 2)}),
            "variance": st.fixed_dictionaries({"tap": st.sampled_from(["down", ["down", "o"]])}),
        },
    ),
    primary_metric=st.builds(
        MetricLimits,
        ratio_limit=st.floats(1.001, 3),
        catastrophic_ratio=st.floats(1.001, 9),
        alpha=st.floats(0.01, 0.2),
        bootstrap_alpha=st.floats(0.01, 0.2),
        bootstrap_replicates=st.integers(199, 9999),
        direction=st.sampled_from(["non_inferiority", "equivalence"]),
    ),
    accuracy=st.builds(
        AccuracyLimits, drop_limit_pp=st.floats(0.01, 100), min_examples=st.integers(2, 1000)
    ),
    tail=st.builds(
        TailLimits,
        threshold_nats=st.floats(0.01, 3),
        benign_rate=st.floats(0.0001, 0.01),
        false_alarm=st.floats(0.001, 0.1),
        harm_rate=st.floats(0.02, 0.2),
        alpha=st.floats(0.01, 0.2),
        min_windows=st.integers(1, 500),
        min_documents=st.integers(2, 500),
        quantile_max=st.floats(0.01, 1),
        mode=st.sampled_from(["gate", "monitor"]),
    ),
    drift=st.builds(
        DriftLimits,
        band=st.floats(1, 2),
        fail_alpha=st.floats(0.001, 0.01),
        warn_alpha=st.floats(0.01, 0.2),
        mode=st.sampled_from(["gate", "monitor"]),
    ),
    floors=st.builds(
        Floors,
        documents=st.integers(2, 100),
        effective_documents=st.floats(2, 100),
        tokens=st.none() | st.integers(0, 10**6),
    ),
    on_inconclusive=st.sampled_from(["fail", "xfail"]),
    expectations=st.dictionaries(st.tuples(NAMES, NAMES), EXPECTATIONS, max_size=4),
    provenance=st.dictionaries(NAMES, NAMES, max_size=3),
    minimum_signal_fraction=st.dictionaries(
        st.sampled_from(["stress", "error"]), st.floats(0, 1), max_size=2
    ),
)
POLICY = DecisionPolicy(
    tier="balanced",
    profile="dev",
    checks=("invariants", "primary_metric"),
    modes={"invariants": "gate"},
    guards={"rmt": {"error": 0.1}},
    primary_metric=MetricLimits(1.1, 2.0, 0.05, 0.04, 999),
    accuracy=AccuracyLimits(1.0, 200),
    tail=TailLimits(0.69, 0.001, 0.02, 0.05, 0.05, 100, 59, 0.2, "gate"),
    drift=DriftLimits(1.05, 0.01, 0.05, "gate"),
    floors=Floors(20, 10.0, None),
    on_inconclusive="fail",
    expectations={
        ("m", "b"): Expectation("clean", Strictness.MUST_PASS),
        ("m", "a"): Expectation("error", Strictness.MUST_DETECT, ("invariants",)),
    },
    provenance={"token_floor": "seeds"},
)
GUARDED, HARMED = ("m", "a"), ("error", Strictness.MUST_DETECT)


def test_a_scenario_the_policy_does_not_know_is_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        POLICY.expectation("m", "c")
    assert caught.value.code == "UNKNOWN_SCENARIO"
    assert "'c'" in caught.value.cause


@pytest.mark.parametrize(
    "change",
    [
        {"tier": "x"},
        {"profile": "x"},
        {"checks": ("primary_metric",)},
        {"modes": {"invariants": "monitor"}},
        {"primary_metric": replace(POLICY.primary_metric, ratio_limit=1.2)},
        {"primary_metric": replace(POLICY.primary_metric, catastrophic_ratio=3.0)},
        {"primary_metric": replace(POLICY.primary_metric, alpha=0.04)},
        {"primary_metric": replace(POLICY.primary_metric, bootstrap_alpha=0.05)},
        {"primary_metric": replace(POLICY.primary_metric, bootstrap_replicates=998)},
        {"primary_metric": replace(POLICY.primary_metric, direction="equivalence")},
        {"accuracy": replace(POLICY.accuracy, drop_limit_pp=0.5)},
        {"accuracy": replace(POLICY.accuracy, min_examples=201)},
        {"tail": replace(POLICY.tail, threshold_nats=0.7)},
        {"tail": replace(POLICY.tail, benign_rate=0.002)},
        {"tail": replace(POLICY.tail, false_alarm=0.03)},
        {"tail": replace(POLICY.tail, harm_rate=0.06)},
        {"tail": replace(POLICY.tail, alpha=0.06)},
        {"tail": replace(POLICY.tail, min_windows=101)},
        {"tail": replace(POLICY.tail, min_documents=60)},
        {"tail": replace(POLICY.tail, quantile_max=0.3)},
        {"tail": replace(POLICY.tail, mode="monitor")},
        {"drift": replace(POLICY.drift, band=1.06)},
        {"drift": replace(POLICY.drift, fail_alpha=0.02)},
        {"drift": replace(POLICY.drift, warn_alpha=0.06)},
        {"drift": replace(POLICY.drift, mode="monitor")},
        {"floors": replace(POLICY.floors, documents=21)},
        {"floors": replace(POLICY.floors, effective_documents=11.0)},
        {"floors": replace(POLICY.floors, tokens=0)},
        {"floors": replace(POLICY.floors, guard_window_share=0.6)},
        {"on_inconclusive": "xfail"},
        {"expectations": {}},
        {"provenance": {}},
        {"minimum_signal_fraction": {"stress": 0.0}},
        {"expectations": POLICY.expectations | {GUARDED: Expectation(*HARMED, primary_guard="x")}},
        {"expectations": POLICY.expectations | {GUARDED: Expectation(*HARMED, (), (), "x", True)}},
    ],
)
def test_every_change_of_a_demand_changes_the_digest(change: dict[str, Any]) -> None:
    assert digest(replace(POLICY, **change).document()) != digest(POLICY.document())


def test_the_digest_does_not_depend_on_the_order_of_expectations() -> None:
    turned = replace(POLICY, expectations=dict(reversed(POLICY.expectations.items())))
    assert digest(turned.document()) == digest(POLICY.document())


def test_the_digest_is_stable_across_versions() -> None:
    # A change here orphans every policy digest people have pinned: bump POLICY_FORMAT with it.
    assert digest(POLICY.document()) == (
        "sha256:0a87ef205ddaeecf7f80062af6e102670f6c5f1bf4e5e6362b418a7d3b89609d"
    )


@PROPERTY
@given(POLICIES)
def test_a_policy_survives_its_json_form(policy: DecisionPolicy) -> None:
    document = policy.document()
    back = policy_from_document(json.loads(canonical(document)))
    assert back == policy
    assert back.document() == document
    wrapped = {"format": "invarlock-policies-v1", "policies": [document]}
    assert list(Draft202012Validator(schema("policies")).iter_errors(wrapped)) == []


@pytest.mark.parametrize(
    ("strictness", "wants"),
    [
        (Strictness.MUST_PASS, False),
        (Strictness.MUST_FAIL, True),
        (Strictness.MUST_DETECT, True),
        (Strictness.INFORMATIONAL, False),
    ],
)
def test_which_expectations_want_a_detection(strictness: Strictness, wants: bool) -> None:
    assert Expectation("x", strictness).wants_detection is wants


@pytest.mark.parametrize("benign_rate", [0.05, 0.06])
def test_a_benign_rate_as_large_as_harm_is_refused(benign_rate: float) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(POLICY.tail, benign_rate=benign_rate)
    assert caught.value.code == "TAIL_RATES"


def test_failing_more_easily_than_warning_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        replace(POLICY.drift, fail_alpha=0.051)
    assert caught.value.code == "DRIFT_LEVELS"


def test_a_guard_among_the_checks_needs_a_mode() -> None:
    document = json.loads(canonical(replace(POLICY, modes={}).document()))
    with pytest.raises(ConfigError) as caught:
        policy_from_document(document)
    assert caught.value.code == "POLICY_MODE"


def test_the_checks_on_losses_need_none() -> None:
    checks = ("primary_metric", "drift", "tail")
    policy = replace(POLICY, checks=checks, modes={})
    assert policy_from_document(json.loads(canonical(policy.document()))) == policy


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"alpha": 1e-17}, "METRIC_LEVEL"),
        ({"alpha": 0.5}, "METRIC_LEVEL"),
        ({"bootstrap_alpha": 1e-300}, "METRIC_LEVEL"),
        ({"bootstrap_alpha": 9e-4}, "BOOTSTRAP_REPLICATES"),
        ({"bootstrap_replicates": 10}, "BOOTSTRAP_REPLICATES"),
    ],
)
def test_levels_that_nothing_can_show_are_refused(change: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(POLICY.primary_metric, **change)
    assert caught.value.code == code
    assert replace(POLICY.primary_metric, bootstrap_alpha=1e-3).bootstrap_alpha == 1e-3


@pytest.mark.parametrize("change", [{"documents": 1}, {"effective_documents": 0.5}, {"tokens": -1}])
def test_floors_below_which_nothing_can_be_estimated_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(POLICY.floors, **change)
    assert caught.value.code == "FLOORS"


def test_two_policies_or_expectations_of_one_scenario_are_refused() -> None:
    one = POLICY.document()
    other = replace(POLICY, expectations={("m", "c"): Expectation("x", Strictness.MUST_PASS)})
    assert set(policies_by_scenario([one, other.document()])) == {("m", s) for s in "abc"}
    lax = replace(POLICY, primary_metric=replace(POLICY.primary_metric, ratio_limit=1.9))
    twice = {**one, "expectations": [*one["expectations"], one["expectations"][0]]}
    for documents in ([one, lax.document()], [twice]):
        with pytest.raises(ConfigError) as caught:
            policies_by_scenario(documents)
        assert caught.value.code == "POLICY_TWICE"


@pytest.mark.parametrize("check", ["primary_metric", "invariants"])
def test_a_packed_policy_demands_what_every_verdict_rests_on(check: str) -> None:
    checks = tuple(name for name in KNOWN_CHECKS if name != check)
    document = replace(POLICY, checks=checks).document()
    wrapped = {"format": "invarlock-policies-v1", "policies": [document]}
    assert list(Draft202012Validator(schema("policies")).iter_errors(wrapped))


@pytest.mark.parametrize("strictness", [Strictness.MUST_PASS, Strictness.INFORMATIONAL])
def test_no_guard_is_required_where_nothing_must_be_detected(strictness: Strictness) -> None:
    with pytest.raises(ConfigError) as caught:
        Expectation("stress", strictness, primary_guard="rmt", primary_guard_required=True)
    assert caught.value.code == "PRIMARY_GUARD"
    with pytest.raises(ConfigError, match="names no primary_guard"):
        Expectation(*HARMED, primary_guard_required=True)


def test_a_document_cannot_require_a_guard_of_an_informational_scenario() -> None:
    required = {GUARDED: Expectation(*HARMED, (), (), "rmt", True)}
    document = replace(POLICY, expectations=required).document()
    document["expectations"][0]["strictness"] = "informational"
    with pytest.raises(ConfigError, match="informational"):
        policy_from_document(document)
