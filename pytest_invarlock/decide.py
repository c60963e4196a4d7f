"""The decision function: facts and policy in, outcomes with reasons out. Pure, without torch.

Items, certificates, the final verdict, `verify` and `regate` all call `decide`; nothing else
compares a number with a threshold.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from invarlock_guards.judge.invariants import judge_invariants

from pytest_invarlock.decision import CheckDecision, Decision, Outcome
from pytest_invarlock.errors import DataError
from pytest_invarlock.plan import ARMS
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.stats import documents_needed, ratio_bounds

if TYPE_CHECKING:
    from invarlock_guards.contract import GuardResult

    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.records import ArmLosses, Facts
    from pytest_invarlock.stats import RatioBounds

TOKEN_FLOOR_SHARE = 0.8
LARGEST_EXPONENT = 700.0


def decide(facts: Facts, policy: DecisionPolicy) -> Decision:
    """Judge one record: every check the policy demands, then the scenario's expectation.

    Raises ConfigError where the policy holds no expectation for the facts' scenario.
    """
    expected = policy.expectation(facts.model, facts.scenario)
    checks = tuple(_check(name, facts, policy) for name in policy.checks)
    fired = tuple(check.check for check in checks if check.outcome is Outcome.FAIL)
    outcome, met, text = _expectation(expected, checks, fired)
    return Decision(
        model=facts.model,
        scenario=facts.scenario,
        draw=facts.draw,
        category=expected.category,
        strictness=expected.strictness.value,
        checks=checks,
        fired=fired,
        outcome=outcome,
        expectation_met=met,
        text=text,
    )


def _check(name: str, facts: Facts, policy: DecisionPolicy) -> CheckDecision:
    if facts.error is not None:
        return CheckDecision(
            name, Outcome.ERROR, facts.error.lower(), f"the measurement ended with {facts.error}"
        )
    if name == "primary_metric":
        return _primary_metric(facts, policy)
    evidence = facts.guards.get(name)
    if evidence is None:
        return CheckDecision(
            name, Outcome.ERROR, "not_evaluated",
            f"the policy demands {name}, and the record holds no evidence of it",
        )  # fmt: skip
    if name == "invariants":
        if evidence["baseline_non_finite"]:
            return CheckDecision(
                name,
                Outcome.ERROR,
                "baseline_non_finite",
                "the baseline itself holds NaN or infinity",
            )
        return _guard_check(judge_invariants(evidence, kind=facts.kind), policy.modes[name])
    return CheckDecision(
        name, Outcome.ERROR, "unknown_check", f"this version has no judge for {name}"
    )


def _guard_check(result: GuardResult, mode: str) -> CheckDecision:
    violations = tuple(violation.document() for violation in result.violations)
    if result.passed is None:
        outcome = Outcome.ERROR
    elif result.passed:
        outcome = Outcome.PASS
    else:
        outcome = Outcome.FAIL if mode == "gate" else Outcome.WARN
    return CheckDecision(
        result.guard, outcome, result.reason, result.text, dict(result.metrics), violations
    )


def _primary_metric(facts: Facts, policy: DecisionPolicy) -> CheckDecision:
    final = facts.arms.get("final")
    if final is None or len(final.tokens) == 0:
        return CheckDecision(
            "primary_metric", Outcome.ERROR, "not_evaluated", "the record holds no final arm"
        )
    missing = _incomplete(facts)
    if missing is not None:
        return CheckDecision("primary_metric", Outcome.ERROR, "incomplete", missing)
    broken = _non_finite(facts)
    if broken is not None:
        return broken
    limits = policy.primary_metric
    same = _same_model(facts, final, limits.ratio_limit)
    if same is not None:
        return same
    try:
        bounds = ratio_bounds(
            final.baseline_nll,
            final.subject_nll,
            final.tokens,
            final.documents,
            seed=facts.digest.encode(),
            replicates=limits.bootstrap_replicates,
            alpha=limits.alpha,
            bootstrap_alpha=limits.bootstrap_alpha,
        )
    except DataError as error:
        return CheckDecision(
            "primary_metric", Outcome.INCONCLUSIVE, error.code.lower(),
            f"INCONCLUSIVE: {error.cause}",
        )  # fmt: skip
    return _judge_ratio(bounds, facts, policy)


def _same_model(facts: Facts, final: ArmLosses, limit: float) -> CheckDecision | None:
    """The decision where the subject's tensors are the baseline's, bit for bit; None elsewhere."""
    if facts.subject["tensors_digest"] != facts.baseline["tensors_digest"]:
        return None
    if all(np.array_equal(arm.baseline_nll, arm.subject_nll) for arm in facts.arms.values()):
        perplexity = _perplexity(final.baseline_nll, final)
        return CheckDecision(
            "primary_metric", Outcome.PASS, "bitwise_identical",
            "bitwise identical: same tensors, same losses",
            {
                "ratio": 1.0, "ratio_upper": 1.0, "ratio_lower": 1.0, "limit": limit,
                "delta_nats_per_token": 0.0, "degenerate": "identical",
                "baseline_perplexity": perplexity, "subject_perplexity": perplexity,
                "n_windows": len(final.tokens), "n_tokens": int(final.tokens.sum()),
                "n_documents": len(np.unique(final.documents)),
            },
        )  # fmt: skip
    if facts.guards.get("invariants", {}).get("config_changes"):
        return None
    return CheckDecision(
        "primary_metric", Outcome.ERROR, "not_reproducible",
        "the same tensors gave other losses: the measurement is not deterministic",
    )  # fmt: skip


def _incomplete(facts: Facts) -> str | None:
    """What of the planned measurement the record does not hold; None where it is whole."""
    planned = facts.plan["windows"]
    seen: set[int] = set()
    for arm in ARMS:
        losses = facts.arms.get(arm)
        if losses is None:
            return f"the record holds no {arm} arm"
        if len(losses.tokens) != planned[f"{arm}_windows"]:
            return f"the {arm} arm has {len(losses.tokens)} of {planned[f'{arm}_windows']} windows"
        if int(losses.tokens.min(initial=1)) < 1:
            return f"a window of the {arm} arm has no predicted token"
        documents = {int(document) for document in losses.documents}
        if documents & seen:
            return "the arms share documents"
        if len(documents) != facts.data["n_documents"][arm]:
            return f"the {arm} arm has {len(documents)} documents, another number is stated"
        seen |= documents
    return None


def _non_finite(facts: Facts) -> CheckDecision | None:
    baseline = sum(int((~np.isfinite(arm.baseline_nll)).sum()) for arm in facts.arms.values())
    subject = sum(int((~np.isfinite(arm.subject_nll)).sum()) for arm in facts.arms.values())
    windows = sum(len(arm.tokens) for arm in facts.arms.values())
    if baseline:
        return CheckDecision(
            "primary_metric", Outcome.ERROR, "baseline_non_finite",
            f"the baseline's loss is not finite on {baseline} of {windows} windows",
            {"n_baseline_non_finite": baseline, "n_windows": windows},
        )  # fmt: skip
    if subject:
        return CheckDecision(
            "primary_metric", Outcome.FAIL, "non_finite",
            f"the subject's loss is not finite on {subject} of {windows} windows",
            {"n_non_finite": subject, "n_windows": windows},
        )  # fmt: skip
    return None


def _judge_ratio(bounds: RatioBounds, facts: Facts, policy: DecisionPolicy) -> CheckDecision:
    limits = policy.primary_metric
    numbers = _numbers(bounds, facts, policy)
    interval = (
        f"ratio {bounds.ratio:.4f}, bound {bounds.ratio_upper:.4f}, limit {limits.ratio_limit:g}"
    )
    short = _floor_not_met(bounds, facts, policy)
    if short is not None:
        return CheckDecision(
            "primary_metric", Outcome.INCONCLUSIVE, "below_floor",
            f"INCONCLUSIVE: {short}; {interval}", numbers,
        )  # fmt: skip
    if bounds.ratio > limits.catastrophic_ratio:
        return CheckDecision(
            "primary_metric", Outcome.FAIL, "catastrophic_spike",
            f"{interval}: beyond {limits.catastrophic_ratio:g} times the baseline's perplexity",
            numbers,
        )  # fmt: skip
    if bounds.ratio_upper <= limits.ratio_limit:
        return CheckDecision("primary_metric", Outcome.PASS, "within_limit", interval, numbers)
    if bounds.ratio_lower > limits.ratio_limit:
        return CheckDecision(
            "primary_metric", Outcome.FAIL, "beyond_limit",
            f"{interval}: even the lower bound {bounds.ratio_lower:.4f} is beyond the limit",
            numbers,
        )  # fmt: skip
    return CheckDecision(
        "primary_metric", Outcome.INCONCLUSIVE, "bound_straddles_limit",
        f"INCONCLUSIVE: {interval}, lower bound {bounds.ratio_lower:.4f}; {_more(numbers)}",
        numbers,
    )  # fmt: skip


def _floor_not_met(bounds: RatioBounds, facts: Facts, policy: DecisionPolicy) -> str | None:
    floors = policy.floors
    tokens = sum(int(arm.tokens.sum()) for arm in facts.arms.values())
    if bounds.n_documents < floors.documents:
        return f"{bounds.n_documents} documents, {floors.documents} are needed"
    if bounds.effective_documents < floors.effective_documents:
        return (
            f"{bounds.effective_documents:.1f} effective documents, "
            f"{floors.effective_documents:g} are needed"
        )
    needed = token_floor(facts, policy)
    if needed is not None and tokens < needed:
        return f"{tokens} tokens, {needed} are needed"
    return None


def token_floor(facts: Facts, policy: DecisionPolicy) -> int | None:
    """The token floor in force: never more than .8 of what the planned windows can hold."""
    if policy.floors.tokens is None:
        return None
    windows = facts.plan["windows"]
    planned = windows["preview_windows"] + windows["final_windows"]
    reachable: float = TOKEN_FLOOR_SHARE * planned * (facts.data["seq_len"] - 1)
    return min(policy.floors.tokens, math.floor(reachable))


def _numbers(
    bounds: RatioBounds, facts: Facts, policy: DecisionPolicy
) -> dict[str, float | int | str | None]:
    limits = policy.primary_metric
    limit_delta = math.log(limits.ratio_limit)
    needed = documents_needed(
        document_sd=bounds.document_sd,
        # Rounding can put Kish's number a hair above the count of equal documents.
        effective_share=min(1.0, bounds.effective_documents / bounds.n_documents),
        # Deciding for FAIL needs as many documents as deciding for PASS at the mirrored distance.
        true_delta=min(bounds.delta, 2 * limit_delta - bounds.delta),
        limit_delta=limit_delta,
        alpha=limits.alpha,
        power=1 - limits.alpha,
    )
    preview = facts.arms.get("preview")
    numbers: dict[str, float | int | str | None] = {
        "ratio": bounds.ratio,
        "ratio_upper": bounds.ratio_upper,
        "ratio_lower": bounds.ratio_lower,
        "limit": limits.ratio_limit,
        "preview_ratio": None if preview is None else _point_ratio(preview),
        "delta_nats_per_token": bounds.delta,
        "standard_error_nats_per_token": bounds.standard_error,
        "baseline_perplexity": _perplexity(facts.arms["final"].baseline_nll, facts.arms["final"]),
        "subject_perplexity": _perplexity(facts.arms["final"].subject_nll, facts.arms["final"]),
        "bca_lower_ratio": _exp(bounds.bca_lower),
        "bca_upper_ratio": _exp(bounds.bca_upper),
        "n_windows": bounds.n_windows,
        "n_tokens": bounds.n_tokens,
        "n_documents": bounds.n_documents,
        "effective_documents": bounds.effective_documents,
        "document_sd": bounds.document_sd,
        "skewness": bounds.skewness,
        "documents_needed": needed,
        "degenerate": bounds.degenerate,
    }
    # An infinite bound (degenerate "sparse") has no number in JSON.
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in numbers.items()
    }


def _point_ratio(arm: ArmLosses) -> float | None:
    return _exp(float((arm.subject_nll - arm.baseline_nll).sum() / arm.tokens.sum()))


def _perplexity(nll: np.ndarray[tuple[int], np.dtype[np.float64]], arm: ArmLosses) -> float | None:
    return _exp(float(nll.sum() / arm.tokens.sum()))


def _exp(value: float) -> float | None:
    """exp, or None where a destroyed model's loss exceeds what a double holds as a perplexity."""
    return math.exp(value) if value < LARGEST_EXPONENT else None


