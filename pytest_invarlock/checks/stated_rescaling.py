"""Whether the rescalings a record states follow from its branches, its plan and its own arrays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from invarlock_guards.judge.proposals import propose
from invarlock_guards.judge.variance_policy import ProposalRules

from pytest_invarlock.checks.ratio_numbers import exp
from pytest_invarlock.plan import n_tried_windows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.plan import Arm
    from pytest_invarlock.records import Facts


def rescaling_contradiction(evidence: Mapping[str, Any], facts: Facts) -> str | None:
    """What the variance guard's proposals contradict; None where nothing.

    Args:
        evidence: the guard's, of branches that were compared.
        facts: the record that holds it.
    """
    planned, stated = facts.plan.get("rescaling"), evidence["proposals"]
    if planned is None or stated is None:
        # Without losses of the subject there is nothing to try a proposal on.
        if planned is not None and not facts.arms:
            return None
        return None if planned is stated else "rescalings stand in the plan or the evidence only"
    remediate = planned["remediate"]
    if stated["rules"] != {key: v for key, v in planned.items() if key != "remediate"}:
        return "rescalings were proposed by other rules than planned"
    if (stated["remediation"] is not None) is not remediate:
        return "a remediation was planned or made only"
    return (
        _proposals(evidence, stated, facts)
        or _sums(facts, "preview", stated["ab"])
        or _remediation(facts, stated)
    )


def _proposals(evidence: Mapping[str, Any], stated: Mapping[str, Any], facts: Facts) -> str | None:
    """Targets and scales are those that the rules give for the branches."""
    if stated["n_eligible"] is None:
        if facts.plan["metric"] == "accuracy" and not stated["scales"] and stated["ab"] is None:
            return None
        return "no rescaling was looked for, and the metric is one of losses"
    try:
        expected = propose(evidence, ProposalRules.of(stated["rules"]))
    except ValueError as error:
        return f"the rules of rescalings: {error}"
    scales = stated["scales"]
    if (
        stated["n_eligible"] != expected["n_eligible"]
        or stated["reason"] != expected["reason"]
        or set(scales) != set(expected["scales"])
        or not all(math.isclose(scales[k], v, rel_tol=1e-9) for k, v in expected["scales"].items())
    ):
        return "other rescalings are stated than the rules give for the branches"
    if not scales and stated["ab"] is not None:
        return "a gain of rescalings that were not proposed"
    return None


def _sums(facts: Facts, arm: Arm, ab: Mapping[str, Any] | None) -> str | None:
    """Documents and tokens of an A/B are those of the arm it was made on."""
    if ab is None:
        return None
    if len({len(ab[key]) for key in ("documents", "gains", "tokens")}) != 1:
        return "documents, gains and tokens of rescalings differ in number"
    losses = facts.arms.get(arm)
    if losses is None:
        return f"a gain of rescalings on the {arm} arm, which was not measured"
    windows = facts.plan["windows"]
    # Ready-made windows lend some of their documents to the guards, and so do other pools.
    lends = (facts.plan.get("source") or {}).get("provider") == "given"
    lends = lends or windows.get("pool", "certification") != "certification"
    n_windows = len(losses.tokens)
    if arm == "preview":
        n_windows = n_tried_windows(
            n_windows,
            windows.get("guard_windows", 0),
            lent=lends,
            sequential=facts.plan.get("sequential") is not None,
        )
    tokens: dict[int, int] = {}
    for name, count in zip(
        losses.documents[:n_windows].tolist(), losses.tokens[:n_windows].tolist(), strict=True
    ):
        tokens[name] = tokens.get(name, 0) + count
    if len(set(ab["documents"])) < len(ab["documents"]):
        return "a gain of rescalings counts a document twice"
    if not lends and set(ab["documents"]) != set(tokens):
        return f"the gain of rescalings is of other documents than the {arm} arm's"
    if any(tokens.get(k) != v for k, v in zip(ab["documents"], ab["tokens"], strict=True)):
        return f"the gain of rescalings is of other tokens than the {arm} arm's"
    return None


def _remediation(facts: Facts, stated: Mapping[str, Any]) -> str | None:
    made = stated["remediation"]
    if made is None:
        return None
    if any(each["before"] != each["restored"] for each in made["tensors"].values()):
        return "a remediation was not undone"
    if made["ab"] is None:
        return None
    written = {name.rpartition(".")[0] for name in made["tensors"]}
    if not stated["scales"] or written != set(stated["scales"]):
        return "a remediation wrote other modules than were proposed"
    return _sums(facts, "final", made["ab"])


def with_remediation(
    metrics: Mapping[str, Any], evidence: Mapping[str, Any], facts: Facts
) -> dict[str, Any]:
    """``metrics`` of the guard with the final arm's ratio while the remediation stood.

    For a policy that asks for one; where none was made under it, that is said.
    """
    final = facts.arms.get("final")
    if metrics.get("remediation") != "measured" or final is None:
        return {"remediation": "not_measured", **metrics}
    ab = evidence["proposals"]["remediation"]["ab"]
    names = set(ab["documents"])
    kept = np.array([name in names for name in final.documents.tolist()])
    difference = math.fsum((final.subject_nll - final.baseline_nll)[kept])
    delta = (difference - math.fsum(ab["gains"])) / int(final.tokens[kept].sum())
    return {**metrics, "remediation_ratio": exp(delta)}
