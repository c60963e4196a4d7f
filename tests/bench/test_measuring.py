"""One pass over a subject: paired, whole or stopped early; and what the baseline itself varies."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from invarlock_guards.judge.variance_policy import ProposalRules
from invarlock_guards.measure.branches import find_branches
from invarlock_guards.measure.variance_proposals import rescaled

from pytest_invarlock.adapters import LoadedModel
from pytest_invarlock.bench.guard_side import guard_batches
from pytest_invarlock.bench.noise_floor import measure_noise_floor
from pytest_invarlock.bench.rescaling import remediate, rescaling_trial
from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.data.window_set import Reading, Window, WindowSet
from pytest_invarlock.errors import ConfigError, EditError
from pytest_invarlock.metrics.batches import BatchShape, make_batches
from pytest_invarlock.metrics.token_scoring import score, window_sums
from pytest_invarlock.plan import (
    ARMS,
    DataSource,
    EditSpec,
    MeasurementPlan,
    Pair,
    RescalingPlan,
    SequentialPlan,
    WindowSelection,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Windows = Callable[..., list[Window]]

CPU = torch.device("cpu")
PRUNE = EditSpec("magnitude_prune", {"sparsity": 0.6})


def window_set(
    windows: Windows, n: int, reading: Reading = "causal", *, per_document: int = 1
) -> WindowSet:
    """Preview and final arm of ``n`` windows each; no document in both."""
    arms: dict[Any, tuple[Window, ...]] = {}
    for index, arm in enumerate(ARMS):
        made = windows(reading, n, seed=index)
        arms[arm] = tuple(
            replace(window, document=index * 10_000 + place // per_document)
            for place, window in enumerate(made)
        )
    documents = len(range(0, n, per_document))
    return WindowSet(
        arms, "sha256:" + "0" * 64, 96, {"preview": documents, "final": documents}, reading=reading
    )


def bench_of(
    model: Any, given: WindowSet, *, sequential: SequentialPlan | None = None, **plan: Any
) -> Bench:
    bench = Bench(
        Pair("m", "m"),
        MeasurementPlan(
            source=DataSource("given"),
            windows=WindowSelection(96, 96, len(given.preview), len(given.final)),
            device="cpu", dtype="float32", threads=1, batch_tokens=512, sequential=sequential,
            **plan,
        ),
    )  # fmt: skip
    bench.adopt(LoadedModel(model, None, None, 128, None, reading=given.reading))
    bench.use_windows(0, given)
    return bench


def measured(bench: Bench, edit: EditSpec = PRUNE) -> dict[str, Any]:
    evidence = bench.baseline_evidence(0)
    with bench.edited(edit) as subject:
        arms = bench.measure_subject(subject, 0)
    assert evidence.noise_floor["n_windows"] >= 1
    return dict(arms)


@pytest.mark.parametrize(
    ("kind", "reading"), [("llama", "causal"), ("bert", "masked"), ("t5", "seq2seq")]
)
def test_an_edit_is_compared_with_the_baselines_own_head(
    kind: str, reading: Reading, tiny_model: Any, windows: Windows
) -> None:
    given = window_set(windows, 8, reading)
    bench = bench_of(tiny_model(kind), given)
    assert bench.by_head(0)
    arms = measured(bench)
    pristine, edited = tiny_model(kind), tiny_model(kind)
    other = bench_of(edited, given)
    with other.edited(PRUNE), torch.no_grad():
        for arm in ARMS:
            paired = arms[arm]
            start = 0
            for batch in paired.batches:
                b, s = (
                    m(**batch.inputs).logits[batch.rows, batch.positions].double().log_softmax(-1)
                    for m in (pristine, edited)
                )
                kl = (b.exp() * (b - s)).sum(-1)
                end = start + len(kl)
                torch.testing.assert_close(paired.kl[start:end].double(), kl, rtol=1e-3, atol=1e-5)
                start = end
            losses = paired.losses(given.arms[arm])
            assert losses.kl_nats is not None
            assert losses.kl_nats.sum() == pytest.approx(float(paired.kl.double().sum()))


@pytest.mark.parametrize(
    ("kind", "reading"), [("llama", "causal"), ("bert", "masked"), ("t5", "seq2seq")]
)
def test_a_rescaling_is_scored_as_the_subject_was(
    kind: str, reading: Reading, tiny_model: Any, windows: Windows
) -> None:
    given = window_set(windows, 8, reading, per_document=2)
    plan = RescalingPlan(ProposalRules())
    bench = bench_of(tiny_model(kind), given, rescaling=plan)
    model, before = bench.baseline.model, bench.digests
    branches = find_branches(model, guard_batches(bench.baseline, given, bench.plan)[0]).branches
    module = [branch.outputs[0] for branch in branches if branch.kind == "feed_forward"][-1]
    bench.baseline_evidence(0)
    with bench.edited(PRUNE) as subject:
        trial = rescaling_trial(bench, 0, bench.measure_subject(subject, 0))
        assert trial is not None
        trial = replace(trial, seen=frozenset())
        same = trial.effect(model, "final")["ab"]
        assert set(same["gains"]) == {0.0}
        assert same["tokens"] == [
            sum(w.weight for w in given.final if w.document == name) for name in same["documents"]
        ]
        edited = tensor_digests(model)
        with rescaled(model, {module: 0.5}):
            hooked = trial.effect(model, "final")["ab"]
        # The same function, by a hook on the output or in the weights.
        written = remediate(subject, {module: 0.5}, trial)
        assert written["ab"]["gains"] == pytest.approx(hooked["gains"], rel=1e-3, abs=1e-3)
        assert max(map(abs, hooked["gains"])) > 0.01
        assert tensor_digests(model) == edited
        biased = f"{module}.bias" in dict(model.named_parameters())
        assert set(written["tensors"]) == {
            f"{module}.weight", *([f"{module}.bias"] if biased else []),
        }  # fmt: skip
    assert tensor_digests(model) == before


def test_where_the_head_is_not_the_whole_story_the_models_stand_side_by_side(
    tiny_model: Any, windows: Windows
) -> None:
    bench = bench_of(tiny_model("gemma2"), window_set(windows, 6))
    arms = measured(bench)
    assert not bench.by_head(0)
    assert bench.baseline_evidence(0).scores["final"].states is None
    assert float(arms["final"].kl.mean()) > 1e-4
    same = measured(bench, EditSpec("noop"))
    assert torch.equal(same["final"].kl, torch.zeros_like(same["final"].kl))


def test_counts_of_first_choices_add_up(tiny_model: Any, windows: Windows) -> None:
    given = window_set(windows, 8)
    losses = measured(bench_of(tiny_model("llama", num_hidden_layers=1), given))["final"].losses(
        given.final
    )
    different = losses.tokens - losses.top1_same
    assert (losses.top1_harmful + losses.top1_beneficial <= different).all()
    assert different.sum() > 0


def test_an_edited_head_is_compared_with_the_head_before_the_edit(
    tiny_model: Any, windows: Windows
) -> None:
    """GPT-2's head is its embedding: an edit of one is an edit of the other."""
    bench = bench_of(tiny_model("gpt2"), window_set(windows, 6))
    bench.baseline_evidence(0)
    with bench.edited(EditSpec("noop")) as subject:
        embedding = subject.loaded.model.get_input_embeddings().weight
        before = embedding.clone()
        embedding.mul_(1.5)
        kl = bench.measure_subject(subject, 0)["final"].kl
        embedding.copy_(before)
    assert kl is not None
    assert float(kl.mean()) > 1e-3


