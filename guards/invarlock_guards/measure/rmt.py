"""Measure of the RMT guard, and the guard: outputs of branches under the baseline's stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from invarlock_guards.contract import Guard, GuardResult
from invarlock_guards.judge.kinds import group_of
from invarlock_guards.judge.rmt import RMTPolicy, judge_rmt
from invarlock_guards.measure.forced_branches import (
    EDGE_WINDOWS,
    BranchRecord,
    compare_branches,
    readiness,
    record_branches,
)

if TYPE_CHECKING:
    from invarlock_guards.contract import GuardEvidence
    from invarlock_guards.measure.watched_forward import Batch


def measure_rmt(
    comparison: GuardEvidence,
    edge_of_change: Mapping[str, float | None] | None = None,
    change_size: Mapping[str, float | None] | None = None,
) -> GuardEvidence:
    """The RMT guard's evidence from a comparison of branches.

    Args:
        comparison: of `invarlock_guards.measure.forced_branches.compare_branches`, which the
            variance guard shares.
        edge_of_change: by module, the largest singular value of the weight's change over that of a
            random change of its size; None for one that did not change, or altogether where it was
            not measured.
        change_size: by module, ‖ΔW‖/‖W‖ of the same changes; what it leaves out counts as large.
    """
    edges = None if edge_of_change is None else dict(edge_of_change)
    return {**comparison, "edge_of_change": edges, "change_size": dict(change_size or {})}


class RMTGuard(Guard):
    """Each branch's output, fed the baseline's residual stream, against the baseline's output.

    Args:
        kind: the declared kind of change.
        policy: the limits; those of `RMTPolicy` by default, or of ``prepare``'s mapping.
    """

    name = "rmt"

    def __init__(self, kind: str = "any", policy: RMTPolicy | None = None) -> None:
        group_of(kind)
        self._kind = kind
        self._policy = policy or RMTPolicy()
        self._batches: Sequence[Batch] = ()
        self._record: BranchRecord | None = None

    def prepare(
        self, model: Any, adapter: Any, calib: Any, policy: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Record the baseline's branches on ``calib``, batches of keyword arguments.

        ``policy`` holds keys of `RMTPolicy`; where it is empty, the constructor's policy stays.
        Not ready without calibration windows, or where the model has no known branch.
        """
        del adapter
        if policy:
            self._policy = RMTPolicy.from_mapping(policy)
        self._batches = list(calib or ())
        self._record = record_branches(
            model,
            self._batches,
            edge_windows=EDGE_WINDOWS,
            outlier_factor=self._policy.outlier_factor,
        )
        return readiness(self._record)

    def validate(self, model: Any, adapter: Any, context: Any) -> GuardResult:
        """Compare the subject with the recorded baseline.

        ``context`` may be a mapping that holds ``edge_of_change`` and ``change_size``, for kinds
        that change each weight by itself.
        """
        del adapter
        if self._record is None:
            text = "the baseline was never shown to the guard"
            return GuardResult(self.name, None, "abort", "not_prepared", text)
        given = context if isinstance(context, Mapping) else {}
        comparison = compare_branches(model, self._batches, self._record)
        evidence = measure_rmt(comparison, given.get("edge_of_change"), given.get("change_size"))
        return judge_rmt(evidence, kind=self._kind, policy=self._policy)
