"""The decision policy of a suite document: each override lands, with its provenance."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema.validators import Draft202012Validator

from pytest_invarlock.errors import ConfigError
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
    assert policy.checks == ("invariants", "primary_metric", "drift", "tail")


def test_a_combination_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        built(drift={"fail_alpha": 0.2})
    assert caught.value.code == "DRIFT_LEVELS"
