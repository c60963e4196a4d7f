"""The schema stage of verification: which documents a pack holds, and what each must satisfy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_invarlock.calibration.preset_file import FOLDER
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.findings import Finding, Stage
from pytest_invarlock.evidence.strict_json import loads
from pytest_invarlock.policy.calibrated_preset import PREFIX
from pytest_invarlock.policy.resources import schema, strict_validator
from pytest_invarlock.signal_summary import SUMMARIES

if TYPE_CHECKING:
    from pytest_invarlock.evidence.verified import VerifiedPack

POLICY = "metadata/policy.json"
SCENARIOS = "metadata/scenarios.json"
ENVIRONMENT = "metadata/environment.json"
RESULTS = "results"
VERDICT = f"{RESULTS}/final_verdict.json"
VERDICT_TEXT = f"{RESULTS}/final_verdict.txt"
RECORD_NAME = re.compile(r"records/[^/]+/[^/]+/run_[0-9]+\.record\.json")
REPORT_NAME = re.compile(r"reports/[^/]+/[^/]+/run_[0-9]+/evaluation\.report\.json")
PROBE_NAME = re.compile(r"reports/[^/]+/[^/]+/run_[0-9]+/(?P<schema>rmt_probe|ve_probe)\.json")
PRESET_NAME = re.compile(rf"{FOLDER}/{PREFIX}[^/]+\.json")
MAX_DOCUMENT_BYTES = 64 * 2**20
SCHEMAS: Mapping[str, str] = {
    POLICY: "policies",
    SCENARIOS: "scenarios",
    ENVIRONMENT: "environment",
    VERDICT: "verdict",
    **{f"{RESULTS}/{name}": name.removesuffix(".json") for name in SUMMARIES},
}


def check_schemas(pack: VerifiedPack) -> list[Finding]:
    """Findings of the schema stage: documents that are missing or do not satisfy their schema."""
    wanted = dict(SCHEMAS)
    for name in pack.names():
        if RECORD_NAME.fullmatch(name):
            wanted[name] = "record"
        elif REPORT_NAME.fullmatch(name):
            wanted[name] = "certificate"
        elif PRESET_NAME.fullmatch(name):
            wanted[name] = "calibrated_preset"
        elif probe := PROBE_NAME.fullmatch(name):
            wanted[name] = probe["schema"]
    return [
        finding
        for path, schema_name in wanted.items()
        for finding in _schema_findings(pack, path, schema_name)
    ]


def _schema_findings(pack: VerifiedPack, path: str, schema_name: str) -> list[Finding]:
    try:
        problem = _schema_problem(pack, path, schema_name)
    except EvidenceError as error:
        return [Finding(error.code, Stage.SCHEMA, path, error.cause)]
    return [] if problem is None else [Finding("SCHEMA", Stage.SCHEMA, path, problem)]


def _schema_problem(pack: VerifiedPack, path: str, schema_name: str) -> str | None:
    if path not in pack.names():
        return "is missing from the pack"
    value = loads(pack.read(path), max_bytes=MAX_DOCUMENT_BYTES)
    broken = next(strict_validator()(schema(schema_name)).iter_errors(value), None)
    if broken is None:
        return None
    return f"{'/'.join(map(str, broken.absolute_path)) or 'document'}: {broken.message[:300]}"
