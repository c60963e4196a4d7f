"""Reading a guard's answer: what is malformed is refused by its key, and never a pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from invarlock_guards.answers import GuardAnswerError, read_prepared, read_result
from invarlock_guards.contract import GuardResult, Violation

FINE: dict[str, Any] = {"passed": True, "action": "continue"}


def result(**fields: Any) -> GuardResult:
    """A result object that holds what no mapping could."""
    fine = {"guard": "g", "passed": True, "action": "continue", "reason": "r", "text": "t"}
    return GuardResult(**{**fine, **fields})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "answered NoneType"),
        (True, "answered bool"),
        ([FINE], "answered list"),
        ({}, "passed is missing"),
        ({"action": "continue"}, "passed is missing"),
        ({"passed": True}, "action is missing"),
        ({**FINE, "passed": 1}, "passed is int"),
        ({**FINE, "passed": "true"}, "passed is str"),
        ({**FINE, "passed": None}, "passed is NoneType"),
        ({**FINE, "action": "ignore"}, "action 'ignore' is none of continue, warn"),
        ({**FINE, "action": ["continue"]}, "is none of continue"),
        ({**FINE, "action": "abort"}, "passed is true, and action is abort"),
        ({**FINE, "action": "rollback"}, "passed is true, and action is rollback"),
        ({**FINE, "message": 3}, "message is int"),
        ({**FINE, "metrics": [1]}, "metrics is no mapping"),
        ({**FINE, "metrics": {1: 2}}, "metrics is no mapping of names"),
        ({**FINE, "violations": {}}, "violations is no list"),
        ({**FINE, "violations": "none"}, "violations is no list"),
        ({**FINE, "violations": ["text"]}, "violations[0] is str"),
        ({**FINE, "violations": [{"module": 3}]}, "violations[0].module is not text"),
        ({**FINE, "violations": [{}, {"value": [1]}]}, "violations[1].value is neither"),
        ({**FINE, "violations": [{"threshold": float("nan")}]}, "violations[0].threshold"),
        ({**FINE, "violations": [{"family": 1}]}, "violations[0].family is not text"),
        (GuardResult("g", True, "abort", "", ""), "passed is true, and action is abort"),
        (GuardResult("g", False, "stop", "", ""), "action 'stop'"),  # type: ignore[arg-type]
        (result(passed="False"), "passed is str, not true, false or None"),
        (result(passed=1), "passed is int, not true, false or None"),
        (result(action=np.array([1, 2])), "action of type ndarray is none of continue"),
        (result(action=None), "action of type NoneType is none of"),
        (result(text=None), "text is NoneType, not text"),
        (result(reason=3), "reason is int, not text"),
        (result(metrics=[1]), "metrics is no mapping"),
        (result(violations="none"), "violations is no list"),
        (result(violations=("text",)), "violations[0] is str"),
        (result(violations=({"module": 3},)), "violations[0].module is not text"),
        (result(violations=(Violation(3, "h"),)), "violations[0].kind is not text"),  # type: ignore[arg-type]
        (result(expected_changes=5), "expected_changes is no list"),
        (result(warnings="one"), "warnings is no list"),
        (result(warnings=(Violation("k", "m", value=object()),)), "warnings[0].value is neither"),  # type: ignore[arg-type]
    ],
)
def test_what_is_malformed_is_refused(given: Any, told: str) -> None:
    with pytest.raises(GuardAnswerError) as caught:
        read_result("mine", given)
    assert "mine" in str(caught.value)
    assert told in str(caught.value)


def test_the_least_that_is_an_answer() -> None:
    result = read_result("mine", FINE)
    assert (result.guard, result.passed, result.status) == ("mine", True, "passed")
    assert result.text == "mine says that it passed"


def test_a_full_answer_is_kept() -> None:
    violation = {"kind": "too_large", "module": "h.0", "family": "ffn", "value": 3, "threshold": 2}
    result = read_result(
        "mine",
        {
            "passed": False, "action": "rollback", "message": "no", "more": object(),
            "metrics": {"worst": 3.0, "names": ["h.0"]},
            "violations": [violation, Violation("other", "h.1")],
            "warnings": ["h.2", {"module": "h.3", "value": 1}],
        },
    )  # fmt: skip
    assert (result.status, result.text) == ("failed", "no")
    assert result.metrics == {"worst": 3.0, "names": ["h.0"]}
    assert result.violations[0].document() == violation
    assert [w.module for w in result.warnings] == ["h.2", "h.3"]


def test_a_result_object_takes_the_name_it_is_called_by() -> None:
    assert read_result("mine", GuardResult("other", True, "warn", "r", "t")).guard == "mine"


def test_what_a_mapping_may_hold_a_result_object_may_hold_too() -> None:
    given = result(
        metrics=None, violations=[{"kind": "big", "value": 3}], warnings=("h.2",), passed=None
    )
    read = read_result("mine", given)
    assert (read.passed, read.metrics) == (None, {})
    assert read.violations == (Violation("big", "", 3),)
    assert read.warnings == (Violation("warning", "h.2"),)
    whole = result(expected_changes=(Violation("k", "m", 1, 2, "ffn"),), metrics={"n": 1})
    assert read_result("g", whole) == whole


@pytest.mark.parametrize("given", [None, {}, {"ready": 1}, [True], {"prepared": True}])
def test_prepare_says_whether_it_is_ready(given: Any) -> None:
    with pytest.raises(GuardAnswerError):
        read_prepared("mine", given)
    assert read_prepared("mine", {"ready": False, "n": 2}) == {"ready": False, "n": 2}


@pytest.mark.parametrize(
    ("passed", "action", "status"),
    [
        (None, "continue", "not_evaluated"), (True, "continue", "passed"),
        (True, "warn", "warned"), (False, "warn", "warned"), (False, "continue", "failed"),
        (False, "abort", "failed"),
    ],
)  # fmt: skip
def test_status_in_one_word(passed: Any, action: Any, status: str) -> None:
    assert GuardResult("g", passed, action, "", "").status == status
