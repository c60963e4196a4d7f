"""Build a certificate from a record and the decision on it; nothing in it is judged here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_invarlock.certificate import sections
from pytest_invarlock.certificate.guard_sections import guard_sections
from pytest_invarlock.certificate.identities import assert_identities
from pytest_invarlock.decide import decide
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.policy.quick_schema import first_violation

if TYPE_CHECKING:
    from pytest_invarlock.decision import Decision
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.records import Facts, Record

SCHEMA_VERSION = "v1"


def make_certificate(
    record: Record,
    policy: DecisionPolicy,
    *,
    run_id: str,
    decision: Decision | None = None,
    validate: bool = True,
) -> dict[str, Any]:
    """The certificate of ``record`` under ``policy``, as plain JSON values that fit the schema.

    ``decision`` is `decide`'s of the same facts under the same policy, where it was made already;
    without ``validate`` the caller answers for the schema. The identities are asserted always.

    Raises EvidenceError where its own identities do not hold; that would be a defect of ours.
    """
    # Digested once: that reads every array.
    facts, facts_digest = record.facts, record.facts.digest
    if decision is None:
        decision = decide(facts, policy)
    certificate = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        **_identity(facts, policy),
        **_judged(facts, policy, decision),
        **_measured(facts),
        "facts_digest": facts_digest,
        "seeds": sections.seeds(record, facts_digest),
        "determinism": sections.determinism(record),
        "environment": sections.environment(record),
    }
    assert_identities(certificate, facts)
    if validate:
        validate_certificate(certificate)
    return certificate


def validate_certificate(certificate: Mapping[str, Any]) -> None:
    """Raise EvidenceError where ``certificate`` does not satisfy the shipped schema.

    Counts are integers and numbers are finite there: ``64.0`` and NaN are refused.
    """
    error = first_violation("certificate", dict(certificate))
    if error is not None:
        where = "/".join(map(str, error.absolute_path)) or "certificate"
        raise EvidenceError(
            f"{where}: {error.message}", remedy="do not use it", code="CERTIFICATE_SCHEMA"
        )


def _identity(facts: Facts, policy: DecisionPolicy) -> dict[str, Any]:
    """What the certificate is of, and the digests that tie it to its record, plan and policy."""
    return {
        "model": facts.model,
        "scenario": facts.scenario,
        "draw": facts.draw,
        "kind": facts.kind,
        "identity": {"baseline": dict(facts.baseline), "subject": dict(facts.subject)},
        "edit": None if facts.edit is None else dict(facts.edit),
        "plan": dict(facts.plan),
        "auto": {"tier": policy.tier, "profile": policy.profile},
        "plan_digest": facts.plan_digest,
        "policy_digest": policy.digest,
        "plugins": sections.plugins(facts),
        "provenance": sections.provenance(facts, policy),
    }


def _judged(facts: Facts, policy: DecisionPolicy, decision: Decision) -> dict[str, Any]:
    """What `decide` said, whole and by section."""
    metric = sections.primary_metric(facts, decision)
    return {
        "decision": decision.document(),
        "validation": sections.validation(decision),
        "convention": decision.convention,
        "primary_metric": metric,
        "tail": sections.numbers_of(decision, "tail"),
        "drift": sections.numbers_of(decision, "drift"),
        **guard_sections(decision),
        "confidence": sections.confidence(metric, decision),
        "floors": sections.floors(facts, policy, decision),
    }


def _measured(facts: Facts) -> dict[str, Any]:
    """What the facts hold, decided on or not."""
    return {
        "divergence": dict(facts.divergence),
        "noise_floor": dict(facts.noise_floor),
        "pairing": sections.pairing(facts),
        "coverage": sections.coverage(facts),
        "structure": sections.structure(facts),
        "guards": {name: dict(evidence) for name, evidence in facts.guards.items()},
        "attested": {name: dict(entry) for name, entry in facts.attested.items()},
        "dataset": dict(facts.data),
        "tokenizer": sections.tokenizer(facts),
    }
