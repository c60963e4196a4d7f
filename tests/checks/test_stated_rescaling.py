"""Rescalings that a record states, against its branches, its plan and its arrays: each refusal."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from invarlock_guards.judge.proposals import propose
from invarlock_guards.judge.variance_policy import ProposalRules

from pytest_invarlock.checks.stated_rescaling import rescaling_contradiction, with_remediation
from pytest_invarlock.records import Facts

from .made import arm, facts

RULES = ProposalRules()
PLANNED = {**RULES.proposal_rules(), "remediate": True}
BRANCH = {"output": "h.down", "kind": "feed_forward", "family": "ffn", "log_rms": 0.5, "e": 1.0}
# The preview's documents are 10 and 11, the final arm's 0, 1 and 2; document 1 has two windows.
PREVIEW = {"documents": [10_010, 10_011], "gains": [1.0, 2.0], "tokens": [254, 127]}
FINAL = {"documents": [0, 1, 2], "gains": [1.0, 2.0, 3.0], "tokens": [127, 254, 127]}
TENSOR = {"before": "a", "restored": "a"}


def record(**change: Any) -> Facts:
    made = facts(
        arms={
            "preview": arm([0.1, 0.2, 0.3], documents=[10, 10, 11]),
            "final": arm([0.1, 0.2, 0.3, 0.4], documents=[0, 1, 1, 2]),
        }
    )
    return replace(made, plan={**made.plan, "rescaling": PLANNED, **change})


def stated(**change: Any) -> dict[str, Any]:
    proposals = {
        **propose({"branches": [BRANCH]}, RULES),
        "ab": PREVIEW,
        "remediation": {"tensors": {"h.down.weight": TENSOR}, "ab": FINAL},
    }
    return {"branches": [BRANCH], "proposals": proposals | change}


def remade(**change: Any) -> dict[str, Any]:
    made = {"tensors": {"h.down.weight": TENSOR}, "ab": FINAL}
    return {"remediation": made | change}


def test_an_honest_record_contradicts_nothing() -> None:
    assert rescaling_contradiction(stated(), record()) is None
    assert rescaling_contradiction({"proposals": None}, record(rescaling=None)) is None
    untried = stated(ab=None, **remade(ab=None))
    assert rescaling_contradiction(untried, record()) is None
    plain = {**PLANNED, "remediate": False}
    assert rescaling_contradiction(stated(remediation=None), record(rescaling=plain)) is None


def test_rescalings_are_planned_and_stated_or_neither() -> None:
    told = "rescalings stand in the plan or the evidence only"
    assert rescaling_contradiction({"proposals": None}, record()) == told
    assert rescaling_contradiction(stated(), record(rescaling=None)) == told
    # Without losses there is nothing to try a proposal on; what was not planned is stated all the same.
    without = replace(record(), arms={})
    assert rescaling_contradiction({"proposals": None}, without) is None
    assert rescaling_contradiction(stated(), replace(record(rescaling=None), arms={})) == told


SCALE = {"h.down": 0.97}
OTHER = "other rescalings are stated than the rules give for the branches"
NUMBER = "documents, gains and tokens of rescalings differ in number"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rules": {**RULES.proposal_rules(), "deadband": 0.5}},
         "rescalings were proposed by other rules than planned"),
        ({"remediation": None}, "a remediation was planned or made only"),
        ({"n_eligible": 2}, OTHER),
        ({"reason": "no branch was edited"}, OTHER),
        ({"scales": {}}, OTHER),
        ({"scales": {"h.up": 0.97}}, OTHER),
        ({"scales": {"h.down": 0.97 * (1 + 2e-9)}}, OTHER),
        ({"n_eligible": None}, "no rescaling was looked for, and the metric is one of losses"),
        ({"ab": PREVIEW | {"gains": [1.0]}}, NUMBER),
        ({"ab": PREVIEW | {"tokens": [254]}}, NUMBER),
        ({"ab": PREVIEW | {"documents": [10_010]}}, NUMBER),
        ({"ab": PREVIEW | {"documents": [10_010, 10_010]}},
         "a gain of rescalings counts a document twice"),
        ({"ab": PREVIEW | {"documents": [10_010, 10_012]}},
         "the gain of rescalings is of other documents than the preview arm's"),
        ({"ab": {key: values[:1] for key, values in PREVIEW.items()}},
         "the gain of rescalings is of other documents than the preview arm's"),
        ({"ab": PREVIEW | {"tokens": [254, 128]}},
         "the gain of rescalings is of other tokens than the preview arm's"),
        (remade(tensors={"h.down.weight": TENSOR | {"restored": "b"}}),
         "a remediation was not undone"),
        (remade(tensors={"h.up.weight": TENSOR}),
         "a remediation wrote other modules than were proposed"),
        (remade(tensors={}), "a remediation wrote other modules than were proposed"),
        (remade(ab=FINAL | {"tokens": [127, 254, 1]}),
         "the gain of rescalings is of other tokens than the final arm's"),
    ],
)  # fmt: skip
def test_what_does_not_follow_is_told(change: dict[str, Any], told: str) -> None:
    assert rescaling_contradiction(stated(**change), record()) == told


def test_scales_agree_to_nine_digits() -> None:
    assert rescaling_contradiction(stated(scales={"h.down": 0.97 * (1 + 5e-10)}), record()) is None


def test_without_scales_there_is_no_gain_and_no_remediation() -> None:
    quiet = {"branches": [BRANCH | {"e": 0}], "proposals": None}
    found = propose(quiet, RULES)
    assert found["scales"] == {}
    ab = quiet | {"proposals": found | {"ab": PREVIEW, "remediation": remade()["remediation"]}}
    assert rescaling_contradiction(ab, record()) == "a gain of rescalings that were not proposed"
    made = quiet | {"proposals": found | remade(tensors={})}
    assert rescaling_contradiction(made, record()) == (
        "a remediation wrote other modules than were proposed"
    )
    none = quiet | {"proposals": found | remade(tensors={}, ab=None)}
    assert rescaling_contradiction(none, record()) is None


def test_of_a_metric_without_losses_nothing_is_looked_for() -> None:
    untried = {"n_eligible": None, "scales": {}, "ab": None, **remade(tensors={}, ab=None)}
    assert rescaling_contradiction(stated(**untried), record(metric="accuracy")) is None
    told = "no rescaling was looked for, and the metric is one of losses"
    assert rescaling_contradiction(stated(**untried), record()) == told
    for change in ({"scales": SCALE}, {"ab": PREVIEW}):
        odd = stated(**untried | change)
        assert rescaling_contradiction(odd, record(metric="accuracy")) == told


def test_rules_that_are_none_are_told() -> None:
    bad = {**RULES.proposal_rules(), "deadband": -1.0}
    found = rescaling_contradiction(stated(rules=bad), record(rescaling={**bad, "remediate": True}))
    assert found is not None
    assert found.startswith("the rules of rescalings: ")
    assert "deadband" in found


def test_an_arm_that_was_not_measured_has_no_gain() -> None:
    made = record()
    for gone in ("preview", "final"):
        arms = {name: losses for name, losses in made.arms.items() if name != gone}
        assert rescaling_contradiction(stated(), replace(made, arms=arms)) == (
            f"a gain of rescalings on the {gone} arm, which was not measured"
        )


@pytest.mark.parametrize(
    "lends",
    [{"source": {"provider": "given"}},
     {"windows": record().plan["windows"] | {"pool": "tuning"}}],
)  # fmt: skip
def test_windows_that_are_lent_to_guards_are_left_out_of_a_gain(lends: dict[str, Any]) -> None:
    fewer = stated(ab={key: values[:1] for key, values in PREVIEW.items()})
    assert rescaling_contradiction(fewer, record(**lends)) is None
    assert rescaling_contradiction(fewer, record(source={"provider": "pydoc"})) is not None
    other = stated(ab=PREVIEW | {"documents": [10_010, 10_012]})
    assert rescaling_contradiction(other, record(**lends)) == (
        "the gain of rescalings is of other tokens than the preview arm's"
    )


def test_a_gain_is_of_as_many_windows_as_the_guards_look_at() -> None:
    few = {"windows": record().plan["windows"] | {"guard_windows": 2}}
    first = stated(ab={key: values[:1] for key, values in PREVIEW.items()})
    assert rescaling_contradiction(first, record(**few)) is None
    assert rescaling_contradiction(first, record()) is not None
    other = "the gain of rescalings is of other documents than the preview arm's"
    assert rescaling_contradiction(stated(), record(**few)) == other
    # The blocks of a sequential plan are its own.
    assert rescaling_contradiction(stated(), record(**few, sequential={})) is None
    one = {"windows": record().plan["windows"] | {"guard_windows": 1}}
    half = stated(ab={"documents": [10_010], "gains": [1.0], "tokens": [127]})
    assert rescaling_contradiction(half, record(**one)) is None


def test_the_ratio_while_a_remediation_stood() -> None:
    made, evidence = record(), stated()
    unmeasured = {"remediation": "not_measured", "a": 1}
    assert with_remediation({"a": 1}, evidence, made) == unmeasured
    measured = {"a": 1, "remediation": "measured"}
    assert with_remediation(measured, evidence, replace(made, arms={})) == measured
    final = made.arms["final"]
    whole = with_remediation(measured, evidence, made)
    delta = (float((final.subject_nll - final.baseline_nll).sum()) - 6.0) / (4 * 127)
    assert whole == measured | {"remediation_ratio": pytest.approx(math.exp(delta), rel=1e-12)}
    part = stated(**remade(ab={key: values[1:2] for key, values in FINAL.items()}))
    kept = np.array([False, True, True, False])
    delta = (float((final.subject_nll - final.baseline_nll)[kept].sum()) - 2.0) / (2 * 127)
    assert with_remediation(measured, part, made)["remediation_ratio"] == pytest.approx(
        math.exp(delta), rel=1e-12
    )
