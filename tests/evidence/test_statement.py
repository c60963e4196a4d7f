"""The signed statement: what it may say, and which paths it may name."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.layout import PackFile, check_paths, checksums_text
from pytest_invarlock.evidence.statement import PREDICATE_TYPE, Statement, parse_statement

HEX = "ab" * 32
STATEMENT = Statement(
    files=(PackFile("b/c.json", 3, HEX), PackFile("a", 0, "cd" * 32)),
    run_id="demo-1",
    suite="demo",
    verdict="PASS",
    plan_digest=f"sha256:{HEX}",
    policy_digest=f"sha256:{HEX}",
    manifest_digest=f"sha256:{HEX}",
    created_at="2026-11-20T12:00:00Z",
)
BAD_PATHS = [
    "../x",
    "/etc/passwd",
    "a/../b",
    "a//b",
    "./a",
    "a/.",
    "a/",
    "C:\\x",
    "C:/x",
    "a\\b",
    "a\x00b",
    "a\n",
    "a\nb",
    "a b",
    "",
    ".",
    "..",
    "é",
    "a/" * 32 + "a",
    "a" * 256,
    "/".join(["a" * 250] * 5),
    "\u202egnp.exe",
]


def document() -> Any:
    return json.loads(STATEMENT.body())


def code_of(value: Any) -> str:
    with pytest.raises(EvidenceError) as caught:
        parse_statement(value if isinstance(value, bytes) else json.dumps(value).encode())
    return caught.value.code


def test_body_is_canonical_sorted_and_reads_back() -> None:
    body = STATEMENT.body()
    assert body == dataclasses.replace(STATEMENT, files=STATEMENT.files[::-1]).body()
    parsed = parse_statement(body)
    assert parsed == dataclasses.replace(STATEMENT, files=STATEMENT.files[::-1])
    value = json.loads(body)
    assert value["_type"] == "https://in-toto.io/Statement/v1"
    assert value["predicateType"] == PREDICATE_TYPE
    assert value["subject"][0] == {"name": "a", "digest": {"sha256": "cd" * 32}}
    assert value["predicate"]["sizes"] == {"a": 0, "b/c.json": 3}


@pytest.mark.parametrize("path", BAD_PATHS)
def test_paths_that_systems_read_differently_are_refused(path: str) -> None:
    value = document()
    value["subject"][0]["name"] = path
    value["predicate"]["sizes"] = {path: 0, "b/c.json": 3}
    assert code_of(value) == "BAD_PATH"
    with pytest.raises(EvidenceError):
        dataclasses.replace(STATEMENT, files=(PackFile(path, 0, HEX),)).body()


@pytest.mark.parametrize(
    ("paths", "code"),
    [
        (["a", "a"], "DUPLICATE_SUBJECT"),
        (["reports/A", "reports/a"], "DUPLICATE_SUBJECT"),
        (["a", "a/b"], "BAD_PATH"),
        (["a/b/c", "x", "A/b"], "BAD_PATH"),
    ],
)
def test_two_names_for_one_file_are_refused(paths: list[str], code: str) -> None:
    value = document()
    value["subject"] = [{"name": p, "digest": {"sha256": HEX}} for p in paths]
    value["predicate"]["sizes"] = dict.fromkeys(paths, 1)
    assert code_of(value) == code


def test_paths_of_real_packs_are_accepted() -> None:
    check_paths(["reports/org/Model-7B-v0.1~2/quant_4bit/run_0/x.json", "...", "-x", "a.b/..c"])


@pytest.mark.parametrize(
    ("digest", "code"),
    [
        ({"sha1": "0" * 40}, "WEAK_DIGEST"),
        ({"md5": "0" * 32}, "WEAK_DIGEST"),
        ({}, "WEAK_DIGEST"),
        ({"sha256": None}, "WEAK_DIGEST"),
        ({"sha256": HEX, "sha1": "0" * 40}, "MALFORMED_STATEMENT"),
        ({"sha256": HEX.upper()}, "MALFORMED_DIGEST"),
        ({"sha256": HEX[:-1]}, "MALFORMED_DIGEST"),
        ({"sha256": HEX + "\n"}, "MALFORMED_DIGEST"),
        ("x", "MALFORMED_STATEMENT"),
    ],
)
def test_weak_and_malformed_digests_are_refused(digest: Any, code: str) -> None:
    value = document()
    value["subject"][0]["digest"] = digest
    assert code_of(value) == code


@pytest.mark.parametrize(
    ("field", "new", "code"),
    [
        ("_type", "https://in-toto.io/Statement/v0.1", "WRONG_TYPE"),
        ("predicateType", "https://in-toto.io/attestation/test-result/v0.1", "WRONG_TYPE"),
        ("subject", [], "MALFORMED_STATEMENT"),
        ("subject", {}, "MALFORMED_STATEMENT"),
        ("subject", [1], "MALFORMED_STATEMENT"),
        ("predicate", None, "MALFORMED_STATEMENT"),
        ("extra", 1, "MALFORMED_STATEMENT"),
    ],
)
def test_other_statements_are_refused(field: str, new: Any, code: str) -> None:
    assert code_of({**document(), field: new}) == code


@pytest.mark.parametrize(
    ("field", "new", "code"),
    [
        ("format", "evidence-pack-v2", "WRONG_TYPE"),
        ("run_id", 1, "MALFORMED_STATEMENT"),
        ("sizes", {"a": 0}, "MALFORMED_STATEMENT"),
        ("sizes", {"a": 0, "b/c.json": 3, "d": 1}, "MALFORMED_STATEMENT"),
        ("sizes", {"a": -1, "b/c.json": 3}, "MALFORMED_STATEMENT"),
        ("sizes", {"a": 1.0, "b/c.json": 3}, "MALFORMED_STATEMENT"),
        ("sizes", {"a": True, "b/c.json": 3}, "MALFORMED_STATEMENT"),
        ("note", "x", "MALFORMED_STATEMENT"),
    ],
)
def test_other_predicates_are_refused(field: str, new: Any, code: str) -> None:
    value = document()
    value["predicate"][field] = new
    assert code_of(value) == code


def test_strict_json_rules_hold_for_the_body() -> None:
    body = STATEMENT.body()
    assert code_of(body.replace(b'"_type"', b'"_type":"x","_type"')) == "MALFORMED_JSON"
    assert code_of(body + b"{}") == "MALFORMED_JSON"


def test_checksums_are_sorted_by_byte_and_skip_control_files() -> None:
    names = ["b", "a/z", "a.b", "Z", "manifest.json", "checksums.sha256", "manifest.signature.json"]
    text = checksums_text([PackFile(name, 1, HEX) for name in names])
    assert text.decode().splitlines() == [f"{HEX}  {n}" for n in ["Z", "a.b", "a/z", "b"]]
    assert text.endswith(b"\n")
