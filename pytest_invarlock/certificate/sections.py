"""A certificate's sections beside the guards': metric, structure, seeds, who measured, how surely.

Each is a pure function of facts, observations, policy and decision. Outcomes are restated, never
made; what was not measured is None.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_invarlock.certificate.guard_sections import check_of
from pytest_invarlock.checks.floors import guard_window_floor, token_floor
from pytest_invarlock.checks.ratio_numbers import perplexity
from pytest_invarlock.decision import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.decision import CheckDecision, Decision
    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.records import Facts, Record

_FLAGS = {
    "primary_metric": "primary_metric_acceptable",
    "drift": "preview_final_drift_acceptable",
    "tail": "tail_acceptable",
    "invariants": "invariants_pass",
    "spectral": "spectral_stable",
    "rmt": "rmt_stable",
    "variance": "variance_acceptable",
    "guard_overhead": "guard_overhead_acceptable",
}
_PAIRING = ("match_fraction", "overlap_fraction", "duplicate_fraction")
_LAYER = re.compile(r"(.+?\.\d+)(?:\.|$)")
"""A module's name up to its first number: the block that it stands in."""
Section = dict[str, Any]


def validation(decision: Decision) -> dict[str, bool]:
    """A flag for each check the policy demands: whether what `decide` said of it is acceptable."""
    return {
        _FLAGS[check.check]: check.outcome.acceptable
        for check in decision.checks
        if check.check in _FLAGS
    }


def numbers_of(decision: Decision, name: str) -> Section | None:
    """The numbers of a check; None where the policy does not demand it."""
    check = check_of(decision, name)
    return None if check is None else dict(check.numbers)


def primary_metric(facts: Facts, decision: Decision) -> Section | None:
    """What was decided of the metric, with its numbers; None where the policy demands no metric."""
    check = check_of(decision, "primary_metric")
    if check is None:
        return None
    return metric_section(facts.plan["metric"], check, *_arms(facts, check.numbers))


def metric_section(
    kind: str, check: CheckDecision, preview: float | None, final: float | None
) -> Section:
    """What a check says of metric ``kind``, of the plan's `METRICS`.

    ``preview`` and ``final`` are the subject's perplexity, or accuracy, on each arm; ``ci`` bounds
    the difference in nats per token, ``display_ci`` the ratio, or the drop in percentage points.
    """
    numbers, accuracy = dict(check.numbers), kind == "accuracy"
    return {
        "kind": kind,
        **numbers,
        "unit": "percentage points" if accuracy else "ratio",
        "preview": preview,
        "final": final,
        "preview_final_ratio": _quotient(final, preview),
        "ratio_vs_baseline": numbers.get("ratio"),
        "ci": None if accuracy else _ends(numbers, "delta_{}_nats_per_token"),
        "display_ci": _ends(numbers, "drop_{}_pp" if accuracy else "ratio_{}"),
        "degraded": check.outcome is Outcome.FAIL,
        "invalid": check.outcome is Outcome.ERROR,
        "reason": check.reason,
    }


