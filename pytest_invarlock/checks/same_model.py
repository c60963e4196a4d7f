"""Subjects whose tensors are the baseline's bit for bit: their losses have to be, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_invarlock.decision import CheckDecision, Outcome

if TYPE_CHECKING:
    from pytest_invarlock.records import Facts


def same_model(check: str, facts: Facts) -> CheckDecision | None:
    """The decision of ``check`` where the subject's tensors are the baseline's; None elsewhere.

    None as well where the configuration differs: the same tensors may then compute another
    function, which is judged like any other.
    """
    if facts.subject["tensors_digest"] != facts.baseline["tensors_digest"]:
        return None
    if all(np.array_equal(arm.baseline_nll, arm.subject_nll) for arm in facts.arms.values()):
        return CheckDecision(
            check, Outcome.PASS, "bitwise_identical",
            "bitwise identical: same tensors, same losses",
        )  # fmt: skip
    if facts.guards.get("invariants", {}).get("config_changes"):
        return None
    return CheckDecision(
        check, Outcome.ERROR, "not_reproducible",
        "the same tensors gave other losses: the measurement is not deterministic",
    )  # fmt: skip
