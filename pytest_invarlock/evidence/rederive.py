"""The semantic stage of verification: does every verdict follow from the recorded numbers?

Numpy and scipy only. Each record's digests are recomputed, each decision is made again by `decide`
under the packed policy, and every certificate and the final verdict must say the same: outcomes and
texts exactly, numbers to 1e-9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_invarlock.calibration.preset_file import preset_path
from pytest_invarlock.calibration.requirement import with_calibrations
from pytest_invarlock.certificate import make_certificate, render_certificate_markdown
from pytest_invarlock.certificate.probes import FILES as PROBE_FILES
from pytest_invarlock.certificate.probes import make_probe, probes_of
from pytest_invarlock.certificate.verdict_text import verdict_file_text
from pytest_invarlock.decide import decide
from pytest_invarlock.errors import ConfigError, EvidenceError, InvarlockError
from pytest_invarlock.evidence.attested_guards import attested_notes, judged_again
from pytest_invarlock.evidence.findings import Finding, Stage
from pytest_invarlock.evidence.json_difference import first_difference
from pytest_invarlock.evidence.layout import CONTROL_FILES, SIGNER_KEY
from pytest_invarlock.evidence.pack_schemas import (
    MAX_DOCUMENT_BYTES,
    POLICY,
    RECORD_NAME,
    RESULTS,
    SCENARIOS,
    SCHEMAS,
    VERDICT,
    VERDICT_TEXT,
)
from pytest_invarlock.evidence.strict_json import digest, loads
from pytest_invarlock.path_names import slug
from pytest_invarlock.plan import PlannedScenario
from pytest_invarlock.policy.decision_policy import (
    DecisionPolicy,
    policies_by_scenario,
    policies_digest,
    policy_from_document,
)
from pytest_invarlock.policy.tiers import shipped_differences
from pytest_invarlock.records import Record, record_from_bytes
from pytest_invarlock.verdict import decide_run

if TYPE_CHECKING:
    from pytest_invarlock.decision import Decision
    from pytest_invarlock.evidence.verified import VerifiedPack
    from pytest_invarlock.signal_summary import SignalSummary

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
    documents = _document(pack, POLICY)["policies"]
    try:
        policies = policies_by_scenario(documents)
    except ConfigError as error:
        return [Finding(error.code, Stage.SEMANTICS, POLICY, error.cause)]
    stated = _document(pack, VERDICT)
    planned = [PlannedScenario.read(entry) for entry in _document(pack, SCENARIOS)["planned"]]
    if sorted(planned) != sorted(pack.manifest.header.planned):
        return [
            Finding(
                "SEMANTIC_MISMATCH", Stage.SEMANTICS, SCENARIOS, "another set than the manifest's"
            )
        ]
    judged: list[tuple[Record, Decision]] = []
    findings = [_policy_note(policy) for policy in map(policy_from_document, documents)]
    for path in filter(RECORD_NAME.fullmatch, pack.names()):
        try:
            record, decision = _redecide(pack, path, policies)
            found = _compare_certificate(pack, record, policies, stated["run_id"])
            found += _compare_probes(pack, record, policies, stated["run_id"])
        except InvarlockError as error:
            findings.append(Finding(error.code, Stage.SEMANTICS, path, error.cause))
        except HOSTILE as error:
            findings.append(_undecidable(path, error))
        else:
            judged.append((record, decision))
            findings += found
    judged.sort(key=lambda entry: (entry[1].model, entry[1].scenario, entry[1].draw))
    records = [record for record, _ in judged]
    decisions = [decision for _, decision in judged]
    try:
        findings += _compare_verdict(pack, stated, planned, records, decisions, policies)
    except HOSTILE as error:
        findings.append(_undecidable(VERDICT, error))
    findings += _compare_manifest(pack, stated, records, policies_digest(documents))
    findings += _compare_scenarios(pack, records, policies)
    findings += attested_notes(records)
    if run_guard_code:
        findings += judged_again(records)
    return findings + _unexplained_files(pack, records)


def _policy_note(policy: DecisionPolicy) -> Finding:
    """What was demanded, for the reader: a signed pack may have been judged by a lax policy."""
    overrides = [key for key, origin in policy.provenance.items() if origin == "suite file"]
    differences = shipped_differences(policy)
    text = (
        f"tier {policy.tier}, profile {policy.profile}, "
        f"limit {policy.primary_metric.ratio_limit:g}, {policy.floors.documents} documents at least"
    )
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


def _document(pack: VerifiedPack, path: str) -> dict[str, Any]:
    value = loads(pack.read(path), max_bytes=MAX_DOCUMENT_BYTES)
    return dict(value)


def _redecide(
    pack: VerifiedPack, path: str, policies: Mapping[tuple[str, str], DecisionPolicy]
) -> tuple[Record, Decision]:
    arrays = path.replace(".record.json", ".npz")
    if arrays not in pack.names():
        raise EvidenceError("its arrays are missing", remedy="", code="RECORD_ARRAYS")
    record = record_from_bytes(_document(pack, path), pack.read(arrays))
    facts = record.facts
    if path != f"records/{slug(facts.model)}/{slug(facts.scenario)}/run_{facts.draw}.record.json":
        raise EvidenceError(
            "stands under another name than its facts say", remedy="", code="MISPLACED"
        )
    policy = policies.get((facts.model, facts.scenario))
    if policy is None:
        raise EvidenceError(
            "no policy of the pack speaks of it", remedy="", code="UNKNOWN_SCENARIO"
        )
    return record, decide(facts, policy)


def report_path(record: Record) -> str:
    """Where a record's certificate stands in the pack."""
    facts = record.facts
    folder = f"reports/{slug(facts.model)}/{slug(facts.scenario)}/run_{facts.draw}"
    return f"{folder}/evaluation.report.json"


