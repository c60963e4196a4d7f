"""The tail check: each outcome of each rule, and when a rule only monitors."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.records import Facts

from .made import TAIL, accuracy_facts, arm, check, facts, policy, sequential_facts, spread


def harmed(n: int, n_harmed: int, *, per_document: int = 1, harm: float = 1.0) -> Facts:
    """``n`` windows, the first ``n_harmed`` of them harmed; documents of ``per_document``."""
    differences = spread(0.0, 0.02, n)
    differences[:n_harmed] += harm
    documents = np.arange(n) // per_document
    return facts(
        differences,
        arms={
            "preview": arm(spread(0.0, 0.02, n), documents=documents, seed=5),
            "final": arm(differences, documents=documents),
        },
    )


def tail(made: Facts, **limits: Any) -> CheckDecision:
    return check("tail", made, policy(tail=replace(TAIL, **limits)))


@pytest.mark.parametrize(
    ("made", "outcome", "reason"),
    [
        (harmed(128, 0), Outcome.PASS, "within_limits"),
        (harmed(128, 1), Outcome.PASS, "within_limits"),
        (harmed(128, 2), Outcome.FAIL, "harmed_windows"),
        (harmed(300, 2), Outcome.PASS, "within_limits"),
        (harmed(300, 3), Outcome.FAIL, "harmed_windows"),
        # Below 100 windows their rule only monitors; 64 documents gate.
        (harmed(64, 0), Outcome.PASS, "within_limits"),
        (harmed(64, 1), Outcome.INCONCLUSIVE, "too_few_documents"),
        (harmed(64, 2), Outcome.FAIL, "harmed_documents"),
        (harmed(120, 4, per_document=2, harm=1.0), Outcome.FAIL, "harmed_windows"),
        # 118 windows gate, 59 documents gate: one window of a document dilutes below ln 2.
        (harmed(118, 1, per_document=2, harm=1.0), Outcome.PASS, "within_limits"),
        (harmed(118, 1, per_document=2, harm=3.0), Outcome.INCONCLUSIVE, "too_few_documents"),
        # Neither rule has units enough.
        (harmed(40, 0), Outcome.PASS, "monitored"),
        (harmed(40, 1), Outcome.PASS, "monitored"),
        (harmed(40, 2), Outcome.WARN, "harmed_windows"),
        (harmed(98, 49, per_document=49, harm=1.0), Outcome.WARN, "harmed_windows"),
    ],
)
def test_both_rules_decide(made: Facts, outcome: Outcome, reason: str) -> None:
    decided = tail(made)
    assert (decided.outcome, decided.reason) == (outcome, reason)


def test_a_gating_rule_that_is_undecided_says_how_many_more_would_decide() -> None:
    decided = tail(harmed(64, 1))
    # One harmed document among 93 is what excludes a rate of 5 %.
    assert "29 documents more with no further harm would decide it" in decided.text
    assert decided.text.startswith("INCONCLUSIVE")


def test_too_few_windows_for_the_rate_are_inconclusive() -> None:
    decided = tail(harmed(70, 1), min_windows=50, min_documents=500)
    assert (decided.outcome, decided.reason) == (Outcome.INCONCLUSIVE, "too_few_windows")
    assert "23 windows more" in decided.text


def test_the_quantile_only_warns() -> None:
    wide = facts(spread(0.05, 0.2, 200))
    decided = tail(wide)
    assert (decided.outcome, decided.reason) == (Outcome.WARN, "quantile_above_maximum")
    assert tail(wide, quantile_max=0.6).outcome is Outcome.PASS
    assert tail(harmed(128, 2), quantile_max=9.0).outcome is Outcome.FAIL


@pytest.mark.parametrize("n_harmed", [1, 2, 60])
def test_monitor_never_fails(n_harmed: int) -> None:
    decided = tail(harmed(128, n_harmed), mode="monitor")
    assert decided.outcome.acceptable
    assert (decided.outcome is Outcome.WARN) is (n_harmed > 1)
    assert decided.numbers["window_rule"] == decided.numbers["document_rule"] == "monitor"


def test_a_difference_exactly_at_the_threshold_is_not_above_it() -> None:
    exact = facts(np.zeros(128))
    final = exact.arms["final"]
    final.baseline_nll[:] = 0.0
    final.subject_nll[:] = 0.0
    final.subject_nll[:2] = math.log(2) * 127
    above = tail(exact, threshold_nats=float(final.subject_nll[0] / 127))
    assert above.numbers["n_windows_above"] == 0


def test_the_numbers_describe_both_units() -> None:
    numbers = tail(harmed(128, 2)).numbers
    assert (numbers["n_windows"], numbers["n_windows_above"]) == (128, 2)
    assert (numbers["n_documents"], numbers["n_documents_above"]) == (128, 2)
    assert numbers["window_critical_count"] == 2
    assert (numbers["window_rule"], numbers["document_rule"]) == ("gate", "gate")
    assert numbers["window_rate_upper"] == pytest.approx(stats.beta.ppf(0.95, 3, 126))
    assert numbers["p_value"] == pytest.approx(stats.binom.sf(1, 128, 0.001))
    for key in ("p95_nats", "p99_nats", "worst_mean_nats"):
        assert isinstance(numbers[f"window_{key}"], float)
        assert isinstance(numbers[f"document_{key}"], float)


def test_no_harmed_window_has_p_one() -> None:
    assert tail(harmed(128, 0)).numbers["p_value"] == 1.0


def test_accuracy_has_no_tail() -> None:
    decided = tail(accuracy_facts(harmful=100))
    assert (decided.outcome, decided.reason) == (Outcome.PASS, "not_applicable")


@pytest.mark.parametrize(
    ("n_harmed", "outcome", "reason"),
    [(0, Outcome.PASS, "sequential"), (2, Outcome.FAIL, "harmed_windows")],
)
def test_in_sequential_mode_the_windows_still_gate(
    n_harmed: int, outcome: Outcome, reason: str
) -> None:
    differences = spread(0.0, 0.02, 128)
    differences[:n_harmed] += 1
    decided = tail(sequential_facts(differences))
    assert (decided.outcome, decided.reason) == (outcome, reason)
    assert decided.numbers["window_rule"] == "gate"
    assert decided.numbers["document_rule"] == "replaced"


@pytest.mark.parametrize("n_harmed", [0, 2])
def test_in_sequential_mode_few_windows_only_monitor(n_harmed: int) -> None:
    differences = spread(0.0, 0.02, 99)
    differences[:n_harmed] += 1
    decided = tail(sequential_facts(differences))
    assert decided.outcome is (Outcome.WARN if n_harmed else Outcome.PASS)
    assert decided.numbers["window_rule"] == "monitor"


def test_a_document_counts_by_the_plain_mean_of_its_windows() -> None:
    """A short window among long ones weighs as they do: .75 nats here, .03 by tokens."""
    differences = spread(0.0, 0.02, 128)
    differences[0] = 1.5
    final = arm(differences, documents=np.arange(128) // 2)
    tokens = final.tokens.copy()
    tokens[0] = 3
    baseline = final.baseline_nll / final.tokens * tokens
    final = replace(
        final, tokens=tokens, baseline_nll=baseline, subject_nll=baseline + differences * tokens
    )
    decided = tail(facts(differences, arms={"preview": final, "final": final}))
    assert decided.numbers["n_documents_above"] == 1
    assert decided.numbers["document_worst_mean_nats"] > 0.1
