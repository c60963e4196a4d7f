"""``attestations/*.intoto.json``: what the tests of a scenario say of its subject model.

One in-toto Statement of predicate test-result v0.1 a model and scenario, over all its draws. It is
plain: the signature of the pack covers it. The predicate has no place for more than it names, so
that checks which decided nothing (INCONCLUSIVE) or broke (ERROR) stand among the failed.

https://github.com/in-toto/attestation/blob/main/spec/predicates/test-result.md
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_invarlock.decision import Outcome
from pytest_invarlock.evidence.strict_json import pretty
from pytest_invarlock.path_names import slug

if TYPE_CHECKING:
    from pytest_invarlock.decision import Decision
    from pytest_invarlock.records import Facts, Record

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
FOLDER = "attestations"
_LISTS: Mapping[Outcome, str] = {Outcome.PASS: "passedTests", Outcome.WARN: "warnedTests"}
_FAILED = "failedTests"


def attestation_path(model: str, scenario: str) -> str:
    """Where the attestation of a scenario stands in a pack."""
    return f"{FOLDER}/{slug(model)}.{slug(scenario)}.intoto.json"


def attestation_files(
    judged: Iterable[tuple[Record, Decision]], policy_digest: str
) -> dict[str, bytes]:
    """Every attestation of a run, by path; none of a scenario whose subject was never identified.

    Two scenarios whose names come to one path share none: the later, by model and name, gets
    ``~2`` before the suffix.

    Args:
        judged: records with the decision on each.
        policy_digest: ``sha256:<hex>`` of the run's policies.
    """
    groups: dict[tuple[str, str], list[tuple[Record, Decision]]] = {}
    for record, decision in judged:
        groups.setdefault((decision.model, decision.scenario), []).append((record, decision))
    files: dict[str, bytes] = {}
    taken: set[str] = set()
    for (model, scenario), runs in sorted(groups.items()):
        path = attestation_path(model, scenario)
        while path.casefold() in taken:
            path = path.replace(".intoto.json", "~2.intoto.json")
        taken.add(path.casefold())
        statement = attestation(sorted(runs, key=lambda one: one[1].draw), policy_digest)
        if statement is not None:
            files[path] = pretty(statement)
    return files


def attestation(
    runs: Sequence[tuple[Record, Decision]], policy_digest: str
) -> dict[str, Any] | None:
    """The Statement of one scenario's draws; None where no draw identified its subject.

    The result is that of the subject, whatever the scenario expected: a fault that was detected
    leaves a model with failed tests.
    """
    subjects = _subjects([record.facts for record, _ in runs])
    if not subjects:
        return None
    tests: dict[str, list[str]] = {name: [] for name in (*_LISTS.values(), _FAILED)}
    for _, decision in runs:
        for check in decision.checks:
            tests[_LISTS.get(check.outcome, _FAILED)].append(f"run_{decision.draw}/{check.check}")
    return {
        "_type": STATEMENT,
        "subject": subjects,
        "predicateType": PREDICATE,
        "predicate": {
            "result": _result(tests),
            "configuration": _configuration([record.facts for record, _ in runs], policy_digest),
            **tests,
        },
    }


def _result(tests: Mapping[str, Sequence[str]]) -> str:
    # Without a single check there is nothing that passed.
    if tests[_FAILED] or not (tests["passedTests"] or tests["warnedTests"]):
        return "FAILED"
    return "WARNED" if tests["warnedTests"] else "PASSED"


def _subjects(facts: Sequence[Facts]) -> list[dict[str, Any]]:
    """The tensors that were loaded, and the checkpoint's files where it was one of its own."""
    found: dict[str, dict[str, Any]] = {}
    for one in facts:
        for key, algorithm, what in (
            ("tensors_digest", "sha256", "tensors"),
            ("checkpoint_digest", "dirHash1", "files"),
        ):
            value = one.subject.get(key)
            if value is not None:
                name = f"{one.model}::{one.scenario} ({what})"
                found[value] = {"name": name, "digest": {algorithm: _hex(value)}}
    return [found[key] for key in sorted(found)]


def _configuration(facts: Sequence[Facts], policy_digest: str) -> list[dict[str, Any]]:
    """What was demanded, and what the draws were measured against, on and how; each once."""
    named: dict[tuple[str, str], None] = {("policy", policy_digest): None}
    for one in facts:
        for name, value in (
            ("baseline tensors", one.baseline.get("tensors_digest")),
            (f"data of run {one.draw}", one.data.get("digest")),
            (f"plan of run {one.draw}", one.plan_digest),
        ):
            if value is not None:
                named[name, value] = None
    return [{"name": name, "digest": {"sha256": _hex(value)}} for name, value in named]


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
