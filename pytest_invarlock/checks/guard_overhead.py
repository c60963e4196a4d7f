"""Guard overhead: a guard leaves the model that it certifies as it was, bit for bit.

Around each guard's turn the record holds what the model was and what it computed on one window:
``prepare`` on the baseline, ``validate`` on the subject. The seeds allow guards 1 % of perplexity;
equal bits allow nothing, so that the ratio is told and no limit is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_invarlock.checks.ratio_numbers import exp
from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.policy.decision_policy import GUARD_OVERHEAD, KNOWN_GUARDS
from pytest_invarlock.policy.deploy_names import DEPLOY
from pytest_invarlock.policy.edit_names import STRUCTURAL_FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_invarlock.checks.divergence import Numbers
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.records import Facts

CHECK = GUARD_OVERHEAD
PARTS: Mapping[str, str] = {
    "tensors": "its tensors",
    "function": "its hooks, modes, methods, numbers or buffers",
    "configuration": "its configuration",
    "outputs": "what it computes",
}
"""What of a state is compared, and how that is told."""
_PREPARED_TOO = ("invariants", "rmt", "variance")
_LOOKS = (("prepare", "baseline"), ("validate", "subject"), ("validate", "baseline"))
Step = dict[str, Any]


def changed_parts(step: Mapping[str, Any]) -> list[str]:
    """What a guard's turn changed, in words; nothing where all is equal bit for bit."""
    before, after = step["before"], step["after"]
    process = [f"the process: {', '.join(step['process'])}"] if step["process"] else []
    if after is None:
        return [*process, "so much that it cannot be read any more"]
    found = [text for part, text in PARTS.items() if before[part] != after[part]]
    # Without comparable outputs a loss says nothing either.
    if before["outputs"] is not None and not found and before["loss_nats"] != after["loss_nats"]:
        found.append("its loss")
    return [*process, *found]


def guard_overhead(facts: Facts, policy: DecisionPolicy) -> CheckDecision:
    """Judge what the guards did to the models.

    In order: something was changed (FAIL, in mode ``monitor`` WARN); not evaluated or not whole;
    passes that differ by themselves, so that the states alone are compared (WARN).
    """
    evidence = facts.guards.get(CHECK)
    if evidence is None:
        text = f"the policy demands {CHECK}, and the record holds no evidence of it"
        return CheckDecision(CHECK, Outcome.ERROR, "not_evaluated", text)
    steps = list(_steps(evidence))
    numbers = _numbers(evidence, steps)
    altered = [(phase, step, parts) for phase, step in steps if (parts := changed_parts(step))]
    if altered:
        outcome = Outcome.FAIL if policy.modes.get(CHECK, "gate") == "gate" else Outcome.WARN
        text = "; ".join(
            f"{phase} of {_who(step)} changed the {step['model']}: {', '.join(parts)}"
            for phase, step, parts in altered
        )
        return CheckDecision(CHECK, outcome, "altered_model", text, numbers, _violations(altered))
    error = _unfit(facts, evidence, steps)
    if error is not None:
        return error
    turns = f"{len(steps)} turns of guards left each model as it was"
    if not evidence["repeatable"]:
        text = (
            f"{turns}; what it computes differs from pass to pass by itself and is not compared "
            "(--invarlock-determinism=strict makes it repeatable)"
        )
        return CheckDecision(CHECK, Outcome.WARN, "not_repeatable", text, numbers)
    return CheckDecision(CHECK, Outcome.PASS, "unaltered", f"{turns}, bit for bit", numbers)


def after_alteration(name: str, facts: Facts) -> str | None:
    """Why evidence of guard ``name`` is of a model that a guard had changed; None where it is not.

    A baseline that is changed in ``prepare`` is loaded again: only who changed it is suspect.
    """
    for phase, step in _steps(facts.guards.get(CHECK, {"prepare": [], "validate": []})):
        if changed_parts(step) and (phase == "validate" or name in step["guards"]):
            return f"it is evidence of a model that {_who(step)} had changed"
        if phase == "validate" and name in step["guards"]:
            return None
    return None


def _steps(evidence: Mapping[str, Any]) -> Iterator[tuple[str, Step]]:
    for phase in ("prepare", "validate"):
        if isinstance(evidence[phase], list):
            yield from ((phase, step) for step in evidence[phase])