def _more(numbers: dict[str, float | int | str | None]) -> str:
    needed = numbers["documents_needed"]
    if not isinstance(needed, int):
        return "the measured ratio stands at the limit: no number of documents would decide it"
    more = max(needed - int(numbers["n_documents"] or 0), 1)
    return f"about {more} documents more would decide it"


def _expectation(
    expected: Expectation, checks: tuple[CheckDecision, ...], fired: tuple[str, ...]
) -> tuple[Outcome, bool, str]:
    """The scenario's outcome, whether it met the expectation, and a sentence."""
    errors = [check for check in checks if check.outcome is Outcome.ERROR]
    if expected.wants_detection:
        return _detection(expected, checks, fired)
    if errors:
        return Outcome.ERROR, False, f"ERROR: {errors[0].text}"
    worst = _worst(checks)
    if expected.strictness is Strictness.INFORMATIONAL:
        signal = ", ".join(fired) if fired else "nothing"
        return worst.outcome, True, f"informational: {signal} fired"
    return worst.outcome, worst.outcome.acceptable, worst.text


def _detection(
    expected: Expectation, checks: tuple[CheckDecision, ...], fired: tuple[str, ...]
) -> tuple[Outcome, bool, str]:
    any_of = expected.detectors_any or (
        () if expected.detectors_all else tuple(c.check for c in checks)
    )
    named = [*expected.detectors_all, *any_of]
    hit = (
        bool(named)
        and all(name in fired for name in expected.detectors_all)
        and (not any_of or any(name in fired for name in any_of))
    )
    reasons = "; ".join(
        f"{check.check} {check.outcome}: {check.text}" for check in checks if check.check in named
    )
    if hit:
        return Outcome.FAIL, True, f"detected by {', '.join(fired)}: {reasons}"
    relevant = [check for check in checks if check.check in named]
    worst = _worst(tuple(relevant)) if relevant else None
    outcome = worst.outcome if worst is not None else Outcome.ERROR
    return outcome, False, reasons or "no declared detector was evaluated"


_SEVERITY = (Outcome.PASS, Outcome.WARN, Outcome.INCONCLUSIVE, Outcome.FAIL, Outcome.ERROR)


def _worst(checks: tuple[CheckDecision, ...]) -> CheckDecision:
    if not checks:
        return CheckDecision("none", Outcome.ERROR, "not_evaluated", "the policy demands no check")
    return max(checks, key=lambda check: _SEVERITY.index(check.outcome))
