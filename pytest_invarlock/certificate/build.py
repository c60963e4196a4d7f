"""Build a certificate from a record and the decision on it; nothing in it is judged here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jsonschema.validators import Draft202012Validator

from pytest_invarlock.decide import decide, token_floor
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.strict_json import digest
from pytest_invarlock.policy.resources import schema

if TYPE_CHECKING:
    from pytest_invarlock.decision import Decision
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.records import Facts, Record

SCHEMA_VERSION = "v1"
IDENTITY_TOLERANCE = 1e-9
LARGEST_LOG_RATIO = 709.0


def make_certificate(record: Record, policy: DecisionPolicy, *, run_id: str) -> dict[str, Any]:
    """The certificate of ``record`` under ``policy``, as plain JSON values that fit the schema.

    Raises EvidenceError where its own identities do not hold; that would be a defect of ours.
    """
    facts = record.facts
    decision = decide(facts, policy)
    certificate = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "model": facts.model,
        "scenario": facts.scenario,
        "draw": facts.draw,
        "kind": facts.kind,
        "decision": decision.document(),
        "validation": _validation(decision),
        "primary_metric": _primary_metric(facts, decision),
        "structure": _structure(facts),
        "guards": {name: dict(evidence) for name, evidence in facts.guards.items()},
        "dataset": dict(facts.data),
        "identity": {"baseline": dict(facts.baseline), "subject": dict(facts.subject)},
        "edit": None if facts.edit is None else dict(facts.edit),
        "plan": dict(facts.plan),
        "auto": {"tier": policy.tier, "profile": policy.profile},
        "floors": _floors(facts, policy),
        "plan_digest": facts.plan_digest,
        "policy_digest": digest(policy.document()),
        "facts_digest": facts.digest,
        "environment": {
            key: record.observations[key]
            for key in ("versions", "machine", "device")
            if key in record.observations
        },
    }
    _assert_identities(certificate, facts)
    validate_certificate(certificate)
    return certificate


def validate_certificate(certificate: Mapping[str, Any]) -> None:
    """Raise EvidenceError where ``certificate`` does not satisfy the shipped schema."""
    error = next(Draft202012Validator(schema("certificate")).iter_errors(dict(certificate)), None)
    if error is not None:
        where = "/".join(map(str, error.absolute_path)) or "certificate"
        raise EvidenceError(
            f"{where}: {error.message}", remedy="do not use it", code="CERTIFICATE_SCHEMA"
        )


def _validation(decision: Decision) -> dict[str, bool]:
    flags = {
        "primary_metric": "primary_metric_acceptable",
        "invariants": "invariants_pass",
    }
    return {
        flags[check.check]: check.outcome.acceptable
        for check in decision.checks
        if check.check in flags
    }


def _primary_metric(facts: Facts, decision: Decision) -> dict[str, Any] | None:
    for check in decision.checks:
        if check.check == "primary_metric":
            return {"kind": facts.plan["metric"], **dict(check.numbers)}
    return None


def _structure(facts: Facts) -> dict[str, int | None]:
    """How much an edit changed; of a compared checkpoint this is not counted yet."""
    edit = facts.edit or {}
    return {
        "tensors_changed": edit.get("n_tensors_changed"),
        "params_changed": edit.get("n_parameters_changed"),
    }


def _floors(facts: Facts, policy: DecisionPolicy) -> dict[str, float | int | None]:
    return {
        "documents": policy.floors.documents,
        "effective_documents": policy.floors.effective_documents,
        "tokens": token_floor(facts, policy) if facts.error is None else policy.floors.tokens,
    }


def _assert_identities(certificate: Mapping[str, Any], facts: Facts) -> None:
    """ratio = exp(mean ΔlogNLL) from the arrays, and the bounds enclose it."""
    metric = certificate["primary_metric"]
    if metric is None or "ratio" not in metric:
        return
    final = facts.arms["final"]
    delta = float((final.subject_nll - final.baseline_nll).sum() / final.tokens.sum())
    ratio, lower, upper = metric["ratio"], metric["ratio_lower"], metric["ratio_upper"]
    if ratio is None:
        # Beyond what a double holds as a ratio; the difference itself is recorded.
        follows, ordered = delta > LARGEST_LOG_RATIO, True
    else:
        follows = math.isclose(math.log(ratio), delta, rel_tol=1e-12, abs_tol=IDENTITY_TOLERANCE)
        ordered = (lower is None or lower <= ratio) and (upper is None or ratio <= upper)
    if not (follows and ordered):
        raise EvidenceError(
            f"{facts.model}::{facts.scenario}: ratio and interval do not follow from the losses",
            remedy="report this",
            code="CERTIFICATE_IDENTITY",
        )
