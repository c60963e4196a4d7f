"""``invarlock verify evaluation.report.json``: sound, and what that does not show."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.certificate import make_certificate
from pytest_invarlock.cli import main
from pytest_invarlock.evidence.single_certificate import FLAGS
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.policy.resources import schema

from ..checks.made import policy
from .made_runs import METRIC, made_record

if TYPE_CHECKING:
    from pathlib import Path


def certificate(change: float = 0.01, strictness: Strictness = Strictness.MUST_PASS) -> Any:
    expected = {("m", "s"): Expectation("clean", strictness)}
    rules = policy(primary_metric=METRIC, expectations=expected)
    return make_certificate(made_record("s", change), rules, run_id="small-1")


@pytest.fixture
def verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(document: Any, *arguments: str) -> tuple[int, str]:
        path = tmp_path / "evaluation.report.json"
        path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
        status = main(["verify", str(path), *arguments])
        return status, capsys.readouterr().out

    return run


def test_a_sound_certificate_is_told_as_what_it_is(verify: Any) -> None:
    status, out = verify(certificate())
    assert status == 0
    assert out.splitlines()[:2] == [
        "schema and identities hold: m s run 0: PASS, expectation met",
        "unsigned, not re-derived. This does not show:",
    ]
    assert "other scenarios and draws may have failed" in out


@pytest.mark.parametrize(
    ("change", "strictness", "status"),
    [
        (0.5, Strictness.MUST_PASS, 1), (0.5, Strictness.MUST_DETECT, 0),
        (0.0, Strictness.MUST_DETECT, 1), (0.5, Strictness.INFORMATIONAL, 0),
    ],
)  # fmt: skip
def test_the_exit_status_is_that_of_its_expectation(
    verify: Any, change: float, strictness: Strictness, status: int
) -> None:
    assert verify(certificate(change, strictness))[0] == status


def test_json_says_the_same(verify: Any) -> None:
    status, out = verify(certificate(0.5), "--json")
    found = json.loads(out)
    assert (status, found["exit_status"], found["ok"]) == (1, 1, True)
    assert (found["authenticity"], found["rederived"]) == ("unsigned", False)
    assert (found["outcome"], found["expectation_met"]) == ("FAIL", False)
    assert len(found["not_shown"]) == 4


def edited(change: Any) -> Any:
    document = certificate(0.5)
    change(document)
    return document


CONTRADICTIONS = {
    "ratio": lambda d: d["primary_metric"].update(ratio=1.0),
    "flag": lambda d: d["validation"].update(primary_metric_acceptable=True),
    "flag of no check": lambda d: d["validation"].update(guard_overhead_acceptable=True),
    "expectation": lambda d: d["decision"].update(expectation_met=True, outcome="PASS"),
    "outcome alone": lambda d: d["decision"]["checks"][1].update(outcome="PASS"),
    "fired": lambda d: d["decision"].update(fired=[]),
    "plan": lambda d: d["plan"].update(batch_tokens=1),
    "scenario": lambda d: d.update(scenario="other"),
    "bound": lambda d: d["primary_metric"].update(ratio_upper=1.0),
    "bound in the decision only": lambda d: d["decision"]["checks"][1]["numbers"].pop(
        "ratio_upper"
    ),
    "interval": lambda d: d["primary_metric"]["display_ci"].__setitem__(1, 1.01),
    "level": lambda d: d["primary_metric"].update(final=1.0),
    "degraded": lambda d: d["primary_metric"].update(degraded=False),
    "tail": lambda d: d["tail"].update(n_windows_above=7),
    "drift": lambda d: d["drift"].update(p_value=0.123),
    "guard": lambda d: d["invariants"].update(n_violations=7),
    "flag left out": lambda d: d["validation"].pop("invariants_pass"),
    "confidence": lambda d: d["confidence"].update(label="High"),
    "check twice": lambda d: d["decision"]["checks"].append(d["decision"]["checks"][0]),
    "metric": lambda d: d["decision"].update(metric="accuracy"),
    "pairing": lambda d: d["pairing"].update(match_fraction=0.5),
    "seed": lambda d: d["seeds"].update(dataset=9),
    "mode": lambda d: d["determinism"].update(requested="throughput"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_certificate_that_contradicts_itself_is_refused(verify: Any, name: str) -> None:
    status, out = verify(edited(CONTRADICTIONS[name]))
    assert status == 7
    assert "SEMANTIC_MISMATCH  evaluation.report.json: contradicts itself: " in out
    assert out.splitlines()[-1] == "INVALID: this certificate proves nothing (exit 7)"


@pytest.mark.parametrize(
    "document",
    [b"", b"{", b"[]", b"{}", b"\xff", b'{"a": NaN}', b'{"a": 1, "a": 1}', b"[" * 3000,
     b'{"schema_version": "v1"}', b"1" * 6000],
)  # fmt: skip
def test_what_is_no_certificate_is_malformed(verify: Any, document: bytes) -> None:
    assert verify(document)[0] == 4


def test_control_sequences_stay_out_of_the_terminal(verify: Any) -> None:
    document = edited(lambda d: d.update(run_id="\x1b[2J"))
    out = verify(document, "--expect-run=x")[1]
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--expected-fingerprint=sha256:" + "0" * 64], 5), (["--trust-store=absent"], 5),
        (["--not-before=2020-01-01"], 5), (["--expect-run=other"], 5),
        (["--policy=sha256:" + "0" * 64], 7), (["--profile=release"], 7),
        (["--report-assurance=strict"], 7), (["--profile=dev", "--expect-run=small-1"], 0),
        (["--allow-unsigned", "--report-assurance=off"], 0),
    ],
)  # fmt: skip
def test_what_only_a_pack_can_show_is_not_granted(
    verify: Any, arguments: list[str], status: int
) -> None:
    assert verify(certificate(), *arguments)[0] == status


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    assert main(["verify", str(tmp_path / "absent.json")]) == 3


def test_every_flag_of_the_schema_is_known() -> None:
    assert set(schema("certificate")["properties"]["validation"]["properties"]) <= set(FLAGS)
