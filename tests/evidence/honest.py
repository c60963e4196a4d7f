"""A run of made-up losses that was decided, certified and sealed as any other; needs no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_invarlock.evidence.environment import Permissions
from pytest_invarlock.evidence.findings import VerifyReport
from pytest_invarlock.evidence.keys import fingerprint
from pytest_invarlock.evidence.layout import CONTROL_FILES, SIGNER_KEY
from pytest_invarlock.evidence.manifest import ManifestHeader, parse_manifest
from pytest_invarlock.evidence.pack import seal_pack
from pytest_invarlock.evidence.pack_schemas import check_schemas
from pytest_invarlock.evidence.rederive import rederive_pack
from pytest_invarlock.evidence.run_pack import pack_metadata, seal_run, write_reports
from pytest_invarlock.evidence.verify import VerifyOptions, verify_pack
from pytest_invarlock.provenance import library_versions, machine
from pytest_invarlock.records import Record
from pytest_invarlock.run_directory import open_run_directory
from pytest_invarlock.run_summary import summarise

from ..certificate.test_build import POLICY as MADE_POLICY
from ..certificate.test_build import record
from .synthetic import KEY

REPORT = "reports/m/s/run_0/evaluation.report.json"
RECORD = "records/m/s/run_0.record.json"
ARRAYS = "records/m/s/run_0.npz"
NODE = "invarlock/made::m::s::primary_metric"


@dataclass(frozen=True)
class HonestRun:
    """The files of its pack that anyone may seal again, and the manifest's header."""

    files: Mapping[str, bytes]
    header: ManifestHeader

    def sealed_with(
        self,
        path: Path,
        changed: Mapping[str, bytes | None],
        key: Ed25519PrivateKey | None = KEY,
        **header: Any,
    ) -> VerifyReport:
        """Seal the files again, some changed or (None) left out, and verify them by that key."""
        files: dict[str, bytes | Path] = {
            name: data for name, data in {**self.files, **changed}.items() if data is not None
        }
        seal_pack(path, files, dataclasses.replace(self.header, **header), key)
        options = VerifyOptions(
            expected_fingerprints=(fingerprint(key.public_key()),) if key else (),
            allow_unsigned=key is None,
        )
        return verify_pack(path, options, rederive_pack, check_schemas)

    def json(self, name: str) -> Any:
        return json.loads(self.files[name])


def honest_run(folder: Path) -> HonestRun:
    """Measure nothing, and do all the rest: record, plan, decision, reports, verdict, pack."""
    seen = {
        "started_at": "2026-11-20T12:00:00+00:00",
        "versions": library_versions(),
        "machine": machine(),
    }
    one = Record(record().facts, seen)
    facts = one.facts
    run = open_run_directory(folder, "made", "20261120T120000Z", "me")
    run.write_plan(
        {
            "name": "made",
            "node_prefix": "invarlock/made",
            "node_ids": [NODE],
            "planned": [{"model": facts.model, "scenario": facts.scenario, "draws": 1}],
            "policies": [MADE_POLICY.document()],
            "scenarios": [
                {
                    "model": facts.model,
                    "scenario": facts.scenario,
                    "kind": facts.kind,
                    "edit": dict(facts.plan["subject"]),
                }
            ],
        }
    )
    run.write_record(one)
    summary = summarise(run, {NODE}, cut=None, signed=True)
    metadata = pack_metadata(summary, Permissions())
    write_reports(summary, metadata)
    pack = seal_run(summary, metadata, KEY).path
    files = {
        path.relative_to(pack).as_posix(): path.read_bytes()
        for path in sorted(pack.rglob("*"))
        if path.is_file()
    }
    header = parse_manifest(files["manifest.json"]).header
    kept = {k: v for k, v in files.items() if k not in CONTROL_FILES and k != SIGNER_KEY}
    return HonestRun(kept, header)
