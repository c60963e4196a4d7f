"""A record that contradicts itself is an error of every check on losses, whatever its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_invarlock.checks.consistency import contradiction
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import Outcome
from pytest_invarlock.policy.metric_limits import Floors
from pytest_invarlock.records import ArmLosses, Facts

from .made import (
    BASE,
    OTHER,
    QUIET,
    TOKENS,
    accuracy_facts,
    arm,
    check,
    facts,
    metric,
    policy,
    sequential_facts,
    spread,
)

CHECKS = ("primary_metric", "drift", "tail")
N = 64
SHA = "sha256:" + "5" * 64
EDIT: dict[str, Any] = {"name": "quant_rtn", "parameters": {"bitwidth": 8}}
CHANGED = {
    "n_tensors_touched": 4, "n_tensors_changed": 4, "n_parameters_touched": 40,
    "n_parameters_changed": 39,
}  # fmt: skip
UNCHANGED = CHANGED | {"n_tensors_changed": 0, "n_parameters_changed": 0}
STATED = {"n_tokens": float(N * TOKENS), "kl_nats_mean": 0.01, "top1_same_share": 120 / TOKENS}


def measured() -> ArmLosses:
    return replace(
        arm(spread(0.01, 0.02)), kl_nats=np.full(N, 1.27), top1_same=np.full(N, 120),
        top1_harmful=np.full(N, 2), top1_beneficial=np.full(N, 1),
    )  # fmt: skip


def honest() -> Facts:
    """Facts with every part that a measurement states."""
    made = facts(
        arms={"preview": measured(), "final": measured()},
        divergence={"method": "cached_states", "preview": STATED, "final": STATED},
    )
    windows = made.plan["windows"] | {
        "seq_len": TOKENS + 1, "stride": TOKENS + 1, "max_windows_per_document": 1, "seed": 0,
    }  # fmt: skip
    plan = dict(made.plan) | {
        "windows": windows, "draw": 0, "data_digest": SHA, "baseline_tensors": BASE,
        "baseline_config": SHA, "mask_probability": None, "subject": EDIT,
        "source": {"provider": "pydoc", "shareable": True},
    }  # fmt: skip
    data = dict(made.data) | {
        "digest": SHA, "match_fraction": 1.0, "overlap_fraction": 0.0, "duplicate_fraction": 0.0,
        "notes": [],
    }  # fmt: skip
    return replace(
        made, plan=plan, data=data, edit=EDIT | CHANGED,
        baseline={"tensors_digest": BASE, "config_digest": SHA},
        subject={"tensors_digest": OTHER, "config_digest": SHA, "checkpoint_digest": None},
    )  # fmt: skip


def arms(change: Callable[[ArmLosses], dict[str, Any]]) -> Callable[[Facts], Facts]:
    def changed(of: Facts) -> Facts:
        return replace(of, arms={k: replace(v, **change(v)) for k, v in of.arms.items()})

    return changed


def data(**change: Any) -> Callable[[Facts], Facts]:
    return lambda of: replace(of, data=dict(of.data) | change)


def plan(**change: Any) -> Callable[[Facts], Facts]:
    return lambda of: replace(of, plan=dict(of.plan) | change)


def windows(**change: Any) -> Callable[[Facts], Facts]:
    return lambda of: replace(of, plan=dict(of.plan) | {"windows": of.plan["windows"] | change})


def divergence(**change: Any) -> Callable[[Facts], Facts]:
    return lambda of: replace(
        of, divergence=dict(of.divergence) | {"final": dict(of.divergence["final"]) | change}
    )


def other(**change: Any) -> Callable[[Facts], Facts]:
    return lambda of: replace(of, **change)


def both(*changes: Callable[[Facts], Facts]) -> Callable[[Facts], Facts]:
    def changed(of: Facts) -> Facts:
        for change in changes:
            of = change(of)
        return of

    return changed


CAPPED = "seq_len 512 capped at the model's context of 128 tokens"
FORGERIES: dict[str, Callable[[Facts], Facts]] = {
    "tokens times 1000": arms(lambda a: {"tokens": a.tokens * 1000}),
    "tokens of 2^62": arms(lambda a: {"tokens": np.full(N, 2**62)}),
    "longer windows than planned": data(seq_len=10**6),
    "shorter windows than planned": data(seq_len=64),
    "shorter windows than tokens": both(windows(seq_len=100), data(seq_len=100)),
    "capped elsewhere": both(windows(seq_len=1024), data(notes=[CAPPED])),
    "negative losses": arms(lambda a: {"baseline_nll": -a.baseline_nll}),
    "negative subject losses": arms(lambda a: {"subject_nll": -a.subject_nll}),
    "negative divergence": arms(lambda a: {"kl_nats": np.full(N, -5.0)}),
    "agreement of more than there is": arms(lambda a: {"top1_same": np.full(N, 9999)}),
    "agreement that overflows": arms(
        lambda a: {"top1_same": np.full(N, 2**62), "top1_harmful": np.full(N, 2**62)}
    ),
    "negative flips": arms(lambda a: {"top1_harmful": np.full(N, -1)}),
    "flips beside full agreement": arms(lambda a: {"top1_same": a.tokens}),
    "no flips": arms(lambda a: {"top1_harmful": None}),
    "divergence arrays dropped": arms(
        lambda a: dict.fromkeys(("kl_nats", "top1_same", "top1_harmful", "top1_beneficial"))
    ),
    "first choices dropped": arms(
        lambda a: dict.fromkeys(("top1_same", "top1_harmful", "top1_beneficial"))
    ),
    "divergence dropped": other(divergence={}),
    "divergence of other tokens": divergence(n_tokens=10.0),
    "other mean divergence": divergence(kl_nats_mean=0.0),
    "no mean divergence": divergence(kl_nats_mean=None),
    "other agreement": divergence(top1_same_share=1.0),
    "match of a third": data(match_fraction=0.3),
    "overlap": data(overlap_fraction=0.5),
    "duplicates": data(duplicate_fraction=0.98),
    "few documents planned": data(n_documents_planned={"preview": 500, "final": 500}),
    "many windows of a document": windows(max_windows_per_document=0),
    "other draw": plan(draw=7),
    "other data": data(digest=OTHER),
    "other baseline": other(baseline={"tensors_digest": SHA, "config_digest": SHA}),
    "other configuration": other(baseline={"tensors_digest": BASE, "config_digest": BASE}),
    "other checkpoint": both(plan(subject={"checkpoint": BASE}), other(edit=None)),
    "edit not applied": other(edit=None),
    "other edit": other(edit=EDIT | CHANGED | {"name": "noop"}),
    "other parameters": other(edit=EDIT | CHANGED | {"parameters": {"bitwidth": 4}}),
    "edit of nothing": other(edit=EDIT | UNCHANGED),
    "edit without trace": other(subject={"tensors_digest": BASE}),
    "changed more than touched": other(edit=EDIT | CHANGED | {"n_parameters_changed": 41}),
    "parameters of no tensor": other(edit=EDIT | CHANGED | {"n_tensors_changed": 0}),
    "negative noise": other(noise_floor=QUIET | {"same_batch_nats_per_token": -1.0}),
    "noise above its largest": other(noise_floor=QUIET | {"second_batch_nats_per_token": 1.0}),
    "changed predictions": other(noise_floor=QUIET | {"changed_predictions": 1.5}),
    "masked without probability": plan(metric="ppl_mlm"),
    "probability without mask": plan(mask_probability=0.15),
}  # fmt: skip


def test_an_honest_record_contradicts_nothing() -> None:
    assert contradiction(honest()) is None
    assert metric(honest()).outcome is Outcome.PASS


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_contradiction_is_an_error_of_every_check(name: str, forgery: str) -> None:
    decided = check(name, FORGERIES[forgery](honest()))
    assert (decided.outcome, decided.reason) == (Outcome.ERROR, "contradictory")


HONEST: dict[str, Callable[[Facts], Facts]] = {
    "capped with a note": both(windows(seq_len=512), data(notes=[CAPPED])),
    "model's own context for words": both(
        windows(convention="lm-eval-word", seq_len=512), data(seq_len=2048)
    ),
    "rounding below zero": arms(
        lambda a: {"baseline_nll": np.full(N, -1e-4), "subject_nll": np.full(N, -1e-4)}
    ),
    "half the windows equal": data(duplicate_fraction=0.5),
    "ready-made windows": both(
        windows(max_windows_per_document=0), plan(source={"provider": "given"})
    ),
    "no common vocabulary": both(
        arms(lambda a: {"kl_nats": None}), other(divergence={"not_evaluated": "other size"})
    ),
    "infinite divergence": both(
        arms(lambda a: {"kl_nats": np.full(N, math.inf)}),
        other(divergence=dict.fromkeys(("preview", "final"), STATED | {"kl_nats_mean": None})),
    ),
    "unchanged by noop": both(
        plan(subject={"name": "noop", "parameters": {}}),
        other(
            edit={"name": "noop", "parameters": {}} | UNCHANGED,
            subject={"tensors_digest": BASE, "config_digest": SHA},
        ),
    ),
    "masked": plan(metric="ppl_mlm", mask_probability=0.15),
}


@pytest.mark.parametrize("case", HONEST)
def test_what_a_measurement_can_give_is_no_contradiction(case: str) -> None:
    assert contradiction(HONEST[case](honest())) is None


def test_words_are_at_most_the_tokens_they_are_made_of() -> None:
    made = windows(convention="lm-eval-word")(honest())
    assert contradiction(made) is None
    assert "were scored" in str(contradiction(divergence(n_tokens=100.0)(made)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_destroyed_subject_contradicts_nothing(value: float) -> None:
    made = honest()
    made.arms["final"].subject_nll[3] = value
    kl = made.arms["final"].kl_nats
    assert kl is not None
    kl[3] = value
    stated = divergence(kl_nats_mean=None)(made)
    decided = metric(stated)
    assert (decided.outcome, decided.reason) == (Outcome.FAIL, "non_finite")


@pytest.mark.parametrize("loss", [1.1e6, 1e150, 1e200, 1.7e308])
def test_losses_beyond_reckoning_count_as_not_finite(loss: float) -> None:
    made = facts()
    made.arms["final"].subject_nll[3] = loss * TOKENS if loss < 1e300 else loss
    decided = metric(made)
    assert (decided.outcome, decided.reason) == (Outcome.FAIL, "non_finite")
    both = facts()
    both.arms["final"].baseline_nll[3] = made.arms["final"].subject_nll[3]
    both.arms["final"].subject_nll[3] = made.arms["final"].subject_nll[3]
    assert metric(both).reason == "baseline_non_finite"


def test_sequential_arms_stay_equal() -> None:
    made = sequential_facts(spread(0.0, 0.05, 64))
    short = arm(spread(0.0, 0.05, 60), documents=np.arange(60) + 10_000)
    counts = {"preview": 60, "final": 64}
    unequal = replace(
        made, arms={**made.arms, "preview": short}, data=dict(made.data) | {"n_documents": counts}
    )
    assert metric(unequal).reason == "contradictory"


def test_an_accuracy_record_counts_examples_of_a_document() -> None:
    of = windows(max_windows_per_document=1)(accuracy_facts(400))
    assert contradiction(of) is None
    crowded = windows(max_windows_per_document=1)(
        accuracy_facts(400, documents=np.repeat(np.arange(200), 2))
    )
    assert "2 windows of one document" in str(contradiction(crowded))


LAX = policy(checks=("tail", "drift"))


@pytest.mark.parametrize(
    "made",
    [
        accuracy_facts(),
        replace(accuracy_facts(), arms={}),
        facts(np.full(20, 0.01)),
        replace(facts(), arms={}),
    ],
    ids=["accuracy", "accuracy without arms", "too few to gate", "without arms"],
)
def test_a_policy_of_checks_that_judge_nothing_passes_nothing(made: Facts) -> None:
    decided = decide(made, replace(LAX, checks=("tail",)))
    assert decided.outcome is Outcome.ERROR
    assert not decided.expectation_met
    assert {each.reason for each in decided.checks} == {"not_evaluated"}


@pytest.mark.parametrize("name", ["tail", "drift"])
def test_nothing_is_not_applicable_to_a_record_that_is_not_whole(name: str) -> None:
    made = accuracy_facts()
    assert check(name, made).reason == "not_applicable"
    assert check(name, replace(made, arms={"final": made.arms["final"]})).reason == "incomplete"
    assert check(name, plan(mask_probability=0.2)(made)).reason == "contradictory"


def test_a_short_context_cannot_hide_behind_the_token_floor() -> None:
    strict = policy(floors=Floors(20, 10.0, 50_000))
    few = both(
        arms(lambda a: {"tokens": np.ones(N, dtype=np.int64)}),
        other(divergence={}),
        arms(
            lambda a: (
                dict.fromkeys(("kl_nats", "top1_same", "top1_harmful", "top1_beneficial"))
                | {"baseline_nll": a.baseline_nll / TOKENS, "subject_nll": a.subject_nll / TOKENS}
            )
        ),
    )(honest())
    assert metric(few, strict).reason == "below_floor"
    assert metric(data(seq_len=2)(few), strict).reason == "contradictory"
