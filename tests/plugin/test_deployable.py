"""Deployments in a session: one is measured, one skipped for its backend, and the pack holds."""

from __future__ import annotations

import json

import pytest

from pytest_invarlock.evidence.pack_schemas import check_schemas
from pytest_invarlock.evidence.rederive import rederive_pack
from pytest_invarlock.evidence.verify import VerifyOptions, verify_pack

from ..fake_backend import CODE

REASON = "fake absent: fakelib is not installed (pip install fakelib)"
LINE = "  - {{id: {0}, strictness: must_pass, deploy: {{backend: fake, scheme: {0}}}}}\n"


def test_a_deployment_is_judged_and_one_without_its_backend_is_skipped(repository, install):
    install("fake-backend", CODE, group="invarlock.backends", fake="Backend")
    path = repository.path / repository.suite()
    path.write_text(path.read_text() + LINE.format("good") + LINE.format("absent"))
    result = repository.run(path.name, "-rs")
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    # Of 10 collected items and the verdict's own testcase.
    result.stdout.fnmatch_lines(["*[[]100%[]]"])
    result.stdout.no_fnmatch_line("*[[]110%[]]*")
    # invariants, primary_metric, drift, tail and deployable each; the verdict's own.
    result.assert_outcomes(passed=6, skipped=5)
    result.stdout.fnmatch_lines([f"*SKIPPED*skipped: {REASON}"])
    result.stdout.fnmatch_lines(["--*absent*SKIPPED (must pass)*"])

    verdict = repository.verdict()
    assert verdict["verdict"] == "PASS"
    assert {e["scenario"]: e["outcome"] for e in verdict["decisions"]} == {
        "good": "PASS", "absent": "SKIPPED",
    }  # fmt: skip
    (told,) = [r for r in verdict["requirements"] if r["requirement"] == "deployable_skipped"]
    assert told["passed"]
    assert told["text"].endswith(f"builtin:llama absent: skipped: {REASON}")
    assert REASON in (repository.latest / "final_verdict.txt").read_text()
    records = repository.latest / "records"
    (record,) = [json.loads(p.read_text()) for p in records.glob("*/absent/*.record.json")]
    assert record["facts"]["error"] == "BACKEND_UNAVAILABLE"
    assert record["facts"]["guards"] == {"deployable": {"not_evaluated": REASON}}

    pack = repository.latest / "evidence_pack"
    manifest = json.loads((pack / "manifest.json").read_text())
    pinned = (manifest["signing"]["fingerprint"],)
    report = verify_pack(
        pack, VerifyOptions(expected_fingerprints=pinned), rederive_pack, check_schemas
    )
    assert report.ok, report.findings
