"""Batches: every window once, padding masked out, targets where they belong."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest
import torch

from pytest_invarlock.data.window_set import Reading, Window
from pytest_invarlock.metrics.batches import BatchShape, make_batches

if TYPE_CHECKING:
    from collections.abc import Callable

    Windows = Callable[..., list[Window]]

CPU = torch.device("cpu")


@pytest.mark.parametrize("reading", get_args(Reading))
@pytest.mark.parametrize("batch_tokens", [1, 200, 8192])
def test_every_window_stands_once_and_whole(
    reading: Reading, batch_tokens: int, windows: Windows
) -> None:
    of = windows(reading)
    shape = BatchShape(reading, batch_tokens, pad_id=299, decoder_start_id=7)
    batches = make_batches(of, shape, device=CPU)
    assert sorted(place for batch in batches for place in batch.order) == list(range(len(of)))
    for batch in batches:
        for row, place in enumerate(batch.order):
            window, n = of[place], len(of[place].tokens)
            assert batch.inputs["input_ids"][row, :n].tolist() == window.tokens.tolist()
            assert set(batch.inputs["input_ids"][row, n:].tolist()) <= {299}
            assert batch.inputs["attention_mask"][row].sum() == n
            scored = batch.rows == row
            assert batch.targets[scored].tolist() == window.targets.tolist()
            assert batch.positions[scored].tolist() == window.positions.tolist()


def test_a_decoder_reads_its_targets_one_step_late(windows: Windows) -> None:
    of = windows("seq2seq", 3)
    (batch,) = make_batches(of, BatchShape("seq2seq", 8192, decoder_start_id=7), device=CPU)
    for row, place in enumerate(batch.order):
        targets = of[place].targets.tolist()
        decoder = batch.inputs["decoder_input_ids"][row, : len(targets)].tolist()
        assert decoder == [7, *targets[:-1]]


@pytest.mark.parametrize("batch_tokens", [100, 300, 1000])
def test_a_batch_holds_no_more_tokens_than_asked_for_or_one_window(
    batch_tokens: int, windows: Windows
) -> None:
    of = windows(count=12)
    for batch in make_batches(of, BatchShape("causal", batch_tokens), device=CPU):
        assert batch.inputs["input_ids"].numel() <= batch_tokens or len(batch.order) == 1


def test_only_chosen_windows_are_batched(windows: Windows) -> None:
    batches = make_batches(windows(), BatchShape("causal", 100), device=CPU, among=[5, 2])
    assert sorted(place for batch in batches for place in batch.order) == [2, 5]


def test_rows_ascend_so_that_sums_have_one_order(windows: Windows) -> None:
    for batch in make_batches(windows(count=9), BatchShape("causal", 400), device=CPU):
        assert (np.diff(batch.rows.numpy()) >= 0).all()