def _who(step: Step) -> str:
    return " and ".join(step["guards"])


def _violations(altered: Sequence[tuple[str, Step, list[str]]]) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "kind": "altered_model",
            "module": _who(step),
            "family": phase,
            "value": part,
            "threshold": "equal bit for bit",
        }
        for phase, step, parts in altered
        for part in parts
    )


def _of_subject(evidence: Mapping[str, Any]) -> list[Step]:
    steps = evidence["validate"]
    if not isinstance(steps, list):
        return []
    return [step for step in steps if step["model"] == "subject"]


def _numbers(evidence: Mapping[str, Any], steps: Sequence[tuple[str, Step]]) -> Numbers:
    """The window's loss before and after all guards, and the seeds' ratio of the two."""
    subject = _of_subject(evidence)
    before: float | None = subject[0]["before"]["loss_nats"] if subject else None
    last = subject[-1]["after"] if subject else None
    after: float | None = None if last is None else last["loss_nats"]
    ratio = None if before is None or after is None else exp(after - before)
    return {
        "loss_before_nats": before,
        "loss_after_nats": after,
        "guarded_ratio": ratio,
        "n_turns": len(steps),
    }


def _unfit(
    facts: Facts, evidence: Mapping[str, Any], steps: Sequence[tuple[str, Step]]
) -> CheckDecision | None:
    """The error of evidence that proves nothing; None where it does."""
    reason, text = "not_evaluated", None
    if not isinstance(evidence["validate"], list):
        text = f"not evaluated: {evidence['validate']['not_evaluated']}"
    elif not _of_subject(evidence):
        text = "not evaluated: no guard's turn was watched"
    elif (missing := _missing(facts, evidence)) is not None:
        reason, text = "incomplete", missing
    elif (against := _contradiction(facts, evidence, steps)) is not None:
        reason, text = "contradictory", f"the record contradicts itself: {against}"
    elif evidence["repeatable"] and any(step["before"]["outputs"] is None for _, step in steps):
        text = "not evaluated: the window cannot be passed through the model"
    return None if text is None else CheckDecision(CHECK, Outcome.ERROR, reason, text)


def _missing(facts: Facts, evidence: Mapping[str, Any]) -> str | None:
    """A guard that said something, and whose turn nobody watched."""
    spoke = [n for n, e in facts.guards.items() if n in KNOWN_GUARDS and "not_evaluated" not in e]
    spoke += [name for name, entry in facts.attested.items() if entry["answer"] is not None]
    apart = facts.edit is None or facts.edit.get("name") in (DEPLOY, *STRUCTURAL_FAULTS)
    for phase, which in _LOOKS:
        watched = {
            name for step in evidence[phase] if step["model"] == which for name in step["guards"]
        }
        for name in spoke:
            if (phase, which) == ("prepare", "baseline"):
                looks = name in _PREPARED_TOO or name in facts.attested
            else:
                # Other packages' guards may reach the baseline beside a subject that is another.
                looks = which == "subject" or (apart and name in facts.attested)
            if looks and name not in watched:
                return f"the record does not say what {phase} of {name} left of the {which}"
    return None


def _contradiction(
    facts: Facts, evidence: Mapping[str, Any], steps: Sequence[tuple[str, Step]]
) -> str | None:
    """States that nobody changed, and that are yet not those of one model, or of another."""
    # Where passes differ by themselves, two states of one model do too.
    repeatable = ("outputs", "loss_nats") if evidence["repeatable"] else ()
    compared = ("tensors", "function", "configuration", *repeatable)
    for which, identity in (("baseline", facts.baseline), ("subject", facts.subject)):
        states = [step["before"] for _, step in steps if step["model"] == which]
        if any(state[key] != states[0][key] for state in states for key in compared):
            return f"the {which} is another before one turn than before the next"
        # What a damaged checkpoint loads as is not what its files hold.
        known = which == "baseline" or (facts.edit or {}).get("name") not in STRUCTURAL_FAULTS
        stated = identity.get("tensors_digest")
        if states and known and stated is not None and states[0]["tensors"] != stated:
            return f"the guards' {which} is another model than the one that was measured"
    return None
