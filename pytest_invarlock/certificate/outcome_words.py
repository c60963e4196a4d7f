"""Outcomes in words and shapes, so that no page rests on colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

SHAPES: Mapping[str, str] = {
    "PASS": "✓",
    "WARN": "!",
    "FAIL": "✕",
    "INCONCLUSIVE": "?",
    "ERROR": "⊘",
    "SKIPPED": "–",
}
MEANINGS: Mapping[str, str] = {
    "PASS": "the demand is met, bound included",
    "WARN": "something was found that does not decide",
    "FAIL": "the demand is broken, bound included",
    "INCONCLUSIVE": "neither can be said: the bound straddles the limit, or there is too little",
    "ERROR": "nothing could be judged",
    "SKIPPED": "nothing was measured, for the reason told",
}
_EXPECTED: Mapping[tuple[str, bool], str] = {
    ("must_pass", True): "It had to pass every check, and it did.",
    ("must_pass", False): "It had to pass every check, and it did not.",
    ("must_fail", True): "It had to fail, and it did.",
    ("must_fail", False): "It had to fail, and it did not.",
    ("must_detect", True): "The damage had to be detected, and it was.",
    ("must_detect", False): "The damage had to be detected, and it was not.",
    ("informational", True): "It had to be measured, and it was; what fires decides nothing.",
    ("informational", False): "It had to be measured, and it was not.",
}


def expectation_sentence(decision: Mapping[str, Any]) -> str:
    """What the scenario had to come to, and whether it did."""
    if decision["outcome"] == "SKIPPED":
        return "It was skipped: nothing was measured, and nothing is shown."
    return _EXPECTED[(decision["strictness"], decision["expectation_met"])]
