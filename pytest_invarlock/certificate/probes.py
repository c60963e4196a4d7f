"""Probes: what one guard's evidence shows, in a file beside the certificate of who asks for it.

A probe is a pure function of a record and its policy, and every number in it compares the subject
with its baseline. It decides nothing: ``check`` says what the guard's check came to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from invarlock_guards.judge.rmt import RMTPolicy, edge_growth
from invarlock_guards.judge.variance import proposal_metrics
from invarlock_guards.judge.variance_policy import VariancePolicy

from pytest_invarlock.decide import decide
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.policy.quick_schema import first_violation

if TYPE_CHECKING:
    from pytest_invarlock.decision import Decision
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.records import Facts, Record

FILES: Mapping[str, str] = {"rmt": "rmt_probe.json", "variance": "ve_probe.json"}
"""The file of each probe, by the guard whose evidence it is made of."""
Told = Mapping[tuple[str | None, str], Mapping[str, Any]]
SCHEMAS: Mapping[str, str] = {"rmt": "rmt_probe", "variance": "ve_probe"}


def probes_of(scenarios: Iterable[Mapping[str, Any]], model: str, scenario: str) -> tuple[str, ...]:
    """The probes that a scenario of ``model`` asks for, of the scenarios as a plan tells them."""
    return probes_asked(by_model_and_name(scenarios), model, scenario)


def by_model_and_name(scenarios: Iterable[Mapping[str, Any]]) -> Told:
    """Scenarios as a plan tells them, by model, None for those of every model, and name."""
    return {(entry.get("model"), entry["scenario"]): entry for entry in scenarios}


def probes_asked(told: Told, model: str, scenario: str) -> tuple[str, ...]:
    """As `probes_of`, of scenarios that are `by_model_and_name`."""
    entry = told.get((model, scenario), told.get((None, scenario), {}))
    return tuple(entry.get("probes", ()))


def make_probe(
    name: str,
    record: Record,
    policy: DecisionPolicy,
    *,
    run_id: str,
    decision: Decision | None = None,
) -> dict[str, Any]:
    """The probe of guard ``name``, one of `FILES`, as plain JSON values that fit its schema.

    ``decision`` is `decide`'s of the same facts under the same policy, where it was made already.

    Raises EvidenceError where they do not; that would be a defect of ours.
    """
    facts = record.facts
    found = _rmt(facts, policy) if name == "rmt" else _variance(facts, policy)
    probe = {
        "format": f"invarlock-{SCHEMAS[name].replace('_', '-')}-v1",
        "run_id": run_id,
        "model": facts.model,
        "scenario": facts.scenario,
        "draw": facts.draw,
        "facts_digest": facts.digest,
        "policy_digest": policy.digest,
        "check": _check(name, policy, decision or decide(facts, policy)),
        **found,
    }
    error = first_violation(SCHEMAS[name], probe)
    if error is not None:
        where = "/".join(map(str, error.absolute_path)) or FILES[name]
        raise EvidenceError(
            f"{where}: {error.message}", remedy="do not use it", code="PROBE_SCHEMA"
        )
    return probe


def _check(name: str, policy: DecisionPolicy, decision: Decision) -> dict[str, str] | None:
    """What the guard's check came to; None where the policy does not demand it."""
    if name not in policy.checks:
        return None
    check = decision.check(name)
    return {"outcome": check.outcome.value, "reason": check.reason, "text": check.text}


def _unread(name: str, facts: Facts) -> str | None:
    """Why the record holds no evidence of guard ``name``; None where it does."""
    if facts.error is not None:
        return f"the measurement ended with {facts.error}"
    evidence = facts.guards.get(name)
    if evidence is None:
        return f"the record holds no evidence of {name}"
    if "not_evaluated" in evidence:
        return str(evidence["not_evaluated"])
    return None if evidence["branches"] else str(evidence["reason"] or "no branch was compared")


def _rmt(facts: Facts, policy: DecisionPolicy) -> dict[str, Any]:
    why = _unread("rmt", facts)
    evidence: Mapping[str, Any] = {} if why is not None else facts.guards["rmt"]
    limits = RMTPolicy.from_mapping(policy.guards.get("rmt", {}))
    families = edge_growth(evidence, limits) if evidence else []
    if not families and why is None:
        why = "no edge was measured"
    known = [row.unstable for row in families]
    stable = None if None in known or not known else True
    return {
        "status": "measured" if why is None else "not_evaluated",
        "reason": why,
        "stable": False if True in known else stable,
        "n_windows": evidence.get("n_windows", 0),
        "n_edge_windows": evidence.get("n_edge_windows", 0),
        "families": [asdict(row) for row in families],
    }


def _variance(facts: Facts, policy: DecisionPolicy) -> dict[str, Any]:
    why = _unread("variance", facts)
    evidence: Mapping[str, Any] = {} if why is not None else facts.guards["variance"]
    limits = VariancePolicy.from_mapping(policy.guards.get("variance", {}))
    numbers = proposal_metrics(evidence, limits)
    proposals: Mapping[str, Any] = evidence.get("proposals") or {}
    status = str(numbers["proposals"]) if why is None else "not_evaluated"
    scales: Mapping[str, float] = proposals.get("scales") or {} if status == "measured" else {}
    gain = _gain(numbers, limits)
    reason = (
        why
        or numbers.get("proposals_reason")
        or (proposals.get("ab_reason") if gain is None else None)
    )
    if status == "not_measured":
        reason = "no proposal was measured"
    signal = numbers.get("repairable") if scales else (False if status == "measured" else None)
    return {
        "status": status,
        "reason": reason,
        "n_eligible": proposals.get("n_eligible"),
        "proposals": [{"module": name, "scale": scale} for name, scale in scales.items()],
        "gain": gain,
        "min_effect_lognll": limits.min_effect_lognll,
        "signal": signal,
    }


def _gain(numbers: Mapping[str, Any], limits: VariancePolicy) -> dict[str, Any] | None:
    """What the proposals gain, in nats per token, with its interval; None where nothing was tried.

    Numbers that are not finite are None.
    """
    if "gain" not in numbers:
        return None
    return {
        "mean": _finite(numbers["gain"]),
        "lower": _finite(numbers["gain_lower"]),
        "upper": _finite(numbers["gain_upper"]),
        "n_documents": numbers["gain_documents"],
        "alpha": limits.alpha,
        "one_sided": limits.predictive_one_sided,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
