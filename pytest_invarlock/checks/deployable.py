"""Deployable: packed weights are stored packed, load again as they were, compute, and save memory.

The evidence is what files, memory and outputs showed; the backend's word is taken for none of it
but for which stored tensors hold which weight, and what those do not explain fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_invarlock.checks.consistency import applied_edit, identities
from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.policy.deploy_limits import DEPLOYABLE, SKIPPED_CODE
from pytest_invarlock.policy.deploy_names import DEPLOY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.checks.divergence import Numbers
    from pytest_invarlock.policy.decision_policy import DecisionPolicy, Expectation
    from pytest_invarlock.policy.deploy_limits import DeployLimits
    from pytest_invarlock.records import Facts

Evidence = dict[str, Any]
Violation = dict[str, Any]


def skipped_reason(facts: Facts, expected: Expectation) -> str | None:
    """Why a scenario that deploys was skipped; None where it was not, or may not be."""
    evidence = facts.guards.get(DEPLOYABLE, {})
    if not expected.deployable or facts.error != SKIPPED_CODE or facts.arms:
        return None
    if facts.plan.get("subject", {}).get("name") != DEPLOY:
        return None
    reason: str | None = evidence.get("not_evaluated")
    return reason


def deployable(facts: Facts, policy: DecisionPolicy) -> CheckDecision:
    """Judge what a deployment showed.

    In order: not evaluated or contradictory (ERROR); stored unpacked, too large, other after
    reloading, or not computing (FAIL, each a violation, the first of them the reason).
    """
    evidence = facts.guards.get(DEPLOYABLE)
    if evidence is None or policy.deployable is None:
        text = f"the policy demands {DEPLOYABLE}, and the record holds no evidence of it"
        return CheckDecision(DEPLOYABLE, Outcome.ERROR, "not_evaluated", text)
    if "not_evaluated" in evidence:
        text = f"not evaluated: {evidence['not_evaluated']}"
        return CheckDecision(DEPLOYABLE, Outcome.ERROR, "not_evaluated", text)
    evidence = dict(evidence)
    against = identities(facts) or applied_edit(facts) or _contradiction(evidence, facts)
    if against is not None:
        text = f"the record contradicts itself: {against}"
        return CheckDecision(DEPLOYABLE, Outcome.ERROR, "contradictory", text)
    numbers = _numbers(evidence)
    limits = policy.deployable
    found = [
        *_unpacked(evidence, limits),
        *_sizes(numbers, limits),
        *_reloaded(evidence, limits),
        *_computed(evidence, limits),
    ]
    if found:
        text = "; ".join(_told(one) for one in found[:3])
        return CheckDecision(
            DEPLOYABLE, Outcome.FAIL, found[0]["kind"], text, numbers, tuple(found)
        )
    text = (
        f"{len(evidence['weights'])} weights in {numbers['bits_per_weight']:.3g} bits each, "
        f"{numbers['storage_ratio']:.3g} of the stored and {numbers['memory_ratio']:.3g} of the "
        "loaded bytes; the same after reloading"
    )
    return CheckDecision(DEPLOYABLE, Outcome.PASS, "deployable", text, numbers)


def _numbers(evidence: Evidence) -> Numbers:
    weights, smoke = evidence["weights"], evidence["smoke"]
    stored = sum(one["stored_bytes"] for one in weights)
    return {
        "n_weights": len(weights),
        "bits_per_weight": 8 * stored / sum(one["n_parameters"] for one in weights),
        "stored_bytes": evidence["storage"]["bytes"],
        "storage_ratio": evidence["storage"]["bytes"] / evidence["baseline_storage_bytes"],
        "loaded_bytes": evidence["memory"]["bytes"],
        "memory_ratio": evidence["memory"]["bytes"] / evidence["memory"]["baseline_bytes"],
        "largest_logit_difference": evidence["reload"]["largest_difference"],
        "generated_tokens": smoke["generated_tokens"],
    }


def _contradiction(evidence: Evidence, facts: Facts) -> str | None:
    edit, weights = facts.edit or {}, evidence["weights"]
    names = {one["name"] for one in weights}
    stored = sum(one["stored_bytes"] for one in weights) + evidence["storage"]["plain_bytes"]
    after = evidence["reload"]["tensors_after"]
    if edit.get("name") != DEPLOY or edit["parameters"] != {
        key: evidence[key] for key in ("backend", "scheme")
    }:
        return "another backend or scheme was used than was applied"
    if not weights or len(names) < len(weights) or len(weights) != edit["n_tensors_touched"]:
        return f"{len(names)} packed weights are listed, {edit['n_tensors_touched']} were packed"
    if sum(one["n_parameters"] for one in weights) != edit["n_parameters_touched"]:
        return "the packed weights stand for another number of parameters than was packed"
    if stored > evidence["storage"]["bytes"]:
        return "more bytes of tensors are stored than the files have"
    if after != facts.subject.get("tensors_digest"):
        return "what was loaded is another model than the one that was measured"
    different, total = evidence["reload"]["n_different"], evidence["reload"]["n_logits"]
    largest = evidence["reload"]["largest_difference"]
    if different is not None and (different > total or (different == 0) is not (largest == 0)):
        return "the number of logits that differ and their largest difference do not go together"
    return None


def _unpacked(evidence: Evidence, limits: DeployLimits) -> list[Violation]:
    most = evidence["bits"] * limits.bits_overhead
    found = [
        _violation("not_packed", one["name"], bits, f"{most:g} bits")
        for one in evidence["weights"]
        if not 0 < (bits := 8 * one["stored_bytes"] / one["n_parameters"]) <= most
    ]
    return found + [
        _violation("unexplained_storage", name, "stored", "nothing beside the model")
        for name in evidence["storage"]["unexplained"]
    ]


def _sizes(numbers: Numbers, limits: DeployLimits) -> list[Violation]:
    found = []
    for key in ("storage_ratio", "memory_ratio"):
        value, limit = numbers[key], getattr(limits, key)
        if not isinstance(value, float) or value > limit:
            found.append(_violation(key, "the model", value, limit))
    return found


def _reloaded(evidence: Evidence, limits: DeployLimits) -> list[Violation]:
    reload = evidence["reload"]
    found = []
    if reload["tensors_before"] != reload["tensors_after"]:
        found.append(_violation("reload_differs", "its tensors", "other", "the same bits"))
    largest = reload["largest_difference"]
    if largest is None or largest > limits.logit_difference:
        found.append(
            _violation("reload_differs", "its logits", largest, f"{limits.logit_difference:g}")
        )
    return found


def _computed(evidence: Evidence, limits: DeployLimits) -> list[Violation]:
    smoke = evidence["smoke"]
    found = []
    if smoke["shape"] != smoke["expected_shape"]:
        shapes = (str(smoke["shape"]), str(smoke["expected_shape"]))
        found.append(_violation("smoke_shape", "its logits", *shapes))
    if smoke["non_finite"]:
        found.append(_violation("smoke_non_finite", "its logits", smoke["non_finite"], 0))
    tokens = smoke["generated_tokens"]
    if smoke["error"] is not None:
        found.append(_violation("smoke_generation", "generating", smoke["error"], "no error"))
    elif tokens is not None and tokens < limits.generated_tokens:
        found.append(_violation("smoke_generation", "new tokens", tokens, limits.generated_tokens))
    return found


def _violation(kind: str, what: str, value: Any, threshold: Any) -> Violation:
    return {
        "kind": kind,
        "module": what,
        "family": "other",
        "value": str(value) if value is None else value,
        "threshold": threshold,
    }


def _told(violation: Mapping[str, Any]) -> str:
    kind = violation["kind"].replace("_", " ")
    value = violation["value"]
    shown = f"{value:.4g}" if isinstance(value, float) else value
    return f"{kind}: {violation['module']} {shown}, allowed {violation['threshold']}"
