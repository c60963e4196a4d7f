"""``invarlock report``: pages and sentences of what is there, never into a pack."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_invarlock.certificate.explain import explain_certificate
from pytest_invarlock.cli import main
from pytest_invarlock.evidence.atomic import write_json
from pytest_invarlock.run_directory import RunDirectory

from .test_build import ERROR_RECORD, POLICY, accuracy, certificate, record
from .test_html_page import damaged

OBSERVED = {
    "started_at": "2026-01-01T00:00:00+00:00", "versions": {},
    "machine": {"system": "Linux", "release": "6", "architecture": "x86_64", "cores": 2},
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run's folder with one record and its certificate."""
    made = RunDirectory(tmp_path / "out" / "s-1")
    of = replace(record(0.3), observations=OBSERVED)
    made.write_record(of)
    folder = made.report_folder("m", "s", 0)
    folder.mkdir(parents=True)
    write_json(folder / "evaluation.report.json", certificate(of))
    return made


def as_pack(run: RunDirectory) -> Path:
    for name in ("manifest.json", "checksums.sha256"):
        (run.path / name).write_text("{}")
    return run.path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["report", *map(str, arguments)]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("where", ["reports/m/s", ".", "reports"])
def test_nothing_is_written_into_a_pack(
    run: RunDirectory, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = as_pack(run)
    before = sorted(pack.rglob("*"))
    assert "OUTPUT_IN_PACK" in refused(capsys, "render", pack, "-o", pack / where)
    assert sorted(pack.rglob("*")) == before


def test_a_pack_is_rendered_beside_where_one_stands(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", "render", str(as_pack(run))]) == 0
    page = (tmp_path / "invarlock-report" / "m" / "s" / "run_0" / "report.html").read_text()
    assert "FAIL, NOT as expected" in page
    assert "histogram of" in page


def test_a_run_is_rendered_beside_its_certificates(run: RunDirectory) -> None:
    assert main(["report", "render", str(run.path), "--markdown"]) == 0
    folder = run.report_folder("m", "s", 0)
    assert (folder / "report.md").read_text().startswith("# m · s · run 0")
    assert not (folder / "report.html").exists()


def test_one_report_finds_its_record_or_says_that_there_is_none(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run.report_folder("m", "s", 0) / "evaluation.report.json"
    assert main(["report", "render", str(report), "-o", str(tmp_path / "one")]) == 0
    assert "histogram of" in (tmp_path / "one" / "report.html").read_text()
    assert "not verified" in capsys.readouterr().out
    alone = tmp_path / "evaluation.report.json"
    alone.write_bytes(report.read_bytes())
    assert main(["report", "render", str(alone), "-o", str(tmp_path / "two")]) == 0
    assert "The record is not beside" in (tmp_path / "two" / "report.html").read_text()


def test_a_record_of_another_certificate_is_refused(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    run.write_record(replace(record(0.2), observations=OBSERVED))
    assert "SEMANTIC_MISMATCH" in refused(capsys, "render", run.path)


@pytest.mark.parametrize("command", ["render", "explain"])
@pytest.mark.parametrize(
    ("content", "code"),
    [("{", "MALFORMED_JSON"), ("[]", "CERTIFICATE_SCHEMA"), ("{}", "CERTIFICATE_SCHEMA")],
)
def test_what_is_no_certificate_is_refused(
    run: RunDirectory, command: str, content: str, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.report_folder("m", "s", 0) / "evaluation.report.json").write_text(content)
    assert code in refused(capsys, command, run.path)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("reports/m/s/run_0/evaluation.report.json", "TOO_LARGE"),
        ("records/m/s/run_0.record.json", "TOO_LARGE"), ("records/m/s/run_0.npz", "RECORD_ARRAYS"),
    ],
)  # fmt: skip
def test_files_without_end_are_not_read_to_theirs(
    run: RunDirectory, name: str, code: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for module in ("run_directory.MAX_RECORD_BYTES", "run_directory.MAX_FILE_BYTES"):
        monkeypatch.setattr(f"pytest_invarlock.{module}", 100_000)
    monkeypatch.setattr("pytest_invarlock.report_commands.MAX_REPORT_BYTES", 100_000)
    with (run.path / name).open("r+b") as file:
        file.truncate(2**40)
    assert code in refused(capsys, "render", run.path)


def test_a_folder_without_reports_and_a_path_without_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "NO_REPORTS" in refused(capsys, "render", tmp_path)
    assert main(["report", "render", str(tmp_path / "none")]) == 3


def test_explaining_an_unknown_scenario_names_those_there_are(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused(capsys, "explain", run.path, "--scenario", "other")
    assert "UNKNOWN_SCENARIO" in text
    assert "one of s" in text
    assert main(["report", "explain", str(run.path), "--scenario", "s"]) == 0
    assert "primary_metric: ✕ FAIL. Measured: ratio" in capsys.readouterr().out


def test_no_control_sequence_of_a_name_reaches_the_terminal(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.report_folder("m", "s", 0) / "evaluation.report.json"
    forged = json.loads(path.read_text())
    forged["model"] = "\x1b[2Jm"
    path.write_text(json.dumps(forged))
    assert main(["report", "explain", str(run.path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def paragraphs(made: dict[str, Any]) -> dict[str, str]:
    head, *rest = explain_certificate(made)
    return {"": head} | {text.partition(":")[0]: text for text in rest}


def test_a_paragraph_says_what_was_found_what_is_allowed_and_what_follows() -> None:
    policy = replace(POLICY, provenance={"primary_metric.ratio_limit": "seeds"})
    told = paragraphs(certificate(record(0.3), policy))
    assert told[""].startswith("m s run 0: ✕ FAIL (")
    metric = told["primary_metric"]
    assert "Measured: ratio 1.3497, bound 1.3537, limit 1.1: even the lower bound" in metric
    assert "at most 1.1 (primary_metric.ratio_limit: seeds)" in metric
    assert metric.endswith("What follows: The scenario does not pass.")
    assert "no difference that the declared kind" in told["invariants"]
    assert "tail.threshold_nats: unknown" in told["tail"]


def test_a_guards_paragraph_names_the_limits_it_broke_and_their_origins() -> None:
    made = damaged()
    made["provenance"]["policy"] = {
        "guards.spectral.ln_sigma": "calibrated", "guards.spectral.relative_change": "calibrated",
        "guards.spectral.max_caps": "convention", "guards.rmt.error": "calibrated",
    }  # fmt: skip
    spectral = paragraphs(made)["spectral"]
    assert "broken were relative change 0.2000" in spectral
    assert "calibrated: ln_sigma, relative_change; convention: max_caps" in spectral


@pytest.mark.parametrize("strictness", ["must_pass", "must_fail", "must_detect", "informational"])
@pytest.mark.parametrize("of", [record(), accuracy(60, 5), record(**ERROR_RECORD)])
def test_every_certificate_can_be_explained(of: Any, strictness: str) -> None:
    made = certificate(of)
    made["decision"]["strictness"] = strictness
    assert len(explain_certificate(made)) == 1 + len(made["decision"]["checks"])


def test_pages_and_sentences_need_no_torch(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch", "transformers", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["report", "render", str(run.path)]) == 0
    assert main(["report", "explain", str(run.path)]) == 0
