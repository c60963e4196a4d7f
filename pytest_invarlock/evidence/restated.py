"""What a certificate says more than once, made again of the part that the rest restates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_invarlock.certificate import sections
from pytest_invarlock.certificate.guard_sections import check_of, guard_sections
from pytest_invarlock.decision import CheckDecision, Decision, Outcome
from pytest_invarlock.evidence.json_difference import first_difference

_LEVELS = (
    ("final", "subject_perplexity"),
    ("final", "accuracy_subject"),
    ("preview", "preview_accuracy_subject"),
)
"""Keys of the metric under which the same level of the subject stands twice."""


def restated_otherwise(certificate: Mapping[str, Any]) -> str | None:
    """The first section that is not what decision, plan, data and identities of it say.

    None where all agree. Only for what satisfies the schema.
    """
    decision = _decision(certificate["decision"])
    metric, plan = certificate["primary_metric"], certificate["plan"]
    check = check_of(decision, "primary_metric")
    if (metric is None) is not (check is None):
        return "/primary_metric and the decision's check"
    if metric is not None and check is not None:
        again = sections.metric_section(plan["metric"], check, metric["preview"], metric["final"])
        again |= {level: metric[key] for level, key in _LEVELS if key in metric}
        different = first_difference(again, metric, "/primary_metric")
        if different is not None:
            return different
    expected = {
        "convention": decision.convention,
        "tail": sections.numbers_of(decision, "tail"),
        "drift": sections.numbers_of(decision, "drift"),
        **guard_sections(decision),
        "confidence": sections.confidence(metric, decision),
        **_of_facts(certificate),
    }
    # Flags that others' certificates have besides stay as they are.
    flags = {**certificate["validation"], **sections.validation(decision)}
    found = {key: certificate[key] for key in expected}
    return first_difference(
        {**expected, "validation": flags}, {**found, "validation": certificate["validation"]}
    )


def _of_facts(certificate: Mapping[str, Any]) -> dict[str, Any]:
    """Sections that repeat plan, data and identities, what else they hold as it stands."""
    plan, identity = certificate["plan"], certificate["identity"]
    return {
        "pairing": {key: certificate["dataset"].get(key) for key in certificate["pairing"]},
        "tokenizer": {
            side: identity[side].get("tokenizer_fingerprint") for side in certificate["tokenizer"]
        },
        "determinism": {
            **certificate["determinism"],
            "requested": plan.get("determinism"),
            "threads": plan.get("threads"),
        },
        "seeds": {
            **certificate["seeds"],
            "dataset": plan.get("windows", {}).get("seed"),
            "draw": certificate["draw"],
            "resampling": certificate["facts_digest"],
        },
    }


def _decision(document: Mapping[str, Any]) -> Decision:
    checks = tuple(
        CheckDecision(
            **{**check, "outcome": Outcome(check["outcome"]), "violations": (*check["violations"],)}
        )
        for check in document["checks"]
    )
    return Decision(
        **{
            **document,
            "checks": checks,
            "fired": tuple(document["fired"]),
            "outcome": Outcome(document["outcome"]),
        }
    )
