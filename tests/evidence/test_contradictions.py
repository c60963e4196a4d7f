"""What the parts of a pack say of each other beside the verdict, sealed by the key that is trusted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence import rederive
from pytest_invarlock.evidence.layout import PackFile, checksums_text
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.records import Record

from .attacks_on_files import write_manifest
from .attacks_on_records import SCENARIOS, Changed, Files, edited
from .honest import HonestRun
from .made_runs import made_record, made_run, sealed_run
from .synthetic import Pack, errors

ENVIRONMENT = "metadata/environment.json"
TOLD: dict[str, tuple[Callable[[Files], Changed], str]] = {
    "another torch than the records observed": (
        edited(ENVIRONMENT, lambda value: value["versions"].update(torch="1.0")),
        "versions/torch",
    ),
    "another machine than the records observed": (
        edited(ENVIRONMENT, lambda value: value["machine"].update(system="Plan 9")),
        "machine/system",
    ),
    "a scenario that nobody planned": (
        edited(
            SCENARIOS,
            lambda value: value["scenarios"].append({**value["scenarios"][0], "scenario": "best"}),
        ),
        "none is planned",
    ),
    "a scenario in two ways": (
        edited(
            SCENARIOS,
            lambda value: value["scenarios"].insert(0, {**value["scenarios"][0], "kind": "cast"}),
        ),
        "tells a scenario twice",
    ),
}


@pytest.mark.parametrize("what", TOLD)
def test_what_is_told_beside_the_records_agrees_with_them(
    honest: HonestRun, tmp_path: Path, what: str
) -> None:
    change, said = TOLD[what]
    report = honest.sealed_with(tmp_path / "pack", change(honest.files))
    assert report.exit_status == 7
    assert any(said in finding.message for finding in report.findings)


def test_the_manifest_says_when_the_first_measurement_began(
    honest: HonestRun, tmp_path: Path
) -> None:
    began = json.loads(honest.files["records/m/s/run_0.record.json"])["observations"]["started_at"]
    assert honest.header.started_at == began.replace("+00:00", "Z")
    report = honest.sealed_with(tmp_path / "pack", {}, started_at="2026-11-20T11:00:00Z")
    assert report.exit_status == 7


def test_a_policy_that_demands_more_than_was_planned_tells_of_what_was_left_out(
    tmp_path: Path,
) -> None:
    demand = Expectation("clean", Strictness.MUST_PASS)
    both = {("m", "noop"): demand, ("m", "worse"): demand}
    run = made_run(tmp_path / "small-20261120T120000Z", {"noop": 0.0}, expectations=both)
    with pytest.raises(EvidenceError, match="'worse' of model 'm', and none is planned"):
        sealed_run(run, None)


@pytest.mark.parametrize(
    "seen",
    [{"device": {"device": "cuda"}}, {"determinism": {"mode": "throughput", "threads": 1}},
     {"determinism": {"mode": "strict", "threads": 8}}],
)  # fmt: skip
def test_a_record_observed_what_its_plan_asks_for(tmp_path: Path, seen: dict[str, Any]) -> None:
    flags = {
        "seed": 0, "interop_threads": 1, "deterministic_algorithms": True, "cudnn_benchmark": False,
        "tf32_matmul": False, "tf32_cudnn": False, "cublas_workspace": None,
    }  # fmt: skip
    if "determinism" in seen:
        seen = {"determinism": flags | seen["determinism"]}
    made = made_record("noop", 0.0)
    other = Record(made.facts, {**made.observations, **seen})
    run = made_run(tmp_path / "small-20261120T120000Z", [other])
    with pytest.raises(EvidenceError, match="its plan says"):
        sealed_run(run, None)


def test_the_signers_key_is_no_place_for_anything_else(pack: Pack) -> None:
    path = pack.path / "metadata/signer.pub.pem"
    path.write_bytes(path.read_bytes() + b"and a word besides\n")
    files = pack.json("manifest.json")["files"]
    for one in files:
        data = (pack.path / one["path"]).read_bytes()
        one |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    lines = checksums_text(PackFile(f["path"], f["bytes"], f["sha256"]) for f in files)
    (pack.path / "checksums.sha256").write_bytes(lines)
    digest = hashlib.sha256(lines).hexdigest()
    manifest = {**pack.json("manifest.json"), "files": files, "checksums_sha256_digest": digest}
    write_manifest(pack, manifest)
    assert errors(pack.verify()) == ["MANIFEST_MISMATCH"]


def test_the_reader_is_told_how_many_scenarios_had_to_pass(
    honest: HonestRun, tmp_path: Path
) -> None:
    report = honest.sealed_with(tmp_path / "pack", {})
    note = next(one for one in report.findings if one.code == "POLICY")
    assert "; scenarios: 1 must_pass" in note.message


def test_a_pack_that_would_take_hours_to_judge_is_too_large(
    honest: HonestRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = honest.json("metadata/policy.json")["policies"][0]["primary_metric"]
    documents = honest.json("records/m/s/run_0.record.json")["facts"]["data"]["n_documents"]
    needed = policy["bootstrap_replicates"] * documents["final"]
    monkeypatch.setattr(rederive, "MAX_RESAMPLED", needed)
    assert honest.sealed_with(tmp_path / "judged", {}).exit_status == 0
    monkeypatch.setattr(rederive, "MAX_RESAMPLED", needed - 1)
    report = honest.sealed_with(tmp_path / "refused", {})
    assert report.exit_status == 4
    assert next(one.code for one in report.findings if one.level == "error") == "TOO_LARGE"
