"""Cases of `test_told_whole`: facts on both sides of each comparison that a check makes.

Those of whole records stand in `told_records`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from pytest_invarlock.checks.accuracy import accuracy
from pytest_invarlock.checks.drift import drift_check
from pytest_invarlock.checks.noise import limit_below_noise
from pytest_invarlock.checks.primary_metric import primary_metric
from pytest_invarlock.checks.sequential import sequential_ratio
from pytest_invarlock.checks.tail import tail_check
from pytest_invarlock.decision import CheckDecision
from pytest_invarlock.policy.decision_policy import DecisionPolicy
from pytest_invarlock.policy.metric_limits import AccuracyLimits, Floors
from pytest_invarlock.records import Facts

from . import test_consistency as made_up
from .made import (
    BASE,
    CLEAN,
    DRIFT,
    METRIC,
    QUIET,
    TAIL,
    TOKENS,
    accuracy_facts,
    answers,
    arm,
    choices,
    facts,
    policy,
    sequential_facts,
    spread,
)
from .test_completeness import with_labels, without
from .test_drift import arms
from .test_sequential import outlier, planned_as

Told = CheckDecision | str | None


def metric_policy(**change: Any) -> DecisionPolicy:
    return policy(primary_metric=replace(METRIC, **change))


BOTH = metric_policy(direction="equivalence")
MORE = [0.0, 0.0, 0.7]


def flat(difference: float, n: int = 64) -> Facts:
    """Windows of 1 nat a token, which all change by ``difference``."""
    one = arm(np.zeros(n), tokens=128)
    one = replace(
        one, baseline_nll=np.full(n, 128.0), subject_nll=np.full(n, 128 + 128 * difference)
    )
    return facts(np.zeros(n), arms={"preview": one, "final": one}, data={"seq_len": 129})


def several(n: int = 40) -> Facts:
    """Documents of one, two and three windows, of unequal tokens."""
    counts = 1 + np.arange(n) % 3
    documents = np.repeat(np.arange(n), counts)
    one = arm(spread(0.02, 0.05, len(documents)), documents=documents)
    tokens = 90 + np.arange(len(documents)) % 37
    one = replace(one, tokens=tokens)
    return facts(arms={"preview": one, "final": one})


def flipped() -> Facts:
    """Facts with divergences and first choices."""
    return made_up.honest()


def edited(**change: Any) -> Facts:
    return replace(accuracy_facts(), **change)


def tied(n: int, of: int = 400, side: str = "subject") -> Facts:
    one = choices(*answers(of, 0, 0))
    losses = getattr(one, f"{side}_nll").copy()
    losses[: 2 * n] = 5.0
    one = replace(one, **{f"{side}_nll": losses})
    return accuracy_facts(arms={"preview": one, "final": one})


def lengths() -> Facts:
    """Right choices of two tokens beside wrong ones of six: by token others win."""
    one = choices(*answers(400, 10, 2))
    one = replace(one, tokens=np.where(one.labels == 1, 2, 6))
    preview = choices(*answers(400, 30, 2))
    return accuracy_facts(arms={"preview": preview, "final": one})


def tails(n: int, harmed: int, harm: float = 1.0) -> Facts:
    differences = spread(0.0, 0.01, n)
    differences[:harmed] = harm
    return facts(differences)


def stopped_beyond(n: int) -> Facts:
    return sequential_facts(np.concatenate([spread(0.01, 0.02, 64), np.full(n, 0.05)]))


def sequential_several() -> Facts:
    """A sequential record of documents of several windows, decided at the 70th."""
    made = several(70)
    return sequential_facts(np.zeros(4), arms=made.arms, data=made.data)


def noisy(floor: float | None, **change: Any) -> Facts:
    noise = QUIET | {"second_batch_nats_per_token": floor, "largest_window_nats_per_token": 9.0}
    return facts(noise_floor=noise, **change)


def accuracy_noise(floor: float | None) -> Facts:
    return accuracy_facts(noise_floor=QUIET | {"changed_predictions": floor})


def accuracy_policy(drop: float = 1.0, least: int = 200, **change: Any) -> DecisionPolicy:
    return policy(accuracy=AccuracyLimits(drop, least), **change)


def words() -> Facts:
    made = made_up.windows(convention="lm-eval-word")(flipped())
    return replace(made, divergence=dict(made.divergence))


SAME = {"tensors_digest": BASE}
CONFIGURED = {"invariants": CLEAN | {"config_changes": [{"name": "a"}]}}
Case = Callable[[], Told]
CASES: dict[str, Case] = {}


def judged(check: Callable[[Facts, DecisionPolicy], Told], **cases: Any) -> None:
    """Cases of ``check``: facts, or facts and a policy, each made within the test."""
    for name, given in cases.items():
        of, by = given if isinstance(given, tuple) else (given, None)
        CASES[f"{check.__name__}: {name.replace('_', ' ')}"] = partial(_told, check, of, by)


def _told(check: Any, of: Callable[[], Facts], by: DecisionPolicy | None) -> Told:
    return check(of(), by or policy())  # type: ignore[no-any-return]


judged(
    primary_metric,
    plain=facts,
    several_windows=several,
    equivalence=(several, BOTH),
    with_divergence=flipped,
    words=words,
    infinite_divergence=lambda: made_up.HONEST["infinite divergence"](flipped()),
    no_divergence=lambda: made_up.HONEST["no common vocabulary"](flipped()),
    straddles=lambda: facts(spread(0.09, 0.06)),
    straddles_below=(lambda: facts(spread(-0.09, 0.06)), BOTH),
    at_the_limit=lambda: facts(spread(math.log(1.1), 0.02)),
    fails=lambda: facts(spread(0.2, 0.02)),
    better=(lambda: facts(spread(-0.2, 0.02)), BOTH),
    constant=lambda: flat(0.0625),
    constant_at_catastrophe=(
        lambda: flat(0.5), metric_policy(catastrophic_ratio=math.exp(0.5))),
    constant_beyond_catastrophe=(
        lambda: flat(0.5), metric_policy(catastrophic_ratio=math.nextafter(math.exp(0.5), 0))),
    spike=lambda: facts(spread(1.0, 0.02)),
    unbounded=lambda: facts(spread(800.0, 0.5)),
    twenty_documents=lambda: facts(spread(0.0, 0.02, 20)),
    nineteen_documents=lambda: facts(spread(0.0, 0.02, 19)),
    one_document=lambda: facts(arms={k: arm(np.full(6, 0.01), documents=[0] * 6)
                                     for k in ("preview", "final")}),
    tokens_at_floor=(facts, policy(floors=Floors(20, 10.0, 2 * 64 * TOKENS))),
    few_tokens=(lambda: replace(facts(), data=dict(facts().data) | {"seq_len": 300}),
                policy(floors=Floors(20, 10.0, 2 * 64 * TOKENS + 1))),
    identical=lambda: facts(np.zeros(64), subject=SAME),
    not_reproducible=lambda: facts(subject=SAME),
    configured=lambda: facts(subject=SAME, guards=CONFIGURED),
    other_metric=lambda: made_up.plan(metric="bleu")(facts()),
    noise_at_limit=(lambda: noisy(math.log(1.1)), None),
    noise_above_limit=lambda: noisy(math.nextafter(math.log(1.1), 1)),
    same_batch_above=lambda: facts(noise_floor=QUIET | {
        "same_batch_nats_per_token": 0.5, "largest_window_nats_per_token": 9.0}),
    no_noise=lambda: facts(noise_floor={}),
    half_a_noise=lambda: facts(noise_floor={"same_batch_nats_per_token": 0.0}),
    sequential=lambda: sequential_facts(spread(0.0, 0.05, 64)),
    accuracy=accuracy_facts,
)  # fmt: skip
OTHER_METRIC = {"alpha": 0.1, "bootstrap_alpha": 0.2, "bootstrap_replicates": 199}
OTHER_TAIL = replace(
    TAIL, threshold_nats=0.4, benign_rate=0.02, false_alarm=0.1, harm_rate=0.1, alpha=0.2
)
judged(
    primary_metric,
    other_levels=(several, metric_policy(**OTHER_METRIC, ratio_limit=1.03)),
    other_levels_both=(several, metric_policy(**OTHER_METRIC, direction="equivalence")),
    accuracy_in_whole_numbers=lambda: tied(19),
)
judged(
    tail_check,
    other_levels=(lambda: tails(128, 5, 0.5), policy(tail=OTHER_TAIL)),
    other_levels_open=(lambda: tails(64, 1, 0.5), policy(tail=replace(
        OTHER_TAIL, harm_rate=0.03, min_documents=64, min_windows=65))),
    windows_open=(lambda: tails(64, 1, 1.0), policy(tail=replace(TAIL, min_windows=64))),
)  # fmt: skip
judged(
    drift_check,
    other_levels=(lambda: arms(0.1, 0.0, sd=0.3), policy(drift=replace(
        DRIFT, band=1.02, fail_alpha=0.001, warn_alpha=0.2))),
)  # fmt: skip
judged(
    sequential_ratio,
    other_levels=(lambda: sequential_facts(spread(0.0, 0.05, 64)),
                  policy(primary_metric=replace(METRIC, alpha=0.2), tail=OTHER_TAIL)),
    at_catastrophe=(lambda: sequential_facts(np.zeros(64), arms=flat(0.5).arms,
                                             data={"seq_len": 129}),
                    metric_policy(catastrophic_ratio=math.exp(0.5))),
    without_losses=lambda: replace(
        sequential_facts(spread(0.0, 0.05, 64)), arms={"final": arm(np.zeros(64), tokens=0)}),
)  # fmt: skip
judged(
    accuracy,
    other_level=(lambda: accuracy_facts(400, 5, 2), policy(primary_metric=replace(
        METRIC, alpha=0.2, direction="equivalence"))),
    plain=lambda: accuracy_facts(400, 3, 1),
    by_token=lengths,
    clustered=lambda: accuracy_facts(400, 12, 5, documents=np.arange(400) // 3),
    two_hundred=lambda: accuracy_facts(200),
    too_few=lambda: accuracy_facts(199),
    few_documents=lambda: accuracy_facts(400, documents=np.arange(400) % 19),
    enough_documents=lambda: accuracy_facts(400, documents=np.arange(400) % 20),
    few_examples_and_documents=lambda: accuracy_facts(199, documents=np.arange(199) % 19),
    one_document=lambda: accuracy_facts(400, 4, 1, documents=np.zeros(400, dtype=np.int64)),
    one_document_identical=lambda: accuracy_facts(
        400, documents=np.zeros(400, dtype=np.int64), subject=SAME),
    fails=lambda: accuracy_facts(400, 40),
    gains=(lambda: accuracy_facts(400, 0, 40), BOTH),
    gain_is_no_harm=lambda: accuracy_facts(400, 0, 40),
    equivalent=(lambda: accuracy_facts(1000, 1, 1), BOTH),
    straddles_below=(lambda: accuracy_facts(400, 1, 4), BOTH),
    at_the_limit=lambda: accuracy_facts(400, 4, 0),
    at_the_limit_of_flips=lambda: accuracy_facts(400, 24, 20),
    sequential=lambda: made_up.plan(sequential={"a": 1})(accuracy_facts()),
    no_labels=lambda: without("labels"),
    no_examples=lambda: without("examples"),
    none_right=lambda: with_labels(np.zeros_like),
    all_right=lambda: with_labels(np.ones_like),
    ties_at_most=lambda: tied(20),
    ties_below=lambda: tied(19),
    ties_of_the_baseline=lambda: tied(40, side="baseline"),
    identical=lambda: accuracy_facts(subject=SAME),
    not_reproducible=lambda: accuracy_facts(400, 4, subject=SAME),
    noise_at_limit=lambda: accuracy_noise(0.01),
    noise_above_limit=lambda: accuracy_noise(0.0101),
    no_noise=lambda: accuracy_noise(None),
    tight=(lambda: accuracy_facts(400, 2), accuracy_policy(0.5)),
    many_needed=(lambda: accuracy_facts(400, 3, 2), accuracy_policy(0.3, 400)),
)  # fmt: skip
judged(
    drift_check,
    plain=lambda: arms(0.0, 0.0, sd=0.01),
    several_windows=several,
    perhaps=lambda: arms(math.log(1.05) + 0.018, 0.0),
    beyond=lambda: arms(1.0, 0.0),
    below=lambda: arms(-1.0, 0.0),
    monitored=(lambda: arms(1.0, 0.0), policy(drift=replace(DRIFT, mode="monitor"))),
    unbounded=lambda: arms(1000.0, 0.0),
    flat=lambda: flat(0.25),
    accuracy=accuracy_facts,
    one_document=lambda: facts(arms={k: arm(np.full(6, 0.01), documents=[0] * 6)
                                     for k in ("preview", "final")}),
    identical=lambda: facts(np.zeros(64), subject=SAME),
    incomplete=lambda: replace(facts(), arms={}),
)  # fmt: skip
judged(
    tail_check,
    plain=lambda: tails(128, 0),
    several_windows=several,
    one_harmed=lambda: tails(128, 1),
    two_harmed=lambda: tails(128, 2),
    at_the_threshold=lambda: flat(0.5),
    threshold_met=(lambda: flat(0.5), policy(tail=replace(TAIL, threshold_nats=0.5))),
    hundred=lambda: tails(100, 5),
    ninety_nine=lambda: tails(99, 5),
    fifty_nine=lambda: tails(59, 3),
    fifty_eight=lambda: tails(58, 3),
    few=lambda: tails(40, 0),
    quantile=lambda: tails(40, 4, 0.5),
    at_the_quantile=(lambda: flat(0.25), policy(tail=replace(TAIL, quantile_max=0.25))),
    above_the_quantile=(lambda: flat(0.25), policy(tail=replace(TAIL, quantile_max=0.24))),
    monitored=(lambda: tails(128, 9), policy(tail=replace(TAIL, mode="monitor"))),
    sequential=lambda: sequential_facts(tails(128, 0).arms["final"].window_difference),
    sequential_harmed=lambda: sequential_facts(outlier(128, 3)),
    unbounded=lambda: tails(128, 3, 900.0),
    one_document=lambda: facts(arms={k: arm(np.full(6, 0.01), documents=[0] * 6)
                                     for k in ("preview", "final")}),
    identical=lambda: facts(np.zeros(64), subject=SAME),
    accuracy=accuracy_facts,
)  # fmt: skip
judged(
    sequential_ratio,
    passes=lambda: sequential_facts(spread(0.0, 0.05, 64)),
    several_after=lambda: sequential_facts(spread(0.0, 0.05, 70)),
    seven_after=lambda: stopped_beyond(7),
    eight_after=lambda: stopped_beyond(8),
    fails=lambda: sequential_facts(spread(0.3, 0.05, 64)),
    spike=lambda: sequential_facts(spread(1.5, 0.05, 64)),
    unbounded=lambda: sequential_facts(spread(800.0, 0.05, 64)),
    exhausted=lambda: sequential_facts(spread(0.095, 0.3, 200)),
    undecided=lambda: sequential_facts(spread(0.095, 0.3, 100)),
    harmed_at_the_end=lambda: sequential_facts(outlier(200, 5)),
    ruined_later=lambda: sequential_facts(np.concatenate([spread(0.01, 0.02, 64), MORE])),
    worse_later=lambda: planned_as(sequential_facts(
        np.concatenate([spread(0.0, 0.02, 64), np.full(136, 0.5)])), rho=1e-200),
    no_worse_later=lambda: planned_as(sequential_facts(
        np.concatenate([spread(0.0, 0.02, 64), np.full(136, 0.1)])), rho=1e-200),
    other_limit=(lambda: sequential_facts(spread(0.0, 0.05, 64)), metric_policy(ratio_limit=1.2)),
    stricter=(lambda: sequential_facts(spread(0.0, 0.05, 64)), metric_policy(ratio_limit=1.001)),
    short=(lambda: sequential_facts(spread(0.0, 0.05, 64)), policy(floors=Floors(65, 10.0, None))),
    short_fails=(lambda: sequential_facts(spread(1.5, 0.05, 64)),
                 policy(floors=Floors(20, 65.0, None))),
    equivalence=(lambda: sequential_facts(spread(0.0, 0.05, 64)), BOTH),
    too_few_allowed=lambda: sequential_facts(spread(0.0, 0.05, 100), maximum=100),
    one_document=lambda: sequential_facts([0.1]),
    no_documents_planned=lambda: replace(sequential_facts(spread(0.0, 0.05, 64)), data={}),
    early_looks=lambda: planned_as(sequential_facts(spread(0.0, 0.05, 40)),
                                   first_look=40, alpha=0.4),
    several_windows=sequential_several,
    fails_with_several=(sequential_several, metric_policy(ratio_limit=1.001)),
)  # fmt: skip
judged(
    limit_below_noise,
    at=lambda: noisy(math.log(1.1)),
    above=lambda: noisy(0.5),
    none=lambda: noisy(None),
    accuracy_at=lambda: accuracy_noise(0.01),
    accuracy_above=lambda: accuracy_noise(0.02),
)
