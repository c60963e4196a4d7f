"""Whether a run planned all that its policy demands: a shorter plan was made up to hide a guard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_invarlock.checks.planned import unplanned
from pytest_invarlock.evidence.findings import Finding, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.records import Facts


def plan_findings(
    path: str, facts: Facts, policy: DecisionPolicy, probes: Iterable[str]
) -> list[Finding]:
    """NOT_PLANNED where the plan of the record at ``path`` asks for less than is demanded.

    ``probes`` are those that its scenario asks for. What nobody planned would otherwise be
    INCONCLUSIVE, where evidence that is missing is an ERROR.
    """
    missing = unplanned(dict.fromkeys((*policy.checks, *probes)), facts)
    if not missing:
        return []
    text = f"its plan does not ask for what its policy demands: {', '.join(missing)}"
    return [Finding("NOT_PLANNED", Stage.SEMANTICS, path, text)]
