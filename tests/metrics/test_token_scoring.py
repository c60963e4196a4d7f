"""Token losses: the models' own, whatever the batch, the padding and the chunks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from pytest_invarlock.adapters.output_head import output_head
from pytest_invarlock.data.window_set import Reading, Window
from pytest_invarlock.metrics import token_scoring
from pytest_invarlock.metrics.batches import Batch, BatchShape, make_batches
from pytest_invarlock.metrics.token_scoring import (
    Outputs,
    Reference,
    compare,
    model_outputs,
    score,
    window_sums,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Windows = Callable[..., list[Window]]

CPU = torch.device("cpu")
READING: dict[str, Reading] = {
    "llama": "causal",
    "gpt2": "causal",
    "bert": "masked",
    "t5": "seq2seq",
}


def batches_of(kind: str, of: list[Window], batch_tokens: int = 8192) -> list[Batch]:
    shape = BatchShape(READING.get(kind, "causal"), batch_tokens, decoder_start_id=0)
    return make_batches(of, shape, device=CPU)


def losses(
    kind: str, model: Any, of: list[Window], *, batch_tokens: int = 8192, by_head: bool = True
) -> np.ndarray:
    batches = batches_of(kind, of, batch_tokens)
    return window_sums(score(model, batches, by_head=by_head).nll, batches, len(of))


def scaled(model: Any, factor: float) -> Any:
    for parameter in model.parameters():
        parameter.mul_(factor)
    return model


@torch.no_grad()
def by_transformers(kind: str, model: Any, window: Window) -> float:
    """The model's own loss in float64 on one window, times its scored tokens."""
    ids = torch.from_numpy(window.tokens.astype(np.int64))[None]
    targets = torch.from_numpy(window.targets.astype(np.int64))[None]
    reading = READING.get(kind, "causal")
    if reading == "seq2seq":
        labels = targets
    else:
        shift = 1 if reading == "causal" else 0
        labels = torch.full_like(ids, -100)
        labels[0, window.positions + shift] = targets[0]
    return float(model.double()(input_ids=ids, labels=labels).loss) * window.n_scored


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("kind", READING)
def test_the_losses_are_transformers_own(
    kind: str, by_head: bool, tiny_model: Any, windows: Windows
) -> None:
    of = windows(READING[kind])
    found = losses(kind, tiny_model(kind), of, by_head=by_head)
    model = tiny_model(kind)
    np.testing.assert_allclose(found, [by_transformers(kind, model, w) for w in of], rtol=1e-5)


@pytest.mark.parametrize("kind", READING)
def test_another_target_changes_the_loss(kind: str, tiny_model: Any, windows: Windows) -> None:
    (window,) = windows(READING[kind], 1)
    targets = window.targets.copy()
    targets[-1] = (targets[-1] + 1) % 300
    changed = Window(window.tokens, window.positions, targets, 0, window.span)
    model = tiny_model(kind)
    assert abs(losses(kind, model, [window])[0] - losses(kind, model, [changed])[0]) > 1e-3


@pytest.mark.parametrize("kind", READING)
def test_batch_size_and_padding_change_rounding_only(
    kind: str, tiny_model: Any, windows: Windows
) -> None:
    of, model = windows(READING[kind]), tiny_model(kind)
    alone = losses(kind, model, of, batch_tokens=1)
    np.testing.assert_allclose(losses(kind, model, of), alone, rtol=1e-5)


@pytest.mark.parametrize("by_head", [False, True])
def test_chunks_of_the_vocabulary_change_rounding_only(
    by_head: bool, tiny_model: Any, windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, model = windows(), tiny_model("llama")
    whole = losses("llama", model, of, by_head=by_head)
    monkeypatch.setattr(token_scoring, "LEAST_ROWS", 1)
    for elements in (1, 1000, 5000):
        monkeypatch.setattr(token_scoring, "CPU_LOGITS_ELEMENTS", elements)
        np.testing.assert_allclose(losses("llama", model, of, by_head=by_head), whole, rtol=1e-6)


def test_capped_logits_are_taken_whole(tiny_model: Any, windows: Windows) -> None:
    of = windows()
    found = losses("gemma2", tiny_model("gemma2"), of, by_head=False)
    model = tiny_model("gemma2")
    own = [by_transformers("gemma2", model, w) for w in of]
    np.testing.assert_allclose(found, own, rtol=1e-5)


def test_nan_weights_give_nan_losses_for_every_window(tiny_model: Any, windows: Windows) -> None:
    model = tiny_model("llama")
    model.model.layers[0].mlp.down_proj.weight[0, 0] = math.nan
    assert np.isnan(losses("llama", model, windows())).all()


def test_progress_counts_windows_after_each_batch(tiny_model: Any, windows: Windows) -> None:
    told: list[int] = []
    batches = batches_of("llama", windows(), 200)
    score(tiny_model("llama"), batches, by_head=True, progress=told.append)
    assert told == np.cumsum([len(batch.order) for batch in batches]).tolist()
    assert told[-1] == 6


def test_of_equal_logits_the_first_is_chosen_and_nan_before_all() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0], [2.0, math.nan, 9.0], [-math.inf] * 3, [0.0, 1.0, 2.0]])
    found = token_scoring._first_choice(logits)
    assert found.tolist() == logits.argmax(-1).tolist() == [1, 1, 0, 2]
    assert found.dtype == torch.int64


