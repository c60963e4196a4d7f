"""Every outcome has its words and its shape on every page."""

from __future__ import annotations

import pytest

from pytest_invarlock.certificate.explain import _FOLLOWS
from pytest_invarlock.certificate.outcome_words import MEANINGS, SHAPES, expectation_sentence
from pytest_invarlock.decision import Outcome

WORDS = {outcome.value for outcome in Outcome}


@pytest.mark.parametrize("table", [SHAPES, MEANINGS, *_FOLLOWS.values()])
def test_no_outcome_is_left_out(table: dict[str, str]) -> None:
    assert set(table) == WORDS
    assert len(set(SHAPES.values())) == len(SHAPES)


def test_what_was_skipped_is_not_said_to_have_passed_or_failed() -> None:
    decision = {"outcome": "SKIPPED", "strictness": "must_pass", "expectation_met": True}
    assert expectation_sentence(decision).startswith("It was skipped")
