"""Guard overhead: the first case is the one in which a guard wrote to the model it certifies."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from pytest_invarlock.checks.guard_overhead import after_alteration, guard_overhead
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.policy.decision_policy import DecisionPolicy, Expectation, Strictness
from pytest_invarlock.policy.edit_names import STRUCTURAL_FAULTS
from pytest_invarlock.records import Facts

from .made import ALL_CHECKS, BASE, CLEAN, OTHER, facts, policy
from .test_attested import entry

CHECK = "guard_overhead"
LOST = {"not_evaluated": "made"}


def digest(letter: str) -> str:
    return "sha256:" + letter * 64


def state(tensors: str, **change: Any) -> dict[str, Any]:
    parts = {name: digest("a") for name in ("function", "configuration", "outputs")}
    return {"tensors": tensors, **parts, "loss_nats": 2.5} | change


def turn(model: str, *guards: str, process: tuple[str, ...] = (), **change: Any) -> dict[str, Any]:
    before = state(BASE if model == "baseline" else OTHER)
    after = before | change
    return {
        "model": model, "guards": list(guards), "before": before, "after": after,
        "process": list(process),
    }  # fmt: skip


def evidence(**change: Any) -> dict[str, Any]:
    return {
        "repeatable": True,
        "prepare": [turn("baseline", "invariants")],
        "validate": [turn("subject", "invariants"), turn("subject", "mine")],
    } | change


def measured(found: Any = None, **change: Any) -> Facts:
    given = {"invariants": CLEAN} | ({CHECK: evidence()} if found is None else {CHECK: found})
    return facts(guards=given, **change)


def demanding(expectation: Expectation | None = None, **change: Any) -> DecisionPolicy:
    modes = {"invariants": "gate", CHECK: "gate"}
    return policy(expectation, **{"checks": (*ALL_CHECKS, CHECK), "modes": modes} | change)


def judged(found: Any = None, the_policy: DecisionPolicy | None = None) -> CheckDecision:
    return decide(measured(found), the_policy or demanding()).check(CHECK)


WROTE = evidence(validate=[turn("subject", "invariants"), turn("subject", "mine", tensors=BASE)])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tensors": digest("c")}, "its tensors"),
        ({"function": digest("b")}, "its hooks, modes, methods, numbers or buffers"),
        ({"configuration": digest("b")}, "its configuration"),
        ({"outputs": digest("b"), "loss_nats": 2.6}, "what it computes"),
        ({"loss_nats": math.nextafter(2.5, 3)}, "its loss"),
        ({"process": ("grad mode",)}, "the process: grad mode"),
    ],
)
@pytest.mark.parametrize(("phase", "model"), [("prepare", "baseline"), ("validate", "subject")])
def test_a_guard_that_changed_a_model_fails_by_name(
    phase: str, model: str, change: dict[str, Any], told: str
) -> None:
    others = evidence()[phase]
    check = judged(evidence(**{phase: [*others, turn(model, "rmt", "variance", **change)]}))
    assert (check.outcome, check.reason) == (Outcome.FAIL, "altered_model")
    assert check.text == f"{phase} of rmt and variance changed the {model}: {told}"
    assert [dict(violation) for violation in check.violations] == [
        {"kind": "altered_model", "module": "rmt and variance", "family": phase, "value": told,
         "threshold": "equal bit for bit"}
    ]  # fmt: skip


def test_one_that_left_nothing_readable_fails() -> None:
    last = turn("subject", "mine") | {"after": None}
    check = judged(evidence(validate=[turn("subject", "invariants"), last]))
    assert check.outcome is Outcome.FAIL
    assert "cannot be read any more" in check.text
    assert check.numbers["guarded_ratio"] is None


def test_the_ratio_of_the_windows_loss_is_told() -> None:
    worse = turn("subject", "mine", outputs=digest("b"), loss_nats=2.5 + math.log(1.005))
    check = judged(evidence(validate=[turn("subject", "invariants"), worse]))
    # Within the seeds' 1 %, and no less a change.
    assert check.outcome is Outcome.FAIL
    assert check.numbers["guarded_ratio"] == pytest.approx(1.005)
    assert judged().numbers["guarded_ratio"] == 1.0


def test_in_mode_monitor_it_warns() -> None:
    check = judged(WROTE, demanding(modes={"invariants": "gate", CHECK: "monitor"}))
    assert check.outcome is Outcome.WARN


def test_models_left_as_they_were_pass() -> None:
    check = judged()
    assert (check.outcome, check.reason) == (Outcome.PASS, "unaltered")
    assert check.text == "3 turns of guards left each model as it was, bit for bit"
    assert check.numbers["n_turns"] == 3


def test_a_loss_that_is_not_finite_is_compared_by_its_bits() -> None:
    lost = {"before": state(OTHER, loss_nats=None), "after": state(OTHER, loss_nats=None)}
    check = judged(evidence(validate=[turn("subject", "invariants") | lost]))
    assert (check.outcome, check.numbers["guarded_ratio"]) == (Outcome.PASS, None)


def test_passes_that_differ_by_themselves_leave_a_warning() -> None:
    steps = [turn("subject", "invariants", loss_nats=2.6)]
    for step in (steps[0]["before"], steps[0]["after"]):
        step["outputs"] = None
    check = judged(evidence(repeatable=False, validate=steps))
    assert (check.outcome, check.reason) == (Outcome.WARN, "not_repeatable")


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (evidence(validate=LOST), "not_evaluated"),
        (evidence(validate=[]), "not_evaluated"),
        (evidence(prepare=[]), "incomplete"),
        (evidence(validate=[turn("subject", "mine")]), "incomplete"),
        (
            evidence(validate=[turn("subject", "invariants") | {
                "before": state(OTHER, outputs=None), "after": state(OTHER, outputs=None),
            }]),
            "not_evaluated",
        ),
        (
            evidence(prepare=[turn("baseline", "invariants") | {
                "before": state(OTHER), "after": state(OTHER),
            }]),
            "contradictory",
        ),
        (
            evidence(validate=[turn("subject", "invariants"), turn("subject", "mine") | {
                "before": state(OTHER, function=digest("b")),
                "after": state(OTHER, function=digest("b")),
            }]),
            "contradictory",
        ),
    ],
)  # fmt: skip
def test_evidence_that_proves_nothing_is_an_error(found: dict[str, Any], reason: str) -> None:
    check = judged(found)
    assert (check.outcome, check.reason) == (Outcome.ERROR, reason)


def test_a_record_without_it_is_an_error_where_it_is_demanded() -> None:
    check = decide(facts(), demanding()).check(CHECK)
    assert (check.outcome, check.reason) == (Outcome.ERROR, "not_evaluated")


def test_evidence_taken_of_an_altered_model_contradicts() -> None:
    first = evidence(validate=[turn("subject", "invariants", tensors=BASE)])
    decision = decide(measured(first), policy())
    assert decision.check("invariants").reason == "contradictory"
    # Of a baseline that was loaded again only the guard that changed it is suspect.
    other = evidence(
        prepare=[turn("baseline", "invariants"), turn("baseline", "mine", tensors=OTHER)]
    )
    assert decide(measured(other), policy()).check("invariants").outcome is Outcome.PASS


def test_it_is_no_sign_of_damage_and_spoils_one() -> None:
    harmed = Expectation("error", Strictness.MUST_DETECT)
    quiet = decide(measured(WROTE), demanding(harmed))
    assert not quiet.expectation_met
    loud = replace(measured(WROTE), arms={}, data={})
    found = decide(loud, demanding(Expectation("error", Strictness.MUST_DETECT, ("invariants",))))
    assert (found.outcome, found.expectation_met) == (Outcome.ERROR, False)
    assert "changed the subject" in found.text


def test_by_itself_it_judges_no_subject() -> None:
    decision = decide(measured(), demanding(checks=(CHECK,)))
    assert decision.outcome is Outcome.ERROR


def test_turns_that_were_watched_on_the_other_model_are_missing() -> None:
    other = turn("baseline", "invariants", "mine")
    look = [turn("subject", "someone"), other]
    assert judged(evidence(validate=look)).reason == "incomplete"
    swapped = evidence(prepare=[turn("subject", "invariants")])
    assert judged(swapped).reason == "incomplete"


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (None, "contradictory"),
        ({"name": "quant_rtn"}, "contradictory"),
        ({"name": "missing_tensors"}, "unaltered"),
    ],
)
def test_turns_on_another_subject_contradict(edit: Any, reason: str) -> None:
    found = evidence(validate=[turn("baseline", "invariants") | {"model": "subject"}])
    check = guard_overhead(measured(found, edit=edit), demanding())
    assert check.reason == reason


def test_structural_faults_are_those_that_there_are() -> None:
    from pytest_invarlock.faults.structural import VIEW_FAULTS

    assert set(STRUCTURAL_FAULTS) == set(VIEW_FAULTS)


ALTERED = turn("subject", "mine", tensors=BASE)
UNREAD = turn("subject", "mine", process=("grad mode",)) | {"after": None}


def overhead(found: Any, **modes: str) -> CheckDecision:
    asked = demanding()
    return guard_overhead(measured(found), replace(asked, modes={**asked.modes, **modes}))


def test_guards_that_altered_a_model_are_named_in_full() -> None:
    found = overhead(evidence(validate=[turn("subject", "invariants"), ALTERED | {
        "after": ALTERED["after"] | {"loss_nats": 2.75}}]))  # fmt: skip
    assert found == CheckDecision(
        "guard_overhead", Outcome.FAIL, "altered_model",
        "validate of mine changed the subject: its tensors",
        {"loss_before_nats": 2.5, "loss_after_nats": 2.75,
         "guarded_ratio": pytest.approx(math.exp(0.25)), "n_turns": 3},
        ({"kind": "altered_model", "module": "mine", "family": "validate", "value": "its tensors",
          "threshold": "equal bit for bit"},),
    )  # fmt: skip
    lost = overhead(evidence(validate=[UNREAD]), guard_overhead="monitor")
    assert (lost.outcome, lost.text) == (
        Outcome.WARN, "validate of mine changed the subject: the process: grad mode, so much that "
        "it cannot be read any more",
    )  # fmt: skip
    assert lost.numbers == {
        "loss_before_nats": 2.5, "loss_after_nats": None, "guarded_ratio": None, "n_turns": 2
    }  # fmt: skip
    loss = overhead(evidence(validate=[turn("subject", "invariants", loss_nats=2.25)]))
    assert loss.text == "validate of invariants changed the subject: its loss"
    parts = turn("subject", "mine", "yours", configuration="x", outputs="y")
    assert overhead(evidence(validate=[parts])).text == (
        "validate of mine and yours changed the subject: its configuration, what it computes"
    )


def test_overhead_that_was_not_evaluated_says_why() -> None:
    none = {"loss_before_nats": None, "loss_after_nats": None, "guarded_ratio": None}
    made = facts()
    assert guard_overhead(made, demanding()) == CheckDecision(
        "guard_overhead", Outcome.ERROR, "not_evaluated",
        "the policy demands guard_overhead, and the record holds no evidence of it",
    )  # fmt: skip
    for validate, reason, text in (
        ({"not_evaluated": "made"}, "not_evaluated", "not evaluated: made"),
        ([], "not_evaluated", "not evaluated: no guard's turn was watched"),
        ([turn("subject", "mine")], "incomplete",
         "the record does not say what validate of invariants left of the subject"),
        ([turn("subject", "invariants") | {"before": (other := turn("baseline")["before"]),
                                           "after": other}], "contradictory",
         "the record contradicts itself: the guards' subject is another model than the one that "
         "was measured"),
    ):  # fmt: skip
        assert overhead(evidence(validate=validate)) == CheckDecision(
            "guard_overhead", Outcome.ERROR, reason, text
        )
    fine = overhead(evidence())
    assert fine == CheckDecision(
        "guard_overhead", Outcome.PASS, "unaltered",
        "3 turns of guards left each model as it was, bit for bit",
        none | {"loss_before_nats": 2.5, "loss_after_nats": 2.5, "guarded_ratio": 1.0,
                "n_turns": 3},
    )  # fmt: skip


def test_a_baseline_is_watched_for_attested_guards_beside_an_edited_subject() -> None:
    answered = {"mine": entry()}
    given = evidence(prepare=[turn("baseline", "invariants", "mine")])
    made = replace(measured(given), attested=answered)
    found = guard_overhead(made, demanding())
    assert found.text == ("the record does not say what validate of mine left of the baseline")
    edited = replace(made, edit={"name": "quant_rtn"})
    assert guard_overhead(edited, demanding()).outcome is Outcome.PASS


def test_evidence_after_a_turn_that_altered_the_model_is_of_another() -> None:
    def after(name: str, **phases: Any) -> str | None:
        return after_alteration(name, measured({"prepare": [], "validate": [], **phases}))

    said = "it is evidence of a model that mine had changed"
    steps = [turn("subject", "first"), ALTERED, turn("subject", "last")]
    assert [after(n, validate=steps) for n in ("first", "mine", "last")] == [None, said, said]
    prepared = [turn("baseline", "mine", tensors="x")]
    assert after("mine", prepare=prepared) == said
    assert after("other", prepare=prepared) is None
    assert after_alteration("mine", facts()) is None
