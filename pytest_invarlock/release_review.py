"""What ``--invarlock-release-review`` demands beyond a PASS: requirements of the verdict.

The same function tells them when a run ends and when its pack is verified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_invarlock.run_requirements import Requirement

if TYPE_CHECKING:
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.records import Record
    from pytest_invarlock.verdict import RunVerdict, Verdict

PROFILES = ("ci", "release")
DETERMINISM = "strict"


@dataclass(frozen=True, slots=True)
class ReleaseReview:
    """What a release review has to know of a run besides its records and policies.

    ``signed``: whether the pack bears a signature (by a named key, which only who signs can tell);
    ``provenance``: whether the state of the repository is recorded.
    """

    signed: bool
    provenance: bool


def with_release_review(
    verdict: RunVerdict,
    review: ReleaseReview | None,
    records: Sequence[Record],
    policies: Mapping[tuple[str, str], DecisionPolicy],
) -> RunVerdict:
    """``verdict`` with a requirement for each demand of a release review; else FAIL.

    Args:
        verdict: of the run's scenarios.
        review: None where no release review was asked for.
        records: every record of the run.
        policies: by (model, scenario), the policy each was decided under.
    """
    if review is None:
        return verdict
    rules = (
        _flag("release_signed", review.signed, "the pack is signed by a named key"),
        _flag("release_provenance", review.provenance, "the repository's state is recorded"),
        _of_records("release_profile", f"of profile {' or '.join(PROFILES)}", records, {
            id(r): f"profile {policy.profile}"
            for r in records
            if (policy := policies.get((r.facts.model, r.facts.scenario))) is not None
            and policy.profile not in PROFILES
        }),
        _of_records("release_determinism", "measured with strict determinism", records, {
            id(r): f"determinism {r.facts.plan['determinism']}"
            for r in records
            if r.facts.plan["determinism"] != DETERMINISM
        }),
        _of_records("release_guards_listed", "whose foreign guards the policy names", records, {
            id(r): f"guard {', '.join(names)} is not among the policy's checks"
            for r in records
            if (names := _unlisted(r, policies))
        }),
    )  # fmt: skip
    word: Verdict = verdict.verdict if all(rule.passed for rule in rules) else "FAIL"
    return replace(verdict, verdict=word, requirements=(*verdict.requirements, *rules))


def _unlisted(record: Record, policies: Mapping[tuple[str, str], DecisionPolicy]) -> list[str]:
    policy = policies.get((record.facts.model, record.facts.scenario))
    return sorted(set(record.facts.attested) - set(policy.checks if policy is not None else ()))


def _flag(name: str, holds: bool, text: str) -> Requirement:
    return Requirement(name, holds, text if holds else f"not met: {text}")


def _of_records(
    name: str, what: str, records: Sequence[Record], broken: Mapping[int, str]
) -> Requirement:
    failures = tuple(
        {
            "model": r.facts.model,
            "scenario": r.facts.scenario,
            "reason": f"run {r.facts.draw}: {broken[id(r)]}",
        }
        for r in records
        if id(r) in broken
    )
    text = f"{len(records) - len(failures)} of {len(records)} records are {what}"
    # Of no records nothing holds.
    return Requirement(name, bool(records) and not failures, text, failures)
