"""One pass over a baseline: the scores of both arms, and how far it differs from itself."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pytest_invarlock.bench.baseline_cache import BaselineEvidence
from pytest_invarlock.bench.draws import batch_shape
from pytest_invarlock.bench.noise_floor import measure_noise_floor
from pytest_invarlock.metrics.token_scoring import score, window_sums
from pytest_invarlock.plan import ARMS, Arm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_invarlock.adapters import LoadedModel
    from pytest_invarlock.data import WindowSet
    from pytest_invarlock.metrics.batches import Batch
    from pytest_invarlock.metrics.token_scoring import Scores


def baseline_pass(
    baseline: LoadedModel,
    windows: WindowSet,
    batches: Mapping[Arm, Sequence[Batch]],
    *,
    batch_tokens: int,
    by_head: bool,
    advance: Callable[[int, int, int], None],
) -> BaselineEvidence:
    """Score ``windows``, cut into ``batches``, and measure the noise floor on the final arm.

    With ``by_head`` the last states are kept, and a subject's head gives the logits from them;
    ``advance`` is told (windows before the arm, windows in all, windows of the arm done).
    """
    total = sum(len(arm) for arm in windows.arms.values())
    done = 0
    scores: dict[Arm, Scores] = {}
    for arm in ARMS:
        scores[arm] = score(
            baseline.model,
            batches[arm],
            by_head=by_head,
            keep_states=by_head,
            progress=partial(advance, done, total),
        )
        done += len(windows.arms[arm])
    final = batches["final"]
    noise_floor = measure_noise_floor(
        baseline.model,
        windows.final,
        final,
        window_sums(scores["final"].nll, final, len(windows.final)),
        batch_shape(baseline, batch_tokens, windows.reading),
        by_head=by_head,
        device=baseline.device,
        context=baseline.context,
    )
    return BaselineEvidence(scores, noise_floor)