def test_first_choices_are_the_greatest_logits(tiny_model: Any, windows: Windows) -> None:
    model = tiny_model("gpt2")
    batches = batches_of("gpt2", windows())
    found = score(model, batches, by_head=True).top1
    with torch.no_grad():
        own = [
            model(**batch.inputs).logits[batch.rows, batch.positions].argmax(-1)
            for batch in batches
        ]
    assert torch.equal(found, torch.cat(own))


def beside(model: Any) -> Reference:
    return Reference(lambda batch, _: model_outputs(model, batch, by_head=False))


@pytest.mark.parametrize("kind", READING)
def test_kl_is_the_textbook_sum(kind: str, tiny_model: Any, windows: Windows) -> None:
    baseline, subject = tiny_model(kind), scaled(tiny_model(kind), 1.05)
    batches = batches_of(kind, windows(READING[kind]))
    _, kl = compare(subject, batches, beside(baseline), by_head=True)
    own = []
    with torch.no_grad():
        for batch in batches:
            b, s = (
                model.double()(**batch.inputs).logits[batch.rows, batch.positions].log_softmax(-1)
                for model in (baseline, subject)
            )
            own.append((b.exp() * (b - s)).sum(-1))
    assert kl is not None
    assert float(kl.mean()) > 1e-4
    np.testing.assert_allclose(kl.numpy(), torch.cat(own).numpy(), rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("kind", READING)
def test_equal_models_diverge_by_exactly_nothing(
    kind: str, tiny_model: Any, windows: Windows
) -> None:
    batches = batches_of(kind, windows(READING[kind]))
    scores, kl = compare(tiny_model(kind), batches, beside(tiny_model(kind)), by_head=False)
    assert kl is not None
    assert torch.equal(kl, torch.zeros(len(scores.nll)))


@pytest.mark.parametrize("kind", READING)
def test_kept_states_and_a_second_model_give_one_divergence(
    kind: str, tiny_model: Any, windows: Windows
) -> None:
    baseline, subject = tiny_model(kind), scaled(tiny_model(kind), 0.95)
    batches = batches_of(kind, windows(READING[kind]))
    kept = score(baseline, batches, by_head=True, keep_states=True)
    assert kept.states is not None
    states, head = kept.states, output_head(baseline)
    cached = Reference(lambda _, there: Outputs(states[there], head))
    _, one = compare(subject, batches, cached, by_head=True)
    _, other = compare(subject, batches, beside(baseline), by_head=True)
    assert one is not None
    assert other is not None
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_what_the_baseline_rules_out_adds_nothing() -> None:
    baseline = torch.tensor([[0.0, 1.0, -math.inf]])
    subject = torch.tensor([[0.0, 1.0, -5.0]])
    p = torch.tensor([0.0, 1.0]).softmax(-1)
    expected = float((p * (p.log() - subject.log_softmax(-1)[0, :2])).sum())
    found = token_scoring._kl(baseline, subject, subject.logsumexp(-1))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_without_reference_outputs_only_losses_are_compared(
    tiny_model: Any, windows: Windows
) -> None:
    batches = batches_of("llama", windows())
    scores, kl = compare(tiny_model("llama"), batches, Reference(None), by_head=True)
    assert kl is None
    assert len(scores.nll) == sum(len(batch.targets) for batch in batches)


def test_a_run_of_the_batches_takes_its_own_part_of_the_reference(
    tiny_model: Any, windows: Windows
) -> None:
    baseline, subject = tiny_model("llama"), scaled(tiny_model("llama"), 1.1)
    batches = batches_of("llama", windows(), 150)
    kept = score(baseline, batches, by_head=True, keep_states=True)
    assert kept.states is not None
    states, head = kept.states, output_head(baseline)
    reference = Reference(lambda _, there: Outputs(states[there], head))
    _, whole = compare(subject, batches, reference, by_head=True)
    first = sum(len(batch.targets) for batch in batches[:2])
    _, rest = compare(subject, batches[2:], reference, by_head=True, first_token=first)
    assert whole is not None
    assert rest is not None
    assert torch.equal(whole[first:], rest)


def test_windows_in_no_batch_have_no_sum(tiny_model: Any, windows: Windows) -> None:
    of = windows()
    batches = make_batches(of, BatchShape("causal", 8192), device=CPU, among=[1, 4])
    sums = window_sums(score(tiny_model("llama"), batches, by_head=True).nll, batches, len(of))
    assert np.isfinite(sums).tolist() == [False, True, False, False, True, False]
