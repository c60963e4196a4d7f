"""Token losses: the model's own, whatever the batch, the padding and the chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pytest_invarlock.data.windows import Window
from pytest_invarlock.metrics import token_nll
from pytest_invarlock.metrics.token_nll import (
    head_reproduces_logits,
    make_batches,
    output_head,
    window_nll,
)

KINDS = ["llama", "gpt2"]
CPU = torch.device("cpu")


def windows(count: int = 6, seed: int = 0) -> list[Window]:
    """Windows of several lengths; some score only a last part."""
    generator = np.random.default_rng(seed)
    made = []
    for n in range(count):
        length = int(generator.integers(40, 90))
        tokens = generator.integers(1, 300, length).astype(np.int32)
        made.append(Window(tokens, 1 if n % 3 else int(length // 2), n))
    return made


def losses(
    model: Any, of: list[Window], *, batch_tokens: int = 8192, by_head: bool = False
) -> np.ndarray:
    batches = make_batches(of, batch_tokens=batch_tokens, device=CPU)
    return window_nll(model, batches, by_head=by_head)


@torch.no_grad()
def by_transformers(model: Any, window: Window) -> float:
    """The model's own loss in float64 on one window, times its scored tokens."""
    ids = torch.from_numpy(window.tokens.astype(np.int64))[None]
    labels = ids.clone()
    labels[0, : window.first_scored] = -100
    return float(model.double()(input_ids=ids, labels=labels).loss) * window.n_scored


@pytest.mark.parametrize("kind", KINDS)
def test_another_token_to_predict_changes_the_loss(kind: str, tiny_model: Any) -> None:
    first = windows(1)
    tokens = first[0].tokens.copy()
    tokens[-1] = (tokens[-1] + 1) % 300
    changed = [Window(tokens, first[0].first_scored, 0)]
    model = tiny_model(kind)
    assert abs(losses(model, first)[0] - losses(model, changed)[0]) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_head", [False, True])
def test_the_losses_are_transformers_own(kind: str, by_head: bool, tiny_model: Any) -> None:
    of = windows()
    found = losses(tiny_model(kind), of, by_head=by_head)
    reference = tiny_model(kind)
    expected = [by_transformers(reference, window) for window in of]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_tokens", [1, 100, 300, 10_000])
def test_the_composition_of_batches_does_not_matter(
    kind: str, batch_tokens: int, tiny_model: Any
) -> None:
    model = tiny_model(kind)
    alone = [losses(model, [window])[0] for window in windows()]
    together = losses(model, windows(), batch_tokens=batch_tokens)
    np.testing.assert_allclose(together, alone, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_head", [False, True])
def test_the_size_of_chunks_does_not_matter(
    kind: str, by_head: bool, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(kind)
    whole = losses(model, windows(), by_head=by_head)
    for elements in (320 * 7, 320 * 50):
        monkeypatch.setattr(token_nll, "MAX_LOGITS_ELEMENTS", elements)
        np.testing.assert_allclose(losses(model, windows(), by_head=by_head), whole, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_padding_holds_does_not_matter(kind: str, tiny_model: Any) -> None:
    model = tiny_model(kind)
    batches = make_batches(windows(), batch_tokens=8192, device=CPU)
    before = window_nll(model, batches, by_head=False)
    for batch in batches:
        batch.input_ids[batch.attention_mask == 0] = 17
    np.testing.assert_allclose(window_nll(model, batches, by_head=False), before, rtol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_the_heads_path_gives_the_whole_logits_losses(kind: str, tiny_model: Any) -> None:
    model = tiny_model(kind)
    batch = make_batches(windows(), batch_tokens=8192, device=CPU)[0]
    assert head_reproduces_logits(model, batch)
    np.testing.assert_allclose(
        losses(model, windows(), by_head=True), losses(model, windows(), by_head=False), rtol=1e-6
    )


def test_a_model_that_scales_its_logits_is_told_apart(tiny_model: Any) -> None:
    model = tiny_model("llama")
    forward = model.forward

    def scaled(*args: Any, **options: Any) -> Any:
        output = forward(*args, **options)
        output.logits = output.logits * 0.5
        return output

    model.forward = scaled
    batch = make_batches(windows(), batch_tokens=8192, device=CPU)[0]
    assert not head_reproduces_logits(model, batch)


def test_a_model_without_a_head_is_told_apart(tiny_model: Any) -> None:
    model = tiny_model("llama")
    body = model.model
    batch = make_batches(windows(), batch_tokens=8192, device=CPU)[0]
    assert not head_reproduces_logits(body, batch)
    assert output_head(model) is model.lm_head


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_damaged_model_gives_losses_that_are_not_finite(value: float, tiny_model: Any) -> None:
    model = tiny_model("llama")
    model.get_parameter("model.layers.0.mlp.gate_proj.weight").data[0, 0] = value
    assert not np.isfinite(losses(model, windows())).any()


def test_batches_hold_every_window_once_within_their_bound() -> None:
    of = windows(30)
    batches = make_batches(of, batch_tokens=200, device=CPU)
    assert sorted(i for batch in batches for i in batch.order) == list(range(30))
    for batch in batches:
        assert batch.input_ids.numel() <= 200 or len(batch.order) == 1
        for row, index in enumerate(batch.order):
            n = len(of[index].tokens)
            assert batch.input_ids[row, :n].tolist() == of[index].tokens.tolist()
            assert int(batch.attention_mask[row].sum()) == n
            assert int(batch.scored[row].sum()) == of[index].n_scored
            assert not batch.scored[row, : of[index].first_scored - 1].any()
    lengths = [len(of[i].tokens) for batch in batches for i in batch.order]
    assert lengths == sorted(lengths, reverse=True)


def test_losses_stand_in_the_order_of_the_windows(tiny_model: Any) -> None:
    model, of = tiny_model("gpt2"), windows()
    turned = losses(model, of[::-1], batch_tokens=150)
    np.testing.assert_allclose(turned[::-1], losses(model, of, batch_tokens=150), rtol=1e-6)


def test_progress_tells_the_windows_done(tiny_model: Any) -> None:
    told: list[int] = []
    batches = make_batches(windows(), batch_tokens=200, device=CPU)
    window_nll(tiny_model("llama"), batches, by_head=True, progress=told.append)
    assert told == sorted(set(told))
    assert len(told) == len(batches)
    assert told[-1] == 6
