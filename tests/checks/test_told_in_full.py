"""What each check says, word for word, and the names of the numbers that it states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_invarlock.checks.accuracy import _Answers, _answers
from pytest_invarlock.checks.attested import attested_check
from pytest_invarlock.checks.consistency import WORDS
from pytest_invarlock.checks.floors import documents_short, guard_window_floor, guard_windows_short
from pytest_invarlock.checks.noise import limit_below_noise
from pytest_invarlock.checks.sequential import sequential_ratio
from pytest_invarlock.checks.stated_divergence import divergence_contradiction
from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.errors import DataError
from pytest_invarlock.policy.metric_limits import Floors
from pytest_invarlock.records import Facts

from .made import (
    BASE,
    METRIC,
    TAIL,
    accuracy_facts,
    check,
    facts,
    metric,
    policy,
    sequential_facts,
    spread,
)
from .test_attested import ABSENT, WHO, entry
from .test_consistency import arms as with_arms
from .test_consistency import data as with_data
from .test_consistency import divergence, honest
from .test_drift import arms, drift
from .test_guard_overhead import evidence, turn

EQUIVALENT = policy(primary_metric=replace(METRIC, direction="equivalence"))
ACCURACY_NUMBERS = {
    "accuracy_baseline", "accuracy_baseline_by_token", "accuracy_subject",
    "accuracy_subject_by_token", "beneficial", "design_effect", "direction", "drop_lower_pp",
    "drop_pp", "drop_upper_pp", "effective_documents", "examples_needed", "flips", "harmful",
    "limit_pp", "mcnemar_p", "n_documents", "n_examples", "noise_floor_pp", "p_value",
    "preview_accuracy_subject", "preview_drop_pp", "score_units", "standard_error_pp", "ties_baseline", "ties_subject",
}  # fmt: skip
POINT_NUMBERS = {
    "baseline_perplexity", "delta_nats_per_token", "direction", "flips", "flips_beneficial",
    "flips_harmful", "kl_mean_nats", "limit", "n_tokens", "n_windows",
    "noise_floor_nats_per_token", "preview_ratio", "ratio", "subject_perplexity", "top1_agreement",
    "ratio_lower", "ratio_upper", "delta_lower_nats_per_token", "delta_upper_nats_per_token",
}  # fmt: skip
SPREAD_NUMBERS = {
    "design_effect", "document_sd", "documents_needed", "effective_documents", "icc",
    "minimum_detectable_ratio", "n_documents",
}  # fmt: skip
RATIO_NUMBERS = POINT_NUMBERS | SPREAD_NUMBERS | {
    "bca_lower_ratio", "bca_upper_ratio", "degenerate", "skewness",
    "standard_error_nats_per_token",
}  # fmt: skip
SEQUENTIAL_NUMBERS = POINT_NUMBERS | SPREAD_NUMBERS | {
    "half_width_nats_per_document", "mean_excess_nats_per_document", "n_documents_above_tail",
    "n_documents_maximum", "rule",
}  # fmt: skip
DRIFT_NUMBERS = {
    "band", "degrees_of_freedom", "delta_nats_per_token", "equivalence_shown", "excess_fail_nats",
    "excess_warn_nats", "p_value", "ratio_of_ratios", "standard_error_nats_per_token",
}  # fmt: skip
TAIL_NUMBERS = {"harm_rate", "p_value", "quantile_max_nats", "threshold_nats"} | {
    f"{unit}_{what}"
    for unit in ("window", "document")
    for what in ("critical_count", "p95_nats", "p99_nats", "rate_upper", "rule", "worst_mean_nats")
} | {"n_windows", "n_windows_above", "n_documents", "n_documents_above"}  # fmt: skip


def harmed() -> np.ndarray:
    differences = spread(0.0, 0.02, 128)
    differences[:10] += 2
    return differences


TOLD: list[tuple[Callable[[], CheckDecision], str, set[str]]] = [
    (lambda: metric(accuracy_facts(400)),
     "accuracy 0.5000 to 0.5000: drop 0.00 pp, bound 0.67 pp, limit 1 pp; 0 flips harmful, "
     "0 beneficial", ACCURACY_NUMBERS),
    (lambda: metric(accuracy_facts(400, 40)),
     "accuracy 0.5500 to 0.4500: drop 10.00 pp, bound 12.74 pp, limit 1 pp; 40 flips harmful, "
     "0 beneficial; even the lower bound of 7.52 pp is beyond the limit", ACCURACY_NUMBERS),
    (lambda: metric(accuracy_facts(400, 0, 40), EQUIVALENT),
     "accuracy 0.4500 to 0.5500: drop -10.00 pp, bound -7.52 pp, limit 1 pp; 0 flips harmful, "
     "40 beneficial; even the upper bound is a gain beyond the limit", ACCURACY_NUMBERS),
    (lambda: metric(accuracy_facts(400, 3, 1)),
     "INCONCLUSIVE: accuracy 0.5025 to 0.4975: drop 0.50 pp, bound 1.64 pp, limit 1 pp; 3 flips "
     "harmful, 1 beneficial, lower bound -0.44 pp; about 1066 examples more would decide it",
     ACCURACY_NUMBERS),
    (lambda: metric(accuracy_facts(400, 8)),
     "INCONCLUSIVE: accuracy 0.5100 to 0.4900: drop 2.00 pp, bound 3.51 pp, limit 1 pp; 8 flips "
     "harmful, 0 beneficial, lower bound 0.84 pp; about 1 examples more would decide it",
     ACCURACY_NUMBERS),
    (lambda: metric(accuracy_facts(100)),
     "INCONCLUSIVE: 100 examples, 200 are needed; accuracy 0.5000 to 0.5000: drop 0.00 pp, "
     "bound 2.63 pp, limit 1 pp; 0 flips harmful, 0 beneficial", ACCURACY_NUMBERS),
    (lambda: drift(arms(0.0, 0.0, sd=0.01)), "preview ÷ final 1.0000, band 1.05, equivalence shown",
     DRIFT_NUMBERS),
    (lambda: drift(arms(1.0, 0.0)), "preview ÷ final 2.7183, band 1.05, equivalence not shown",
     DRIFT_NUMBERS),
    (lambda: drift(arms(1000.0, 0.0)),
     "preview ÷ final beyond e^700, band 1.05, equivalence not shown", DRIFT_NUMBERS),
    (lambda: metric(facts(spread(0.0, 0.02))), "ratio 1.0000, bound 1.0046, limit 1.1", RATIO_NUMBERS),
    (lambda: metric(facts(spread(0.2, 0.02))),
     "ratio 1.2214, bound 1.2271, limit 1.1: even the lower bound 1.2154 is beyond the limit",
     RATIO_NUMBERS),
    (lambda: metric(facts(spread(0.09, 0.06))),
     "INCONCLUSIVE: ratio 1.0942, bound 1.1081, limit 1.1, lower bound 1.0802; about 1764 "
     "documents more would decide it", RATIO_NUMBERS),
    (lambda: metric(facts(spread(0.0, 0.02)), EQUIVALENT),
     "ratio 1.0000, bound 1.0046, limit 1.1, lower bound 0.9955 (equivalence: at least 0.9091)",
     RATIO_NUMBERS),
    (lambda: metric(facts(spread(-0.2, 0.02)), EQUIVALENT),
     "ratio 0.8187, bound 0.8223, limit 1.1: even the upper bound is better than 0.9091",
     RATIO_NUMBERS),
    (lambda: metric(facts(spread(0.09, 0.06)), EQUIVALENT),
     "INCONCLUSIVE: ratio 1.0942, bound 1.1081, limit 1.1, lower bound 1.0802 (equivalence: at "
     "least 0.9091); about 1764 documents more would decide it", RATIO_NUMBERS),
    (lambda: check("tail", facts(spread(0.0, 0.02))),
     "0 of 64 windows and 0 of 64 documents above 0.693 nats", TAIL_NUMBERS),
    (lambda: check("tail", facts(harmed())), "10 of 128 windows above 0.693 nats, at most 1 may be",
     TAIL_NUMBERS),
    (lambda: check("tail", accuracy_facts()),
     "not applicable: an example is right or wrong, its losses have no tail of their own", set()),
    (lambda: metric(sequential_facts(spread(0.0, 0.05, 64))),
     "ratio 1.0000, bound 1.0181, limit 1.1, decided after 64 of 200 documents",
     SEQUENTIAL_NUMBERS),
    (lambda: metric(sequential_facts(spread(0.3, 0.05, 64))),
     "ratio 1.3499, bound 1.3744, limit 1.1, decided after 64 of 200 documents",
     SEQUENTIAL_NUMBERS),
    (lambda: metric(sequential_facts(spread(0.095, 0.3, 200))),
     "INCONCLUSIVE: ratio 1.0997, bound 1.1691, limit 1.1, undecided after 200 of 200 documents",
     SEQUENTIAL_NUMBERS),
    (lambda: metric(sequential_facts(spread(0.0, 0.05, 100), maximum=100)),
     "INCONCLUSIVE: sequential mode over 100 documents; allow at least 128, or decide at a fixed "
     "number", set()),
    (lambda: metric(facts(np.zeros(64), subject={"tensors_digest": BASE})),
     "bitwise identical: same tensors, same losses", POINT_NUMBERS | {"degenerate", "n_documents"}),
]  # fmt: skip


@pytest.mark.parametrize(("made", "text", "numbers"), TOLD, ids=range(len(TOLD)))
def test_texts_and_the_names_of_numbers(
    made: Callable[[], CheckDecision], text: str, numbers: set[str]
) -> None:
    decided = made()
    assert decided.text == text
    wanting = {"delta_nats_per_token", "ratio"} if "identical" in text else set()
    assert set(decided.numbers) | wanting == numbers


def broken(side: str) -> Facts:
    made = facts()
    final = made.arms["final"]
    losses = np.where(np.arange(64) < 3, np.nan, getattr(final, side))
    return replace(made, arms={**made.arms, "final": replace(final, **{side: losses})})


@pytest.mark.parametrize("name", ["primary_metric", "drift", "tail"])
def test_losses_that_are_not_finite_are_counted(name: str) -> None:
    found = check(name, broken("subject_nll"))
    unclear = name == "drift"
    assert found == CheckDecision(
        name, Outcome.INCONCLUSIVE if unclear else Outcome.FAIL, "non_finite",
        "INCONCLUSIVE: " * unclear + "the subject's loss is not finite on 3 of 128 windows",
        {"n_non_finite": 3, "n_windows": 128},
    )  # fmt: skip
    assert check(name, broken("baseline_nll")) == CheckDecision(
        name, Outcome.ERROR, "baseline_non_finite",
        "the baseline's loss is not finite on 3 of 128 windows",
        {"n_baseline_non_finite": 3, "n_windows": 128},
    )  # fmt: skip


def test_the_drop_is_the_baselines_share_less_the_subjects() -> None:
    right = np.array([True, True, True, False]), np.array([True, False, False, False])
    none = np.zeros(4, dtype=bool)
    assert _Answers(*right, none, none, np.arange(4)).drop == 0.5


@pytest.mark.parametrize("gone", ["examples", "labels"])
def test_choices_without_their_example_or_label_are_refused(gone: str) -> None:
    final = replace(accuracy_facts().arms["final"], **{gone: None})
    with pytest.raises(DataError) as caught:
        _answers(final, by_token=False)
    error = caught.value
    assert (error.cause, error.remedy, error.code) == (
        "choices without examples or labels", "record both", "LABELS"
    )  # fmt: skip


def told(given: Any, mode: str = "gate", *, strict: bool = True, **guards: Any) -> CheckDecision:
    made = facts(attested={"mine": given}, guards=guards)
    made = replace(made, plan={**made.plan, "foreign_guards": {"mine": WHO}})
    return attested_check("mine", made, mode, strict_prepare=strict)  # type: ignore[arg-type]


def test_what_an_attested_guard_is_said_to_have_said() -> None:
    fine = told(entry())
    assert (fine.check, fine.text) == ("mine", "fine (attested by my-guards 1.2)")
    loose = entry() | {"distribution": None, "version": None}
    made = facts(attested={"mine": loose})
    plan = {**made.plan, "foreign_guards": {"mine": WHO | {"distribution": None, "version": None}}}
    found = attested_check("mine", replace(made, plan=plan), "gate", strict_prepare=True)
    assert found.text == "fine (attested by my_guards:Mine)"
    other = entry() | {"entry_point": "another:Guard"}
    assert told(other).reason == "contradictory"
    unready = ABSENT | {"problem": ABSENT["problem"] | {"step": "prepare"}}
    assert told(unready, "monitor", strict=False) == CheckDecision(
        "mine", Outcome.WARN, "not_prepared", "not evaluated: it raised"
    )
    assert told(unready, "monitor").reason == told(unready, "gate", strict=False).reason
    wrote = evidence(validate=[turn("subject", "mine", tensors=BASE)])
    assert told(entry(), guard_overhead=wrote).text == (
        "the record contradicts itself: it is evidence of a model that mine had changed"
    )
    # What said nothing is told as that, whatever was changed.
    assert told(ABSENT, guard_overhead=wrote).reason == "guard_raised"


def test_arms_of_shared_documents_and_more_than_were_planned_are_incomplete() -> None:
    made = facts()
    shared = replace(made, arms={**made.arms, "preview": made.arms["final"]})
    found = check("drift", shared)
    assert (found.reason, found.text) == ("incomplete", "the arms share documents")
    planned = {"preview": 64, "final": 63}
    more = replace(made, data={**made.data, "n_documents_planned": planned})
    assert check("drift", more).text == "the final arm has 64 documents, 63 were planned"


def said(change: Any, made: Facts | None = None) -> str:
    return check("primary_metric", change(made or honest())).text.partition("itself: ")[2]


def test_what_a_record_says_against_itself() -> None:
    assert said(with_data(overlap_fraction=0.125)) == (
        "12.5 % of tokens are scored twice, and no sampling does that"
    )
    assert said(with_arms(lambda _a: {"top1_harmful": None})) == (
        "preview arm: only some of the first choices' counts are there"
    )
    assert said(divergence(top1_same_share=0.5)) == (
        "final arm: the stated agreement of first choices is not that of the arrays"
    )
    assert WORDS == "lm-eval-word"
    for name in ("top1_same", "top1_harmful", "top1_beneficial"):
        assert said(with_arms(lambda _a, n=name: {n: np.full(64, -1)})) == (
            "preview arm: first choices of more tokens than there are"
        )


def test_a_window_may_score_every_token_and_a_choice_be_told_of_each() -> None:
    made = facts()
    long = replace(made, data={**made.data, "seq_len": int(made.arms["final"].tokens.max())})
    assert check("primary_metric", long).outcome is Outcome.PASS
    whole = with_arms(lambda a: {"top1_same": a.tokens - 3})
    assert "of more tokens" not in said(whole)


def test_words_are_fewer_than_the_tokens_a_divergence_is_of() -> None:
    fewer = with_arms(lambda a: {"tokens": a.tokens - 2})(honest())
    windows = {**fewer.plan["windows"], "convention": WORDS}
    words = replace(fewer, plan={**fewer.plan, "windows": windows})
    assert divergence_contradiction(words) is None
    assert "tokens, 8000 were scored" in str(divergence_contradiction(fewer))


def test_the_floors_are_met_at_the_floor() -> None:
    asked = policy(floors=Floors(20, 10.0, None))
    assert documents_short(20, 10.0, asked) is None
    assert documents_short(19, 10.0, asked) == "19 documents, 20 are needed"
    assert documents_short(20, 9.94, asked) == "9.9 effective documents, 10 are needed"


def planned(n: int | None, drawn: int | None = None, **windows: Any) -> Facts:
    made = facts()
    given = {**made.plan["windows"], "guard_windows": n, **windows}
    data = {**made.data} | ({} if drawn is None else {"n_guard_windows": drawn})
    return replace(made, plan={**made.plan, "windows": given}, data=data)


def test_the_floor_of_guard_windows() -> None:
    half = policy(floors=Floors(20, 10.0, None, guard_window_share=0.5))
    assert [guard_window_floor(planned(n), half) for n in (7, 8, None)] == [4, 4, None]
    assert guard_window_floor(planned(8, pool="tuning"), half) is None
    assert guard_window_floor(replace(planned(8), plan={}), half) is None
    short = "3 of 8 planned guard windows, 4 are needed"
    assert guard_windows_short(planned(8), {"n_windows": 3}, half) == short
    assert guard_windows_short(planned(8, 3), {"n_windows": 9}, half) == short
    assert guard_windows_short(planned(8, 9), {"n_windows": 3}, half) == short
    assert guard_windows_short(planned(8), {"n_windows": 4}, half) is None
    assert guard_windows_short(planned(None), {"n_windows": 1}, half) is None


def test_a_limit_below_the_noise_names_what_to_change() -> None:
    made = facts()
    noisy = replace(made, noise_floor={**made.noise_floor, "second_batch_nats_per_token": 0.5})
    found = limit_below_noise(noisy, policy())
    assert found is not None
    assert found.text == (
        "configuration error: primary_metric.ratio_limit 1.1 is 0.0953 nats per token, below the "
        "noise floor of 0.5 by which two measurements of the baseline differ; use a larger "
        "primary_metric.ratio_limit, float32, or strict determinism"
    )


def test_a_sequential_record_of_more_documents_than_windows() -> None:
    made = sequential_facts(spread(0.0, 0.05, 64))
    windows = {**made.plan["windows"], "final_windows": 199}
    found = sequential_ratio(replace(made, plan={**made.plan, "windows": windows}), policy())
    assert found == CheckDecision(
        "primary_metric", Outcome.ERROR, "contradictory",
        "200 documents are said to be planned in 199 windows of the final arm",
    )  # fmt: skip


def test_where_the_quantile_and_the_threshold_stand() -> None:
    numbers = check("tail", facts(spread(0.0, 0.02))).numbers
    assert (numbers["quantile_max_nats"], numbers["threshold_nats"]) == (0.20, TAIL.threshold_nats)
