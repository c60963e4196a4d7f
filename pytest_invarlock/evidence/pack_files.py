"""What a pack holds besides its control files, as a pure function of what was measured and asked.

Sealing writes these bytes and verification makes them again; nothing of either is told twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pytest_invarlock.calibration.preset_file import preset_path
from pytest_invarlock.calibration.requirement import with_calibrations
from pytest_invarlock.certificate import make_certificate, render_certificate_markdown
from pytest_invarlock.certificate.probes import FILES as PROBE_FILES
from pytest_invarlock.certificate.probes import Told, by_model_and_name, make_probe, probes_asked
from pytest_invarlock.certificate.verdict_text import verdict_file_text
from pytest_invarlock.decide import decide
from pytest_invarlock.evidence.attestation import attestation_files
from pytest_invarlock.evidence.pack_schemas import (
    ENVIRONMENT,
    POLICY,
    RESULTS,
    REVISIONS,
    SCENARIOS,
    SOURCE,
    VERDICT,
    VERDICT_TEXT,
)
from pytest_invarlock.evidence.runtime_manifest import FILE_NAME, runtime_manifest
from pytest_invarlock.evidence.strict_json import pretty
from pytest_invarlock.path_names import slug
from pytest_invarlock.policy.decision_policy import policies_by_scenario, policies_digest
from pytest_invarlock.release_review import ReleaseReview, with_release_review
from pytest_invarlock.verdict import decide_run

if TYPE_CHECKING:
    from pytest_invarlock.decision import Decision
    from pytest_invarlock.plan import PlannedScenario
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.records import Record
    from pytest_invarlock.verdict import RunVerdict

REPORT = "evaluation.report.json"
PAGE = "report.md"
UNSIGNED_PAGE = b"\n**UNSIGNED**: no signature covers this page; anyone may have written it.\n"
Judged = Sequence[tuple["Record", "Decision"]]
Policies = Mapping[tuple[str, str], "DecisionPolicy"]


@dataclass(frozen=True, slots=True)
class PackMetadata:
    """What a pack says besides records and policies.

    Attributes:
        run_id: the run's name, which every certificate bears.
        suite: the name of what was run.
        planned: what the run set out to measure.
        scenarios: the scenarios as told: name, kind, edit, probes.
        environment: `environment.environment_document`.
        source_repo: `source_repo.read_source_repo`; None: neither git nor a marker.
        model_revisions: `model_revisions.packed_revisions`; None: no Hub model.
        presets: by model, the preset whose calibration was planned; None: it was not made.
        release_review: whether a release review was asked for.
        signed: whether the pack will bear a signature.
    """

    run_id: str
    suite: str
    planned: tuple[PlannedScenario, ...]
    scenarios: Sequence[Mapping[str, Any]]
    environment: Mapping[str, Any]
    source_repo: Mapping[str, Any] | None = None
    model_revisions: Mapping[str, Any] | None = None
    presets: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    release_review: bool = False
    signed: bool = False
    _told: Told = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Every file of every record asks what its scenario was told."""
        object.__setattr__(self, "_told", by_model_and_name(self.scenarios))

    def probe_paths(self, record: Record) -> list[tuple[str, str]]:
        """The name and path of each probe that the record's scenario asks for."""
        names = probes_asked(self._told, record.facts.model, record.facts.scenario)
        return [(name, beside(report_path(record), PROBE_FILES[name])) for name in names]

    @property
    def review(self) -> ReleaseReview | None:
        """What the release review is told; None where none was asked for."""
        if not self.release_review:
            return None
        return ReleaseReview(self.signed, self.source_repo is not None)

    def references(self) -> dict[str, str]:
        """What the manifest refers to, by the names it has for it."""
        return {
            "environment": ENVIRONMENT,
            "scenarios": SCENARIOS,
            "policy": POLICY,
            **({} if self.source_repo is None else {"source_repo": SOURCE}),
            **({} if self.model_revisions is None else {"model_revisions": REVISIONS}),
        }


def pack_files(
    records: Sequence[Record],
    policies: Sequence[Mapping[str, Any]],
    metadata: PackMetadata,
    decisions: Sequence[Decision] | None = None,
) -> dict[str, bytes]:
    """Every file of a pack but those that sealing makes, by path.

    Args:
        records: all of the run, in any order.
        policies: the documents of its policies, in the order of its plan.
        metadata: what else the pack says.
        decisions: `decide`'s of ``records``, in their order, where they were made already.

    Raises:
        EvidenceError: a derived document does not fit its schema: a defect of ours.
        ConfigError: the policies name a scenario twice, or none speaks of a record's.
    """
    by_scenario = policies_by_scenario(list(policies))
    if decisions is None:
        decisions = [
            decide(r.facts, by_scenario[(r.facts.model, r.facts.scenario)]) for r in records
        ]
    judged = in_order(zip(records, decisions, strict=True))
    files = metadata_files(policies, metadata)
    for record, decision in judged:
        files |= record_files(record)
        policy = by_scenario[(decision.model, decision.scenario)]
        files |= report_files(record, decision, policy, metadata)
    files |= attestation_files(judged, policies_digest(list(policies)))
    verdict = run_verdict(judged, by_scenario, metadata)
    files |= result_files(verdict, judged, metadata)
    return files


def in_order(judged: Iterable[tuple[Record, Decision]]) -> list[tuple[Record, Decision]]:
    """Records and decisions by model, scenario and draw, as every document lists them."""
    return sorted(judged, key=lambda one: (one[1].model, one[1].scenario, one[1].draw))


