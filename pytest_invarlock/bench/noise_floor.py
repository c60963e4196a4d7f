"""The numerical noise floor: what a baseline differs from itself, run again and batched anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_invarlock.metrics.batches import Batch, BatchShape, make_batches
from pytest_invarlock.metrics.token_scoring import score, window_sums

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from pytest_invarlock.data.window_set import Window

LEAST_WINDOWS = 16
"""Enough windows to fill a few batches; all of them would cost two more baseline passes."""


def measure_noise_floor(
    model: Any,
    windows: Sequence[Window],
    batches: Sequence[Batch],
    losses: NDArray[np.float64],
    shape: BatchShape,
    *,
    by_head: bool,
    device: torch.device,
) -> dict[str, float | int]:
    """Run the first batches of the final arm again, as they were and in another batch size.

    Args:
        model: the baseline, unedited.
        windows: the arm's windows.
        batches: the arm's batches, as the baseline pass saw them.
        losses: float64 (n_windows,), summed losses of that pass, nats.
        shape: how those batches were made.
        by_head: as in that pass.
        device: where batches go.

    Returns:
        Absolute differences of the mean loss of those windows, nats per token, by name; the
        largest of any one window; and, for choices, the share of examples whose prediction
        changed. All 0 where the arithmetic does not depend on the batch.
    """
    again = _first(batches)
    among = [place for batch in again for place in batch.order]
    other = replace(shape, batch_tokens=_other_batch_tokens(again))
    anew = make_batches(windows, other, device=device, among=among)
    runs = {
        "same_batch": _losses(model, again, by_head, len(windows)),
        "second_batch": _losses(model, anew, by_head, len(windows)),
    }
    weights = np.array([windows[place].weight for place in among], dtype=np.float64)
    floor: dict[str, float | int] = {
        "n_windows": len(among),
        "second_batch_tokens": other.batch_tokens,
    }
    largest = 0.0
    for name, found in runs.items():
        differences = (found - losses)[among]
        if not np.isfinite(differences).all():
            # A baseline whose own loss is not finite is an error of its own, told by `decide`.
            return {}
        floor[f"{name}_nats_per_token"] = float(abs(differences.sum()) / weights.sum())
        largest = max(largest, float((abs(differences) / weights).max()))
    floor["largest_window_nats_per_token"] = largest
    if windows[0].example is not None:
        floor["changed_predictions"] = _changed(windows, losses, runs, among)
    return floor


def _first(batches: Sequence[Batch]) -> list[Batch]:
    chosen: list[Batch] = []
    for batch in batches:
        if sum(len(taken.order) for taken in chosen) >= LEAST_WINDOWS:
            break
        chosen.append(batch)
    return chosen


def _other_batch_tokens(batches: Sequence[Batch]) -> int:
    """Half the rows of the largest batch, or two rows where every batch has one."""
    rows = max(len(batch.order) for batch in batches)
    length = max(
        sum(t.shape[1] for name, t in batch.inputs.items() if name != "attention_mask")
        for batch in batches
    )
    return int(length) * (2 if rows == 1 else max(1, rows // 2))


def _losses(model: Any, batches: Sequence[Batch], by_head: bool, n: int) -> NDArray[np.float64]:
    return window_sums(score(model, batches, by_head=by_head).nll, batches, n)


def _changed(
    windows: Sequence[Window],
    losses: NDArray[np.float64],
    runs: Mapping[str, NDArray[np.float64]],
    among: Sequence[int],
) -> float:
    examples = np.array([window.example for window in windows])
    before = _predictions(losses, examples)
    touched = np.unique(examples[among])
    changed = 0.0
    for found in runs.values():
        after = _predictions(np.where(np.isfinite(found), found, losses), examples)
        differ = np.mean([before[example] != after[example] for example in touched])
        changed = max(changed, float(differ))
    return changed


def _predictions(losses: NDArray[np.float64], examples: NDArray[np.int64]) -> dict[int, int]:
    chosen: dict[int, int] = {}
    for place, example in enumerate(examples.tolist()):
        if example not in chosen or losses[place] < losses[chosen[example]]:
            chosen[example] = place
    return chosen
