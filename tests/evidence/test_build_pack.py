"""``invarlock evidence-pack build``: a finished run is sealed, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.cli import main
from pytest_invarlock.evidence.keys import fingerprint, generate_key

from .made_runs import made_record, made_run, reported

if TYPE_CHECKING:
    from pytest_invarlock.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A whole run without a pack, as --invarlock-no-pack leaves it."""
    made = made_run(tmp_path / "small-20261120T120000Z", {"noop": 0.0})
    reported(made)
    return made


def build(run: RunDirectory, *arguments: str) -> int:
    return main(["evidence-pack", "build", str(run.path), *arguments])


def test_a_run_is_sealed_and_sealed_again_elsewhere(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signer = fingerprint(generate_key(tmp_path / "k.pem"))
    key = f"--signing-key={tmp_path / 'k.pem'}"
    assert build(run, "--signing-key=none") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "UNSIGNED"
    again = tmp_path / "again"
    assert build(run, key, "-o", str(again)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"signed by {signer}"
    assert main(["verify", str(again), "--expected-fingerprint", signer]) == 0
    assert main(["verify", str(run.pack), "--allow-unsigned"]) == 0


def test_a_release_review_stays_one_when_it_is_built_and_merged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "k.pem"
    pinned = f"--expected-fingerprint={fingerprint(generate_key(file))}"
    repository = {
        "format": "invarlock-source-repo-v1", "origin": "git", "commit": "0" * 40,
        "branch": "main", "describe": None, "dirty": False,
    }  # fmt: skip
    packs = []
    for name, stamp in (("noop", "12"), ("other", "13")):
        folder = tmp_path / f"small-20261120T{stamp}0000Z"
        run = made_run(folder, {name: 0.0}, profile="ci")
        reported(run, signed=True, source_repo=repository, release_review=True)
        assert build(run, "--signing-key=auto") == 2
        assert build(run, f"--signing-key={file}") == 0
        packs.append(str(run.pack))
    merged = str(tmp_path / "merged")
    merge = ["evidence-pack", "merge", *packs, "-o", merged, pinned]
    assert main(merge) == 2
    assert "RELEASE_REVIEW" in capsys.readouterr().err
    assert main([*merge, f"--signing-key={file}"]) == 0
    for pack in (packs[0], merged):
        assert main(["verify", pack, pinned]) == 0
        rules = json.loads((Path(pack) / "results/final_verdict.json").read_text())["requirements"]
        assert {"release_signed", "release_provenance"} <= {one["requirement"] for one in rules}
        told = json.loads((Path(pack) / "metadata/source_repo.json").read_text())
        assert told == repository


def test_a_pack_is_never_written_over(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(run, "--signing-key=none") == 0
    before = (run.pack / "manifest.json").read_bytes()
    assert build(run, "--signing-key=none") == 2
    assert "PACK_EXISTS" in capsys.readouterr().err
    assert (run.pack / "manifest.json").read_bytes() == before


def says(run: RunDirectory, **change: Any) -> None:
    path = run.path / "final_verdict.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def interrupted(run: RunDirectory) -> None:
    says(run, status="incomplete", verdict=None)


def partial(run: RunDirectory) -> None:
    says(run, status="partial")


def without_verdict(run: RunDirectory) -> None:
    (run.path / "final_verdict.json").unlink()


def other_verdict(run: RunDirectory) -> None:
    says(run, verdict="FAIL")


def lost_record(run: RunDirectory) -> None:
    run.record_path("m", "noop", 0).unlink()


def other_record(run: RunDirectory) -> None:
    run.write_record(made_record("noop", 0.02))


def no_plan(run: RunDirectory) -> None:
    next((run.state / "plans").iterdir()).unlink()


def nobodys(run: RunDirectory) -> None:
    (run.state / "session").unlink()


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (interrupted, "RUN_NOT_WHOLE"), (partial, "RUN_NOT_WHOLE"),
        (without_verdict, "RUN_NOT_WHOLE"), (other_verdict, "RUN_CHANGED"),
        (lost_record, "RUN_CHANGED"), (other_record, "RUN_CHANGED"),
        (no_plan, "NOT_A_RUN"), (nobodys, "NOT_A_RUN"),
    ],
)  # fmt: skip
def test_what_is_no_whole_run_is_refused(
    run: RunDirectory, spoil: Any, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(run)
    assert build(run, "--signing-key=none") == 2
    err = capsys.readouterr().err
    assert code in err
    assert str(run.path.parent) not in err
    assert not run.pack.exists()


def test_a_report_that_was_edited_is_never_sealed(run: RunDirectory) -> None:
    report = "reports/m/noop/run_0/report.md"
    (run.path / report).write_text("all is well")
    build(run, "--signing-key=none")
    # Refused, or made again from the record rather than copied.
    packed = run.pack / report
    assert not run.pack.exists() or packed.read_text() != "all is well"


def test_no_name_reaches_the_terminal_as_a_control_sequence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evidence-pack", "build", str(tmp_path / "\x1b[2Jall is well")]) == 2
    err = capsys.readouterr().err
    assert "NOT_A_RUN" in err
    assert "\x1b" not in err
