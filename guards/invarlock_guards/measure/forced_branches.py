"""Forced-branch pass: each branch of the subject is fed the baseline's residual stream.

One pass of the baseline records what enters each branch and what comes out; one pass of the subject
replaces what enters by what was recorded, so that no error propagates and each branch answers for
itself alone. All else, such as masks, positions and caches, is the subject's own.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from invarlock_guards.measure.branch_evidence import Agreement, EdgePairs, branch_evidence
from invarlock_guards.measure.branches import BranchPlan, find_branches
from invarlock_guards.measure.feature_edge import WindowEdge, window_edge
from invarlock_guards.measure.recorded_batch import Keeper, RecordedBatch, Replay
from invarlock_guards.measure.watched_forward import (
    Batch,
    BranchError,
    n_windows,
    quiet,
    watched_forward,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from invarlock_guards.contract import GuardEvidence
    from invarlock_guards.measure.sublayers import Tokens

EDGE_WINDOWS = 8
OUTLIER_FACTOR = 1.5 * 1.10
"""The seeds' margin times one plus their deadband."""


@dataclass(frozen=True, slots=True)
class BranchRecord:
    """A baseline's branches over calibration windows.

    It holds the residual stream once before and each output once for every branch: about
    4 · blocks · tokens · width numbers, 0.5 GB for a window of 512 tokens of a model of 32 blocks
    of width 4096 in bfloat16. `compare_models` keeps that of one batch only.
    """

    plan: BranchPlan
    batches: tuple[RecordedBatch, ...]
    edge_windows: frozenset[int]
    outlier_factor: float

    @property
    def n_bytes(self) -> int:
        """The memory of the recorded tensors."""
        return sum(t.nbytes for batch in self.batches for t in batch.tensors)


def record_branches(
    model: torch.nn.Module,
    batches: Sequence[Batch],
    *,
    edge_windows: int = EDGE_WINDOWS,
    outlier_factor: float = OUTLIER_FACTOR,
) -> BranchRecord:
    """Pass ``batches`` through the baseline and keep what enters and leaves its branches.

    Args:
        model: the baseline; neither it nor its mode is changed.
        batches: keyword arguments of forward passes, windows as first axis (see `Batch`).
        edge_windows: of how many windows, evenly spaced, edges are computed.
        outlier_factor: singular values above this multiple of the edge are counted as outliers.

    Raises:
        BranchError: a batch holds no tensor, or a mask that does not fit.
    """
    run = _Passes(_plan(model, batches), batches, edge_windows, outlier_factor)
    with quiet(model):
        recorded = tuple(run.record(model, n) for n in range(len(batches)) if run.plan.branches)
    return BranchRecord(run.plan, recorded, run.edge_windows, outlier_factor)


def compare_branches(
    model: torch.nn.Module, batches: Sequence[Batch], record: BranchRecord
) -> GuardEvidence:
    """Pass the same ``batches`` through the subject, forced, and compare branch by branch.

    Args:
        model: the subject, which may be the recorded model after an edit in place; neither it nor
            its mode is changed.
        batches: the batches of ``record``.
        record: of the baseline.

    Raises:
        BranchError: other batches than recorded, or a subject of another architecture.
    """
    run = _Passes(record.plan, batches, len(record.edge_windows), record.outlier_factor)
    with quiet(model):
        for number, recorded in enumerate(record.batches):
            run.compare(model, number, recorded)
    return run.evidence()


def compare_models(
    baseline: torch.nn.Module,
    subject: torch.nn.Module,
    batches: Sequence[Batch],
    *,
    edge_windows: int = EDGE_WINDOWS,
    outlier_factor: float = OUTLIER_FACTOR,
) -> GuardEvidence:
    """Compare two resident models batch by batch, with one batch's record in memory at a time."""
    run = _Passes(_plan(baseline, batches), batches, edge_windows, outlier_factor)
    with quiet(baseline), quiet(subject):
        for number in range(len(batches) if run.plan.branches else 0):
            run.compare(subject, number, run.record(baseline, number))
    return run.evidence()


