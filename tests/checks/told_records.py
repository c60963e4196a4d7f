"""Cases of `test_told_whole` on what of a record is whole and what contradicts the rest.

``python -m tests.checks.told_records`` writes down what all cases give, to be read before it is
kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pytest_invarlock.checks.completeness import unfit
from pytest_invarlock.checks.consistency import contradiction
from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.policy.decision_policy import DecisionPolicy
from pytest_invarlock.records import Facts

from . import test_consistency as made_up
from .made import BASE, OTHER, QUIET, TOKENS, accuracy_facts, arm, facts, sequential_facts, spread
from .test_completeness import BROKEN, with_plan, without
from .told_cases import CASES, Told, flipped, judged, several, words

WRITTEN = Path(__file__).with_name("told_whole.json")


def _unfit(of: Facts, _by: DecisionPolicy) -> Told:
    return unfit("any", of)


def _unclear(of: Facts, _by: DecisionPolicy) -> Told:
    return unfit("any", of, non_finite=Outcome.INCONCLUSIVE)


def _contradiction(of: Facts, _by: DecisionPolicy) -> Told:
    return contradiction(of)


def edge(loss: float, where: str = "final", side: str = "subject_nll") -> Facts:
    made = facts()
    getattr(made.arms[where], side)[3] = loss  # type: ignore[index]
    return made


def edit(**change: Any) -> Callable[[], Facts]:
    return lambda: made_up.other(edit=made_up.EDIT | made_up.CHANGED | change)(flipped())


def noise(**change: Any) -> Callable[[], Facts]:
    return lambda: facts(noise_floor=QUIET | change)


judged(
    _unfit,
    **{name: (lambda made=made: made) for name, (made, _) in BROKEN.items()},
    no_labels=lambda: without("labels"),
    fewer_examples=lambda: with_plan(accuracy_facts(), final_windows=401),
    sequential_more=lambda: with_plan(sequential_facts(spread(0.0, 0.05, 64)), final_windows=63),
    sequential_all=lambda: with_plan(sequential_facts(spread(0.0, 0.05, 64)), final_windows=64,
                                     preview_windows=64),
    unpaired=lambda: facts(arms={}, data={"seq_len": 128, "match_fraction": 0.25}),
    paired=lambda: facts(arms={}, data={"seq_len": 128, "match_fraction": 1.0}),
    why=lambda: facts(arms={}, divergence={"not_evaluated": "the model is gone"}),
    most=lambda: edge(1e6 * TOKENS),
    beyond=lambda: edge(math.nextafter(1e6 * TOKENS, math.inf)),
    preview=lambda: edge(math.nan, "preview"),
    baseline=lambda: edge(math.inf, side="baseline_nll"),
    windows_of_words=words,
)  # fmt: skip
judged(
    _unclear, beyond=lambda: edge(math.inf), baseline=lambda: edge(math.inf, side="baseline_nll")
)
judged(
    _contradiction,
    **{name: (lambda change=change: change(flipped()))
       for name, change in (made_up.FORGERIES | made_up.HONEST).items()},
    one_window_planned=lambda: made_up.windows(preview_windows=1, final_windows=0)(facts()),
    documents_as_windows=lambda: made_up.data(
        n_documents_planned={"preview": 64, "final": 64})(facts()),
    documents_above_windows=lambda: made_up.data(
        n_documents_planned={"preview": 64, "final": 65})(facts()),
    unequal_arms=lambda: replace(sequential_facts(spread(0.0, 0.05, 64)), arms={
        "preview": arm(np.zeros(60)), "final": arm(np.zeros(64))}),
    equal_length_without_note=lambda: made_up.windows(seq_len=TOKENS + 2)(flipped()),
    longer_with_a_note=lambda: made_up.both(made_up.windows(seq_len=100), made_up.data(
        notes=["seq_len 100 capped at the model's context of 128 tokens"]))(flipped()),
    token_too_many=lambda: made_up.both(made_up.data(seq_len=126), made_up.windows(seq_len=126))(
        flipped()),
    one_token_of_none=lambda: facts(
        arms={k: replace(arm(np.zeros(64)), tokens=np.zeros(64, dtype=np.int64),
                         baseline_nll=np.zeros(64), subject_nll=np.zeros(64))
              for k in ("preview", "final")}, data={"seq_len": 1}),
    match_of_all=lambda: made_up.data(match_fraction=1.0)(flipped()),
    match_beyond_all=lambda: made_up.data(match_fraction=1.5)(flipped()),
    no_duplicates=lambda: made_up.data(duplicate_fraction=-0.1)(flipped()),
    choices_all_duplicates=lambda: made_up.data(duplicate_fraction=1.0)(accuracy_facts()),
    duplicates_beyond_all=lambda: made_up.data(duplicate_fraction=1.1)(accuracy_facts()),
    nothing_noisy=noise(same_batch_nats_per_token=0.0),
    noise_is_the_largest=noise(second_batch_nats_per_token=1e-6),
    noise_nearly_the_largest=noise(second_batch_nats_per_token=1e-6 * (1 + 2e-9)),
    same_batch_above_largest=noise(same_batch_nats_per_token=2e-6),
    not_a_noise=noise(same_batch_nats_per_token=math.nan),
    all_predictions_changed=noise(changed_predictions=1.0),
    more_predictions_changed=noise(changed_predictions=1.01),
    all_touched_changed=edit(n_parameters_changed=40),
    more_tensors_changed=edit(n_tensors_changed=5),
    tensors_of_no_parameter=edit(n_parameters_changed=0),
    one_of_each=edit(n_parameters_changed=1, n_tensors_changed=1),
    another_checkpoint=lambda: made_up.both(
        made_up.plan(subject={"checkpoint": BASE}), made_up.other(edit=None))(replace(
            flipped(), subject={"tensors_digest": OTHER, "checkpoint_digest": BASE})),
    **{f"{name} of the same numbers": (lambda name=name: made_up.both(
        made_up.plan(subject={"name": name, "parameters": {}}),
        made_up.other(edit={"name": name, "parameters": {}} | made_up.CHANGED,
                      subject={"tensors_digest": BASE}))(flipped()))
       for name in ("weight_tying_break", "tokenizer_mismatch", "noop")},
    words_of_all_tokens=lambda: made_up.arms(lambda a: {
        "top1_same": np.full(64, 126), "top1_harmful": np.full(64, 1)})(words()),
    words_beyond_all_tokens=lambda: made_up.arms(lambda a: {
        "top1_same": np.full(64, 127), "top1_harmful": np.full(64, 2)})(words()),
    choices_of_all_tokens=lambda: made_up.arms(lambda a: {
        "top1_harmful": np.full(64, 6), "top1_beneficial": np.full(64, 1)})(flipped()),
    choices_beyond_all_tokens=lambda: made_up.arms(lambda a: {
        "top1_harmful": np.full(64, 7), "top1_beneficial": np.full(64, 1)})(flipped()),
    at_the_rounding=lambda: made_up.arms(lambda a: {
        "baseline_nll": np.full(64, -1e-3 * 127)})(flipped()),
    below_the_rounding=lambda: made_up.arms(lambda a: {
        "baseline_nll": np.full(64, -1.01e-3 * 127)})(flipped()),
    mean_nearly_stated=lambda: made_up.divergence(kl_nats_mean=0.01 * (1 + 9e-7))(flipped()),
    mean_not_quite_stated=lambda: made_up.divergence(kl_nats_mean=0.01 * (1 + 1.2e-6))(flipped()),
    stated_of_no_tokens=lambda: made_up.divergence(n_tokens=None)(flipped()),
    one_side_of_a_divergence=lambda: replace(flipped(), divergence={"final": made_up.STATED}),
    windows_of_a_document=lambda: made_up.windows(max_windows_per_document=2)(several()),
    as_many_windows_of_a_document=lambda: made_up.windows(max_windows_per_document=3)(several()),
)  # fmt: skip


def document(told: Told) -> Any:
    return told.document() if isinstance(told, CheckDecision) else told


if __name__ == "__main__":
    lines = (
        f"{json.dumps(name)}: {json.dumps(document(case()), ensure_ascii=False)}"
        for name, case in CASES.items()
    )
    WRITTEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
