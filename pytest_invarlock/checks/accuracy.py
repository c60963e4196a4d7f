"""The primary metric where it is accuracy: the drop in percentage points with its bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_invarlock.checks.bounds import judge_interval
from pytest_invarlock.checks.floors import documents_short
from pytest_invarlock.checks.noise import limit_below_noise, noise_floor
from pytest_invarlock.checks.same_model import same_model
from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.errors import DataError
from pytest_invarlock.stats.accuracy import PairedAccuracy, paired_accuracy, score_upper
from pytest_invarlock.stats.choices import example_documents, predicted_right, tied_choices

if TYPE_CHECKING:
    from pytest_invarlock.checks.divergence import Numbers
    from pytest_invarlock.plan import Arm
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.records import ArmLosses, Facts
    from pytest_invarlock.stats.choices import BoolArray
    from pytest_invarlock.stats.clusters import IntArray

CHECK = "primary_metric"
# More examples than anyone can draw: the drop stands at the limit.
MOST_TIMES_MORE = 100_000
# A model that ties more often than this answers nothing: its losses lost their digits.
LARGEST_TIED_SHARE = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class _Answers:
    """Which examples each model gets right, which it ties on; each example's document.

    All by ascending example.
    """

    baseline: BoolArray
    subject: BoolArray
    tied_baseline: BoolArray
    tied_subject: BoolArray
    documents: IntArray

    @property
    def drop(self) -> float:
        return float(self.baseline.mean() - self.subject.mean())


def accuracy(facts: Facts, policy: DecisionPolicy) -> CheckDecision:
    """Judge the drop in accuracy on the final arm's examples.

    Predictions are derived here, from the recorded losses: of an example's choices the one with
    the least summed loss; an exact tie at the least loss is a wrong answer, and ties on 5 % of
    an arm's examples or more are an ERROR. Accuracy by loss per token, which favours no short
    choice, is printed beside it and decides nothing.
    """
    if facts.plan.get("sequential") is not None:
        return CheckDecision(
            CHECK, Outcome.ERROR, "sequential_accuracy",
            "accuracy has no sequential rule, and stopping early would bend its bounds",
        )  # fmt: skip
    try:
        answers = {name: _answers(arm) for name, arm in facts.arms.items()}
        by_token = _answers(facts.arms["final"], by_token=True)
    except DataError as error:
        return CheckDecision(CHECK, Outcome.ERROR, "malformed_choices", error.cause)
    tied = _tied(answers)
    if tied is not None:
        return tied
    same = same_model(CHECK, facts)
    if same is not None and same.outcome is not Outcome.PASS:
        return same
    below = limit_below_noise(facts, policy) if same is None else None
    if below is not None:
        return below
    final = answers["final"]
    try:
        paired = paired_accuracy(
            final.baseline, final.subject, final.documents, alpha=policy.primary_metric.alpha
        )
    except DataError as error:
        if same is not None:
            return same
        return CheckDecision(
            CHECK, Outcome.INCONCLUSIVE, error.code.lower(), f"INCONCLUSIVE: {error.cause}"
        )
    numbers = _numbers(facts, policy, paired, answers, by_token)
    if same is not None:
        exact: Numbers = {"drop_upper_pp": 0.0, "drop_lower_pp": 0.0}
        return replace(same, numbers={**numbers, **exact, "degenerate": "identical"})
    return _judge(paired, numbers, policy)


def _answers(arm: ArmLosses, *, by_token: bool = False) -> _Answers:
    if arm.examples is None or arm.labels is None:
        raise DataError("choices without examples or labels", remedy="record both", code="LABELS")
    size = arm.tokens if by_token else 1
    return _Answers(
        baseline=predicted_right(arm.baseline_nll / size, arm.examples, arm.labels),
        subject=predicted_right(arm.subject_nll / size, arm.examples, arm.labels),
        tied_baseline=tied_choices(arm.baseline_nll / size, arm.examples),
        tied_subject=tied_choices(arm.subject_nll / size, arm.examples),
        documents=example_documents(arm.examples, arm.documents),
    )


def _tied(answers: Mapping[Arm, _Answers]) -> CheckDecision | None:
    """ERROR where either model has no single least loss on too many examples of an arm."""
    for name, arm in answers.items():
        for model, tied in (("baseline", arm.tied_baseline), ("subject", arm.tied_subject)):
            if tied.mean() >= LARGEST_TIED_SHARE:
                return CheckDecision(
                    CHECK, Outcome.ERROR, "tied_choices",
                    f"the {model}'s least loss is tied in {int(tied.sum())} of {len(tied)} "
                    f"examples of the {name} arm: there it has no answer",
                    {
                        "ties_baseline": int(arm.tied_baseline.sum()),
                        "ties_subject": int(arm.tied_subject.sum()),
                    },
                )  # fmt: skip
    return None


def _numbers(
    facts: Facts,
    policy: DecisionPolicy,
    paired: PairedAccuracy,
    answers: Mapping[Arm, _Answers],
    by_token: _Answers,
) -> Numbers:
    floor, preview, final = noise_floor(facts), answers["preview"], answers["final"]
    return {
        "drop_pp": 100 * paired.drop,
        "drop_upper_pp": 100 * paired.drop_upper,
        "drop_lower_pp": 100 * paired.drop_lower,
        "limit_pp": policy.accuracy.drop_limit_pp,
        "direction": policy.primary_metric.direction,
        "accuracy_baseline": paired.baseline_accuracy,
        "accuracy_subject": paired.subject_accuracy,
        "accuracy_baseline_by_token": float(by_token.baseline.mean()),
        "accuracy_subject_by_token": float(by_token.subject.mean()),
        "preview_drop_pp": 100 * preview.drop,
        "preview_accuracy_subject": float(preview.subject.mean()),
        "harmful": paired.harmful,
        "beneficial": paired.beneficial,
        "flips": paired.harmful + paired.beneficial,
        "ties_baseline": int(final.tied_baseline.sum()),
        "ties_subject": int(final.tied_subject.sum()),
        "mcnemar_p": paired.mcnemar_p,
        "p_value": paired.mcnemar_p,
        "standard_error_pp": 100 * paired.standard_error,
        "design_effect": paired.design_effect,
        "score_units": paired.score_units,
        "noise_floor_pp": None if floor is None else 100 * floor,
        "n_examples": paired.n_examples,
        "n_documents": paired.n_documents,
        "effective_documents": paired.effective_documents,
        "examples_needed": _needed(paired, policy),
    }


def _judge(paired: PairedAccuracy, numbers: Numbers, policy: DecisionPolicy) -> CheckDecision:
    limits, direction = policy.accuracy, policy.primary_metric.direction
    interval = (
        f"accuracy {paired.baseline_accuracy:.4f} to {paired.subject_accuracy:.4f}: drop "
        f"{100 * paired.drop:.2f} pp, bound {100 * paired.drop_upper:.2f} pp, limit "
        f"{limits.drop_limit_pp:g} pp; {paired.harmful} flips harmful, {paired.beneficial} "
        f"beneficial"
    )
    short = documents_short(paired.n_documents, paired.effective_documents, policy)
    if paired.n_examples < limits.min_examples:
        short = f"{paired.n_examples} examples, {limits.min_examples} are needed"
    if short is not None:
        outcome, reason, text = Outcome.INCONCLUSIVE, "below_floor", f"{short}; {interval}"
    else:
        outcome, reason = judge_interval(
            100 * paired.drop_lower,
            100 * paired.drop_upper,
            worst=limits.drop_limit_pp,
            best=-limits.drop_limit_pp,
            direction=direction,
        )
        text = interval + _explained(reason, paired, numbers)
    if outcome is Outcome.INCONCLUSIVE:
        text = f"INCONCLUSIVE: {text}"
    return CheckDecision(CHECK, outcome, reason, text, numbers)


def _explained(reason: str, paired: PairedAccuracy, numbers: Numbers) -> str:
    lower = f"{100 * paired.drop_lower:.2f} pp"
    if reason == "beyond_limit":
        return f"; even the lower bound of {lower} is beyond the limit"
    if reason == "too_much_better":
        return "; even the upper bound is a gain beyond the limit"
    if reason == "within_limit":
        return ""
    needed = numbers["examples_needed"]
    if not isinstance(needed, int):
        return f", lower bound {lower}; the drop stands at the limit: no number would decide it"
    more = max(needed - paired.n_examples, 1)
    return f", lower bound {lower}; about {more} examples more would decide it"


def _needed(paired: PairedAccuracy, policy: DecisionPolicy) -> int | None:
    """Examples at which the score bound decides, at the shares and clustering measured."""
    alpha, limit = policy.primary_metric.alpha, policy.accuracy.drop_limit_pp / 100

    def decides(times: float) -> bool:
        size = times * paired.score_units / paired.n_examples
        worse, better, n = (
            size * count for count in (paired.harmful, paired.beneficial, paired.n_examples)
        )
        upper = score_upper(worse, better, n, alpha=alpha)
        lower = -score_upper(better, worse, n, alpha=alpha)
        outcome, _ = judge_interval(
            lower, upper, worst=limit, best=-limit, direction=policy.primary_metric.direction
        )
        return outcome is not Outcome.INCONCLUSIVE

    low, high = 0.0, 1.0
    while not decides(high):
        low, high = high, 2 * high
        if high > MOST_TIMES_MORE:
            return None
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return math.ceil(high * paired.n_examples)
