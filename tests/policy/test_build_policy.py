"""The decision policy of a suite document: each override lands, with its provenance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from invarlock_guards.judge.policy_values import GroupLimits
from jsonschema.validators import Draft202012Validator

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.guard_limits import guard_policy
from pytest_invarlock.policy.plan_settings import build_policy
from pytest_invarlock.policy.resources import schema
from pytest_invarlock.policy.settings import Settings


def built(**value: Any) -> Any:
    return build_policy({"profile": "dev", **value}, Settings(), {})


@pytest.mark.parametrize(
    ("block", "key", "value"),
    [
        ("primary_metric", "direction", "equivalence"),
        ("primary_metric", "ratio_limit", 1.02),
        ("accuracy", "drop_limit_pp", 0.25),
        ("accuracy", "min_examples", 500),
        ("tail", "threshold_nats", 0.5),
        ("tail", "min_windows", 300),
        ("tail", "mode", "monitor"),
        ("drift", "band", 1.02),
        ("drift", "mode", "monitor"),
    ],
)
def test_a_suite_overrides_one_key_and_says_so(block: str, key: str, value: Any) -> None:
    part = {block: {key: value}}
    rules = schema("suite")
    wrapped = {"$defs": rules["$defs"], **rules["properties"][block]}
    assert list(Draft202012Validator(wrapped).iter_errors(part[block])) == []
    policy, plain = built(**part).document(), built().document()
    assert policy[block] == plain[block] | {key: value}
    assert policy["provenance"] == plain["provenance"] | {f"{block}.{key}": "suite file"}


def test_without_overrides_the_tier_rules() -> None:
    policy = built(tier="conservative")
    assert policy.accuracy.drop_limit_pp == 0.5
    assert policy.tail.quantile_max == 0.12
    assert policy.checks == (
        "invariants", "spectral", "rmt", "variance", "primary_metric", "drift", "tail",
        "guard_overhead",
    )  # fmt: skip


def test_a_guards_limits_stand_over_the_tiers_and_say_so() -> None:
    policy = built(
        guards={
            "spectral": {"mode": "monitor", "family_caps": {"ffn": {"kappa": 9}}, "deadband": 0.5},
            "rmt": {"error": 0.01},
            "variance": {"discovery": {"deadband": 0.3}, "gating": {"sided": "two-sided"}},
        }
    )
    plain = built()
    assert policy.modes == {**plain.modes, "spectral": "monitor"}
    limits = {name: guard_policy(name, policy.guards[name]) for name in policy.guards}
    tiers = {name: guard_policy(name, plain.guards[name]) for name in plain.guards}
    assert limits["spectral"] == replace(
        tiers["spectral"],
        family_caps={**tiers["spectral"].family_caps, "ffn": 9},
        deadband=dict.fromkeys(("ffn", "attn", "embed", "other"), 0.5),
    )
    assert limits["rmt"] == replace(tiers["rmt"], error=GroupLimits(0.01, 0.01, 0.01))
    assert limits["variance"] == replace(
        tiers["variance"], deadband=0.3, predictive_one_sided=False
    )
    assert policy.provenance == plain.provenance | {
        f"guards.{key}": "suite file"
        for key in (
            "spectral.mode", "spectral.family_caps", "spectral.deadband", "rmt.error",
            "variance.discovery", "variance.gating",
        )
    }  # fmt: skip


@pytest.mark.parametrize(
    ("guards", "cause"),
    [
        ({"rmt": {"error": -1}}, "guards.rmt.error"),
        ({"rmt": {"error": 10**400}}, "guards.rmt.error"),
        ({"rmt": {"erorr": 1}}, "guards.rmt: unknown key 'erorr'"),
        ({"variance": {"tap": [["down"]]}}, "guards.variance.tap"),
        ({"variance": {"tap": None}}, "guards.variance.tap"),
        ({"variance": {"discovery": 3}}, "guards.variance.discovery"),
        ({"variance": {"deadband": 0.1, "discovery": {"deadband": 0.2}}}, "given twice"),
        ({"spectral": {"family_caps": {"ffn": {"kappa": None}}}}, "guards.spectral.family_caps"),
        ({"spectral": {"scope": ["ffn"]}}, "guards.spectral.scope"),
    ],
)
def test_a_wrong_limit_of_a_guard_is_refused_naming_its_key(guards: Any, cause: str) -> None:
    with pytest.raises(ConfigError) as caught:
        built(guards=guards)
    assert caught.value.code == "GUARD_LIMITS"
    assert cause in caught.value.cause


def test_a_combination_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        built(drift={"fail_alpha": 0.2})
    assert caught.value.code == "DRIFT_LEVELS"
