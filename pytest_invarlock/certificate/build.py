"""Build a certificate from a record and the decision on it; nothing in it is judged here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jsonschema.validators import Draft202012Validator

from pytest_invarlock.certificate.identities import assert_identities
from pytest_invarlock.checks.floors import guard_window_floor, token_floor
from pytest_invarlock.decide import decide
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.strict_json import digest
from pytest_invarlock.policy.resources import schema

if TYPE_CHECKING:
    from pytest_invarlock.decision import Decision
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.records import Facts, Record

SCHEMA_VERSION = "v1"
_FLAGS = {
    "primary_metric": "primary_metric_acceptable",
    "drift": "drift_acceptable",
    "tail": "tail_acceptable",
    "invariants": "invariants_pass",
    "guard_overhead": "guard_overhead_acceptable",
}
_PAIRING = ("match_fraction", "overlap_fraction", "duplicate_fraction")


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
        "convention": decision.convention,
        "primary_metric": _primary_metric(facts, decision),
        "tail": _numbers(decision, "tail"),
        "drift": _numbers(decision, "drift"),
        "divergence": dict(facts.divergence),
        "noise_floor": dict(facts.noise_floor),
        "pairing": {key: facts.data.get(key) for key in _PAIRING},
        "structure": _structure(facts),
        "guards": {name: dict(evidence) for name, evidence in facts.guards.items()},
        "attested": {name: dict(entry) for name, entry in facts.attested.items()},
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
    assert_identities(certificate, facts)
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
    return {
        _FLAGS[check.check]: check.outcome.acceptable
        for check in decision.checks
        if check.check in _FLAGS
    }


def _numbers(decision: Decision, name: str) -> dict[str, Any] | None:
    """The numbers of a check; None where the policy does not demand it."""
    return next((dict(check.numbers) for check in decision.checks if check.check == name), None)


def _primary_metric(facts: Facts, decision: Decision) -> dict[str, Any] | None:
    numbers = _numbers(decision, "primary_metric")
    return None if numbers is None else {"kind": facts.plan["metric"], **numbers}


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
        "guard_windows": guard_window_floor(facts, policy),
        "tokens": token_floor(facts, policy) if facts.error is None else policy.floors.tokens,
    }