def metadata_files(
    policies: Sequence[Mapping[str, Any]], metadata: PackMetadata
) -> dict[str, bytes]:
    """The files under ``metadata/`` and the presets."""
    files = {
        POLICY: pretty({"format": "invarlock-policies-v1", "policies": list(policies)}),
        SCENARIOS: pretty(
            {
                "format": "invarlock-scenarios-v1",
                "suite": metadata.suite,
                "planned": [entry.document() for entry in metadata.planned],
                "scenarios": [dict(one) for one in metadata.scenarios],
                **({"calibrations": list(metadata.presets)} if metadata.presets else {}),
                **({"release_review": True} if metadata.release_review else {}),
            }
        ),
        ENVIRONMENT: pretty(dict(metadata.environment)),
    }
    for path, document in ((SOURCE, metadata.source_repo), (REVISIONS, metadata.model_revisions)):
        if document is not None:
            files[path] = pretty(dict(document))
    for model, preset in metadata.presets.items():
        if preset is not None:
            files[preset_path(model)] = pretty(dict(preset))
    return files


def started_at(records: Iterable[Record]) -> str | None:
    """When the first measurement began, UTC as manifests write it; None of no records."""
    stamps = [str(record.observations["started_at"]) for record in records]
    if not stamps:
        return None
    return datetime.fromisoformat(min(stamps)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def record_path(record: Record) -> str:
    """Where a record's JSON stands; its arrays stand beside it."""
    facts = record.facts
    return f"records/{slug(facts.model)}/{slug(facts.scenario)}/run_{facts.draw}.record.json"


def report_path(record: Record) -> str:
    """Where the certificate of a record stands."""
    facts = record.facts
    return f"reports/{slug(facts.model)}/{slug(facts.scenario)}/run_{facts.draw}/{REPORT}"


def record_files(record: Record) -> dict[str, bytes]:
    """A record and its arrays."""
    path = record_path(record)
    return {
        path: pretty(record.document()),
        path.replace(".record.json", ".npz"): record.array_bytes(),
    }


def report_files(
    record: Record, decision: Decision, policy: DecisionPolicy, metadata: PackMetadata
) -> dict[str, bytes]:
    """The certificate of a record and what stands beside it."""
    path = report_path(record)
    certificate = make_certificate(record, policy, run_id=metadata.run_id, decision=decision)
    encoded = pretty(certificate)
    manifest = manifest_of(encoded, record, metadata.environment)
    files = {
        path: encoded,
        beside(path, PAGE): page_of(certificate, signed=metadata.signed),
        beside(path, FILE_NAME): pretty(manifest),
    }
    for name, probe_path in metadata.probe_paths(record):
        probe = make_probe(name, record, policy, run_id=metadata.run_id, decision=decision)
        files[probe_path] = pretty(probe)
    return files


def beside(report: str, name: str) -> str:
    """The path of a file beside a certificate."""
    return f"{report.rpartition('/')[0]}/{name}"


def page_of(certificate: Mapping[str, Any], *, signed: bool) -> bytes:
    """``report.md``: the certificate for people, and that nobody signed it where that is so."""
    text = render_certificate_markdown(dict(certificate)).encode()
    return text if signed else text + UNSIGNED_PAGE


def manifest_of(
    certificate_bytes: bytes, record: Record, environment: Mapping[str, Any]
) -> dict[str, Any]:
    """The runtime manifest of a record's certificate."""
    path, plan = report_path(record), record.facts.plan_digest
    return runtime_manifest(certificate_bytes, path, environment, plan_digest=plan)


def files_of_record(record: Record, metadata: PackMetadata) -> list[str]:
    """The paths of a record, its arrays, its certificate and what stands beside that."""
    path, report = record_path(record), report_path(record)
    return [
        path,
        path.replace(".record.json", ".npz"),
        report,
        beside(report, PAGE),
        beside(report, FILE_NAME),
        *(probe for _, probe in metadata.probe_paths(record)),
    ]


def run_verdict(judged: Judged, policies: Policies, metadata: PackMetadata) -> RunVerdict:
    """The verdict of a whole run: of its scenarios, its calibrations and its release review."""
    verdict = decide_run(metadata.planned, [decision for _, decision in judged], policies)
    presets = {model: one for model, one in metadata.presets.items() if one is not None}
    verdict = with_calibrations(verdict, list(metadata.presets), presets)
    return with_release_review(verdict, metadata.review, [r for r, _ in judged], policies)


def verdict_document(verdict: RunVerdict, judged: Judged, metadata: PackMetadata) -> dict[str, Any]:
    """``final_verdict.json`` of a whole run."""
    return {
        **verdict.document(),
        "status": "complete",
        "run_id": metadata.run_id,
        "suite": metadata.suite,
        "planned": [entry.document() for entry in metadata.planned],
        "decisions": [decision_document(record, decision) for record, decision in judged],
    }


def decision_document(record: Record, decision: Decision) -> dict[str, Any]:
    """A decision as the final verdict lists it."""
    return {
        "model": decision.model,
        "scenario": decision.scenario,
        "draw": decision.draw,
        "outcome": decision.outcome.value,
        "expectation_met": decision.expectation_met,
        "facts_digest": record.facts.digest,
    }


def result_files(verdict: RunVerdict, judged: Judged, metadata: PackMetadata) -> dict[str, bytes]:
    """The final verdict and the summaries of what fired."""
    return {
        VERDICT: pretty(verdict_document(verdict, judged, metadata)),
        VERDICT_TEXT: verdict_file_text(verdict).encode(),
        **{
            f"{RESULTS}/{name}": pretty(document)
            for name, document in verdict.signals.documents().items()
        },
    }
