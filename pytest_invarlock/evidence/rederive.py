"""The semantic stage of verification: does every verdict follow from the recorded numbers?

Numpy and scipy only. Each record's digests are recomputed, each decision is made again by `decide`
under the packed policy, and every certificate and the final verdict must say the same: outcomes and
texts exactly, numbers to 1e-9.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_invarlock.calibration.preset_file import preset_path
from pytest_invarlock.certificate.verdict_text import verdict_file_text
from pytest_invarlock.decide import decide
from pytest_invarlock.errors import ConfigError, EvidenceError, InvarlockError
from pytest_invarlock.evidence.attested_guards import attested_notes, judged_again
from pytest_invarlock.evidence.findings import Finding, Stage
from pytest_invarlock.evidence.layout import CONTROL_FILES, SIGNER_KEY
from pytest_invarlock.evidence.limits import MAX_RESAMPLED
from pytest_invarlock.evidence.merged_note import merged_note
from pytest_invarlock.evidence.pack_files import (
    PackMetadata,
    files_of_record,
    in_order,
    record_path,
    run_verdict,
    started_at,
    verdict_document,
)
from pytest_invarlock.evidence.pack_schemas import (
    ENVIRONMENT,
    OPTIONAL,
    POLICY,
    RECORD_NAME,
    RESULTS,
    REVISIONS,
    SCENARIOS,
    SCHEMAS,
    SOURCE,
    VERDICT,
    VERDICT_TEXT,
    read_checked,
)
from pytest_invarlock.evidence.plan_findings import plan_findings
from pytest_invarlock.evidence.preset_findings import preset_findings
from pytest_invarlock.evidence.rederive_reports import (
    compared,
    compared_attestations,
    compared_document,
    compared_metadata,
    compared_reports,
    read_document,
)
from pytest_invarlock.evidence.strict_json import digest
from pytest_invarlock.plan import PlannedScenario
from pytest_invarlock.policy.decision_policy import (
    DecisionPolicy,
    policies_by_scenario,
    policies_digest,
    policy_from_document,
)
from pytest_invarlock.policy.tiers import shipped_differences
from pytest_invarlock.records import Record, record_from_bytes

if TYPE_CHECKING:
    from pytest_invarlock.decision import Decision
    from pytest_invarlock.evidence.pack_files import Judged, Policies
    from pytest_invarlock.evidence.verified import VerifiedPack

HOSTILE = (ArithmeticError, TypeError, LookupError, ValueError)
"""What numbers and names that satisfy the schemas may still provoke in the arithmetic on them."""


def combined_plan_digest(records: Sequence[Record]) -> str:
    """One digest over the plan digests of all records of a run."""
    return digest(
        {
            f"{r.facts.model}::{r.facts.scenario}::{r.facts.draw}": r.facts.plan_digest
            for r in records
        }
    )


def rederive_pack(pack: VerifiedPack, *, run_guard_code: bool = False) -> list[Finding]:
    """Findings of the semantic stage; hashes and schemas (`check_schemas`) hold already.

    ``run_guard_code`` imports and runs other packages' guards that are installed (`judged_again`).
    """
    documents = read_document(pack, POLICY)["policies"]
    try:
        policies = policies_by_scenario(documents)
    except ConfigError as error:
        return [Finding(error.code, Stage.SEMANTICS, POLICY, error.cause)]
    stated = read_document(pack, VERDICT)
    metadata = pack_metadata(pack, stated["run_id"])
    unplanned = _unplanned(pack, metadata, policies)
    if unplanned:
        return unplanned
    findings = [_policy_note(policy) for policy in map(policy_from_document, documents)]
    bootstrap = _Bootstrap(MAX_RESAMPLED)
    judged: list[tuple[Record, Decision]] = []
    for path in filter(RECORD_NAME.fullmatch, pack.names()):
        try:
            document = read_checked(pack, path, "record")
            if isinstance(document, Finding):
                findings.append(document)
                continue
            record, policy = _read_record(pack, path, document, policies)
            bootstrap.spend(record, policy)
            decision = decide(record.facts, policy)
            found = compared_reports(pack, record, decision, policy, metadata)
            probes = [name for name, _ in metadata.probe_paths(record)]
            found += plan_findings(path, record.facts, policy, probes)
        except InvarlockError as error:
            findings.append(Finding(error.code, Stage.SEMANTICS, path, error.cause))
        except HOSTILE as error:
            findings.append(_undecidable(path, error))
        else:
            # A pack may hold more arrays, and more broken modules, than memory does.
            judged.append((record.without_measurements(), decision.without_violations()))
            findings += found
    judged = in_order(judged)
    records = [record for record, _ in judged]
    digest_of_policies = policies_digest(documents)
    attestations: set[str] = set()
    try:
        findings += _compare_verdict(pack, stated, judged, policies, metadata)
        found, attestations = compared_attestations(pack, judged, digest_of_policies)
        findings += found
        findings += compared_metadata(records, metadata)
        findings += preset_findings(metadata, policies)
        findings += _compare_manifest(pack, stated, records, digest_of_policies, metadata)
        findings += _compare_scenarios(records, metadata, policies)
    except HOSTILE as error:
        findings.append(_undecidable(VERDICT, error))
    findings += attested_notes(records) + merged_note(pack)
    if run_guard_code:
        findings += judged_again(records)
    return findings + _unexplained_files(pack, records, metadata, attestations)


def pack_metadata(pack: VerifiedPack, run_id: str) -> PackMetadata:
    """What a pack says besides records and policies; the schemas hold already."""
    scenarios = read_document(pack, SCENARIOS)
    names = set(pack.names())
    presets = {model: preset_path(model) for model in scenarios.get("calibrations", [])}
    return PackMetadata(
        run_id=run_id,
        suite=scenarios["suite"],
        planned=tuple(PlannedScenario.read(entry) for entry in scenarios["planned"]),
        scenarios=scenarios["scenarios"],
        environment=read_document(pack, ENVIRONMENT),
        source_repo=read_document(pack, SOURCE) if SOURCE in names else None,
        model_revisions=read_document(pack, REVISIONS) if REVISIONS in names else None,
        presets={
            model: read_document(pack, path) if path in names else None
            for model, path in presets.items()
        },
        release_review=scenarios.get("release_review", False),
        signed=pack.manifest.signer is not None,
    )


def _policy_note(policy: DecisionPolicy) -> Finding:
    """What was demanded, for the reader: a signed pack may have been judged by a lax policy."""
    overrides = [key for key, origin in policy.provenance.items() if origin == "suite file"]
    differences = shipped_differences(policy)
    text = (
        f"tier {policy.tier}, profile {policy.profile}, "
        f"limit {policy.primary_metric.ratio_limit:g}, {policy.floors.documents} documents at least"
    )
    demands = Counter(expected.strictness.value for expected in policy.expectations.values())
    # Where nothing must pass, a PASS says little.
    told = ", ".join(f"{n} {strictness}" for strictness, n in sorted(demands.items()))
    text += f"; scenarios: {told or 'none'}"
    if not policy.strict_guard_prepare:
        text += "; a monitoring guard that could not be prepared only warns"
    if overrides:
        text += f"; set by the suite file: {', '.join(sorted(overrides))}"
    if "tier_file" in policy.provenance:
        text += f"; the tier is a user's own file, {policy.provenance['tier_file']}"
    if differences is None:
        text += f"; no tier that is shipped is named {policy.tier}"
    elif differences:
        text += f"; differs from the shipped tier {policy.tier} in: {', '.join(differences)}"
    return Finding("POLICY", Stage.SEMANTICS, POLICY, text, "note")


def _undecidable(path: str, error: Exception) -> Finding:
    text = f"cannot be judged: {type(error).__name__}: {str(error)[:200]}"
    return Finding("UNDECIDABLE", Stage.SEMANTICS, path, text)


def _read_record(
    pack: VerifiedPack, path: str, document: Mapping[str, Any], policies: Policies
) -> tuple[Record, DecisionPolicy]:
    arrays = path.replace(".record.json", ".npz")
    if not pack.holds(arrays):
        raise EvidenceError("its arrays are missing", remedy="", code="RECORD_ARRAYS")
    record = record_from_bytes(document, pack.read(arrays))
    facts = record.facts
    if path != record_path(record):
        raise EvidenceError(
            "stands under another name than its facts say", remedy="", code="MISPLACED"
        )
    policy = policies.get((facts.model, facts.scenario))
    if policy is None:
        raise EvidenceError(
            "no policy of the pack speaks of it", remedy="", code="UNKNOWN_SCENARIO"
        )
    return record, policy


class _Bootstrap:
    """What is left of the documents that the bootstraps of a pack may draw."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most

    def spend(self, record: Record, policy: DecisionPolicy) -> None:
        """Raise EvidenceError (TOO_LARGE) where judging ``record`` would draw more than is left."""
        final = record.facts.arms.get("final")
        documents = 0 if final is None else len(np.unique(final.documents))
        self._left -= documents * policy.primary_metric.bootstrap_replicates
        if self._left < 0:
            raise EvidenceError(
                f"is not judged: with it more than {self._most} documents would have to be drawn",
                remedy="seal fewer runs in one pack",
                code="TOO_LARGE",
            )