def test_the_noise_floor_is_zero_where_nothing_varies_and_small_where_batches_do(
    tiny_model: Any, windows: Windows
) -> None:
    bench = bench_of(tiny_model("llama", num_hidden_layers=1), window_set(windows, 20))
    floor = bench.baseline_evidence(0).noise_floor
    assert floor["same_batch_nats_per_token"] == 0
    assert floor["second_batch_nats_per_token"] < 1e-4
    assert floor["n_windows"] >= 16
    assert floor["second_batch_tokens"] < 512
    assert bench.counters.noise_floor_passes == 1


def test_a_baseline_that_differs_from_itself_has_a_noise_floor(
    tiny_model: Any, windows: Windows
) -> None:
    of, model = windows(count=6), tiny_model("llama", num_hidden_layers=1)
    shape = BatchShape("causal", 200)
    batches = make_batches(of, shape, device=CPU)
    losses = window_sums(score(model, batches, by_head=True).nll, batches, 6)
    model.lm_head.weight.mul_(1.01)
    floor = measure_noise_floor(model, of, batches, losses, shape, by_head=True, device=CPU)
    tokens = sum(window.n_scored for window in of)
    again = window_sums(score(model, batches, by_head=True).nll, batches, 6)
    assert floor["same_batch_nats_per_token"] == pytest.approx(
        abs((again - losses).sum()) / tokens, rel=1e-9
    )
    assert floor["same_batch_nats_per_token"] > 1e-4
    assert floor["largest_window_nats_per_token"] >= floor["same_batch_nats_per_token"]