def readiness(record: BranchRecord) -> dict[str, Any]:
    """What a guard's ``prepare`` answers: not ready, with the reason, where there is no branch."""
    n_branches = len(record.plan.branches)
    return {"ready": n_branches > 0, "reason": record.plan.reason, "n_branches": n_branches}


def _plan(model: torch.nn.Module, batches: Sequence[Batch]) -> BranchPlan:
    if not batches:
        return BranchPlan((), 0.0, (), "there are no calibration windows")
    return find_branches(model, batches[0])


class _Passes:
    """Passes over the same batches, and what their comparison has added up to."""

    def __init__(
        self,
        plan: BranchPlan,
        batches: Sequence[Batch],
        edge_windows: int,
        outlier_factor: float,
    ) -> None:
        self.plan = plan
        self._batches = batches
        counts = [n_windows(batch) for batch in batches]
        self._starts = [sum(counts[:n]) for n in range(len(counts))]
        self.edge_windows = _evenly(sum(counts), edge_windows)
        self._factor = outlier_factor
        self._agreement: dict[str, Agreement] = defaultdict(Agreement)
        self._edges: dict[str, EdgePairs] = defaultdict(EdgePairs)
        self._tokens: dict[str, Tokens] = {}
        self._sites: dict[str, Tokens] = {}
        for branch in plan.branches:
            self._tokens |= dict.fromkeys(branch.outputs, branch.tokens)
            sites = {site.module: site.tokens for site in branch.projections}
            # Experts are not called as modules, on all tokens: the branch's output stands for them.
            self._sites |= sites or (
                {} if branch.kind == "norm" else {branch.outputs[0]: branch.tokens}
            )

    def record(self, model: torch.nn.Module, number: int) -> RecordedBatch:
        """Record batch ``number`` of the baseline."""
        batch = self._batches[number]
        recorded = RecordedBatch(_fingerprint(batch))
        keeper = Keeper(recorded.tensors)
        before: dict[str, Callable[[torch.Tensor], None]] = {}
        after: dict[str, Callable[[torch.Tensor], None]] = {}
        for branch in self.plan.branches:
            for name in branch.entries:
                before[name] = keeper.into(recorded.entries[name])
            for name in branch.outputs:
                after[name] = keeper.into(recorded.outputs[name])
        for name in self._sites:
            see = self._edge_of(name, number, recorded.edges, recorded.edge_of_bits)
            after[name] = _both(after.get(name), see)
        watched_forward(model, batch, before, after)
        return recorded

    def compare(self, model: torch.nn.Module, number: int, recorded: RecordedBatch) -> None:
        """Force batch ``number`` through the subject and add up what differs."""
        batch = self._batches[number]
        if _fingerprint(batch) != recorded.fingerprint:
            raise BranchError("the subject was given other windows than the baseline")
        replay = Replay(recorded)
        edges: dict[tuple[str, int], list[WindowEdge]] = defaultdict(list)
        after: dict[str, Callable[[torch.Tensor], None]] = {
            name: self._agree(name, number, replay) for name in recorded.outputs
        }
        for name in self._sites:
            # A branch that was left alone gives the recorded outputs again.
            see = self._edge_of(name, number, edges, dict(recorded.edge_of_bits))
            after[name] = _both(after.get(name), see)
        before = {name: replay.force(name) for name in recorded.entries}
        watched_forward(model, batch, before, after)
        replay.check_calls()
        for key, pairs in recorded.edges.items():
            self._edges[key[0]].add(pairs, edges[key])

    def evidence(self) -> GuardEvidence:
        """What the passes found, as strict-JSON values."""
        return branch_evidence(
            self.plan,
            self._agreement,
            self._edges,
            n_windows=self._starts[-1] + n_windows(self._batches[-1]) if self._batches else 0,
            n_edge_windows=len(self.edge_windows),
            outlier_factor=self._factor,
        )

    def _agree(self, name: str, number: int, replay: Replay) -> Callable[[torch.Tensor], None]:
        mask = _mask(self._batches[number], self._tokens[name])
        runs = _padded_alike(mask)

        def see(value: torch.Tensor) -> None:
            expected = replay.output(name, value)
            rows = n_windows(self._batches[number])
            pair = _by_window(expected, rows, mask, name), _by_window(value, rows, mask, name)
            for run, real in runs:
                alike = (
                    one[run] if real is None else one[run][:, real.to(one.device)] for one in pair
                )
                self._agreement[name].add(*alike)

        return see

    def _edge_of(
        self,
        name: str,
        number: int,
        into: dict[tuple[str, int], list[WindowEdge]],
        known: dict[bytes, WindowEdge],
    ) -> Callable[[torch.Tensor], None]:
        mask = _mask(self._batches[number], self._sites[name])
        rows = n_windows(self._batches[number])
        start = self._starts[number]

        chosen = [row for row in range(rows) if start + row in self.edge_windows]

        def see(value: torch.Tensor) -> None:
            windows = _by_window(value, rows, mask, name)
            for row in chosen:
                window = windows[row]
                outputs = _exact(window if mask is None else _unpadded(window, mask[row]))
                bits = _bits(outputs)
                if bits not in known:
                    known[bits] = window_edge(outputs, self._factor)
                into[name, start + row].append(known[bits])

        return see