def _compare_certificate(
    pack: VerifiedPack,
    record: Record,
    policies: Mapping[tuple[str, str], DecisionPolicy],
    run_id: str,
) -> list[Finding]:
    path = report_path(record)
    if path not in pack.names():
        return [Finding("REPORT_MISSING", Stage.SEMANTICS, path, "a record has no certificate")]
    policy = policies[(record.facts.model, record.facts.scenario)]
    expected = make_certificate(record, policy, run_id=run_id)
    found = _document(pack, path)
    difference = first_difference(expected, found)
    if difference is None:
        page = path.replace("evaluation.report.json", "report.md")
        text = render_certificate_markdown(found).encode()
        if page in pack.names() and pack.read(page) == text:
            return []
        return [
            Finding("SEMANTIC_MISMATCH", Stage.SEMANTICS, page, "is not its certificate's text")
        ]
    return [
        Finding(
            "SEMANTIC_MISMATCH",
            Stage.SEMANTICS,
            path,
            f"does not follow from its record: {difference}",
        )
    ]


def _probe_paths(pack: VerifiedPack, record: Record) -> dict[str, str]:
    """Where each probe that the record's scenario asks for stands in the pack, by its name."""
    facts = record.facts
    told = _document(pack, SCENARIOS)["scenarios"]
    folder = report_path(record).rpartition("/")[0]
    asked = probes_of(told, facts.model, facts.scenario)
    return {name: f"{folder}/{PROBE_FILES[name]}" for name in asked}


def _compare_probes(
    pack: VerifiedPack,
    record: Record,
    policies: Mapping[tuple[str, str], DecisionPolicy],
    run_id: str,
) -> list[Finding]:
    findings = []
    policy = policies[(record.facts.model, record.facts.scenario)]
    for name, path in _probe_paths(pack, record).items():
        if path not in pack.names():
            text = "its scenario asks for it"
            findings.append(Finding("PROBE_MISSING", Stage.SEMANTICS, path, text))
            continue
        expected = make_probe(name, record, policy, run_id=run_id)
        difference = first_difference(expected, _document(pack, path))
        if difference is not None:
            text = f"does not follow from its record: {difference}"
            findings.append(Finding("SEMANTIC_MISMATCH", Stage.SEMANTICS, path, text))
    return findings


def _calibrations(pack: VerifiedPack) -> tuple[list[str], dict[str, Any]]:
    """The models whose calibration was planned, and the presets that are packed."""
    models = _document(pack, SCENARIOS).get("calibrations", [])
    paths = {model: preset_path(model) for model in models}
    there = {model: path for model, path in paths.items() if path in pack.names()}
    return models, {model: _document(pack, path) for model, path in there.items()}