def test_examples_whose_prediction_changes_are_counted(tiny_model: Any, windows: Windows) -> None:
    of = [
        replace(window, example=place // 2, is_label=place % 2 == 0)
        for place, window in enumerate(windows(count=8))
    ]
    model, shape = tiny_model("llama", num_hidden_layers=1), BatchShape("causal", 8192)
    batches = make_batches(of, shape, device=CPU)
    losses = window_sums(score(model, batches, by_head=True).nll, batches, 8)
    arguments: dict[str, Any] = {"by_head": True, "device": CPU}
    floor = measure_noise_floor(model, of, batches, losses, shape, **arguments)
    assert floor["changed_predictions"] == 0
    swapped = losses.reshape(-1, 2)[:, ::-1].reshape(-1)
    floor = measure_noise_floor(model, of, batches, swapped, shape, **arguments)
    assert floor["changed_predictions"] == 1


def test_a_baseline_of_nan_has_no_noise_floor(tiny_model: Any, windows: Windows) -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    model.lm_head.weight[0, 0] = math.nan
    bench = bench_of(model, window_set(windows, 4))
    assert bench.baseline_evidence(0).noise_floor == {}


SEQUENTIAL = SequentialPlan(ratio_limit=1.10)


def test_a_clear_case_stops_early_with_equal_arms(tiny_model: Any, windows: Windows) -> None:
    given = window_set(windows, 130)
    bench = bench_of(tiny_model("llama", num_hidden_layers=1), given, sequential=SEQUENTIAL)
    arms = measured(bench, EditSpec("noop"))
    losses = {arm: arms[arm].losses(given.arms[arm]) for arm in ARMS}
    assert len(losses["final"].tokens) == len(losses["preview"].tokens) == 64
    assert sorted(set(losses["final"].documents)) == list(range(10_000, 10_064))
    assert bench.counters.subject_windows == 128
    assert bench.counters.baseline_passes == 1


def test_a_stopped_pass_has_the_numbers_of_a_whole_one(tiny_model: Any, windows: Windows) -> None:
    """Windows measured before a stop are batched with one another only, in both passes."""
    given = window_set(windows, 130)
    bench = bench_of(tiny_model("llama", num_hidden_layers=1), given, sequential=SEQUENTIAL)
    stopped = measured(bench)["final"].losses(given.final)
    n = len(stopped.tokens)
    assert n < 130
    whole = measured(bench_of(tiny_model("llama", num_hidden_layers=1), given))["final"].losses(
        given.final
    )
    np.testing.assert_allclose(stopped.subject_nll, whole.subject_nll[:n], rtol=1e-5)
    np.testing.assert_allclose(stopped.baseline_nll, whole.baseline_nll[:n], rtol=1e-5)


def test_an_undecided_case_measures_everything(tiny_model: Any, windows: Windows) -> None:
    given = window_set(windows, 132)
    losses = measured(bench_of(tiny_model("llama", num_hidden_layers=1), given))["final"].losses(
        given.final
    )
    delta = (losses.subject_nll - losses.baseline_nll).sum() / losses.tokens.sum()
    # At its own ratio a subject is neither above nor below the limit.
    rule = SequentialPlan(ratio_limit=math.exp(delta))
    arms = measured(bench_of(tiny_model("llama", num_hidden_layers=1), given, sequential=rule))
    for arm in ARMS:
        assert len(arms[arm].losses(given.arms[arm]).tokens) == 132


def test_a_broken_subject_ends_after_the_first_block(tiny_model: Any, windows: Windows) -> None:
    given = window_set(windows, 130)
    bench = bench_of(tiny_model("llama", num_hidden_layers=1), given, sequential=SEQUENTIAL)
    arms = measured(bench, EditSpec("nan_injection"))
    assert len(arms["final"].losses(given.final).tokens) == 64


def test_windows_of_one_document_are_measured_together(tiny_model: Any, windows: Windows) -> None:
    given = window_set(windows, 256, per_document=2)
    bench = bench_of(tiny_model("llama", num_hidden_layers=1), given, sequential=SEQUENTIAL)
    losses = measured(bench, EditSpec("noop"))["final"].losses(given.final)
    assert len(losses.tokens) == 128
    assert (np.bincount(losses.documents - 10_000) == 2).all()


def test_too_few_documents_for_sequential_mode_end_before_a_forward(
    tiny_model: Any, windows: Windows
) -> None:
    bench = bench_of(
        tiny_model("llama", num_hidden_layers=1), window_set(windows, 127), sequential=SEQUENTIAL
    )
    with pytest.raises(ConfigError, match="127 documents"):
        bench.baseline_evidence(0)
    assert bench.counters.baseline_passes == 0


def test_choices_are_not_for_sequential_mode(tiny_model: Any, windows: Windows) -> None:
    given = window_set(windows, 130)
    arms: Any = {
        arm: tuple(replace(w, example=i) for i, w in enumerate(given.arms[arm])) for arm in ARMS
    }
    bench = bench_of(
        tiny_model("llama", num_hidden_layers=1), replace(given, arms=arms), sequential=SEQUENTIAL
    )
    with pytest.raises(ConfigError) as caught:
        bench.baseline_evidence(0)
    assert caught.value.code == "SEQUENTIAL_ACCURACY"


def test_one_row_batches_are_never_made_larger(tiny_model: Any, windows: Windows) -> None:
    bench = bench_of(tiny_model("llama", num_hidden_layers=1), window_set(windows, 4))
    bench.plan = replace(bench.plan, batch_tokens=1)
    bench.draws.plan = bench.plan
    floor = bench.baseline_evidence(0).noise_floor
    assert floor["same_batch_nats_per_token"] == 0
    assert floor["second_batch_nats_per_token"] < 1e-4
    longest = max(len(w.tokens) for w in bench.windows(0).final)
    assert floor["second_batch_tokens"] == longest


def test_an_edit_inside_an_edit_is_refused(tiny_model: Any, windows: Windows) -> None:
    bench = bench_of(tiny_model("llama", num_hidden_layers=1), window_set(windows, 4))
    with bench.edited(EditSpec("noop")):
        with pytest.raises(EditError) as caught, bench.edited(PRUNE):
            pytest.fail("two edits at once")
        assert caught.value.code == "EDIT_OPEN"
    with bench.edited(PRUNE):
        pass


def test_a_lent_baseline_is_proved_before_it_is_measured(tiny_model: Any, windows: Windows) -> None:
    bench = bench_of(tiny_model("llama", num_hidden_layers=1), window_set(windows, 4))
    bench.prove_baseline()
    model = bench.lend().model
    bench.prove_baseline()
    model.model.norm.weight.mul_(1.5)
    with pytest.raises(EditError) as caught:
        bench.prove_baseline()
    assert caught.value.code == "BASELINE_CHANGED"


def test_a_second_baseline_is_not_compared_by_the_firsts_head(
    tiny_model: Any, windows: Windows
) -> None:
    bench = bench_of(tiny_model("llama", num_hidden_layers=1), window_set(windows, 4))
    measured(bench)
    other = tiny_model("llama", hidden_size=48)
    bench.adopt(LoadedModel(other, None, None, 128, None))
    arms = measured(bench, EditSpec("noop"))
    assert float(arms["final"].kl.abs().max()) == 0
