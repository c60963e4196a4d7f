"""Evidence of guards in a record: whatever fits the schema is judged, and nothing raises."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from invarlock_guards.judge.variance import judge_variance
from invarlock_guards.judge.variance_policy import ProposalRules, VariancePolicy
from jsonschema.validators import Draft202012Validator

from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.core.engine import measure
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import Decision, Outcome
from pytest_invarlock.errors import ConfigError
from pytest_invarlock.evidence.strict_json import canonical
from pytest_invarlock.plan import (
    DataSource,
    EditSpec,
    MeasurementPlan,
    Pair,
    RescalingPlan,
    Scenario,
    WindowSelection,
)
from pytest_invarlock.policy.decision_policy import (
    Expectation,
    Strictness,
    policy_from_document,
)
from pytest_invarlock.policy.plan_settings import build_policy
from pytest_invarlock.policy.resources import schema
from pytest_invarlock.policy.settings import Settings

if TYPE_CHECKING:
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.records import Facts

GUARDS = ("spectral", "rmt", "variance")
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, -0.5, 1e140, -1e140, 1e300, 10**14, 10**400, "", "ffn",
    "vector", "non_finite_subject", "zero_baseline", [], {}, [1], {"a": 1}, {"a": None},
)  # fmt: skip
EAGER = {"deadband": 0.0, "min_abs_adjust": 0.0}
"""With no deadband an honest edit has a proposal too."""


@pytest.fixture(scope="module")
def facts(thin: str) -> Facts:
    plan = MeasurementPlan(
        source=DataSource("pydoc"),
        windows=WindowSelection(64, 64, preview_windows=10, final_windows=10, guard_windows=2),
        device="cpu", dtype="float32", threads=1, batch_tokens=512,
        rescaling=RescalingPlan(ProposalRules(**EAGER), remediate=True),
    )  # fmt: skip
    # Of one block, whose few rows say as much as many, and are judged faster.
    pair = Pair("thin", thin)
    edit = EditSpec("quant_rtn", {"bitwidth": 8})
    scenario = Scenario("rtn", edit=edit, kind="quantize8")
    found = measure(pair, scenario, plan, bench=Bench(pair, plan)).facts
    guards = json.loads(canonical(found.document()["guards"]))
    guards["spectral"]["changes"] = guards["spectral"]["changes"][:3]
    assert guards["variance"]["proposals"]["remediation"]["ab"] is not None
    return replace(found, guards=guards)


@pytest.fixture(scope="module")
def valid() -> Draft202012Validator:
    rules = schema("record")["properties"]["facts"]["properties"]["guards"]
    return Draft202012Validator(rules)


@cache
def demanded(model: str, scenario: str) -> DecisionPolicy:
    expected = {(model, scenario): Expectation("clean", Strictness.MUST_PASS)}
    given = {"profile": "dev", "guards": {"variance": EAGER}}
    return build_policy(given, Settings(), expected)


def judged(facts: Facts, guards: dict[str, Any], kind: str = "quantize8") -> Decision:
    policy = demanded(facts.model, facts.scenario)
    checks = tuple(name for name in GUARDS if name in guards)
    return decide(
        replace(facts, guards=guards, kind=kind), replace(policy, checks=("invariants", *checks))
    )


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value[:2]) if isinstance(value, list) else items
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def changed(guards: dict[str, Any], path: tuple[Any, ...], what: Any, how: str) -> dict[str, Any]:
    made = copy.deepcopy(guards)
    place = made
    for key in path[:-1]:
        place = place[key]
    if how == "drop":
        del place[path[-1]]
    elif how == "rename" and isinstance(place, dict):
        place["other"] = place.pop(path[-1])
    elif how == "twice" and isinstance(place, list):
        place.append(copy.deepcopy(place[path[-1]]))
    else:
        place[path[-1]] = what
    return made


@pytest.mark.long
@pytest.mark.parametrize("guard", GUARDS)
def test_whatever_fits_the_schema_is_judged(
    guard: str, facts: Facts, valid: Draft202012Validator
) -> None:
    evidence = {"invariants": facts.guards["invariants"], guard: facts.guards[guard]}
    assert not list(valid.iter_errors(evidence))
    chance = random.Random(guard)
    n_valid = n_invalid = 0
    for path in places(evidence[guard], (guard,)):
        tries = [("drop", None), ("rename", None), ("twice", None)]
        tries += [("set", what) for what in chance.sample(ODD, 5)]
        for how, what in tries:
            made = changed(evidence, path, what, how)
            if not valid.is_valid(made):
                n_invalid += 1
                continue
            n_valid += 1
            for kind in ("quantize8", "any"):
                # Every decision has to be fit for a certificate too.
                decision = judged(facts, made, kind)
                canonical([check.document() for check in decision.checks])
                if "variance" in made:
                    # Most of such evidence contradicts its record, and is judged no further.
                    limits = VariancePolicy(**EAGER)
                    judge_variance(made[guard], kind=kind, policy=limits)
    assert n_valid > 50
    assert n_invalid > 200


@pytest.mark.parametrize(
    ("guard", "path"),
    [
        ("spectral", ("changes", 0)), ("spectral", ("covered", "ffn")), ("spectral", ("canon",)),
        ("rmt", ("branches", 0)), ("rmt", ("sites", 0)), ("rmt", ()),
        ("variance", ("branches", 0)), ("variance", ("proposals",)),
    ],
)  # fmt: skip
def test_a_row_has_all_its_keys_and_no_other(
    guard: str, path: tuple[Any, ...], facts: Facts, valid: Draft202012Validator
) -> None:
    row: Any = facts.guards[guard]
    for key in path:
        row = row[key]
    for key in row:
        assert not valid.is_valid(changed(dict(facts.guards), (guard, *path, key), None, "drop"))
    made = copy.deepcopy(dict(facts.guards))
    inner: Any = made[guard]
    for key in path:
        inner = inner[key]
    inner["other"] = 1
    assert not valid.is_valid(made)


@pytest.mark.parametrize("guard", ["rmt", "variance"])
def test_branches_that_are_counted_and_not_stated_are_no_pass(guard: str, facts: Facts) -> None:
    emptied = {**facts.guards[guard], "branches": []}
    check = judged(facts, {**facts.guards, guard: emptied}).check(guard)
    assert (check.outcome, check.reason) == (Outcome.ERROR, "contradictory")


@pytest.mark.parametrize(
    "guards",
    [
        {"rmt": {"error": "much"}}, {"rmt": {"erorr": 1}}, {"spectral": {"scope": ["ffn"]}},
        {"variance": {"tap": 5}}, {"variance": {"tap": [["down"]]}}, {"rmt": {"margin": 10**400}},
        {"spectral": {"family_caps": {"ffn": {"kappa": []}}}}, {"variance": {"clamp": [2, 1]}},
    ],
)  # fmt: skip
def test_a_packed_policy_with_a_wrong_limit_is_refused_in_one_line(guards: dict[str, Any]) -> None:
    document = build_policy({"profile": "dev"}, Settings(), {}).document()
    with pytest.raises(ConfigError) as caught:
        policy_from_document({**document, "guards": guards})
    assert caught.value.code == "GUARD_LIMITS"
