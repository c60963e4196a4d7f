"""Fine-tunes of a baseline on documents that no measurement reads, kept at several steps."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pytest_invarlock.data import draw_windows, get_provider
from pytest_invarlock.plan import DataSource, WindowSelection

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_invarlock.adapters import LoadedModel

SNAPSHOTS = (8, 16, 32, 64)
SEQUENCES = 4


@dataclass(frozen=True)
class Finetune:
    """Parameters after some steps of AdamW, and how they came to be."""

    rate: float
    scope: str
    steps: int
    state: dict[str, torch.Tensor]


def finetunes(
    loaded: LoadedModel, seed: int, *, runs: int = 4, cache: Path | None = None,
    snapshots: tuple[int, ...] = SNAPSHOTS,
) -> list[list[Finetune]]:  # fmt: skip
    """``runs`` trajectories, each with a snapshot at ``snapshots``; read from ``cache`` if there.

    Rates are log-uniform in 3e-5 to 5e-4; one in four trains attention alone. The tuning pool's
    documents are in neither arm of the metric nor among the guards' windows.
    """
    if cache is not None and cache.exists():
        kept: list[list[Finetune]] = torch.load(cache, weights_only=False)
        return kept
    windows = draw_windows(
        get_provider("pydoc", DataSource("pydoc")), loaded.tokenizer,
        WindowSelection(128, 128, 1000, 1000, pool="tuning"), draw=0,
    )  # fmt: skip
    rows = [w.tokens for arm in windows.arms.values() for w in arm if len(w.tokens) == 128]
    texts = torch.from_numpy(np.stack(rows)).long()
    found = [_trajectory(loaded, texts, seed, number, snapshots) for number in range(runs)]
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found, cache)
    return found


def _trajectory(
    loaded: LoadedModel, texts: torch.Tensor, seed: int, number: int, snapshots: tuple[int, ...]
) -> list[Finetune]:
    draw = np.random.default_rng([seed, 7, number])
    rate = float(np.exp(draw.uniform(np.log(3e-5), np.log(5e-4))))
    scope = "attn" if number % 4 == 3 else "all"
    generator = torch.Generator().manual_seed(int(draw.integers(2**31)))
    model = copy.deepcopy(loaded.model).train().requires_grad_(True)
    trained = [p for n, p in model.named_parameters() if scope == "all" or "attn" in n]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
    found = []
    for step in range(1, max(snapshots) + 1):
        batch = texts[torch.randint(len(texts), (SEQUENCES,), generator=generator)]
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if step in snapshots:
            state = {name: p.detach().clone() for name, p in model.named_parameters()}
            found.append(Finetune(rate, scope, step, state))
    return found
