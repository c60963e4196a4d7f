"""Sums over windows of a branch comparison, and the evidence that they become."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from invarlock_guards.contract import GuardEvidence
    from invarlock_guards.measure.branches import Branch, BranchPlan
    from invarlock_guards.measure.feature_edge import WindowEdge

_ELEMENTS_AT_ONCE = 2**21
_SMALLEST = 1e-30
"""Of a ratio, so that an output of zeros gives a large number and not an infinite one."""


@dataclass(slots=True)
class Agreement:
    """Sums over the tokens of an output, in float64: Σy², Σy'², Σ(y'-y)², Σyy'."""

    baseline: float = 0.0
    subject: float = 0.0
    difference: float = 0.0
    product: float = 0.0
    n_tokens: int = 0
    non_finite: int = 0
    baseline_non_finite: int = 0

    def add(self, baseline: torch.Tensor, subject: torch.Tensor) -> None:
        """Add windows of one length, (windows, tokens, features) each, one after the other."""
        step = max(1, _ELEMENTS_AT_ONCE // max(1, baseline[0].numel()))
        for start in range(0, len(baseline), step):
            part = slice(start, start + step)
            for sums in _window_sums(baseline[part].flatten(1), subject[part].flatten(1)):
                self.baseline += sums[0]
                self.subject += sums[1]
                self.difference += sums[2]
                self.product += sums[3]
                self.non_finite += int(sums[4])
                self.baseline_non_finite += int(sums[5])
                self.n_tokens += baseline.shape[1]

    def statistics(self) -> dict[str, float | None]:
        """``e`` = ‖y'-y‖/‖y‖, ``log_rms`` = ln(rms y'/rms y), ``l`` = |log_rms|, ``c`` = 1 - cos.

        All are exactly 0 where the outputs are equal bit for bit, and None where one is not finite.
        """
        sums = (self.baseline, self.subject, self.difference, self.product)
        if not self.n_tokens or not all(map(math.isfinite, sums)):
            return dict.fromkeys(("e", "l", "c", "log_rms"))
        if self.difference == 0:
            return dict.fromkeys(("e", "l", "c", "log_rms"), 0.0)
        norm, other = math.sqrt(self.baseline), math.sqrt(self.subject)
        larger = max(norm, other)
        floor = _SMALLEST * larger
        cosine = self.product / (norm * other) if norm and other else 0.0
        log_rms = math.log(max(other, floor) / max(norm, floor))
        return {
            "e": math.sqrt(self.difference) / max(norm, floor),
            "l": abs(log_rms),
            "c": max(0.0, 1.0 - cosine),
            "log_rms": log_rms,
        }


def _window_sums(baseline: torch.Tensor, subject: torch.Tensor) -> list[list[float]]:
    """Of each row of both, (windows, numbers): the four sums, and what of either is not finite."""
    if subject.device.type == "mps":
        baseline, subject = baseline.cpu(), subject.cpu()
    y = baseline.double()
    square = y.square().sum(1)
    zeros = torch.zeros_like(square)
    if torch.equal(baseline, subject) and bool(torch.isfinite(square).all()):
        # Most branches of a subject that was changed in one place.
        sums = [square, square, zeros, square, zeros, zeros]
    else:
        other = subject.double()
        sums = [
            square,
            other.square().sum(1),
            (other - y).square().sum(1),
            (other * y).sum(1),
            (~torch.isfinite(other)).sum(1).double(),
            (~torch.isfinite(y)).sum(1).double(),
        ]
    found: list[list[float]] = torch.stack(sums, dim=1).tolist()
    return found


class EdgePairs:
    """Edges of one site in baseline and subject, window by window."""

    def __init__(self) -> None:
        self._pairs: list[tuple[WindowEdge, WindowEdge]] = []

    def add(self, baseline: Sequence[WindowEdge], subject: Sequence[WindowEdge]) -> None:
        """Add the edges of one window; there are several where a module is called so often."""
        self._pairs += zip(baseline, subject, strict=True)

    def statistics(self) -> dict[str, Any]:
        """``fedge``, the mean of ln(subject / baseline) over windows, and what was counted."""
        pairs = self._pairs
        ratios = [math.log(b.edge / a.edge) for a, b in pairs if a.edge and b.edge]
        return {
            "fedge": sum(ratios) / len(ratios) if ratios else None,
            "n_windows": len(ratios),
            "n_features": sum(a.n_features for a, _ in pairs),
            "n_dead_baseline": sum(a.n_dead for a, _ in pairs),
            "n_dead_subject": sum(b.n_dead for _, b in pairs),
            "n_newly_dead": sum(max(0, b.n_dead - a.n_dead) for a, b in pairs),
            "n_outliers_baseline": sum(a.n_outliers for a, _ in pairs),
            "n_outliers_subject": sum(b.n_outliers for _, b in pairs),
            "finite": all(b.finite for _, b in pairs),
        }


def branch_evidence(
    plan: BranchPlan,
    agreement: Mapping[str, Agreement],
    edges: Mapping[str, EdgePairs],
    *,
    n_windows: int,
    n_edge_windows: int,
    outlier_factor: float,
) -> GuardEvidence:
    """The comparison of two models' branches as strict-JSON values.

    ``reason`` is None, or says why nothing was compared. Each of ``branches`` has its name, kind,
    family, norms, the largest of its outputs' ``e``, ``l`` and ``c`` (None where one is not finite,
    counted in ``n_non_finite``), each of ``sites`` a projection's edges.
    """
    compared = [b for b in plan.branches if all(name in agreement for name in b.outputs)]
    sites = [
        {"module": module, "branch": branch.name, "family": branch.family, "role": role}
        | edges[module].statistics()
        for branch in plan.branches
        for module, role in _sites(branch)
        if module in edges
    ]
    return {
        "reason": plan.reason,
        "n_windows": n_windows if compared else 0,
        "n_edge_windows": n_edge_windows,
        "n_tokens": max((agreement[b.outputs[0]].n_tokens for b in compared), default=0),
        "n_branches": len(plan.branches),
        "n_branches_compared": len(compared),
        "parameter_share": plan.share,
        "left_out": list(plan.left_out),
        "outlier_factor": outlier_factor,
        "branches": [_row(branch, agreement) for branch in compared],
        "sites": sites,
    }


def _sites(branch: Branch) -> list[tuple[str, str]]:
    return [(site.module, site.role) for site in branch.projections] or [
        (branch.outputs[0], "output")
    ]


def _row(branch: Branch, agreement: Mapping[str, Agreement]) -> dict[str, Any]:
    outputs = [agreement[name] for name in branch.outputs]
    found = [output.statistics() for output in outputs]
    row: dict[str, Any] = {
        "module": branch.name,
        "kind": branch.kind,
        "family": branch.family,
        "block": branch.block,
        "stack": branch.stack,
        "norms": list(branch.norms),
        "output": branch.outputs[0],
        "log_rms": found[0]["log_rms"],
        "n_non_finite": sum(output.non_finite for output in outputs),
        "n_baseline_non_finite": sum(output.baseline_non_finite for output in outputs),
    }
    for key in ("e", "l", "c"):
        values = [statistics[key] for statistics in found]
        known = [value for value in values if value is not None]
        row[key] = max(known) if len(known) == len(values) else None
    return row
