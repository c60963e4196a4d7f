"""Rescalings in a record: kept, derived again, judged by the policy's own keys, never a verdict."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from invarlock_guards.judge.variance_policy import ProposalRules
from jsonschema.validators import Draft202012Validator

from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.certificate import make_certificate, render_certificate_markdown
from pytest_invarlock.checks.guard_consistency import guard_contradiction
from pytest_invarlock.core.engine import measure
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import CheckDecision, Decision, Outcome
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
    DecisionPolicy,
    Expectation,
    Strictness,
    policy_from_document,
)
from pytest_invarlock.policy.plan_settings import build_policy
from pytest_invarlock.policy.resources import schema
from pytest_invarlock.policy.settings import Settings
from pytest_invarlock.records import Facts, Record, record_from_bytes

MODEL = "builtin:llama"
PLAN = MeasurementPlan(
    source=DataSource("pydoc"),
    windows=WindowSelection(64, 64, preview_windows=10, final_windows=10, guard_windows=8),
    device="cpu", dtype="float32", threads=1, batch_tokens=512,
    rescaling=RescalingPlan(ProposalRules(), remediate=True),
)  # fmt: skip


@pytest.fixture(scope="module")
def record() -> Record:
    bench = Bench(Pair(MODEL, MODEL), PLAN)
    before = tensor_digests(bench.baseline.model)
    scenario = Scenario("up", edit=EditSpec("ve_mlp_scale_skew_up", {"factor": 1.5}))
    made = measure(bench.pair, scenario, PLAN, bench=bench)
    assert tensor_digests(bench.baseline.model) == before
    return made


def policy_of(facts: Facts, **variance: Any) -> DecisionPolicy:
    expected = {(facts.model, facts.scenario): Expectation("clean", Strictness.MUST_PASS)}
    given = {"profile": "dev", "guards": {"variance": variance}} if variance else {"profile": "dev"}
    made = build_policy(given, Settings(), expected)
    valid = Draft202012Validator(schema("policies"))
    assert valid.is_valid({"format": "invarlock-policies-v1", "policies": [made.document()]})
    assert policy_from_document(made.document()) == made
    return made


def judged(facts: Facts, **variance: Any) -> Decision:
    return decide(facts, policy_of(facts, **variance))


def variance_of(facts: Facts, **variance: Any) -> CheckDecision:
    return judged(facts, **variance).check("variance")


def test_a_record_keeps_what_was_tried_and_is_judged_again(record: Record) -> None:
    document = json.loads(canonical(record.document()))
    assert Draft202012Validator(schema("record")).is_valid(document)
    again = record_from_bytes(document, record.array_bytes())
    assert again.facts.digest == record.facts.digest
    policy = policy_of(record.facts, mode="remediate")
    assert decide(again.facts, policy) == decide(record.facts, policy)
    certificate = make_certificate(again, policy, run_id="r")
    page = render_certificate_markdown(certificate)
    assert "## Rescaling (DD-VE)" in page
    assert "| scale proposed for `model.layers.3.mlp.down_proj` | 0.9700 |" in page
    assert "| reading | repairable: a scale alone wins loss back |" in page


def test_the_verdict_is_the_unremediated_subjects(record: Record) -> None:
    asked, gated = judged(record.facts, mode="remediate"), judged(record.facts)
    assert asked.fired == gated.fired
    assert (asked.outcome, asked.text) == (gated.outcome, gated.text) != (Outcome.PASS, "")
    assert variance_of(record.facts, mode="remediate").outcome is Outcome.FAIL
    assert variance_of(record.facts, mode="monitor").outcome is Outcome.WARN
    numbers = asked.check("variance").numbers
    assert (numbers["proposals"], numbers["remediation"]) == ("measured", "measured")
    ratio = gated.check("primary_metric").numbers["ratio"]
    remedied = numbers["remediation_ratio"]
    assert isinstance(ratio, float)
    assert isinstance(remedied, float)
    assert 1 < remedied < ratio
    assert "remediation_ratio" not in gated.check("variance").numbers


def test_another_policys_rules_were_not_measured(record: Record) -> None:
    check = variance_of(record.facts, tap="o", scope="attn", mode="remediate")
    assert (check.numbers["proposals"], check.numbers["remediation"]) == (
        "not_measured", "not_measured",
    )  # fmt: skip
    assert "tap ['down'] was measured, ['o'] is asked for" in str(check.numbers["proposals_reason"])
    own = variance_of(record.facts)
    assert (check.outcome, check.text) == (own.outcome, own.text)
    # Sides, level and least effect are the policy's alone.
    strict = variance_of(record.facts, min_effect_lognll=0.5, predictive_one_sided=False)
    assert (strict.numbers["proposals"], strict.numbers["repairable"]) == ("measured", 0)
    assert (own.numbers["repairable"], own.numbers["gain_upper"]) == (1, None)
    assert strict.numbers["gain_upper"] is not None


def test_a_remediation_that_was_not_planned_is_not_measured(record: Record) -> None:
    plan = copy.deepcopy(dict(record.facts.plan))
    plan["rescaling"]["remediate"] = False

    def drop(proposals: dict[str, Any]) -> None:
        proposals["remediation"] = None

    facts = replace(forged(record.facts, drop), plan=plan)
    check = variance_of(facts, mode="remediate")
    assert (check.numbers["proposals"], check.numbers["remediation"]) == (
        "measured", "not_measured",
    )  # fmt: skip


def forged(facts: Facts, change: Callable[[dict[str, Any]], object]) -> Facts:
    guards = copy.deepcopy(dict(facts.guards))
    change(guards["variance"]["proposals"])
    return replace(facts, guards=guards)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p["rules"].update(deadband=0.1), "other rules than planned"),
        (lambda p: p["scales"].update({"model.layers.3.mlp.down_proj": 0.98}), "other rescalings"),
        (lambda p: p.update(n_eligible=2), "other rescalings"),
        (lambda p: p.update(n_eligible=None), "no rescaling was looked for"),
        (lambda p: p.update(remediation=None), "planned or made only"),
        (lambda p: p["ab"]["tokens"].__setitem__(0, 1), "other tokens"),
        (lambda p: p["ab"]["gains"].append(1.0), "differ in number"),
        (lambda p: [p["ab"][k].pop() for k in ("documents", "gains", "tokens")], "other documents"),
        (
            lambda p: [p["ab"][k].append(p["ab"][k][0]) for k in ("documents", "gains", "tokens")],
            "a document twice",
        ),
        (lambda p: p["remediation"].update(ab=p["ab"]), "other documents"),
        (lambda p: p["remediation"]["tensors"].clear(), "other modules"),
        (
            lambda p: next(iter(p["remediation"]["tensors"].values())).update(restored="sha256:0"),
            "was not undone",
        ),
    ],
)
def test_rescalings_that_contradict_the_record_are_an_error(
    change: Callable[[dict[str, Any]], object], said: str, record: Record
) -> None:
    check = variance_of(forged(record.facts, change), mode="remediate")
    assert (check.outcome, check.reason) == (Outcome.ERROR, "contradictory")
    assert said in check.text


def test_rescalings_stand_in_plan_and_evidence_or_in_neither(record: Record) -> None:
    plan = {key: value for key, value in record.facts.plan.items() if key != "rescaling"}
    unplanned = variance_of(replace(record.facts, plan=plan))
    assert (unplanned.outcome, unplanned.reason) == (Outcome.ERROR, "contradictory")
    guards = {**record.facts.guards}
    guards["variance"] = {**guards["variance"], "proposals": None}
    missing = variance_of(replace(record.facts, guards=guards))
    assert (missing.outcome, missing.reason) == (Outcome.ERROR, "contradictory")
    neither = variance_of(replace(record.facts, plan=plan, guards=guards))
    assert (neither.outcome, neither.numbers["proposals"]) == (Outcome.FAIL, "not_measured")


def test_in_tuning_the_documents_that_guards_saw_are_left_out(record: Record) -> None:
    def less(proposals: dict[str, Any]) -> None:
        for values in proposals["ab"].values():
            values.pop()

    windows = {**record.facts.plan["windows"], "pool": "tuning"}
    facts = replace(forged(record.facts, less), plan={**record.facts.plan, "windows": windows})
    assert guard_contradiction("variance", facts) is None
    certifying = replace(facts, plan=record.facts.plan)
    assert "other documents" in str(guard_contradiction("variance", certifying))
