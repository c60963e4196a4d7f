"""The files that follow from single records, each beside what is made again of the record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_invarlock.certificate import make_certificate
from pytest_invarlock.certificate.probes import make_probe
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.attestation import attestation_files
from pytest_invarlock.evidence.environment import (
    foreign_guards_asked,
    measured_with,
    observed,
)
from pytest_invarlock.evidence.findings import Finding, Stage
from pytest_invarlock.evidence.json_difference import first_difference
from pytest_invarlock.evidence.model_revisions import measured_revisions
from pytest_invarlock.evidence.pack_files import (
    PAGE,
    beside,
    manifest_of,
    page_of,
    record_path,
    report_path,
)
from pytest_invarlock.evidence.pack_schemas import (
    ENVIRONMENT,
    REVISIONS,
    read_checked,
)
from pytest_invarlock.evidence.runtime_manifest import FILE_NAME
from pytest_invarlock.evidence.strict_json import loads
from pytest_invarlock.evidence.written_json import is_written_of

if TYPE_CHECKING:
    from pytest_invarlock.decision import Decision
    from pytest_invarlock.evidence.pack_files import Judged, PackMetadata
    from pytest_invarlock.evidence.verified import VerifiedPack
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.records import Record

FROM_RECORD = "does not follow from its record"


def compared_reports(
    pack: VerifiedPack,
    record: Record,
    decision: Decision,
    policy: DecisionPolicy,
    metadata: PackMetadata,
) -> list[Finding]:
    """Findings on the certificate of a record, its page, its runtime manifest and its probes."""
    path = report_path(record)
    if not pack.holds(path):
        return [_finding("REPORT_MISSING", path, "a record has no certificate")]
    expected = make_certificate(
        record, policy, run_id=metadata.run_id, decision=decision, validate=False
    )
    encoded = pack.read(path)
    findings, found = _compared_certificate(pack, path, expected, encoded)
    if found is not None:
        page = beside(path, PAGE)
        text = page_of(found, signed=metadata.signed)
        if not pack.holds(page) or pack.read(page) != text:
            findings.append(_mismatch(page, "is not its certificate's text"))
    findings += _compared_runtime(pack, record, encoded, metadata)
    for name, probe_path in metadata.probe_paths(record):
        if not pack.holds(probe_path):
            findings.append(_finding("PROBE_MISSING", probe_path, "its scenario asks for it"))
            continue
        probe = make_probe(name, record, policy, run_id=metadata.run_id, decision=decision)
        findings += compared_document(pack, probe_path, probe, FROM_RECORD)
    return findings


def _compared_certificate(
    pack: VerifiedPack, path: str, expected: dict[str, Any], encoded: bytes
) -> tuple[list[Finding], dict[str, Any] | None]:
    """Findings on a certificate, and the certificate where there are none.

    What is to the letter as it is written of a record that fits its schema needs no look at its
    own; any other is held against the schema before it is compared number by number.
    """
    if is_written_of(encoded, expected):
        return [], expected
    found = read_checked(pack, path, "certificate")
    if isinstance(found, Finding):
        return [found], None
    findings = compared(path, expected, found, FROM_RECORD)
    return findings, None if findings else found


def _compared_runtime(
    pack: VerifiedPack, record: Record, certificate_bytes: bytes, metadata: PackMetadata
) -> list[Finding]:
    path = beside(report_path(record), FILE_NAME)
    if not pack.holds(path):
        # Whether that is refused is the caller's to say: `demands.unassured_reports`.
        return []
    expected = manifest_of(certificate_bytes, record, metadata.environment)
    what = "does not follow from its certificate and metadata/environment.json"
    return compared_document(pack, path, expected, what)


def compared_attestations(
    pack: VerifiedPack, judged: Judged, policy_digest: str
) -> tuple[list[Finding], set[str]]:
    """Findings on the attestations, and the paths that they must stand at."""
    expected = attestation_files(judged, policy_digest)
    findings = [
        _finding("ATTESTATION_MISSING", path, "a subject that was tested has no attestation")
        for path in sorted(expected.keys() - set(pack.names()))
    ]
    for path in sorted(expected.keys() & set(pack.names())):
        findings += _compared_attestation(pack, path, expected[path])
    return findings, set(expected)


def _compared_attestation(pack: VerifiedPack, path: str, expected: bytes) -> list[Finding]:
    encoded = pack.read(path)
    if encoded == expected:
        return []
    try:
        found = loads(encoded, max_bytes=len(encoded), what=path)
    except EvidenceError as error:
        return [_finding(error.code, path, error.cause)]
    return compared(path, json.loads(expected), found, "does not follow from its records")


def compared_metadata(records: Sequence[Record], metadata: PackMetadata) -> list[Finding]:
    """Findings on environment and revisions, where records speak of the same.

    The rest of both, and the state of the repository, is the word of who measured.
    """
    environment = metadata.environment
    asked = {"allow_third_party_plugins": foreign_guards_asked(records)}
    expected = {
        **observed(records),
        **measured_with(records),
        "runtime": {**environment["runtime"], **asked},
    }
    differences = [first_difference(expected[key], environment[key], f"/{key}") for key in expected]
    findings = [
        _mismatch(ENVIRONMENT, f"is not what the records observed: {difference}")
        for difference in differences
        if difference is not None
    ]
    findings += filter(None, map(_other_than_planned, records))
    if metadata.model_revisions is not None:
        measured = measured_revisions(records)
        findings += [
            _mismatch(REVISIONS, f"no record measured {name!a} at {entry['revision']!a}")
            for name, entry in metadata.model_revisions["models"].items()
            if entry["revision"] not in measured
        ]
    return findings


def _other_than_planned(record: Record) -> Finding | None:
    """A finding where a record observed another device, mode or number of threads than planned."""
    plan, seen = record.facts.plan, record.observations
    flags = seen.get("determinism", {})
    for key, found in (
        ("determinism", flags.get("mode")),
        ("threads", flags.get("threads")),
        ("device", seen.get("device", {}).get("device")),
    ):
        if found not in (None, plan.get(key)):
            text = f"observed {key} {found!a}, and its plan says {plan.get(key)!a}"
            return _mismatch(record_path(record), text)
    return None


def read_document(pack: VerifiedPack, path: str) -> dict[str, Any]:
    """A document of the pack, whose bytes `check_schemas` has read strictly already."""
    return dict(json.loads(pack.read(path)))


def compared_document(pack: VerifiedPack, path: str, expected: Any, what: str) -> list[Finding]:
    """A finding where a document that the pack holds is not what follows, numbers to 1e-9."""
    if is_written_of(pack.read(path), expected):
        return []
    return compared(path, expected, read_document(pack, path), what)


def compared(path: str, expected: Any, found: Any, what: str) -> list[Finding]:
    """A finding where what was read is not what follows, numbers to 1e-9."""
    difference = first_difference(expected, found)
    return [] if difference is None else [_mismatch(path, f"{what}: {difference}")]


def _mismatch(path: str, text: str) -> Finding:
    return _finding("SEMANTIC_MISMATCH", path, text)


def _finding(code: str, path: str, text: str) -> Finding:
    return Finding(code, Stage.SEMANTICS, path, text)
