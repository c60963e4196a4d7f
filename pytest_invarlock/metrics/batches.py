"""Batches: windows padded to one length, with the outputs to score and their targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_invarlock.data.window_set import Reading, Window


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Batch:
    """Windows of like length, padded on the right, on the device that reads them.

    Attributes:
        inputs: the model's keyword arguments, int64 (n, length) each.
        rows: int64 (n_scored,), the row of each scored output; ascending.
        positions: int64 (n_scored,), its place in the row.
        targets: int64 (n_scored,), the token it predicts.
        order: the windows' places in the arm, one for each row.
        options: further keyword arguments of the model.
    """

    inputs: Mapping[str, torch.Tensor]
    rows: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    order: tuple[int, ...]
    options: Mapping[str, bool]

    def first_row(self) -> dict[str, torch.Tensor]:
        """The inputs of the first window alone."""
        return {name: tensor[:1] for name, tensor in self.inputs.items()}


@dataclass(frozen=True, slots=True)
class BatchShape:
    """What decides how windows become batches.

    Attributes:
        reading: how the model reads windows.
        batch_tokens: greatest number of tokens, padding included, of one forward pass.
        pad_id: the token that fills up rows; masked out, so its value changes no result.
        decoder_start_id: the decoder's first token, for ``seq2seq``.
    """

    reading: Reading
    batch_tokens: int
    pad_id: int = 0
    decoder_start_id: int | None = None


def make_batches(
    windows: Sequence[Window],
    shape: BatchShape,
    *,
    device: torch.device,
    among: Sequence[int] | None = None,
) -> list[Batch]:
    """Batches of the windows at ``among`` (None: all), longest first.

    The same windows give the same batches for every model, so baseline and subject see the same
    shapes, and with them the same order of sums.
    """
    places = range(len(windows)) if among is None else among
    order = sorted(places, key=lambda i: (-_length(windows[i], shape), i))
    batches = []
    start = 0
    while start < len(order):
        rows = max(1, shape.batch_tokens // _length(windows[order[start]], shape))
        chosen = tuple(order[start : start + rows])
        batches.append(_pad([windows[i] for i in chosen], chosen, shape, device))
        start += len(chosen)
    return batches


def _length(window: Window, shape: BatchShape) -> int:
    return len(window.tokens) + (len(window.targets) if shape.reading == "seq2seq" else 0)


def _pad(
    windows: Sequence[Window], order: tuple[int, ...], shape: BatchShape, device: torch.device
) -> Batch:
    inputs, mask = _padded([window.tokens for window in windows], shape.pad_id)
    arrays = {"input_ids": inputs, "attention_mask": mask}
    if shape.reading == "seq2seq":
        start = np.array([shape.decoder_start_id], dtype=np.int32)
        shifted = [np.concatenate([start, window.targets[:-1]]) for window in windows]
        arrays["decoder_input_ids"], _ = _padded(shifted, shape.pad_id)
    scored = [window.n_scored for window in windows]
    return Batch(
        inputs={name: torch.from_numpy(array).to(device) for name, array in arrays.items()},
        rows=_tensor(np.repeat(np.arange(len(windows)), scored), device),
        positions=_tensor(np.concatenate([window.positions for window in windows]), device),
        targets=_tensor(np.concatenate([window.targets for window in windows]), device),
        order=order,
        # Keys and values would be kept for nothing; masked models have none to keep.
        options={} if shape.reading == "masked" else {"use_cache": False},
    )


def _tensor(array: NDArray[np.integer], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.int64)).to(device)


def _padded(
    sequences: Sequence[NDArray[np.int32]], pad_id: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    shape = (len(sequences), max(len(sequence) for sequence in sequences))
    ids = np.full(shape, pad_id, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask
