"""Branches of real architectures: how many, where the stream enters, and that each answers alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from invarlock_guards.families import all_weight_matrices, blocks
from invarlock_guards.measure.branches import Branch, BranchPlan, find_branches, matrices_by_branch
from invarlock_guards.measure.forced_branches import compare_branches, record_branches

# Kind: attentions, cross attentions, feed-forward networks, norms that are no sub-layer's.
COUNTS = {
    "gpt2": (3, 0, 3, 1),
    "gpt2_cross": (3, 3, 3, 1),
    "llama": (2, 0, 2, 1),
    "mistral": (2, 0, 2, 1),
    "mixtral": (2, 0, 2, 1),
    "qwen2": (2, 0, 2, 1),
    "qwen2_moe": (2, 0, 2, 1),
    "qwen3": (2, 0, 2, 1),
    "gpt_oss": (2, 0, 2, 1),
    "phi3": (2, 0, 2, 1),
    "gpt_neox": (2, 0, 2, 1),
    "opt": (2, 0, 2, 1),
    "opt_post_norm": (2, 0, 2, 0),
    "phi": (2, 0, 2, 1),
    "gemma": (2, 0, 2, 1),
    "gemma2": (2, 0, 2, 1),
    "gemma3": (2, 0, 2, 1),
    # A norm of the embeddings, and the last.
    "bloom": (2, 0, 2, 2),
    "falcon": (2, 0, 2, 1),
    # Norms of the embeddings and of the head's transform.
    "bert": (2, 0, 2, 2),
    "bert_classes": (2, 0, 2, 1),
    "roberta": (2, 0, 2, 2),
    # The last norm of either stack.
    "t5": (5, 2, 5, 2),
    "t5_gated": (5, 2, 5, 2),
    "switch": (4, 2, 4, 2),
    # Norms of the embeddings of either stack.
    "bart": (5, 2, 5, 2),
}
KINDS = sorted(COUNTS)


def batch_for(model: Any) -> dict[str, Any]:
    """Two windows of nine tokens, three of the second padding."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(3, 64, (2, 9), generator=generator)
    mask = torch.ones_like(tokens)
    mask[1, 6:] = 0
    batch = {"input_ids": tokens, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = tokens[:, :5]
    if getattr(model.config, "add_cross_attention", False):
        batch["encoder_hidden_states"] = torch.randn(2, 4, 32, generator=generator)
    return batch


def plan_of(model: Any) -> BranchPlan:
    return find_branches(model, batch_for(model))


def branch(model: Any, end: str) -> Branch:
    found = [b for b in plan_of(model).branches if b.name.endswith(end)]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("kind", KINDS)
def test_each_architecture_has_its_branches_and_nothing_is_left_out(
    kind: str, architecture: Any
) -> None:
    plan = plan_of(architecture(kind))
    counted = Counter(b.kind for b in plan.branches)
    order = ("attention", "cross_attention", "feed_forward", "norm")
    assert tuple(counted[each] for each in order) == COUNTS[kind]
    assert (plan.share, plan.left_out, plan.reason) == (1.0, (), None)
    assert len({b.name for b in plan.branches}) == len(plan.branches)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_compared_with_itself_differs_nowhere(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    batch = batch_for(model)
    evidence = compare_branches(model, [batch], record_branches(model, [batch]))
    assert evidence["n_branches_compared"] == sum(COUNTS[kind])
    assert {(b["e"], b["l"], b["c"]) for b in evidence["branches"]} == {(0.0, 0.0, 0.0)}
    assert {s["fedge"] for s in evidence["sites"]} == {0.0}
    assert {s["n_windows"] for s in evidence["sites"]} == {2}


@pytest.mark.parametrize("kind", KINDS)
def test_damage_shows_in_its_own_branch_and_in_no_other(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    batch = batch_for(model)
    record = record_branches(model, [batch], edge_windows=0)
    owners: dict[str, set[str]] = {}
    for each in record.plan.branches:
        for name in (*each.matrices, *(f"{norm}.weight" for norm in each.norms)):
            owners.setdefault(name, set()).add(each.name)
    assert len(owners) > 10
    place = {each.name: n for n, each in enumerate(record.plan.branches)}
    for names in rounds(owners, place):
        saved = {name: model.get_parameter(name).clone() for name in names}
        for name, value in saved.items():
            noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
            model.get_parameter(name).mul_(1.5).add_(0.5 * noise)
        evidence = compare_branches(model, [batch], record)
        for name, value in saved.items():
            model.get_parameter(name).copy_(value)
        changed = {b["module"] for b in evidence["branches"] if b["e"] != 0}
        # An expert that no token chose has no output to differ.
        sure = [owners[name] for name in names if ".experts.expert_" not in name]
        assert set().union(*sure) <= changed <= set().union(*map(owners.__getitem__, names)), names


def rounds(owners: dict[str, set[str]], place: dict[str, int]) -> list[list[str]]:
    """Each tensor once; at a time one of every other branch, whose neighbours are as they were."""
    found: dict[tuple[int, int] | str, list[str]] = {}
    used: Counter[str] = Counter()
    for name, branches in owners.items():
        if len(branches) > 1:
            found[name] = [name]
            continue
        (only,) = branches
        used[only] += 1
        found.setdefault((place[only] % 2, used[only]), []).append(name)
    return list(found.values())


@pytest.mark.parametrize("kind", KINDS)
def test_every_matrix_of_the_blocks_is_in_one_branch(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    plan = plan_of(model)
    listed = [name for b in plan.branches for name in b.matrices]
    assert len(listed) == len(set(listed))
    in_blocks = {
        m.name for m in all_weight_matrices(model) if m.block is not None and m.family != "embed"
    }
    assert set(listed) == in_blocks == set(matrices_by_branch(plan))
    for each in plan.branches:
        if each.block is not None:
            prefix = f"{blocks(model)[each.block][0]}."
            assert all(name.startswith(prefix) for name in (*each.norms, *each.outputs))


def test_before_the_sub_layer_the_norm_is_where_the_stream_enters(architecture: Any) -> None:
    found = branch(architecture("llama"), "layers.1.mlp")
    norm = "model.layers.1.post_attention_layernorm"
    assert (found.norms, found.entries) == ((norm,), (norm,))
    assert found.outputs == ("model.layers.1.mlp.down_proj",)


def test_parallel_branches_have_a_norm_each_or_one_for_both(architecture: Any) -> None:
    neox = architecture("gpt_neox")
    assert branch(neox, "0.attention").norms == ("gpt_neox.layers.0.input_layernorm",)
    assert branch(neox, "0.mlp").norms == ("gpt_neox.layers.0.post_attention_layernorm",)
    phi = architecture("phi")
    assert branch(phi, "0.self_attn").norms == branch(phi, "0.mlp").norms
    assert branch(phi, "0.mlp").norms == ("model.layers.0.input_layernorm",)


def test_norms_that_give_equal_numbers_are_told_by_who_reads_them() -> None:
    from transformers import FalconConfig, FalconForCausalLM

    config = FalconConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_kv_heads=2,
        new_decoder_architecture=True, num_ln_in_parallel_attn=2,
    )  # fmt: skip
    falcon = FalconForCausalLM(config).eval().requires_grad_(False)
    # Fresh norms are alike, and both are called before either sub-layer.
    assert branch(falcon, "0.self_attention").norms == ("transformer.h.0.ln_attn",)
    assert branch(falcon, "0.mlp").norms == ("transformer.h.0.ln_mlp",)


def test_a_stream_that_is_normalised_already_hides_no_norm(architecture: Any) -> None:
    # The first norm changes nothing in a fresh Bloom, whose embeddings are normalised.
    bloom = architecture("bloom")
    block = "transformer.h.0"
    assert branch(bloom, "0.self_attention").entries == (f"{block}.input_layernorm",)
    assert branch(bloom, "0.mlp").entries == (f"{block}.post_attention_layernorm",)


def test_a_norm_behind_the_addition_is_the_branchs_own(architecture: Any) -> None:
    found = branch(architecture("bert"), "layer.1.attention")
    layer = "bert.encoder.layer.1.attention"
    assert found.norms == (f"{layer}.output.LayerNorm",)
    assert found.entries == (
        f"{layer}.self.query", f"{layer}.self.key", f"{layer}.self.value",
        f"{layer}.output.LayerNorm",
    )  # fmt: skip
    assert found.outputs == (f"{layer}.output.dense", f"{layer}.output.LayerNorm")
    network = branch(architecture("bart"), "decoder.layers.0.fc2")
    assert network.entries == (
        "model.decoder.layers.0.fc1", "model.decoder.layers.0.final_layer_norm",
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["gemma2", "gemma3"])
def test_a_norm_behind_the_sub_layer_ends_the_branch(kind: str, architecture: Any) -> None:
    found = branch(architecture(kind), "layers.0.mlp")
    assert found.norms == (
        "model.layers.0.pre_feedforward_layernorm", "model.layers.0.post_feedforward_layernorm",
    )  # fmt: skip
    assert found.entries == found.norms[:1]
    assert found.outputs == found.norms[1:]


def test_a_cross_attention_reads_the_encoder_too(architecture: Any) -> None:
    found = branch(architecture("t5"), "decoder.block.1.layer.1.EncDecAttention")
    layer = "decoder.block.1.layer.1"
    assert found.entries == (
        f"{layer}.layer_norm", f"{layer}.EncDecAttention.k", f"{layer}.EncDecAttention.v",
    )  # fmt: skip
    assert found.tokens == "decoder_attention_mask"
    assert {site.role: site.tokens for site in found.projections} == {
        "q": "decoder_attention_mask", "k": "attention_mask", "v": "attention_mask",
        "o": "decoder_attention_mask",
    }  # fmt: skip


def test_experts_and_their_router_are_one_branch(architecture: Any) -> None:
    found = branch(architecture("mixtral"), "layers.0.mlp")
    assert found.outputs == ("model.layers.0.mlp",)
    assert any("gate.weight" in name for name in found.matrices)
    assert found.projections == ()


def test_a_model_of_another_kind_has_no_branch_and_says_why(architecture: Any) -> None:
    mamba = architecture("mamba")
    plan = plan_of(mamba)
    assert (plan.branches, plan.share) == ((), 0.0)
    assert plan.reason is not None
    assert "2 blocks" in plan.reason
    assert len(plan.left_out) > 4
    flat = torch.nn.Sequential(torch.nn.Linear(4, 4))
    assert find_branches(flat, {}).reason == "the model repeats no block"


def test_a_sub_layer_that_is_not_called_is_left_out(architecture: Any) -> None:
    model = architecture("gpt2_cross")
    batch = batch_for(model)
    del batch["encoder_hidden_states"]
    plan = find_branches(model, batch)
    assert not any(b.kind == "cross_attention" for b in plan.branches)
    assert 0.5 < plan.share < 0.9
    assert all("crossattention" in name for name in plan.left_out)


def test_torchs_own_attention_cannot_be_forced_and_is_left_out() -> None:
    from types import SimpleNamespace

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
            self.layers = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).layers
            self.config = SimpleNamespace(is_encoder_decoder=False)

        def forward(self, stream: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                # Dropout in eval mode takes torch's fast path, which calls no module.
                stream = stream + layer.linear2(torch.relu(layer.linear1(layer.norm2(stream))))
            return stream

    plan = find_branches(Model(), {"stream": torch.randn(1, 3, 8)})
    assert [b.kind for b in plan.branches] == ["feed_forward", "feed_forward"]
    assert [b.norms for b in plan.branches] == [("layers.0.norm2",), ("layers.1.norm2",)]
    assert plan.share < 0.6
    assert "layers.0.self_attn.in_proj_weight" in plan.left_out