def _compare_verdict(
    pack: VerifiedPack,
    stated: Mapping[str, Any],
    judged: Judged,
    policies: Policies,
    metadata: PackMetadata,
) -> list[Finding]:
    verdict = run_verdict(judged, policies, metadata)
    findings = []
    for name, expected in verdict.signals.documents().items():
        path = f"{RESULTS}/{name}"
        findings += compared_document(pack, path, expected, "does not follow from the records")
    document = verdict_document(verdict, judged, metadata)
    different = compared(VERDICT, document, dict(stated), "does not follow from the records")
    if different:
        return findings + different
    page = verdict_file_text(verdict).encode()
    if not pack.holds(VERDICT_TEXT) or pack.read(VERDICT_TEXT) != page:
        findings.append(_mismatch(VERDICT_TEXT, "is not the verdict's text"))
    return findings


def _compare_manifest(
    pack: VerifiedPack,
    stated: Mapping[str, Any],
    records: Sequence[Record],
    policy_digest: str,
    metadata: PackMetadata,
) -> list[Finding]:
    header = pack.manifest.header
    expected: dict[str, Any] = {
        "verdict": stated["verdict"],
        "run_id": stated["run_id"],
        "suite": stated["suite"],
        "plan_digest": combined_plan_digest(records),
        "policy_digest": policy_digest,
        "references": metadata.references(),
        # Of no records, when the run began is its maker's word.
        "started_at": started_at(records) or header.started_at,
    }
    found: dict[str, Any] = {
        "verdict": header.verdict,
        "run_id": header.run_id,
        "suite": header.suite,
        "plan_digest": header.plan_digest,
        "policy_digest": header.policy_digest,
        "references": dict(header.references),
        "started_at": header.started_at,
    }
    return [
        Finding(
            "SEMANTIC_MISMATCH",
            Stage.SEMANTICS,
            "manifest.json",
            f"{key} does not follow from the files",
        )
        for key in expected
        if expected[key] != found[key]
    ]


