"""Certificates fit their schema whatever was measured, and their numbers follow from the losses."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_invarlock.certificate import (
    build,
    make_certificate,
    render_certificate_markdown,
    validate_certificate,
)
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import Decision
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.strict_json import canonical, digest, pretty
from pytest_invarlock.policy.decision_policy import DecisionPolicy
from pytest_invarlock.policy.metric_limits import Floors, MetricLimits
from pytest_invarlock.policy.resources import schema
from pytest_invarlock.provenance import library_versions, machine
from pytest_invarlock.records import ArmLosses, Facts, Record

from ..checks.made import QUIET, answers, choices
from ..checks.made import policy as made_policy

N, TOKENS = 50, 63
SHA, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
INVARIANTS: dict[str, Any] = {
    "n_tensors": 10, "n_floating_tensors": 10, "n_parameters": 1000, "missing": [],
    "unexpected": [], "shape_changes": [], "dtype_changes": [], "non_finite": [],
    "baseline_non_finite": [], "ties_broken": [], "ties_added": [], "config_changes": [],
    "tokenizer_changes": [],
}  # fmt: skip
POLICY = made_policy(
    primary_metric=MetricLimits(1.10, 2.0, 0.05, 0.04, 199), floors=Floors(20, 10.0, 50_000)
)
DIVERGENCE: dict[str, Any] = {
    "method": "cached_states",
    **{
        name: {
            "n_tokens": N * TOKENS, "kl_nats_mean": 0.00123, "top1_same_share": 62 / 63,
            "delta_p_mean": None,
        }
        for name in ("preview", "final")
    },
}  # fmt: skip
UNCOMPARED = {"not_evaluated": "no common vocabulary"}


def identity(tensors: str) -> dict[str, Any]:
    return {
        "tensors_digest": tensors, "checkpoint_digest": None, "tokenizer_fingerprint": SHA,
        "revision": None, "architecture": "LlamaForCausalLM", "config_digest": SHA,
    }  # fmt: skip


def arm(change: float, sd: float, first_document: int = 0) -> ArmLosses:
    generator = np.random.default_rng(4)
    baseline = generator.uniform(2, 4, N) * TOKENS
    return ArmLosses(
        np.arange(N) + first_document, np.full(N, TOKENS), baseline,
        baseline + TOKENS * (change + sd * generator.normal(size=N)),
    )  # fmt: skip


def compared(one: ArmLosses) -> ArmLosses:
    """``one`` with the arrays whose statistics `DIVERGENCE` states."""
    nothing = np.zeros(N, dtype=np.int64)
    return replace(
        one, kl_nats=np.full(N, 0.00123 * TOKENS), top1_same=np.full(N, 62),
        top1_harmful=nothing, top1_beneficial=nothing,
    )  # fmt: skip


def record(change: float = 0.01, sd: float = 0.01, **replaced: Any) -> Record:
    stated: dict[str, Any] = {
        "model": "m", "scenario": "s", "draw": 0, "kind": "any",
        "plan": {
            "format": "invarlock-plan-v1", "data_digest": SHA,
            "source": {"provider": "pydoc", "shareable": True}, "mask_probability": None,
            "sequential": None,
            "windows": {
                "seq_len": TOKENS + 1, "stride": TOKENS + 1, "preview_windows": N,
                "final_windows": N, "max_windows_per_document": 8, "seed": 0,
                "convention": "document", "guard_windows": 16,
            },
            "guards": ["invariants"], "outlier_factor": 1.65, "metric": "ppl_causal", "device": "cpu", "dtype": "float32",
            "threads": 1, "determinism": "strict", "batch_tokens": 8192, "draw": 0,
            "baseline_tensors": SHA, "baseline_config": SHA, "subject": {"name": "quant_rtn", "parameters": {"bitwidth": 8}},
            "code": SHA,
        },
        "baseline": identity(SHA), "subject": identity(OTHER),
        "edit": {
            "name": "quant_rtn", "parameters": {"bitwidth": 8}, "n_tensors_touched": 4,
            "n_tensors_changed": 4, "n_parameters_touched": 40, "n_parameters_changed": 39,
        },
        "data": {"digest": SHA, "seq_len": TOKENS + 1, "n_documents": {"preview": N, "final": N},
                 "n_documents_planned": {"preview": N, "final": N},
                 "match_fraction": 1.0, "overlap_fraction": 0.0, "duplicate_fraction": 0.25,
                 "notes": []},
        "arms": {"preview": compared(arm(change, sd, N)), "final": compared(arm(change, sd))},
        "guards": {"invariants": INVARIANTS}, "error": None,
        "divergence": UNCOMPARED if "arms" in replaced else DIVERGENCE, "noise_floor": QUIET,
    }  # fmt: skip
    return Record(Facts(**stated | replaced))


def certificate(of: Record, policy: DecisionPolicy = POLICY) -> dict[str, Any]:
    return make_certificate(of, policy, run_id="demo-1")


def with_number(monkeypatch: pytest.MonkeyPatch, key: str, value: float | None) -> None:
    """Make the decision state another number than the losses give."""

    def tampered(facts: Facts, policy: DecisionPolicy) -> Decision:
        decision = decide(facts, policy)
        checks = tuple(
            replace(check, numbers={**check.numbers, key: value})
            if check.check == "primary_metric"
            else check
            for check in decision.checks
        )
        return replace(decision, checks=checks)

    monkeypatch.setattr(build, "decide", tampered)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ratio", 1.0),
        ("ratio_upper", 1.0),
        ("ratio_lower", 1.2),
        ("delta_nats_per_token", 0.0),
        ("baseline_perplexity", 10.0),
        ("subject_perplexity", 10.0),
        ("delta_upper_nats_per_token", 0.011),
        ("delta_lower_nats_per_token", 0.009),
        ("delta_upper_nats_per_token", None),
        ("n_windows", N - 1),
        ("n_tokens", 1),
        ("n_documents", N + 1),
    ],
)
def test_tampered_numbers_are_caught(
    key: str, value: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_number(monkeypatch, key, value)
    with pytest.raises(EvidenceError) as caught:
        certificate(record())
    assert caught.value.code == "CERTIFICATE_IDENTITY"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema_version",), "v2"),
        (("surprise",), 1),
        (("plan_digest",), "sha256:short"),
        (("decision", "outcome"), "FINE"),
        (("decision", "checks", 0, "outcome"), "MAYBE"),
        (("decision", "expectation_met"), "yes"),
        (("primary_metric", "ratio"), "1.0"),
        (("primary_metric", "remark"), "fine"),
        (("validation", "vibes_pass"), True),
        (("guards", "invariants", "n_tensors"), -1),
        (("tail", "p_value"), [0.5]),
        (("drift",), "none"),
        (("divergence", "remark"), "fine"),
        (("noise_floor", "same_batch_nats_per_token"), -1.0),
        (("pairing", "match_fraction"), 1.5),
        (("convention",), 1),
        (("structure", "params_changed"), -1),
        (("draw",), -1),
        (("draw",), 0.0),
        (("primary_metric", "ratio"), math.nan),
        (("primary_metric", "display_ci"), [1.0]),
        (("confidence", "label"), "Certain"),
        (("spectral", "caps_applied"), 0.0),
        (("rmt", "stable"), "yes"),
        (("coverage", "final", "windows"), 64.0),
        (("provenance", "author"), "someone"),
    ],
)
def test_a_certificate_that_breaks_the_schema_is_refused_naming_the_place(
    path: tuple[Any, ...], value: object
) -> None:
    broken = json.loads(canonical(certificate(record())))
    place = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(EvidenceError) as caught:
        validate_certificate(broken)
    assert caught.value.code == "CERTIFICATE_SCHEMA"
    assert str(path[0]) in caught.value.cause


@pytest.mark.parametrize(
    "key",
    [
        "decision", "plan_digest", "identity", "floors", "run_id", "tail", "drift", "divergence",
        "noise_floor", "pairing", "convention", "structure", "invariants", "spectral", "rmt",
        "variance", "guard_overhead", "confidence", "coverage", "seeds", "determinism",
        "environment", "tokenizer", "plugins", "provenance",
    ],
)  # fmt: skip
def test_a_certificate_that_lacks_a_part_is_refused(key: str) -> None:
    broken = certificate(record())
    del broken[key]
    with pytest.raises(EvidenceError, match=key):
        validate_certificate(broken)


SPARSE = np.zeros(N)
SPARSE[3] = 60.0


def sparse() -> Record:
    flat = arm(0.0, 0.0)
    rare = replace(flat, subject_nll=flat.baseline_nll + SPARSE)
    apart = replace(rare, documents=rare.documents + N)
    return record(arms={"preview": apart, "final": rare})


def non_finite() -> Record:
    damaged = record()
    damaged.facts.arms["final"].subject_nll[2] = math.nan
    return damaged


def accuracy(harmful: int, beneficial: int) -> Record:
    one = choices(*answers(400, harmful, beneficial))
    apart = replace(one, documents=one.documents + 400)
    of = record(
        arms={"preview": apart, "final": one}, noise_floor=QUIET | {"changed_predictions": 0.0}
    )
    windows = of.facts.plan["windows"] | {"preview_windows": 400, "final_windows": 400}
    plan = dict(of.facts.plan) | {"metric": "accuracy", "windows": windows}
    counts = {"preview": 400, "final": 400}
    data = dict(of.facts.data) | {"n_documents": counts, "n_documents_planned": counts}
    return replace(of, facts=replace(of.facts, plan=plan, data=data))


def sequential() -> Record:
    """Measured 70 of 200 planned documents; the verdict stands after 64."""
    generator = np.random.default_rng(4)
    baseline = generator.uniform(2, 4, 70) * TOKENS
    final = ArmLosses(
        np.arange(70), np.full(70, TOKENS), baseline,
        baseline + TOKENS * generator.normal(0.01, 0.02, 70),
    )  # fmt: skip
    of = record(arms={"preview": replace(final, documents=final.documents + 100), "final": final})
    plan = dict(of.facts.plan) | {
        "windows": of.facts.plan["windows"] | {"preview_windows": 200, "final_windows": 200},
        "sequential": {"ratio_limit": 1.1, "first_look": 64, "rho": 0.334, "alpha": 0.05},
    }
    counts = {"preview": 70, "final": 70}
    planned = {"preview": 200, "final": 200}
    data = dict(of.facts.data) | {"n_documents": counts, "n_documents_planned": planned}
    return replace(of, facts=replace(of.facts, plan=plan, data=data))


UNCHANGED = {
    "name": "quant_rtn", "parameters": {"bitwidth": 8}, "n_tensors_touched": 4,
    "n_tensors_changed": 0, "n_parameters_touched": 40, "n_parameters_changed": 0,
}  # fmt: skip
NOISY = QUIET | {"same_batch_nats_per_token": 0.5, "largest_window_nats_per_token": 0.6}
ERROR_RECORD = {
    "arms": {}, "guards": {}, "baseline": {}, "subject": {}, "edit": None, "data": {},
    "error": "OUT_OF_MEMORY", "divergence": {}, "noise_floor": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("of", "outcome"),
    [
        (record(), "PASS"),
        (record(0.3), "FAIL"),
        (record(1.2), "FAIL"),
        (record(0.09, 0.2), "INCONCLUSIVE"),
        (record(0.0, 0.0, subject=identity(SHA), edit=UNCHANGED), "PASS"),
        (sparse(), "INCONCLUSIVE"),
        (non_finite(), "FAIL"),
        (record(guards={}), "ERROR"),
        (record(arms={}), "ERROR"),
        (record(noise_floor=NOISY), "ERROR"),
        (record(arms={"preview": arm(0.01, 0.01, N), "final": arm(0.01, 0.01)}), "PASS"),
        (accuracy(0, 0), "PASS"),
        (accuracy(60, 5), "FAIL"),
        (accuracy(3, 0), "INCONCLUSIVE"),
        (sequential(), "PASS"),
        (record(**ERROR_RECORD), "ERROR"),
    ],
    ids=[
        "pass", "fail", "catastrophic", "inconclusive", "identical", "sparse", "non-finite",
        "no evidence", "no losses", "below noise", "no divergence", "accuracy", "accuracy fails",
        "accuracy inconclusive", "sequential", "error record",
    ],
)  # fmt: skip
def test_whatever_was_measured_fits_the_schema(of: Record, outcome: str) -> None:
    made = certificate(of)
    assert made["decision"]["outcome"] == outcome
    assert made["decision"] == decide(of.facts, POLICY).document()
    validate_certificate(json.loads(pretty(made)))
    page = render_certificate_markdown(made)
    assert page.startswith("# m · s · run 0")
    assert f"**{outcome}**" in page


@pytest.mark.parametrize("change", [200.0, 705.0, 900.0])
def test_a_destroyed_model_still_gets_its_certificate(change: float) -> None:
    made = certificate(record(change))
    assert made["decision"]["outcome"] == "FAIL"
    assert canonical(made)


def test_a_certificate_names_what_it_rests_on() -> None:
    of = record()
    made = certificate(of)
    assert made["facts_digest"] == of.facts.digest
    assert made["plan_digest"] == of.facts.plan_digest
    assert made["policy_digest"] == digest(POLICY.document())
    assert made["run_id"] == "demo-1"
    assert made["structure"] == {
        "tensors_changed": 4, "params_changed": 39, "params_in_changed_tensors": None,
        "layers_modified": None,
    }  # fmt: skip
    assert made["validation"] == {
        "primary_metric_acceptable": True, "invariants_pass": True,
        "preview_final_drift_acceptable": True, "tail_acceptable": True,
    }  # fmt: skip
    assert made["floors"]["tokens"] == math.floor(0.8 * 2 * N * TOKENS)
    assert made["auto"] == {"tier": "balanced", "profile": "dev"}


def test_the_ratio_follows_from_the_losses() -> None:
    of = record()
    final = of.facts.arms["final"]
    delta = (final.subject_nll - final.baseline_nll).sum() / final.tokens.sum()
    assert certificate(of)["primary_metric"]["ratio"] == pytest.approx(math.exp(delta), rel=1e-12)


def test_a_policy_without_the_metric_leaves_it_out() -> None:
    made = certificate(record(), replace(POLICY, checks=("invariants",)))
    assert made["primary_metric"] is None
    assert made["tail"] is made["drift"] is None
    assert made["validation"] == {"invariants_pass": True}


def test_observations_other_than_the_environment_stay_out() -> None:
    watched = {
        "versions": library_versions(),
        "machine": machine(),
        "device": {"device": "cpu", "capability": "AVX2"},
        "secret": "a host",
    }
    made = certificate(replace(record(), observations=watched))
    assert set(made["environment"]) == {"versions", "machine", "device"}
    assert "a host" not in json.dumps(made)


@pytest.mark.parametrize(
    ("key", "value"),
    [("drop_pp", 0.0), ("harmful", 61), ("drop_upper_pp", 0.0), ("accuracy_subject", 0.5)],
)
def test_tampered_accuracies_are_caught(
    key: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_number(monkeypatch, key, value)
    with pytest.raises(EvidenceError) as caught:
        certificate(accuracy(60, 5))
    assert caught.value.code == "CERTIFICATE_IDENTITY"


def test_a_sequential_certificate_rests_on_the_documents_decided_on() -> None:
    made = certificate(sequential())
    assert made["primary_metric"]["n_documents"] == 64
    assert made["primary_metric"]["rule"] == "sequential"
    assert made["floors"]["tokens"] is None


@pytest.mark.parametrize(
    ("part", "of_facts"),
    [
        (("plan",), "plan"), (("dataset",), "data"), (("edit",), "edit"), (("guards",), "guards"),
        (("identity", "baseline"), "baseline"), (("identity", "subject"), "subject"),
        (("divergence",), "divergence"), (("noise_floor",), "noise_floor"),
    ],
)  # fmt: skip
def test_what_a_record_may_hold_its_certificate_may_show(
    part: tuple[str, ...], of_facts: str
) -> None:
    shown = schema("certificate")
    for key in part:
        shown = shown["properties"][key]
    assert shown == schema("record")["properties"]["facts"]["properties"][of_facts]