def _compare_verdict(
    pack: VerifiedPack,
    stated: Mapping[str, Any],
    planned: Sequence[PlannedScenario],
    records: Sequence[Record],
    decisions: Sequence[Decision],
    policies: Mapping[tuple[str, str], DecisionPolicy],
) -> list[Finding]:
    verdict = with_calibrations(decide_run(planned, decisions, policies), *_calibrations(pack))
    findings = _compare_summaries(pack, verdict.signals)
    expected = {
        **verdict.document(),
        "status": "complete",
        "planned": [entry.document() for entry in planned],
        "decisions": [
            {
                "model": decision.model,
                "scenario": decision.scenario,
                "draw": decision.draw,
                "outcome": decision.outcome.value,
                "expectation_met": decision.expectation_met,
                "facts_digest": record.facts.digest,
            }
            for record, decision in zip(records, decisions, strict=True)
        ],
    }
    found = {key: value for key, value in stated.items() if key in expected}
    difference = first_difference(expected, found)
    if difference is None:
        page = verdict_file_text(verdict).encode()
        if VERDICT_TEXT in pack.names() and pack.read(VERDICT_TEXT) == page:
            return findings
        return [
            *findings,
            Finding(
                "SEMANTIC_MISMATCH", Stage.SEMANTICS, VERDICT_TEXT, "is not the verdict's text"
            ),
        ]
    text = f"does not follow from the records: {difference}"
    return [*findings, Finding("SEMANTIC_MISMATCH", Stage.SEMANTICS, VERDICT, text)]


def _compare_summaries(pack: VerifiedPack, signals: SignalSummary) -> list[Finding]:
    """The summaries of what fired beside those that follow from the records."""
    findings = []
    for name, expected in signals.documents().items():
        path = f"{RESULTS}/{name}"
        difference = first_difference(expected, _document(pack, path))
        if difference is not None:
            text = f"does not follow from the records: {difference}"
            findings.append(Finding("SEMANTIC_MISMATCH", Stage.SEMANTICS, path, text))
    return findings


def _compare_manifest(
    pack: VerifiedPack,
    stated: Mapping[str, Any],
    records: Sequence[Record],
    policy_digest: str,
) -> list[Finding]:
    header = pack.manifest.header
    expected: dict[str, Any] = {
        "verdict": stated["verdict"],
        "run_id": stated["run_id"],
        "suite": stated["suite"],
        "plan_digest": combined_plan_digest(records),
        "policy_digest": policy_digest,
    }
    found: dict[str, Any] = {
        "verdict": header.verdict,
        "run_id": header.run_id,
        "suite": header.suite,
        "plan_digest": header.plan_digest,
        "policy_digest": header.policy_digest,
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
    pack: VerifiedPack,
    records: Sequence[Record],
    policies: Mapping[tuple[str, str], DecisionPolicy],
) -> list[Finding]:
    """The scenarios as told beside what the records say was done, and the policy was to see."""
    told = {
        (entry.get("model"), entry["scenario"]): entry
        for entry in _document(pack, SCENARIOS)["scenarios"]
    }
    findings = []
    for facts in (record.facts for record in records):
        entry = told.get((facts.model, facts.scenario), told.get((None, facts.scenario)))
        subject = facts.plan["subject"]
        edit = subject if "name" in subject else None
        if entry is None or entry["kind"] != facts.kind or entry["edit"] != edit:
            text = f"scenario {facts.scenario!r} is not what its record says was measured"
            findings.append(Finding("SEMANTIC_MISMATCH", Stage.SEMANTICS, SCENARIOS, text))
            continue
        key = facts.model, facts.scenario
        guard = policies[key].expectation(*key).primary_guard
        if entry.get("primary_guard") != guard:
            text = f"scenario {facts.scenario!r}: primary_guard is {guard!r} in the policy"
            findings.append(Finding("SEMANTIC_MISMATCH", Stage.SEMANTICS, SCENARIOS, text))
    return findings


def _unexplained_files(pack: VerifiedPack, records: Sequence[Record]) -> list[Finding]:
    """A pack holds what its records need, and nothing beside it."""
    explained = {*SCHEMAS, VERDICT_TEXT, SIGNER_KEY, *CONTROL_FILES}
    explained |= {preset_path(model) for model in _calibrations(pack)[0]}
    for record in records:
        facts = record.facts
        base = f"records/{slug(facts.model)}/{slug(facts.scenario)}/run_{facts.draw}"
        report = report_path(record)
        explained |= {f"{base}.record.json", f"{base}.npz", report}
        explained.add(report.replace("evaluation.report.json", "report.md"))
        explained.update(_probe_paths(pack, record).values())
    return [
        Finding("UNEXPLAINED_FILE", Stage.SEMANTICS, name, "no record stands behind it")
        for name in pack.names()
        if name not in explained
    ]
