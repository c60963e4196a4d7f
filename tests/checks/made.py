"""Made-up facts and policies: whole by default, each part replaceable."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from pytest_invarlock.decide import decide
from pytest_invarlock.decision import CheckDecision
from pytest_invarlock.policy.decision_policy import DecisionPolicy, Expectation, Strictness
from pytest_invarlock.policy.metric_limits import (
    AccuracyLimits,
    DriftLimits,
    Floors,
    MetricLimits,
    TailLimits,
)
from pytest_invarlock.records import ArmLosses, Facts

TOKENS = 127
BASE, OTHER = "sha256:" + "0" * 64, "sha256:" + "1" * 64
CLEAN: dict[str, Any] = {
    "n_tensors": 10, "n_floating_tensors": 10, "n_parameters": 1000, "missing": [],
    "unexpected": [], "shape_changes": [], "dtype_changes": [], "non_finite": [],
    "baseline_non_finite": [], "ties_broken": [], "ties_added": [], "config_changes": [],
    "tokenizer_changes": [],
}  # fmt: skip
DAMAGED = CLEAN | {"non_finite": [{"name": "w", "baseline": "0", "subject": "1"}]}
QUIET: dict[str, Any] = {
    "n_windows": 8, "second_batch_tokens": 2048, "same_batch_nats_per_token": 0.0,
    "second_batch_nats_per_token": 1e-7, "largest_window_nats_per_token": 1e-6,
}  # fmt: skip
ALL_CHECKS = ("invariants", "primary_metric", "drift", "tail")
ACCURACY = AccuracyLimits(1.0, 200)
TAIL = TailLimits(math.log(2), 0.001, 0.02, 0.05, 0.05, 100, 59, 0.20, "gate")
DRIFT = DriftLimits(1.05, 0.01, 0.05, "gate")
METRIC = MetricLimits(1.10, 2.0, 0.05, 0.04, 999)


def arm(
    differences: Any, *, tokens: int = TOKENS, documents: Any = None, seed: int = 0
) -> ArmLosses:
    """Windows whose loss changes by ``differences`` nats per token, one document each."""
    differences = np.asarray(differences, dtype=np.float64)
    n = len(differences)
    baseline = np.random.default_rng(seed).uniform(2.0, 4.0, n) * tokens
    return ArmLosses(
        documents=np.arange(n) if documents is None else np.asarray(documents),
        tokens=np.full(n, tokens, dtype=np.int64),
        baseline_nll=baseline,
        subject_nll=baseline + differences * tokens,
    )


def spread(mean: float, sd: float, n: int = 64, seed: int = 1) -> np.ndarray:
    """``n`` differences with exactly this mean and standard deviation."""
    draws = np.random.default_rng(seed).normal(size=n)
    draws = (draws - draws.mean()) / draws.std(ddof=1)
    return mean + sd * draws


def facts(differences: Any = None, **change: Any) -> Facts:
    """Facts of a perplexity run; both arms have ``differences`` unless ``arms`` says otherwise."""
    if differences is None:
        differences = spread(0.01, 0.02)
    n = len(differences)
    stated: dict[str, Any] = {
        "model": "m", "scenario": "s", "draw": 0, "kind": "any",
        "plan": {
            "metric": "ppl_causal", "sequential": None,
            "windows": {"preview_windows": n, "final_windows": n, "convention": "document"},
        },
        "baseline": {"tensors_digest": BASE}, "subject": {"tensors_digest": OTHER},
        "edit": None, "data": {"seq_len": TOKENS + 1},
        "arms": {"preview": arm(differences, seed=5), "final": arm(differences)},
        "guards": {"invariants": CLEAN}, "noise_floor": QUIET, "error": None,
    }  # fmt: skip
    return whole(Facts(**stated | change), stated_plan="plan" in change)


def whole(of: Facts, *, stated_plan: bool = False) -> Facts:
    """``of`` with arms that share no documents, and counts stated as its arms have them."""
    arms = dict(of.arms)
    if {"preview", "final"} <= set(arms):
        apart = dataclasses.replace(arms["preview"], documents=arms["preview"].documents + 10_000)
        arms["preview"] = apart
    counts = {name: len(set(losses.documents.tolist())) for name, losses in arms.items()}
    plan = dict(of.plan)
    if not stated_plan:
        plan["windows"] = plan["windows"] | {
            f"{name}_windows": size(losses) for name, losses in arms.items()
        }
    data = {"n_documents_planned": counts} | dict(of.data) | {"n_documents": counts}
    return dataclasses.replace(of, arms=arms, plan=plan, data=data)


def size(losses: ArmLosses) -> int:
    return len(losses.tokens if losses.examples is None else np.unique(losses.examples))


def choices(
    baseline_right: Any, subject_right: Any, *, documents: Any = None, n_choices: int = 2
) -> ArmLosses:
    """Examples with the right choice first; a model that is wrong prefers the second."""
    right = np.asarray(baseline_right, dtype=bool), np.asarray(subject_right, dtype=bool)
    n = len(right[0])
    documents = np.arange(n) if documents is None else np.asarray(documents)
    losses = []
    for answers in right:
        nll = np.full((n, n_choices), 9.0)
        nll[:, 0], nll[:, 1] = np.where(answers, 3.0, 6.0), np.where(answers, 6.0, 3.0)
        losses.append(nll.reshape(-1))
    return ArmLosses(
        documents=np.repeat(documents, n_choices),
        tokens=np.full(n * n_choices, 3, dtype=np.int64),
        baseline_nll=losses[0],
        subject_nll=losses[1],
        examples=np.repeat(np.arange(n), n_choices),
        labels=np.tile(np.eye(1, n_choices, dtype=np.int64)[0], n),
    )


def answers(n: int, harmful: int, beneficial: int, *, right: int | None = None) -> tuple[Any, Any]:
    """Who is right of ``n`` examples: flips first, then ``right`` in common, then none."""
    common = (n - harmful - beneficial) // 2 if right is None else right
    both = [True] * common + [False] * (n - harmful - beneficial - common)
    baseline = [True] * harmful + [False] * beneficial + both
    return baseline, [False] * harmful + [True] * beneficial + both


def accuracy_facts(
    n: int = 400, harmful: int = 0, beneficial: int = 0, documents: Any = None, **change: Any
) -> Facts:
    """Facts of an accuracy run, both arms alike."""
    one = choices(*answers(n, harmful, beneficial), documents=documents)
    stated: dict[str, Any] = {
        "arms": {"preview": one, "final": one},
        "noise_floor": QUIET | {"changed_predictions": 0.0},
    }
    made = facts(**stated | change)
    return dataclasses.replace(made, plan=dict(made.plan) | {"metric": "accuracy"})


def sequential_facts(differences: Any, *, maximum: int = 200, limit: float = 1.10, **change: Any) -> Facts:  # fmt: skip
    """Facts of a sequential run that measured ``differences``, one document each, and stopped."""
    made = facts(differences, **change)
    plan = dict(made.plan) | {
        "sequential": {"ratio_limit": limit, "first_look": 64, "rho": 0.334, "alpha": 0.05},
        "windows": made.plan["windows"] | {"preview_windows": maximum, "final_windows": maximum},
    }
    planned = {"preview": maximum, "final": maximum}
    return dataclasses.replace(
        made, plan=plan, data=dict(made.data) | {"n_documents_planned": planned}
    )


def policy(expectation: Expectation | None = None, **change: Any) -> DecisionPolicy:
    """A balanced policy for scenario ``s`` of model ``m``."""
    stated: dict[str, Any] = {
        "tier": "balanced", "profile": "dev", "checks": ALL_CHECKS,
        "modes": {"invariants": "gate"}, "primary_metric": METRIC, "accuracy": ACCURACY,
        "tail": TAIL, "drift": DRIFT, "guards": {}, "floors": Floors(20, 10.0, None),
        "on_inconclusive": "fail",
        "expectations": {("m", "s"): expectation or Expectation("clean", Strictness.MUST_PASS)},
        "provenance": {},
    }  # fmt: skip
    return DecisionPolicy(**stated | change)


def check(name: str, the_facts: Facts, the_policy: DecisionPolicy | None = None) -> CheckDecision:
    """What ``decide`` says of one check."""
    return decide(the_facts, the_policy or policy()).check(name)


def metric(the_facts: Facts, the_policy: DecisionPolicy | None = None) -> CheckDecision:
    return check("primary_metric", the_facts, the_policy)
