"""Attestations of scenarios: what the in-toto library reads of them, and what they may not hide."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from pytest_invarlock.decision import CheckDecision, Decision, Outcome
from pytest_invarlock.evidence.attestation import attestation, attestation_files
from pytest_invarlock.records import Facts, Record

if TYPE_CHECKING:
    from collections.abc import Iterable

POLICY = "sha256:" + "1" * 64
TENSORS, FILES = "sha256:" + "2" * 64, "sha256:" + "3" * 64


def judged(
    *outcomes: Outcome, draw: int = 0, scenario: str = "one", **subject: Any
) -> tuple[Record, Decision]:
    facts = Facts(
        model="org/tiny.v1", scenario=scenario, draw=draw, kind="any",
        plan={"draw": draw}, baseline={"tensors_digest": "sha256:" + "4" * 64},
        subject=subject or {"tensors_digest": TENSORS, "checkpoint_digest": None},
        edit=None, data={"digest": "sha256:" + "5" * 64}, arms={}, guards={},
    )  # fmt: skip
    checks = tuple(CheckDecision(f"c{n}", one, "made_up", "") for n, one in enumerate(outcomes))
    decision = Decision(
        model="org/tiny.v1", scenario=scenario, draw=draw, category="clean", strictness="must_pass",
        checks=checks, fired=(), outcome=Outcome.PASS, expectation_met=True, text="",
    )  # fmt: skip
    return Record(facts), decision


def made(*runs: tuple[Record, Decision]) -> dict[str, Any]:
    (content,) = attestation_files(runs, POLICY).values()
    document: dict[str, Any] = json.loads(content)
    return document


def test_the_in_toto_library_parses_statement_and_predicate() -> None:
    run = judged(
        Outcome.PASS, Outcome.WARN, Outcome.FAIL, tensors_digest=TENSORS, checkpoint_digest=FILES
    )
    document = made(run)
    statement = Statement.copy_from_pb(json_format.ParseDict(document, statement_pb2.Statement()))
    statement.validate()
    assert statement.pb.predicate_type == "https://in-toto.io/attestation/test-result/v0.1"
    digests = [dict(subject.digest) for subject in statement.pb.subject]
    assert digests == [{"sha256": "2" * 64}, {"dirHash1": "3" * 64}]
    predicate = json_format.ParseDict(document["predicate"], test_result_pb2.TestResult())
    assert predicate.result == "FAILED"
    assert list(predicate.passed_tests) == ["run_0/c0"]
    assert list(predicate.warned_tests) == ["run_0/c1"]
    assert list(predicate.failed_tests) == ["run_0/c2"]
    named = [one.name for one in predicate.configuration]
    assert named == ["policy", "baseline tensors", "data of run 0", "plan of run 0"]


@pytest.mark.parametrize(
    ("outcomes", "result"),
    [
        ([Outcome.PASS], "PASSED"),
        ([Outcome.PASS, Outcome.WARN], "WARNED"),
        ([Outcome.PASS, Outcome.FAIL], "FAILED"),
        ([Outcome.PASS, Outcome.INCONCLUSIVE], "FAILED"),
        ([Outcome.PASS, Outcome.ERROR], "FAILED"),
        ([], "FAILED"),
    ],
)
def test_only_what_passed_is_said_to_have(outcomes: Iterable[Outcome], result: str) -> None:
    assert made(judged(*outcomes))["predicate"]["result"] == result


def test_every_draw_counts_and_stands_in_order() -> None:
    document = made(judged(Outcome.FAIL, draw=1), judged(Outcome.PASS, draw=0))
    assert document["predicate"]["result"] == "FAILED"
    assert document["predicate"]["passedTests"] == ["run_0/c0"]
    assert document["predicate"]["failedTests"] == ["run_1/c0"]
    names = [one["name"] for one in document["predicate"]["configuration"]]
    assert names[-2:] == ["data of run 1", "plan of run 1"]


def test_a_subject_without_identity_gets_none() -> None:
    record, decision = judged(Outcome.ERROR)
    unknown = Record(replace(record.facts, subject={}))
    assert attestation([(unknown, decision)], POLICY) is None
    assert attestation_files([(unknown, decision)], POLICY) == {}


def test_two_scenarios_never_share_a_file() -> None:
    one, decision = judged(Outcome.PASS, scenario="b.c")
    other = Record(replace(one.facts, model="org/tiny.v1.b", scenario="c"))
    moved = replace(decision, model="org/tiny.v1.b", scenario="c")
    files = attestation_files([(one, decision), (other, moved)], POLICY)
    assert sorted(files) == [
        "attestations/org--tiny.v1.b.c.intoto.json",
        "attestations/org--tiny.v1.b.c~2.intoto.json",
    ]
