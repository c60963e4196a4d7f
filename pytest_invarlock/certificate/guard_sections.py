"""A certificate's sections of the guards: what `decide` said of each, under the original's names.

Every number is one the decision stated; nothing here is compared with a limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_invarlock.decision import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.decision import CheckDecision, Decision

FAMILIES = ("ffn", "attn", "embed", "other")
NOT_JUDGED = ("not_planned", "not_applicable")
"""Reasons of checks that are no error and judged nothing."""
Section = dict[str, Any]


def check_of(decision: Decision, name: str) -> CheckDecision | None:
    """The decision on check ``name``; None where the policy does not demand it."""
    return next((check for check in decision.checks if check.check == name), None)


def was_judged(check: CheckDecision | None) -> bool:
    """Whether the check was demanded and had something to judge."""
    return (
        check is not None and check.outcome is not Outcome.ERROR and check.reason not in NOT_JUDGED
    )


def guard_sections(decision: Decision) -> dict[str, Section]:
    """The sections of the built-in guards and of what guards did to the models."""
    return {
        "invariants": _invariants(check_of(decision, "invariants")),
        "spectral": _spectral(check_of(decision, "spectral")),
        "rmt": _rmt(check_of(decision, "rmt")),
        "variance": _variance(check_of(decision, "variance")),
        "guard_overhead": _overhead(check_of(decision, "guard_overhead")),
    }


def _head(check: CheckDecision | None) -> Section:
    """Whether the check was evaluated and what it came to; nothing of it holds by default."""
    return {
        "evaluated": was_judged(check),
        "status": None if check is None else check.outcome.value.lower(),
        "passed": check.outcome.acceptable if check is not None and was_judged(check) else None,
        "reason": "not_demanded" if check is None else check.reason,
        "n_violations": 0 if check is None else len(check.violations),
    }


def _numbers(check: CheckDecision | None) -> Mapping[str, Any]:
    return {} if check is None else check.numbers


def _named(numbers: Mapping[str, Any], *keys: str) -> Section:
    return {key: numbers.get(key) for key in keys}


def _starting(numbers: Mapping[str, Any], prefix: str) -> Section:
    return {key: value for key, value in numbers.items() if key.startswith(prefix)}


def _truth(value: int | None) -> bool | None:
    """A truth value that a decision states as 0 or 1."""
    return None if value is None else bool(value)


def _invariants(check: CheckDecision | None) -> Section:
    numbers = _numbers(check)
    counts = ("n_tensors", "n_parameters")
    return {
        **_head(check),
        **_named(numbers, *counts),
        "differences": {
            key.removeprefix("n_"): value for key, value in numbers.items() if key not in counts
        },
    }


def _spectral(check: CheckDecision | None) -> Section:
    numbers, judged = _numbers(check), was_judged(check)
    return {
        **_head(check),
        "caps_applied": numbers.get("caps_applied") if judged else None,
        "caps_exceeded": _truth(numbers.get("caps_exceeded")) if judged else None,
        **_named(
            numbers, "max_caps", "max_spectral_norm", "scope", "sigma_quantile", "z_quantile",
            "multiple_testing", "modules_checked", "modules_changed", "coverage", "ln_sigma",
            "ln_stable_rank", "ln_frobenius", "relative_change", "edge_of_change", "canon",
            "outer_change",
        ),
        "families": {
            family: {
                "cap": numbers[f"family_caps.{family}"],
                "deadband": numbers.get(f"deadband.{family}"),
                "z_max": numbers.get(f"z_max.{family}"),
            }
            for family in FAMILIES
            if f"family_caps.{family}" in numbers
        },
        "violations": [
            {"type": found["kind"], "module": found["module"], "family": found["family"]}
            for found in (() if check is None else check.violations)
        ],
    }  # fmt: skip


def _rmt(check: CheckDecision | None) -> Section:
    numbers, head = _numbers(check), _head(check)
    return {
        **head,
        "stable": head["passed"],
        **_named(numbers, "n_branches", "n_branches_compared", "n_windows", "n_newly_dead"),
        **_named(numbers, "outliers", "outliers_reason", "outlier_factor"),
        "outliers_within_epsilon": _truth(numbers.get("stable")),
        "families": {
            family: {
                "epsilon": numbers[f"epsilon_{family}"],
                "outliers_bare": numbers.get(f"outliers_bare_{family}"),
                "outliers_guarded": numbers.get(f"outliers_guarded_{family}"),
            }
            for family in FAMILIES
            if f"epsilon_{family}" in numbers
        },
        "largest": _starting(numbers, "largest_"),
    }


def _variance(check: CheckDecision | None) -> Section:
    numbers = _numbers(check)
    tried = "gain" in numbers
    return {
        **_head(check),
        **_named(numbers, "n_branches", "n_branches_compared", "n_windows"),
        **_named(numbers, "proposals", "proposals_reason", "n_eligible", "n_proposed"),
        "predictive_gate": {
            "evaluated": tried,
            "mean": numbers.get("gain"),
            "delta_ci": [numbers["gain_lower"], numbers["gain_upper"]] if tried else None,
            "n_documents": numbers.get("gain_documents"),
            "repairable": _truth(numbers.get("repairable")),
            "reading": numbers.get("reading"),
        },
        "remediation": _starting(numbers, "remediation"),
        "largest": _starting(numbers, "largest_"),
    }


def _overhead(check: CheckDecision | None) -> Section:
    numbers = _numbers(check)
    return {
        **_head(check),
        "overhead_ratio": numbers.get("guarded_ratio"),
        **_named(numbers, "loss_before_nats", "loss_after_nats", "n_turns"),
    }