def _both(
    one: Callable[[torch.Tensor], None] | None, other: Callable[[torch.Tensor], None]
) -> Callable[[torch.Tensor], None]:
    if one is None:
        return other

    def see(value: torch.Tensor) -> None:
        one(value)
        other(value)

    return see


def _evenly(total: int, count: int) -> frozenset[int]:
    """``count`` of ``total`` windows, evenly spaced from the first to the last."""
    if count >= total:
        return frozenset(range(total))
    return frozenset(round(i * (total - 1) / max(count - 1, 1)) for i in range(count))


def _mask(batch: Batch, tokens: Tokens) -> torch.Tensor | None:
    """(windows, length) of bool, or None where every token counts."""
    mask = batch.get(tokens)
    if mask is None:
        return None
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
        raise BranchError(f"{tokens} must be (windows, length), 0 where a token is padding")
    real = mask != 0
    return None if bool(real.all()) else real


def _by_window(
    value: torch.Tensor, rows: int, mask: torch.Tensor | None, name: str
) -> torch.Tensor:
    """(windows, tokens, features), with padding, which ``mask`` must be of the shape of."""
    width = value.shape[-1]
    # Some models flatten windows and tokens into one axis.
    if value.numel() % (rows * width):
        raise BranchError(f"the output of {name} is not (windows, tokens, features)")
    windows = value.reshape(rows, -1, width)
    if mask is not None and mask.shape != windows.shape[:2]:
        n_tokens = windows.shape[1]
        raise BranchError(
            f"the output of {name} has {n_tokens} tokens a window, its mask {mask.shape[1]}"
        )
    return windows


def _padded_alike(mask: torch.Tensor | None) -> list[tuple[slice, torch.Tensor | None]]:
    """Runs of windows with their real tokens alike, and the places of these; None for all."""
    if mask is None:
        return [(slice(None), None)]
    _, lengths = torch.unique_consecutive(mask, dim=0, return_counts=True)
    ends = lengths.cumsum(0).tolist()
    return [
        (slice(start, end), mask[start].nonzero().squeeze(1))
        for start, end in itertools.pairwise([0, *ends])
    ]


def _unpadded(window: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(tokens, features) of one window, without its padding."""
    return window[mask.to(window.device)]


def _exact(value: torch.Tensor) -> torch.Tensor:
    """``value`` where float64 exists."""
    return value.cpu() if value.device.type == "mps" else value


def _fingerprint(batch: Batch) -> str:
    """A digest of the tensors of ``batch``."""
    digest = hashlib.sha256()
    for key in sorted(batch):
        value = batch[key]
        if isinstance(value, torch.Tensor):
            digest.update(key.encode())
            digest.update(_bits(value))
    return digest.hexdigest()


def _bits(value: torch.Tensor) -> bytes:
    """A digest of type, shape and bits of ``value``."""
    digest = hashlib.sha256(f"{value.dtype} {tuple(value.shape)} ".encode())
    flat = value.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.digest()