def _compare_scenarios(
    records: Sequence[Record],
    metadata: PackMetadata,
    policies: Mapping[tuple[str, str], DecisionPolicy],
) -> list[Finding]:
    """The scenarios as told beside what the records say was done, and the policy was to see."""
    told = {(entry.get("model"), entry["scenario"]): entry for entry in metadata.scenarios}
    findings = []
    for facts in (record.facts for record in records):
        entry = told.get((facts.model, facts.scenario), told.get((None, facts.scenario)))
        subject = facts.plan["subject"]
        edit = subject if "name" in subject else None
        if entry is None or entry["kind"] != facts.kind or entry["edit"] != edit:
            text = f"scenario {facts.scenario!r} is not what its record says was measured"
            findings.append(_mismatch(SCENARIOS, text))
            continue
        key = facts.model, facts.scenario
        guard = policies[key].expectation(*key).primary_guard
        if entry.get("primary_guard") != guard:
            text = f"scenario {facts.scenario!r}: primary_guard is {guard!r} in the policy"
            findings.append(_mismatch(SCENARIOS, text))
    return findings


def _unplanned(pack: VerifiedPack, metadata: PackMetadata, policies: Policies) -> list[Finding]:
    """What is told or demanded of scenarios that nobody planned: left out, or made up."""
    if sorted(metadata.planned) != sorted(pack.manifest.header.planned):
        return [_mismatch(SCENARIOS, "another set than the manifest's")]
    told = {(entry.get("model"), entry["scenario"]) for entry in metadata.scenarios}
    planned: set[tuple[str | None, str]] = {(one.model, one.scenario) for one in metadata.planned}
    planned |= {(None, scenario) for _, scenario in planned}
    findings = [
        _mismatch(path, f"speaks of scenario {scenario!a} of model {model!a}, and none is planned")
        for path, keys in ((SCENARIOS, told), (POLICY, {*policies}))
        for model, scenario in sorted(keys - planned, key=str)
    ]
    if len(told) < len(metadata.scenarios):
        findings.append(_mismatch(SCENARIOS, "tells a scenario twice"))
    return findings


def _unexplained_files(
    pack: VerifiedPack,
    records: Sequence[Record],
    metadata: PackMetadata,
    attestations: set[str],
) -> list[Finding]:
    """A pack holds what its records need, and nothing beside it."""
    explained = {*SCHEMAS, *OPTIONAL, VERDICT_TEXT, *CONTROL_FILES, *attestations}
    if pack.signed_by is not None:
        explained.add(SIGNER_KEY)
    explained |= {preset_path(model) for model in metadata.presets}
    for record in records:
        explained.update(files_of_record(record, metadata))
    return [
        Finding("UNEXPLAINED_FILE", Stage.SEMANTICS, name, "no record stands behind it")
        for name in pack.names()
        if name not in explained
    ]


def _mismatch(path: str, text: str) -> Finding:
    return Finding("SEMANTIC_MISMATCH", Stage.SEMANTICS, path, text)
