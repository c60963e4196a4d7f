"""Measure of the variance guard, and the guard: sizes of branch outputs, what would mend them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from invarlock_guards.contract import Guard, GuardResult
from invarlock_guards.judge.kinds import group_of
from invarlock_guards.judge.variance import judge_variance
from invarlock_guards.judge.variance_policy import VariancePolicy
from invarlock_guards.measure.forced_branches import (
    BranchRecord,
    compare_branches,
    readiness,
    record_branches,
)
from invarlock_guards.measure.variance_proposals import measure_proposals

if TYPE_CHECKING:
    from invarlock_guards.contract import GuardEvidence
    from invarlock_guards.measure.variance_proposals import WindowLosses
    from invarlock_guards.measure.watched_forward import Batch


def measure_variance(
    comparison: GuardEvidence, proposals: Mapping[str, Any] | None = None
) -> GuardEvidence:
    """The variance guard's evidence from a comparison of branches.

    Args:
        comparison: of `invarlock_guards.measure.forced_branches.compare_branches`, which the RMT
            guard shares.
        proposals: of `invarlock_guards.measure.variance_proposals.measure_proposals`; None where
            they were not measured.
    """
    return {**comparison, "proposals": None if proposals is None else dict(proposals)}


class VarianceGuard(Guard):
    """The size of each branch's output, fed the baseline's residual stream, against the baseline's.

    Args:
        kind: the declared kind of change.
        policy: the limits; those of `VariancePolicy` by default, or of ``prepare``'s mapping.
        held_out: batches, other than the calibration's, on which rescaling proposals are tried;
            without them no proposal is measured.
        losses: gives the loss of each window of a batch; next-token losses by default.
    """

    name = "variance"

    def __init__(
        self,
        kind: str = "any",
        policy: VariancePolicy | None = None,
        held_out: Sequence[Batch] = (),
        losses: WindowLosses | None = None,
    ) -> None:
        group_of(kind)
        self._kind = kind
        self._policy = policy or VariancePolicy()
        self._held_out = held_out
        self._losses = losses
        self._batches: Sequence[Batch] = ()
        self._record: BranchRecord | None = None

    def prepare(
        self, model: Any, adapter: Any, calib: Any, policy: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Record the baseline's branches on ``calib``, batches of keyword arguments.

        ``policy`` holds keys of `VariancePolicy`; where it is empty, the constructor's stays. Not
        ready without calibration windows, or where the model has no known branch.
        """
        del adapter
        if policy:
            self._policy = VariancePolicy.from_mapping(policy)
        self._batches = list(calib or ())
        # Edges are the RMT guard's.
        self._record = record_branches(model, self._batches, edge_windows=0)
        return readiness(self._record)

    def validate(self, model: Any, adapter: Any, context: Any) -> GuardResult:
        """Compare the subject with the recorded baseline, and try what would mend it."""
        del adapter, context
        if self._record is None:
            text = "the baseline was never shown to the guard"
            return GuardResult(self.name, None, "abort", "not_prepared", text)
        comparison = compare_branches(model, self._batches, self._record)
        proposals = (
            measure_proposals(model, comparison, self._held_out, self._policy, losses=self._losses)
            if self._held_out
            else None
        )
        evidence = measure_variance(comparison, proposals)
        return judge_variance(evidence, kind=self._kind, policy=self._policy)
