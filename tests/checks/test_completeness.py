"""A record that is not whole, not paired or not finite: no check on losses passes it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_invarlock.decision import Outcome
from pytest_invarlock.records import Facts

from .made import (
    BASE,
    CLEAN,
    accuracy_facts,
    answers,
    arm,
    check,
    choices,
    facts,
    sequential_facts,
    spread,
)

CHECKS = ("primary_metric", "drift", "tail")


def with_plan(of: Facts, **windows: Any) -> Facts:
    return replace(of, plan=dict(of.plan) | {"windows": of.plan["windows"] | windows})


def zero_tokens() -> Facts:
    made = facts()
    made.arms["final"].tokens[3] = 0
    return made


def shared_documents() -> Facts:
    made = facts()
    arms = {**made.arms, "preview": replace(made.arms["preview"], documents=made.arms["final"].documents)}  # fmt: skip
    return replace(made, arms=arms)


def unequal() -> Facts:
    made = facts()
    final = replace(made.arms["final"], subject_nll=made.arms["final"].subject_nll[:-1])
    return replace(made, arms={**made.arms, "final": final})


BROKEN = {
    "no arms": (facts(arms={}), "not_evaluated"),
    "no preview": (facts(arms={"final": arm(spread(0, 0.01))}), "incomplete"),
    "fewer windows": (with_plan(facts(), final_windows=65), "incomplete"),
    "more windows": (with_plan(facts(), final_windows=63), "incomplete"),
    "fewer windows in preview": (with_plan(facts(), preview_windows=65), "incomplete"),
    "no tokens": (zero_tokens(), "incomplete"),
    "unequal pairs": (unequal(), "incomplete"),
    "no counts": (replace(facts(), data={"seq_len": 128}), "incomplete"),
    "shared documents": (shared_documents(), "incomplete"),
    "other number of documents": (
        replace(facts(), data={"seq_len": 128, "n_documents": {"preview": 64, "final": 63}}),
        "incomplete",
    ),
}


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("case", BROKEN)
def test_what_is_not_whole_is_an_error_of_every_check(name: str, case: str) -> None:
    made, reason = BROKEN[case]
    decided = check(name, made)
    assert (decided.outcome, decided.reason) == (Outcome.ERROR, reason)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["final", "preview"])
@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("primary_metric", Outcome.FAIL),
        ("tail", Outcome.FAIL),
        ("drift", Outcome.INCONCLUSIVE),
    ],
)
def test_a_subject_that_is_not_finite(
    name: str, outcome: Outcome, where: Any, value: float
) -> None:
    made = facts()
    made.arms[where].subject_nll[3] = value
    decided = check(name, made)
    assert (decided.outcome, decided.reason) == (outcome, "non_finite")
    assert decided.numbers["n_non_finite"] == 1
    assert decided.text.startswith("INCONCLUSIVE") is (outcome is Outcome.INCONCLUSIVE)


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_baseline_that_is_not_finite_is_an_error(name: str, value: float) -> None:
    made = facts()
    made.arms["final"].baseline_nll[3] = value
    made.arms["final"].subject_nll[4] = value
    decided = check(name, made)
    assert (decided.outcome, decided.reason) == (Outcome.ERROR, "baseline_non_finite")


@pytest.mark.parametrize("name", CHECKS)
def test_the_same_model_passes_every_check(name: str) -> None:
    decided = check(name, facts(np.zeros(64), subject={"tensors_digest": BASE}))
    assert (decided.outcome, decided.reason) == (Outcome.PASS, "bitwise_identical")


@pytest.mark.parametrize("name", CHECKS)
def test_the_same_tensors_with_other_losses_are_an_error_of_every_check(name: str) -> None:
    decided = check(name, facts(subject={"tensors_digest": BASE}))
    assert (decided.outcome, decided.reason) == (Outcome.ERROR, "not_reproducible")


@pytest.mark.parametrize("name", CHECKS)
def test_the_same_tensors_under_another_configuration_are_judged(name: str) -> None:
    change = {"name": "rms_norm_eps", "baseline": "1e-06", "subject": "0.1"}
    guards = {"invariants": CLEAN | {"config_changes": [change]}}
    assert check(name, facts(subject={"tensors_digest": BASE}, guards=guards)).reason not in (
        "bitwise_identical",
        "not_reproducible",
    )


@pytest.mark.parametrize("name", CHECKS)
def test_one_document_decides_nothing(name: str) -> None:
    one = arm(np.full(6, 0.01), documents=[0] * 6)
    decided = check(name, facts(arms={"preview": one, "final": one}))
    assert (decided.outcome, decided.reason) == (Outcome.INCONCLUSIVE, "one_document")


def test_only_sequential_mode_may_stop_early() -> None:
    early = sequential_facts(spread(0.0, 0.05, 64))
    assert check("primary_metric", early).outcome is Outcome.PASS
    plain = replace(early, plan=dict(early.plan) | {"sequential": None})
    assert check("primary_metric", plain).reason == "incomplete"


def without(field: str) -> Facts:
    made = accuracy_facts()
    arms = {name: replace(one, **{field: None}) for name, one in made.arms.items()}
    return replace(made, arms=arms)


def with_labels(labels: Any) -> Facts:
    one = choices(*answers(300, 0, 0))
    one = replace(one, labels=np.asarray(labels(one.labels)))
    return accuracy_facts(arms={"preview": one, "final": one})


def split() -> Facts:
    one = choices(*answers(300, 0, 0))
    one.documents[1] = 1
    return accuracy_facts(arms={"preview": one, "final": one})


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (without("labels"), "incomplete"),
        (without("examples"), "incomplete"),
        (with_plan(accuracy_facts(), final_windows=401), "incomplete"),
        (with_labels(np.zeros_like), "malformed_choices"),
        (with_labels(np.ones_like), "malformed_choices"),
        (with_labels(lambda labels: 2 * labels), "malformed_choices"),
        (split(), "malformed_choices"),
    ],
    ids=["labels", "examples", "count", "none right", "all right", "other labels", "split"],
)
def test_choices_that_say_nothing_are_an_error(made: Facts, reason: str) -> None:
    decided = check("primary_metric", made)
    assert (decided.outcome, decided.reason) == (Outcome.ERROR, reason)