def _arms(facts: Facts, numbers: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The subject's level on either arm; None where the check did not come to compute it."""
    if "accuracy_subject" in numbers:
        return numbers["preview_accuracy_subject"], numbers["accuracy_subject"]
    preview = facts.arms.get("preview")
    if "subject_perplexity" not in numbers or preview is None:
        return None, None
    return perplexity(preview.subject_nll, preview), numbers["subject_perplexity"]


def _quotient(final: float | None, preview: float | None) -> float | None:
    return final / preview if final is not None and preview else None


def _ends(numbers: Mapping[str, Any], key: str) -> list[float | None] | None:
    lower, upper = key.format("lower"), key.format("upper")
    return [numbers[lower], numbers[upper]] if lower in numbers and upper in numbers else None


def confidence(metric: Mapping[str, Any] | None, decision: Decision) -> Section:
    """How surely the demands are met, from outcomes alone, and the width of the metric's interval.

    High: every check passed; Medium: some warned; Low: anything else. ``unstable`` says that the
    metric came to no verdict.
    """
    outcomes = {check.outcome for check in decision.checks}
    label = "Low"
    if outcomes and outcomes <= {Outcome.PASS}:
        label = "High"
    elif outcomes and outcomes <= {Outcome.PASS, Outcome.WARN}:
        label = "Medium"
    ends = None if metric is None else metric["display_ci"]
    bounded = ends is not None and None not in ends
    check = check_of(decision, "primary_metric")
    undecided = (Outcome.INCONCLUSIVE, Outcome.ERROR)
    return {
        "label": label,
        "basis": "outcomes of the checks",
        "width": ends[1] - ends[0] if bounded and ends is not None else None,
        "unit": None if metric is None else metric["unit"],
        "unstable": None if check is None else check.outcome in undecided,
    }


def structure(facts: Facts) -> Section:
    """How much was changed: of an edit as it counted, of any subject as the weights' changes show.

    ``params_changed`` counts numbers, and only edits count them; ``params_in_changed_tensors`` is
    the size of the tensors that differ; ``layers_modified`` the number of their blocks.
    """
    edit = facts.edit or {}
    evidence = facts.guards.get("spectral", {})
    changes = evidence.get("changes")
    tensors = edit.get("n_tensors_changed")
    if tensors is None and changes is not None:
        tensors = len(changes)
    layers = None if changes is None else {layer_of(row["name"]) for row in changes} - {None}
    return {
        "tensors_changed": tensors,
        "params_changed": edit.get("n_parameters_changed"),
        "params_in_changed_tensors": (
            None if changes is None else sum(row["n_parameters"] for row in changes)
        ),
        "layers_modified": None if layers is None else len(layers),
    }


def layer_of(name: str) -> str | None:
    """The block that a tensor stands in, such as ``model.layers.3``; None outside the blocks."""
    found = _LAYER.match(name)
    return None if found is None else found.group(1)


def coverage(facts: Facts) -> Section:
    """Windows, documents and predicted tokens of each arm, beside what was planned."""
    windows = facts.plan.get("windows", {})
    return {
        arm: {
            "windows_planned": windows.get(f"{arm}_windows"),
            "windows": len(losses.tokens),
            "documents": facts.data.get("n_documents", {}).get(arm),
            "tokens": int(losses.tokens.sum()),
        }
        for arm, losses in facts.arms.items()
    }


def floors(facts: Facts, policy: DecisionPolicy, decision: Decision) -> Section:
    """The floors in force, and which checks fell short of one."""
    return {
        "documents": policy.floors.documents,
        "effective_documents": policy.floors.effective_documents,
        "guard_windows": guard_window_floor(facts, policy),
        "tokens": token_floor(facts, policy) if facts.error is None else policy.floors.tokens,
        "not_met_by": [c.check for c in decision.checks if c.reason == "below_floor"],
    }


def pairing(facts: Facts) -> Section:
    """Shares of windows that pair, overlap or occur twice."""
    return {key: facts.data.get(key) for key in _PAIRING}


def seeds(record: Record, facts_digest: str) -> Section:
    """Everything that random numbers came from; resamples of the decision come from the facts."""
    facts = record.facts
    return {
        "dataset": facts.plan.get("windows", {}).get("seed"),
        "draw": facts.draw,
        "process": record.observations.get("determinism", {}).get("seed"),
        "resampling": facts_digest,
    }


def determinism(record: Record) -> Section:
    """What was asked for, and what the process had set where that was recorded."""
    plan = record.facts.plan
    observed = record.observations.get("determinism")
    return {
        "requested": plan.get("determinism"),
        "threads": plan.get("threads"),
        "observed": None if observed is None else dict(observed),
    }


def plugins(facts: Facts) -> Section:
    """Who loaded, edited and guarded; other packages' guards with their version and code."""
    edit = facts.edit or {}
    return {
        "adapter": facts.baseline.get("adapter"),
        "subject_adapter": facts.subject.get("adapter"),
        "edit": edit.get("name"),
        "guards": list(facts.plan.get("guards", ())),
        "foreign_guards": {
            name: {key: entry[key] for key in ("distribution", "version", "code")}
            for name, entry in facts.attested.items()
        },
    }


def provenance(facts: Facts, policy: DecisionPolicy) -> Section:
    """By which code, of which data and models, under whose settings."""
    source = facts.plan.get("source")
    return {
        "code": facts.plan.get("code"),
        "source": None if source is None else dict(source),
        "models": {
            side: {key: identity.get(key) for key in ("revision", "checkpoint_digest")}
            for side, identity in (("baseline", facts.baseline), ("subject", facts.subject))
        },
        "policy": dict(policy.provenance),
    }


def tokenizer(facts: Facts) -> Section:
    """The fingerprint of either model's tokenizer."""
    return {
        "baseline": facts.baseline.get("tokenizer_fingerprint"),
        "subject": facts.subject.get("tokenizer_fingerprint"),
    }


def environment(record: Record) -> Section:
    """Versions, machine and device; nothing else of the observations."""
    return {
        key: record.observations[key]
        for key in ("versions", "machine", "device")
        if key in record.observations
    }
