"""Limits of single checks met and just not met, and what records say that leave things out."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_invarlock.checks import ratio_numbers
from pytest_invarlock.checks.attested import attested_check
from pytest_invarlock.checks.bounds import judge_interval
from pytest_invarlock.checks.consistency import contradiction, identities
from pytest_invarlock.checks.divergence import divergence_numbers
from pytest_invarlock.checks.floors import token_floor, tokens_short
from pytest_invarlock.checks.guard_overhead import PARTS, changed_parts, guard_overhead
from pytest_invarlock.checks.noise import noise_floor
from pytest_invarlock.checks.ratio_numbers import MOST_DOCUMENTS, _needed, more_documents
from pytest_invarlock.checks.stated_divergence import _agree, _disagreement
from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.policy.metric_limits import Floors
from pytest_invarlock.records import Facts
from pytest_invarlock.stats.clusters import document_sums

from .made import METRIC, OTHER, TOKENS, accuracy_facts, arm, facts, policy, sequential_facts
from .test_attested import ABSENT, WHO, entry
from .test_consistency import honest, plan, windows
from .test_guard_overhead import demanding, evidence, measured, state, turn

PASS = (Outcome.PASS, "within_limit")
OPEN = (Outcome.INCONCLUSIVE, "bound_straddles_limit")


@pytest.mark.parametrize(
    ("lower", "upper", "one_sided", "both"),
    [
        (-1.0, 1.0, PASS, PASS),
        (-1.01, 1.0, PASS, OPEN),
        (-1.0, 1.01, OPEN, OPEN),
        (1.0, 2.0, OPEN, OPEN),
        (1.01, 2.0, (Outcome.FAIL, "beyond_limit"), (Outcome.FAIL, "beyond_limit")),
        (-2.0, -1.0, PASS, OPEN),
        (-2.0, -1.01, PASS, (Outcome.FAIL, "too_much_better")),
    ],
)
def test_an_interval_may_reach_both_limits(
    lower: float, upper: float, one_sided: Any, both: Any
) -> None:
    for direction, expected in (("non_inferiority", one_sided), ("equivalence", both)):
        assert judge_interval(lower, upper, worst=1.0, best=-1.0, direction=direction) == expected  # type: ignore[arg-type]


def with_floor(tokens: int | None) -> Any:
    return policy(floors=Floors(20, 10.0, tokens))


def test_the_floor_of_tokens_by_convention_and_metric() -> None:
    made = facts()
    # .8 of 128 windows of 127 predicted tokens.
    reachable = math.floor(0.8 * 128 * 127)
    assert token_floor(made, with_floor(10**9)) == reachable == 13_004
    assert token_floor(made, with_floor(13_003)) == 13_003
    assert token_floor(made, with_floor(None)) is None
    for convention in ("llama.cpp-512", "lm-eval-word"):
        assert token_floor(windows(convention=convention)(made), with_floor(10**9)) == 6_502
    masked = plan(metric="ppl_mlm", mask_probability=0.25)(made)
    assert token_floor(masked, with_floor(10**9)) == 3_251
    apart = windows(preview_windows=10, final_windows=20)(made)
    assert token_floor(apart, with_floor(10**9)) == math.floor(0.8 * 30 * 127)
    for metric in ("accuracy", "ppl_seq2seq"):
        assert token_floor(plan(metric=metric)(made), with_floor(1)) is None
    assert token_floor(sequential_facts(np.zeros(64)), with_floor(1)) is None
    short = replace(made, arms={k: replace(v, tokens=v.tokens - 50) for k, v in made.arms.items()})
    held = 128 * (TOKENS - 50)
    assert tokens_short(short, with_floor(held)) is None
    assert tokens_short(short, with_floor(held + 1)) == f"{held} tokens, {held + 1} are needed"
    assert tokens_short(short, with_floor(None)) is None


def test_the_noise_floor_is_the_larger_of_both() -> None:
    def of(*values: float | None) -> float | None:
        names = ("same_batch_nats_per_token", "second_batch_nats_per_token")
        return noise_floor(facts(noise_floor=dict(zip(names, values, strict=False))))

    assert [of(0.25, 0.5), of(0.5, 0.25)] == [0.5, 0.5]
    assert [of(None, 0.5), of(0.5, None), of(0.5), of()] == [None] * 4
    assert noise_floor(accuracy_facts(noise_floor={"changed_predictions": 0.125})) == 0.125


def test_how_many_documents_more_are_told() -> None:
    for needed, more in ((30, 20), (11, 1), (10, 1), (9, 1)):
        told = more_documents({"documents_needed": needed, "n_documents": 10})
        assert told == f"about {more} documents more would decide it"
    assert more_documents({"documents_needed": 3, "n_documents": None}).startswith("about 3 ")
    assert more_documents({"documents_needed": None, "n_documents": 10}) == (
        "the measured ratio stands at the limit: no number of documents would decide it"
    )
    final = arm(np.array([0.0, 0.1] * 20) + math.log(1.1) - 0.05 - 1e-5)
    sums = document_sums(final.baseline_nll, final.subject_nll, final.tokens, final.documents)
    assert MOST_DOCUMENTS == 10_000_000
    assert _needed(sums, 40.0, METRIC) is None


def test_divergence_numbers_of_arrays_and_of_statistics() -> None:
    final = replace(
        arm([0.1, 0.2], tokens=10), kl_nats=np.array([1.0, 2.0]), top1_same=np.array([5, 9]),
        top1_harmful=np.array([1, 2]), top1_beneficial=np.array([0, 4]),
    )  # fmt: skip
    flips = {"flips_harmful": 3, "flips_beneficial": 4, "flips": 7}
    assert divergence_numbers(final, None) == {
        "kl_mean_nats": 0.15, "top1_agreement": 0.7
    } | flips  # fmt: skip
    stated = {"kl_nats_mean": 0.5, "top1_same_share": 0.25}
    assert divergence_numbers(final, stated) == {
        "kl_mean_nats": 0.5, "top1_agreement": 0.25
    } | flips  # fmt: skip
    none = divergence_numbers(replace(final, top1_harmful=None), {})
    assert none == {"kl_mean_nats": None, "top1_agreement": None, "flips_harmful": None,
                    "flips_beneficial": 4, "flips": None}  # fmt: skip
    assert divergence_numbers(replace(final, top1_beneficial=None), {})["flips"] is None
    for broken in (math.nan, math.inf):
        assert divergence_numbers(replace(final, kl_nats=np.array([broken, 1])), None)[
            "kl_mean_nats"
        ] is None  # fmt: skip
    bare = divergence_numbers(arm([0.1]), None)
    assert set(bare.values()) == {None}


def test_numbers_agree_within_a_millionth() -> None:
    for computed, stated, agree in (
        (1.0, 1.0 + 9e-7, True), (1.0, 1.0 + 2e-6, False), (0.0, 9e-10, True), (0.0, 2e-9, False),
        (math.inf, None, True), (math.nan, None, True), (1.0, None, False), (math.inf, 1.0, False),
    ):  # fmt: skip
        assert _agree(computed, stated) is agree


@pytest.mark.parametrize("key", ["draw", "data_digest", "baseline_tensors", "baseline_config"])
def test_a_key_that_is_absent_is_compared_with_nothing(key: str) -> None:
    made = honest()
    without = replace(made, plan={k: v for k, v in made.plan.items() if k != key})
    assert identities(without) is None
    assert "another" in str(identities(plan(**{key: "x"})(made)))


def test_a_checkpoint_is_compared_where_one_is_planned() -> None:
    made = replace(honest(), subject={**honest().subject, "checkpoint_digest": OTHER})
    assert identities(made) is None
    assert identities(plan(subject={"checkpoint": OTHER})(made)) is None
    said = "the plan names another checkpoint than what was measured"
    assert identities(plan(subject={"checkpoint": None})(made)) == said
    bare = replace(made, plan={k: v for k, v in made.plan.items() if k != "subject"}, edit=None)
    assert identities(bare) is None
    assert contradiction(replace(facts(), noise_floor={})) is None


def told(made: Facts) -> CheckDecision:
    return guard_overhead(made, demanding())


def test_states_are_compared_part_by_part() -> None:
    assert list(PARTS) == ["tensors", "function", "configuration", "outputs"]
    names = list(PARTS.values())
    for part, text in PARTS.items():
        assert changed_parts(turn("subject", "mine", **{part: "x"})) == [text]
    every = turn("subject", "mine", process=("a", "b"), loss_nats=1.0, **dict.fromkeys(PARTS, "x"))
    assert changed_parts(every) == ["the process: a, b", *names]
    assert changed_parts(turn("subject", "mine", loss_nats=1.0)) == ["its loss"]
    silent = state(OTHER, outputs=None)
    quiet = {"process": [], "before": silent, "after": silent | {"loss_nats": 1.0}}
    assert changed_parts(quiet) == []
    assert changed_parts(quiet | {"after": None}) == ["so much that it cannot be read any more"]


@pytest.mark.parametrize("part", [*PARTS, "loss_nats"])
@pytest.mark.parametrize("model", ["baseline", "subject"])
def test_turns_see_the_model_that_the_turn_before_left(model: str, part: str) -> None:
    def changed() -> dict[str, Any]:
        one = turn(model, "mine")
        other = one["before"] | {part: 1.0 if part == "loss_nats" else "x"}
        return one | {"before": other, "after": other}

    phase = {"baseline": "prepare", "subject": "validate"}[model]
    given = evidence(**{phase: [turn(model, "invariants"), changed()]})
    said = f"the record contradicts itself: the {model} is another before one turn than before the next"
    assert told(measured(given)).text == said
    varies = told(measured(given | {"repeatable": False}))
    assert (varies.outcome is Outcome.WARN) is (part in ("outputs", "loss_nats"))


def test_passes_that_differ_by_themselves_are_told() -> None:
    assert told(measured(evidence(repeatable=False))).text == (
        "3 turns of guards left each model as it was; what it computes differs from pass to pass "
        "by itself and is not compared (--invarlock-determinism=strict makes it repeatable)"
    )


def test_a_window_that_cannot_be_passed_is_told() -> None:
    silent = {"before": state(OTHER, outputs=None), "after": state(OTHER, outputs=None)}
    given = evidence(validate=[turn("subject", "invariants") | silent])
    assert told(measured(given)).text == (
        "not evaluated: the window cannot be passed through the model"
    )


@pytest.mark.parametrize("name", ["invariants", "rmt", "variance", "spectral"])
def test_which_guards_look_at_the_baseline_first(name: str) -> None:
    given = evidence(prepare=[], validate=[turn("subject", name)])
    made = facts(guards={name: {"a": 1}, "guard_overhead": given})
    said = f"the record does not say what prepare of {name} left of the baseline"
    assert told(made).text == (
        "1 turns of guards left each model as it was, bit for bit" if name == "spectral" else said
    )
    unsaid = facts(guards={name: {"not_evaluated": "x"}, "guard_overhead": given})
    assert told(unsaid).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("edit", "missing"),
    [(None, True), ({"name": "missing_tensors"}, True), ({"name": "quant_rtn"}, False)],
)
def test_attested_guards_look_at_a_baseline_beside_another_subject(
    edit: Any, missing: bool
) -> None:
    given = evidence(
        prepare=[turn("baseline", "invariants", "mine")],
        validate=[turn("subject", "invariants", "mine")],
    )
    made = replace(measured(given), attested={"mine": entry()}, edit=edit)
    found = told(made)
    said = "the record does not say what validate of mine left of the baseline"
    assert (found.text == said) is missing
    assert told(replace(made, attested={"mine": ABSENT})).outcome is Outcome.PASS


def test_an_attested_guard_that_nobody_planned() -> None:
    made = facts(attested={"mine": entry()})
    assert attested_check("mine", made, "gate").text == (
        "the record contradicts itself: another guard was planned"
    )
    assert attested_check("yours", made, "gate") == CheckDecision(
        "yours", Outcome.ERROR, "not_evaluated",
        "the policy demands yours, and the record holds no answer of it",
    )  # fmt: skip


def test_so_many_documents_as_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    final = arm([0.1, 0.2])
    sums = document_sums(final.baseline_nll, final.subject_nll, final.tokens, final.documents)
    for needed, told_as in ((10_000_000, 10_000_000), (10_000_001, None), (None, None)):
        monkeypatch.setattr(ratio_numbers, "documents_needed", lambda n=needed, **_: n)
        assert _needed(sums, 2.0, METRIC) == told_as


def test_a_shorter_window_without_notes_is_not_explained() -> None:
    made = windows(seq_len=512)(honest())
    bare = replace(made, data={k: v for k, v in made.data.items() if k != "notes"})
    assert contradiction(bare) == (
        "windows hold 128 tokens, the plan says 512, and no note tells why"
    )


def test_an_altered_model_fails_where_no_mode_is_stated() -> None:
    wrote = measured(evidence(validate=[turn("subject", "invariants", tensors="x")]))
    assert guard_overhead(wrote, demanding(modes={})).outcome is Outcome.FAIL
    assert guard_overhead(wrote, demanding(modes={"guard_overhead": "monitor"})).outcome is (
        Outcome.WARN
    )


def test_sums_beyond_a_double_are_no_warning() -> None:
    final = replace(arm([0.1, 0.2]), kl_nats=np.array([1.5e308, 1.5e308]))
    stated = {"n_tokens": 2 * TOKENS, "kl_nats_mean": None}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _disagreement(final, stated, words=False) is None
        infinite = replace(final, kl_nats=np.array([math.inf, -math.inf]))
        assert _disagreement(infinite, stated, words=False) is None


def test_a_guard_has_to_be_prepared_unless_that_is_waived() -> None:
    unready = ABSENT | {"problem": ABSENT["problem"] | {"step": "prepare"}}
    made = plan(foreign_guards={"mine": WHO})(facts(attested={"mine": unready}))
    assert attested_check("mine", made, "monitor").outcome is Outcome.ERROR
    waived = attested_check("mine", made, "monitor", strict_prepare=False)
    assert waived.outcome is Outcome.WARN
