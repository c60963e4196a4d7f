"""The schema stage of verification: which documents a pack holds, and what each must satisfy."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_invarlock.calibration.preset_file import FOLDER
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.findings import Finding, Stage
from pytest_invarlock.evidence.strict_json import loads
from pytest_invarlock.policy.calibrated_preset import PREFIX
from pytest_invarlock.policy.quick_schema import first_violation
from pytest_invarlock.signal_summary import SUMMARIES

if TYPE_CHECKING:
    from pytest_invarlock.evidence.verified import VerifiedPack

POLICY = "metadata/policy.json"
SCENARIOS = "metadata/scenarios.json"
ENVIRONMENT = "metadata/environment.json"
SOURCE = "metadata/source_repo.json"
REVISIONS = "metadata/model_revisions.json"
MERGED = "metadata/merged.json"
RESULTS = "results"
VERDICT = f"{RESULTS}/final_verdict.json"
VERDICT_TEXT = f"{RESULTS}/final_verdict.txt"
RECORD_NAME = re.compile(r"records/[^/]+/[^/]+/run_[0-9]+\.record\.json")
REPORT_NAME = re.compile(r"reports/[^/]+/[^/]+/run_[0-9]+/evaluation\.report\.json")
PROBE_NAME = re.compile(r"reports/[^/]+/[^/]+/run_[0-9]+/(?P<schema>rmt_probe|ve_probe)\.json")
RUNTIME_NAME = re.compile(r"reports/[^/]+/[^/]+/run_[0-9]+/runtime\.manifest\.json")
PRESET_NAME = re.compile(rf"{FOLDER}/{PREFIX}[^/]+\.json")
MAX_DOCUMENT_BYTES = 64 * 2**20
OPTIONAL: Mapping[str, str] = {
    SOURCE: "source_repo",
    REVISIONS: "model_revisions",
    MERGED: "merged",
}
"""Documents that a pack may lack, with their schemas."""
SCHEMAS: Mapping[str, str] = {
    POLICY: "policies",
    SCENARIOS: "scenarios",
    ENVIRONMENT: "environment",
    VERDICT: "verdict",
    **{f"{RESULTS}/{name}": name.removesuffix(".json") for name in SUMMARIES},
}


def check_schemas(pack: VerifiedPack) -> list[Finding]:
    """Findings of the schema stage: documents that are missing or do not satisfy their schema.

    Records and certificates, large and many, are looked at by `read_checked` when each is read.
    """
    wanted = dict(SCHEMAS)
    for name in pack.names():
        if PRESET_NAME.fullmatch(name):
            wanted[name] = "calibrated_preset"
        elif RUNTIME_NAME.fullmatch(name):
            wanted[name] = "runtime_manifest"
        elif name in OPTIONAL:
            wanted[name] = OPTIONAL[name]
        elif probe := PROBE_NAME.fullmatch(name):
            wanted[name] = probe["schema"]
    found = (_finding(pack, path, schema_name) for path, schema_name in wanted.items())
    return [finding for finding in found if finding is not None]


def _finding(pack: VerifiedPack, path: str, schema_name: str) -> Finding | None:
    """What is wrong with the form of one document; None where it satisfies its schema."""
    return _form(pack, path, schema_name, lambda _: None)


def read_checked(pack: VerifiedPack, path: str, schema_name: str) -> dict[str, Any] | Finding:
    """A document that satisfies its schema, or what is wrong with it."""
    value: list[Any] = []
    return _form(pack, path, schema_name, value.append) or dict(value[0])


def _form(
    pack: VerifiedPack, path: str, schema_name: str, keep: Callable[[Any], None]
) -> Finding | None:
    try:
        problem = _schema_problem(pack, path, schema_name, keep)
    except EvidenceError as error:
        return Finding(error.code, Stage.SCHEMA, path, error.cause)
    return None if problem is None else Finding("SCHEMA", Stage.SCHEMA, path, problem)


def _schema_problem(
    pack: VerifiedPack,
    path: str,
    schema_name: str,
    keep: Callable[[Any], None],
) -> str | None:
    if not pack.holds(path):
        return "is missing from the pack"
    value = loads(pack.read(path), max_bytes=MAX_DOCUMENT_BYTES)
    keep(value)
    broken = first_violation(schema_name, value)
    if broken is None:
        return None
    return f"{'/'.join(map(str, broken.absolute_path)) or 'document'}: {broken.message[:300]}"
