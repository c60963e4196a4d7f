"""The forced pass: exact figures, windows without their padding, and a model left as it was."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from invarlock_guards.measure import forced_branches
from invarlock_guards.measure.branch_evidence import Agreement, EdgePairs
from invarlock_guards.measure.feature_edge import WindowEdge, window_edge
from invarlock_guards.measure.forced_branches import (
    compare_branches,
    compare_models,
    record_branches,
)
from invarlock_guards.measure.watched_forward import BranchError

from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.evidence.strict_json import canonical


def batches(*shapes: tuple[int, int], seed: int = 0) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {"input_ids": torch.randint(3, 64, shape, generator=generator), "use_cache": False}
        for shape in shapes
    ]


def copied(model: Any, name: str | None = None, factor: float = 1.0) -> Any:
    made = copy.deepcopy(model)
    if name is not None:
        made.get_parameter(name).mul_(factor)
    return made


def row(evidence: Any, end: str) -> dict[str, Any]:
    (found,) = [b for b in evidence["branches"] if b["module"].endswith(end)]
    return dict(found)


DOWN = "model.layers.0.mlp.down_proj.weight"


def test_a_scaled_output_is_off_by_its_scale_and_by_no_angle(architecture: Any) -> None:
    model, windows = architecture("llama"), batches((2, 9), (3, 7))
    record = record_branches(model, windows)
    evidence = compare_branches(copied(model, DOWN, 1.5), windows, record)
    found = row(evidence, "layers.0.mlp")
    assert found["e"] == pytest.approx(0.5, rel=1e-5)
    assert found["log_rms"] == found["l"] == pytest.approx(math.log(1.5), rel=1e-5)
    assert found["c"] == pytest.approx(0, abs=1e-9)
    shrunk = row(compare_branches(copied(model, DOWN, 0.5), windows, record), "layers.0.mlp")
    assert shrunk["log_rms"] == pytest.approx(-math.log(2), rel=1e-5)
    assert shrunk["l"] == -shrunk["log_rms"]
    # All that follows was fed the baseline's stream.
    others = [b for b in evidence["branches"] if b["module"] != found["module"]]
    assert {b["e"] for b in others} == {0.0}
    assert evidence["n_windows"] == 5
    assert evidence["n_tokens"] == 2 * 9 + 3 * 7
    assert canonical(evidence)


def test_a_turned_output_has_an_angle_and_a_silent_one_a_finite_distance(architecture: Any) -> None:
    model, windows = architecture("llama"), batches((2, 9))
    record = record_branches(model, windows)
    turned = row(compare_branches(copied(model, DOWN, -1.0), windows, record), "layers.0.mlp")
    assert (turned["e"], turned["c"]) == (pytest.approx(2), pytest.approx(2))
    assert turned["l"] == pytest.approx(0, abs=1e-9)
    silent = compare_branches(copied(model, DOWN, 0.0), windows, record)
    found = row(silent, "layers.0.mlp")
    assert (found["e"], found["c"]) == (1.0, 1.0)
    assert found["l"] > 60
    assert canonical(silent)


def test_edges_are_computed_again_only_where_outputs_changed(
    architecture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, windows = architecture("llama"), batches((2, 9), (3, 7))
    subject = copied(model, DOWN, 1.5)
    record = record_branches(model, windows)
    computed: list[int] = []

    def counted(outputs: torch.Tensor, factor: float) -> WindowEdge:
        computed.append(1)
        return window_edge(outputs, factor)

    monkeypatch.setattr(forced_branches, "window_edge", counted)
    compare_branches(model, windows, record)
    assert computed == []
    once = compare_branches(subject, windows, record)
    assert len(computed) == len(record.edge_windows)
    for batch in record.batches:
        batch.edge_of_bits.clear()
    anew = compare_branches(subject, windows, record)
    assert len(computed) > 5 * len(record.edge_windows)
    assert once == anew


def test_an_output_that_appears_out_of_nothing_is_far_off() -> None:
    sums = Agreement()
    sums.add(torch.zeros(1, 3, 2), torch.ones(1, 3, 2))
    found = sums.statistics()
    assert found["e"] > 1e20
    assert found["l"] > 60
    assert found["c"] == 1.0


def test_the_figures_are_those_of_the_outputs_themselves(architecture: Any) -> None:
    model, windows = architecture("gpt2"), batches((2, 9))
    subject = copied(model, "transformer.h.0.mlp.c_fc.weight", 1.2)
    outputs = []
    stream: list[torch.Tensor] = []
    model.transformer.h[0].ln_2.register_forward_pre_hook(lambda _m, a: stream.append(a[0]))
    model(**windows[0])
    model.transformer.h[0].ln_2._forward_pre_hooks.clear()
    for each in (model, subject):
        block = each.transformer.h[0]
        outputs.append(block.mlp(block.ln_2(stream[0])).double())
    y, other = outputs
    evidence = compare_branches(subject, windows, record_branches(model, windows))
    found = row(evidence, "h.0.mlp")
    assert found["e"] == pytest.approx(float((other - y).norm() / y.norm()), rel=1e-6)
    assert found["log_rms"] == pytest.approx(float((other.norm() / y.norm()).log()), rel=1e-6)
    cosine = torch.nn.functional.cosine_similarity(y.flatten(), other.flatten(), 0)
    assert found["c"] == pytest.approx(1 - float(cosine), rel=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "bart"])
def test_padding_counts_for_nothing(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    long, short = (batches((1, n), seed=n)[0]["input_ids"] for n in (9, 6))
    subject = copy.deepcopy(model)
    for parameter in subject.parameters():
        parameter.mul_(1.1)

    def padded(with_token: int) -> dict[str, Any]:
        filled = torch.cat([short, torch.full((1, 3), with_token)], 1)
        mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
        made = {"input_ids": torch.cat([long, filled]), "attention_mask": mask, "use_cache": False}
        if model.config.is_encoder_decoder:
            made |= {"decoder_input_ids": made["input_ids"], "decoder_attention_mask": mask}
        return made

    def alone(tokens: torch.Tensor) -> dict[str, Any]:
        more = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
        return {"input_ids": tokens, "use_cache": False} | more

    found = [
        compare_branches(subject, given, record_branches(model, given))
        for given in ([padded(0)], [padded(7)], [alone(long), alone(short)])
    ]
    assert [evidence["n_tokens"] for evidence in found] == [15, 15, 15]
    for other in found[1:]:
        for one, two in zip(found[0]["branches"], other["branches"], strict=True):
            assert one["e"] == pytest.approx(two["e"], rel=1e-4), one["module"]
            assert one["log_rms"] == pytest.approx(two["log_rms"], abs=1e-5)
        for one, two in zip(found[0]["sites"], other["sites"], strict=True):
            assert one["n_features"] == two["n_features"]
            assert one["fedge"] == pytest.approx(two["fedge"], abs=1e-4), one["module"]


def test_two_models_in_memory_are_compared_batch_by_batch_with_the_same_figures(
    architecture: Any,
) -> None:
    model, windows = architecture("llama"), batches((2, 9), (1, 12))
    subject = copied(model, DOWN, 1.5)
    kept = compare_branches(subject, windows, record_branches(model, windows))
    assert compare_models(model, subject, windows) == kept


def test_one_model_before_and_after_an_edit_in_place(architecture: Any) -> None:
    model, windows = copy.deepcopy(architecture("llama")), batches((2, 9))
    record = record_branches(model, windows)
    model.get_parameter(DOWN).mul_(1.5)
    edited = compare_branches(model, windows, record)
    assert row(edited, "layers.0.mlp")["e"] == pytest.approx(0.5, rel=1e-5)


def test_a_cast_subject_is_fed_in_its_own_type(architecture: Any) -> None:
    model, windows = architecture("llama"), batches((2, 9))
    subject = copy.deepcopy(model).to(torch.bfloat16)
    evidence = compare_branches(subject, windows, record_branches(model, windows))
    assert all(0 < b["e"] < 0.05 for b in evidence["branches"])


def test_nothing_of_the_model_is_changed(architecture: Any) -> None:
    model, windows = copy.deepcopy(architecture("gpt2")), batches((2, 9))
    model.train()
    model.transformer.h[0].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    before = tensor_digests(model)
    record = record_branches(model, windows)
    evidence = compare_branches(model, windows, record)
    # Dropout of a model in training would make it differ from itself.
    assert {b["e"] for b in evidence["branches"]} == {0.0}
    assert tensor_digests(model) == before
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not hooked(model)
    assert all(p.grad is None for p in model.parameters())


def hooked(model: Any) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks
    ]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("during", ["record", "compare"])
def test_an_interrupted_pass_leaves_no_hook_and_no_mode(
    error: type[BaseException], during: str, architecture: Any
) -> None:
    model, windows = copy.deepcopy(architecture("llama")), batches((2, 9))
    model.train()
    record = record_branches(model, windows)

    def stop(*_: Any) -> None:
        raise error

    model.model.layers[1].self_attn.o_proj.register_forward_hook(stop)
    assert hooked(model) == ["model.layers.1.self_attn.o_proj"]
    passes = {
        "record": lambda: record_branches(model, windows),
        "compare": lambda: compare_branches(model, windows, record),
    }
    with pytest.raises(error):
        passes[during]()
    assert hooked(model) == ["model.layers.1.self_attn.o_proj"]
    assert len(model.model.layers[1].self_attn.o_proj._forward_hooks) == 1
    assert all(module.training for module in model.modules())


def test_numbers_that_are_not_finite_are_counted_and_give_no_statistic(architecture: Any) -> None:
    model, windows = architecture("llama"), batches((2, 9))
    record = record_branches(model, windows)
    subject = copied(model)
    subject.get_parameter(DOWN)[0, 0] = math.nan
    subject.get_parameter("model.layers.1.self_attn.o_proj.weight")[0, 0] = math.inf
    evidence = compare_branches(subject, windows, record)
    broken = {b["module"]: b["n_non_finite"] for b in evidence["branches"] if b["n_non_finite"]}
    assert broken == {"model.layers.0.mlp": 18, "model.layers.1.self_attn": 18}
    for end in broken:
        found = row(evidence, end)
        assert (found["e"], found["l"], found["c"]) == (None, None, None)
    assert {s["module"] for s in evidence["sites"] if not s["finite"]} == {
        "model.layers.0.mlp.down_proj", "model.layers.1.self_attn.o_proj",
    }  # fmt: skip
    assert canonical(evidence)


def test_other_windows_or_another_architecture_are_refused(architecture: Any) -> None:
    model = architecture("llama")
    record = record_branches(model, batches((2, 9)))
    with pytest.raises(BranchError, match="other windows"):
        compare_branches(model, batches((2, 9), seed=1), record)
    with pytest.raises(BranchError, match=r"no module model\.layers\.0\.input_layernorm"):
        compare_branches(architecture("gpt2"), batches((2, 9)), record)
    with pytest.raises(BranchError, match="no tensor"):
        record_branches(model, [{"use_cache": False}])
    wider = type(model)(copy.deepcopy(model.config))
    wider.config.hidden_size = 64
    wider = type(model)(wider.config).eval()
    with pytest.raises(BranchError, match="one shape"):
        compare_branches(wider, batches((2, 9)), record)


def test_a_mask_must_fit_the_windows(architecture: Any) -> None:
    model = architecture("llama")
    (batch,) = batches((1, 9))
    with pytest.raises(BranchError, match="attention_mask must be"):
        record_branches(model, [batch | {"attention_mask": torch.ones(1, 1, 9, 9)}])


def test_without_windows_nothing_is_compared(architecture: Any) -> None:
    model = architecture("llama")
    evidence = compare_branches(model, [], record_branches(model, []))
    assert (evidence["n_branches_compared"], evidence["n_windows"]) == (0, 0)
    assert evidence["reason"] == "there are no calibration windows"


def test_an_unknown_structure_is_compared_nowhere(architecture: Any) -> None:
    model, windows = architecture("mamba"), batches((2, 9))
    evidence = compare_branches(model, windows, record_branches(model, windows))
    assert (evidence["n_branches_compared"], evidence["n_windows"]) == (0, 0)
    assert "2 blocks" in evidence["reason"]


def test_the_record_holds_each_tensor_once(architecture: Any) -> None:
    phi, windows = architecture("phi"), batches((2, 9))
    record = record_branches(phi, windows)
    # One norm for both branches of a block: 3 norms' inputs, 4 branches' and the last norm's output.
    assert record.n_bytes == (3 + 4 + 1) * 2 * 9 * 32 * 4
    assert all(t.device.type == "cpu" for batch in record.batches for t in batch.tensors)


def test_edges_are_of_windows_evenly_spaced(architecture: Any) -> None:
    assert forced_branches._evenly(16, 4) == {0, 5, 10, 15}
    assert forced_branches._evenly(3, 8) == {0, 1, 2}
    assert forced_branches._evenly(3, 0) == frozenset()
    model, windows = architecture("llama"), batches((3, 9), (2, 9))
    record = record_branches(model, windows, edge_windows=3)
    kept = {window for batch in record.batches for _, window in batch.edges}
    assert kept == {0, 2, 4}
    evidence = compare_branches(model, windows, record)
    assert {s["n_windows"] for s in evidence["sites"]} == {3}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4))


def test_the_edge_of_noise_is_about_one_and_of_one_direction_far_above() -> None:
    noise = window_edge(normal(400, 300), 1.65)
    assert noise.edge == pytest.approx(1, abs=0.03)
    assert (noise.n_dead, noise.n_outliers, noise.n_features) == (0, 0, 300)
    common = window_edge(normal(400, 300) + 3 * normal(400, 1), 1.65)
    assert common.edge > 5
    assert common.n_outliers == 1


def test_the_edge_knows_nothing_of_scales_offsets_and_order() -> None:
    values = normal(50, 30).double()
    edge = window_edge(values, 1.65).edge
    scale = torch.linspace(0.1, 9, 30).double()
    moved = (values * scale + 5 * scale.flip(0))[:, torch.randperm(30)]
    assert window_edge(moved, 1.65).edge == pytest.approx(edge, rel=1e-9)
    assert window_edge(values + normal(50, 1), 1.65).edge > 1.2 * edge


def test_dead_features_are_counted_and_are_not_amplified() -> None:
    values = normal(50, 30)
    values[:, 7] = 0
    values[:, 8] = 3.7
    values[:, 9] = 3.7 + 1e-6 * torch.arange(50) % 2
    found = window_edge(values, 1.65)
    live = torch.cat([values[:, :7], values[:, 10:]], 1)
    assert found.n_dead == 3
    assert found.edge == pytest.approx(window_edge(live, 1.65).edge, rel=1e-9)
    coarse = normal(50, 30).bfloat16()
    # One unit in the last place of bfloat16, and then four of them.
    coarse[:, 3] = 100 + 0.5 * (torch.arange(50) % 2)
    assert window_edge(coarse, 1.65).n_dead == 1
    coarse[:, 3] = 100 + 2.0 * (torch.arange(50) % 2)
    assert window_edge(coarse, 1.65).n_dead == 0
    dead = window_edge(torch.ones(5, 4), 1.65)
    assert (dead.edge, dead.n_dead, dead.finite) == (None, 4, True)


def test_features_that_were_dead_before_are_not_newly_dead() -> None:
    def window(n_dead: int) -> WindowEdge:
        return WindowEdge(1.0, 10, n_dead, 0, finite=True)

    pairs = EdgePairs()
    pairs.add([window(3)], [window(5)])
    pairs.add([window(4)], [window(1)])
    found = pairs.statistics()
    assert (found["n_newly_dead"], found["n_dead_baseline"], found["n_dead_subject"]) == (2, 7, 6)


def test_newly_dead_features_of_a_site_are_counted(architecture: Any) -> None:
    model, windows = architecture("llama"), batches((4, 9))
    subject = copied(model)
    subject.get_parameter("model.layers.0.mlp.up_proj.weight")[:12] = 0
    evidence = compare_branches(subject, windows, record_branches(model, windows))
    (site,) = [s for s in evidence["sites"] if s["module"] == "model.layers.0.mlp.up_proj"]
    assert (site["n_newly_dead"], site["n_dead_baseline"]) == (4 * 12, 0)
    assert site["n_features"] == 4 * 48


def test_edges_see_rank_that_is_lost_where_the_output_hardly_moves(architecture: Any) -> None:
    model, windows = architecture("llama"), batches((4, 20))
    subject = copied(model)
    query = subject.get_parameter("model.layers.0.self_attn.q_proj.weight")
    u, s, v = torch.linalg.svd(query, full_matrices=False)
    query.copy_((u[:, :4] * s[:4]) @ v[:4])
    evidence = compare_branches(subject, windows, record_branches(model, windows))
    sites = {s["module"]: s["fedge"] for s in evidence["sites"]}
    assert sites.pop("model.layers.0.self_attn.q_proj") > 0.08
    assert all(abs(v) < 0.08 for k, v in sites.items())
