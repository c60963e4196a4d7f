"""Regate: the records of a verified pack judged again under another policy. Without torch.

Nothing is measured and nothing is sealed: what the plan did not ask for is INCONCLUSIVE, and the
new verdict is a computation of whoever makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_invarlock.calibration.requirement import calibration_problem
from pytest_invarlock.decide import decide
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.pack_files import in_order, run_verdict
from pytest_invarlock.evidence.pack_schemas import POLICY, RECORD_NAME, VERDICT
from pytest_invarlock.evidence.rederive import HOSTILE, pack_metadata
from pytest_invarlock.policy.decision_policy import policies_by_scenario, policies_digest
from pytest_invarlock.policy.regate_policy import dropped
from pytest_invarlock.records import Record, record_from_bytes
from pytest_invarlock.verdict import RunVerdict

if TYPE_CHECKING:
    from pytest_invarlock.decision import Decision
    from pytest_invarlock.evidence.verified import VerifiedPack
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.policy.regate_policy import OtherPolicy, Policies
    from pytest_invarlock.records import Facts

REGATE_FORMAT = "invarlock-regate-v1"


@dataclass(frozen=True, slots=True)
class Regated:
    """The old verdict of a pack and the new one, record by record.

    ``source`` identifies the pack: digest, signer, run, suite, verdict and policy digest.
    ``old`` are the pack's own decisions by (model, scenario, draw), as its verdict states them.
    """

    source: Mapping[str, str | None]
    name: str
    policies: tuple[DecisionPolicy, ...]
    old: Mapping[tuple[str, str, int], Mapping[str, Any]]
    records: tuple[Record, ...]
    decisions: tuple[Decision, ...]
    verdict: RunVerdict
    dropped: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The new verdict as plain JSON values; it says that nobody sealed it."""
        documents = [policy.document() for policy in self.policies]
        return {
            **self.verdict.document(),
            "format": REGATE_FORMAT,
            "sealed": False,
            "source": dict(self.source),
            "policy": self.name,
            "policy_digest": policies_digest(documents),
            "policies": documents,
            "dropped": list(self.dropped),
            "decisions": [
                self._row(record, decision)
                for record, decision in zip(self.records, self.decisions, strict=True)
            ],
        }

    def _row(self, record: Record, decision: Decision) -> dict[str, Any]:
        before = self.old[(decision.model, decision.scenario, decision.draw)]
        return {
            "model": decision.model,
            "scenario": decision.scenario,
            "draw": decision.draw,
            "facts_digest": record.facts.digest,
            "old_outcome": before["outcome"],
            "old_expectation_met": before["expectation_met"],
            "outcome": decision.outcome.value,
            "expectation_met": decision.expectation_met,
            "text": decision.text,
            "checks": [
                {"check": c.check, "outcome": c.outcome.value, "reason": c.reason, "text": c.text}
                for c in decision.checks
            ],
        }


def regate(pack: VerifiedPack, other: OtherPolicy) -> Regated:
    """Judge every record of ``pack`` under ``other``; the pack has passed every stage already.

    Raises:
        ConfigError: UNKNOWN_SCENARIO where the other policies say nothing about a scenario.
        EvidenceError: UNDECIDABLE where a record's numbers cannot be reckoned with.
    """
    documents = pack.read_json(POLICY)["policies"]
    old = policies_by_scenario(documents)
    header = pack.manifest.header
    metadata = pack_metadata(pack, header.run_id)
    sound = {
        model: preset
        for model, preset in metadata.presets.items()
        if preset is not None and calibration_problem(preset) is None
    }
    new = other.replacing(old, sound)
    judged = in_order(
        # One at a time: a pack may hold more arrays than memory does.
        _judged(_record(pack, path), new, other.parameters)
        for path in filter(RECORD_NAME.fullmatch, pack.names())
    )
    stated = pack.read_json(VERDICT)
    return Regated(
        source={
            "pack_digest": f"sha256:{pack.sha256('manifest.json')}",
            "signer": pack.signed_by,
            "run_id": header.run_id,
            "suite": header.suite,
            "verdict": header.verdict,
            "policy_digest": header.policy_digest,
        },
        name=other.name,
        policies=tuple({id(policy): policy for policy in new.values()}.values()),
        old={(d["model"], d["scenario"], d["draw"]): d for d in stated["decisions"]},
        records=tuple(record for record, _ in judged),
        decisions=tuple(decision for _, decision in judged),
        verdict=run_verdict(judged, new, metadata),
        dropped=dropped(old, new),
    )


def _judged(
    record: Record, policies: Policies, parameters: Mapping[str, Mapping[str, Any]]
) -> tuple[Record, Decision]:
    decision = _decided(record.facts, policies, parameters)
    return record.without_measurements(), decision


def _decided(
    facts: Facts, policies: Policies, parameters: Mapping[str, Mapping[str, Any]]
) -> Decision:
    policy = policies[(facts.model, facts.scenario)]
    try:
        return decide(_as_asked(facts, parameters), policy)
    except HOSTILE as error:
        raise EvidenceError(
            f"{facts.model}::{facts.scenario} run {facts.draw} cannot be judged: "
            f"{type(error).__name__}: {str(error)[:200]}",
            remedy="do not rely on this record",
            code="UNDECIDABLE",
        ) from error


def _as_asked(facts: Facts, parameters: Mapping[str, Mapping[str, Any]]) -> Facts:
    """``facts`` without the guards that answered with other arguments than are asked for now."""
    asked: Mapping[str, Any] = facts.plan.get("foreign_guards", {})
    others = {
        name
        for name, given in parameters.items()
        if name in asked and dict(asked[name]["parameters"]) != dict(given)
    }
    if not others:
        return facts
    kept = {name: one for name, one in asked.items() if name not in others}
    return replace(
        facts,
        plan={**facts.plan, "foreign_guards": kept},
        attested={name: one for name, one in facts.attested.items() if name not in others},
    )


def _record(pack: VerifiedPack, path: str) -> Record:
    return record_from_bytes(pack.read_json(path), pack.read(path.replace(".record.json", ".npz")))
