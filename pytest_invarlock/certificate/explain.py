"""A certificate in sentences: of each check what was measured, its limit, and what follows.

What was found and what was allowed are the decision's own sentences and numbers; nothing is judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pytest_invarlock.certificate.outcome_words import MEANINGS, SHAPES, expectation_sentence
from pytest_invarlock.certificate.tables import number_text

_LIMITS: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "primary_metric": (
        ("limit", "primary_metric.ratio_limit", "perplexity ratio at most"),
        ("limit_pp", "accuracy.drop_limit_pp", "drop in percentage points at most"),
    ),
    "drift": (("band", "drift.band", "ratio of the arms' ratios, either way, at most"),),
    "tail": (
        ("threshold_nats", "tail.threshold_nats", "harmed is a loss of more nats per token than"),
        ("harm_rate", "tail.harm_rate", "share of harmed windows to be excluded"),
        ("quantile_max_nats", "tail.quantile_max", "95 % quantile that warns, nats per token"),
    ),
}
"""Of each check the limits among its numbers, the policy's key of each, and its words."""
_BY_NATURE: Mapping[str, str] = {
    "invariants": "no difference that the declared kind of change does not bring with it",
    "guard_overhead": "a guard leaves the models equal, bit for bit",
}
_MUST_PASS: Mapping[str, str] = {
    "PASS": "The demand is met.",
    "WARN": "It is reported, and fails nothing.",
    "FAIL": "The scenario does not pass.",
    "INCONCLUSIVE": "Neither is shown, and the scenario does not pass.",
    "ERROR": "Nothing was judged, which never passes.",
    "SKIPPED": "Nothing was measured, and nothing is shown.",
}
_DAMAGE: Mapping[str, str] = {
    "PASS": "It shows no damage.",
    "WARN": "It is reported, and is no detection.",
    "FAIL": "It fired: a detection, where the scenario declares this check as one.",
    "INCONCLUSIVE": "Neither is shown, and that is no detection.",
    "ERROR": "Nothing was judged, and an error is no detection.",
    "SKIPPED": "Nothing was measured, and that is no detection.",
}
_INFORMATION: Mapping[str, str] = {
    "PASS": "It did not fire.",
    "WARN": "It is reported.",
    "FAIL": "It fired, for information.",
    "INCONCLUSIVE": "Neither is shown.",
    "ERROR": "Nothing was judged: the scenario was not measured as it had to be.",
    "SKIPPED": "Nothing was measured.",
}
_FOLLOWS = {
    "must_pass": _MUST_PASS,
    "must_fail": _DAMAGE,
    "must_detect": _DAMAGE,
    "informational": _INFORMATION,
}
MOST_ALLOWED = 6


def explain_certificate(certificate: Mapping[str, Any]) -> list[str]:
    """The verdict's paragraph, then one for each check, in the policy's order."""
    decision = certificate["decision"]
    word = decision["outcome"]
    head = (
        f"{certificate['model']} {certificate['scenario']} run {certificate['draw']}: "
        f"{SHAPES[word]} {word} ({MEANINGS[word]}). {expectation_sentence(decision)} "
        f"{_sentence(decision['text'])}"
    )
    return [head, *(_check(check, certificate) for check in decision["checks"])]


def _check(check: Mapping[str, Any], certificate: Mapping[str, Any]) -> str:
    name, word = check["check"], check["outcome"]
    follows = _FOLLOWS[certificate["decision"]["strictness"]][word]
    return (
        f"{name}: {SHAPES[word]} {word}. Measured: {_sentence(check['text'])} "
        f"Limit: {_sentence(_limit(check, certificate))} What follows: {follows}"
    )


def _limit(check: Mapping[str, Any], certificate: Mapping[str, Any]) -> str:
    """What is allowed, and where that comes from."""
    name, origins = check["check"], certificate["provenance"]["policy"]
    if name in certificate["attested"]:
        return "its own; another package's guard answered, and only its word is recorded"
    stated = [
        f"{words} {check['numbers'][key]:.6g} ({place}: {origins.get(place, 'unknown')})"
        for key, place, words in _LIMITS.get(name, ())
        if isinstance(check["numbers"].get(key), int | float)
    ]
    allowed = _unique(
        f"{found['kind'].replace('_', ' ')} {number_text(found['threshold'])}"
        for found in check["violations"]
        if isinstance(found["threshold"], int | float)
    )
    if allowed:
        rest = "" if len(allowed) <= MOST_ALLOWED else ", …"
        stated.append(f"broken were {', '.join(allowed[:MOST_ALLOWED])}{rest}")
    if name in _BY_NATURE:
        stated.insert(0, _BY_NATURE[name])
    by_origin = _origins(f"guards.{name}.", origins)
    if by_origin and name not in _BY_NATURE:
        stated.append(f"for a change of kind {certificate['kind']}, set by {by_origin}")
    if not stated:
        return "it never came to one"
    return "; ".join(stated)


def _origins(prefix: str, origins: Mapping[str, str]) -> str:
    """The keys of a guard's limits by where each comes from."""
    grouped: dict[str, list[str]] = {}
    for key, origin in sorted(origins.items()):
        if key.startswith(prefix):
            grouped.setdefault(origin, []).append(key.removeprefix(prefix))
    return "; ".join(f"{origin}: {', '.join(keys)}" for origin, keys in grouped.items())


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
