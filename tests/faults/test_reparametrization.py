"""Controls rewrite the weights and leave the function; where they cannot, they say so and undo."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.errors import EditError
from pytest_invarlock.faults import function_probe, reparametrization
from pytest_invarlock.faults.fused_layout import gate_and_up_positions, value_positions
from pytest_invarlock.faults.targets import norms
from pytest_invarlock.plan import EditSpec

# Measured at most 6e-6 (T5, whose attention is unscaled); the others stay below 6e-7.
TOLERANCE = 2e-5


def rewritten(model: Any, name: str, **parameters: Any) -> dict[str, Any]:
    return apply_edit(EditSpec(name, parameters), EditJournal(model, tensor_digests(model)))


def logits(model: Any) -> torch.Tensor:
    """Of other tokens than the controls' own probe looks at."""
    ids = torch.randint(3, 64, (3, 9), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids.roll(1, 0)
    found: torch.Tensor = model(**inputs).logits
    return found


@pytest.mark.parametrize("kind", ["bert", "bart"])
def test_gains_that_the_residual_stream_reads_too_cannot_be_folded(
    kind: str, architecture: Any
) -> None:
    model = architecture(kind)
    before = tensor_digests(model)
    with pytest.raises(EditError) as caught:
        rewritten(model, "fold_norm_gain")
    assert caught.value.code == "CONTROL_CHANGED_FUNCTION"
    assert tensor_digests(model) == before


def test_a_rewrite_that_does_damage_is_found_out_and_not_written(
    architecture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(rewrite: Any, matrix: Any, _change: Any) -> None:
        rewrite.change(matrix.name, lambda x: x * 0.5)

    monkeypatch.setattr(reparametrization, "map_inputs", careless)
    model = architecture("llama")
    before = tensor_digests(model)
    for name in ("permute_mlp_neurons", "rotate_value_output_heads", "fold_norm_gain"):
        with pytest.raises(EditError) as caught:
            rewritten(model, name)
        assert caught.value.code == "CONTROL_CHANGED_FUNCTION"
        assert tensor_digests(model) == before


def test_an_ungated_network_has_no_pair_to_rescale(architecture: Any) -> None:
    with pytest.raises(EditError) as caught:
        rewritten(architecture("gpt2"), "rescale_gated_pair")
    assert caught.value.code == "EDIT_NO_TARGET"


GATED = ("llama", "gemma", "mixtral")
ALL = (*GATED, "gpt2", "t5", "bert", "bart", "gpt_neox")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("noop", kind) for kind in ALL]
    + [("rescale_gated_pair", kind) for kind in GATED]
    + [("permute_mlp_neurons", kind) for kind in ALL]
    + [("rotate_value_output_heads", kind) for kind in ALL]
    + [("fold_norm_gain", kind) for kind in ALL if kind not in ("bert", "bart")],
)
def test_the_function_stays(name: str, kind: str, architecture: Any) -> None:
    model = architecture(kind)
    before = logits(model)
    found = rewritten(model, name)
    change = function_probe.relative_change(before, logits(model))
    assert change <= (0 if name == "noop" else TOLERANCE)
    if name != "noop":
        assert found["details"]["relative_logit_change"] <= TOLERANCE
        assert found["n_parameters_changed"] > found["n_parameters_touched"] / 3


@pytest.mark.parametrize(
    "name",
    ["permute_mlp_neurons", "rescale_gated_pair", "rotate_value_output_heads", "fold_norm_gain"],
)
def test_fused_query_key_value_and_gate_up_of_phi(name: str) -> None:
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(3)
    config = Phi3Config(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, pad_token_id=0,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    model = Phi3ForCausalLM(config).eval().requires_grad_(False)
    for norm in norms(model):
        norm.weight.mul_(1 + 0.1 * torch.rand(16))
    before = logits(model)
    rewritten(model, name)
    assert function_probe.relative_change(before, logits(model)) <= TOLERANCE


def test_rescaling_by_a_power_of_two_moves_no_bit_of_the_logits(architecture: Any) -> None:
    for kind in GATED:
        for dtype in (torch.float32, torch.bfloat16):
            model = architecture(kind).to(dtype)
            before = logits(model)
            rewritten(model, "rescale_gated_pair", factor=4.0)
            assert torch.equal(before, logits(model))


@pytest.mark.parametrize("kind", ["llama", "gemma", "gpt2"])
def test_folded_gains_are_one(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    found = rewritten(model, "fold_norm_gain")
    folded = [norm for norm in norms(model) if bool((norm.gain == 1).all())]
    assert len(folded) == found["details"]["n_norms"] == 4


def test_blocks_can_be_chosen(architecture: Any) -> None:
    before, model = architecture("llama"), architecture("llama")
    rewritten(model, "permute_mlp_neurons", layers=[1])
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name)) is ("layers.1.mlp" not in name)


def test_seeds_draw_other_rewrites(architecture: Any) -> None:
    for name in ("permute_mlp_neurons", "rotate_value_output_heads"):
        digests = []
        for seed in (0, 0, 1):
            model = architecture("llama")
            rewritten(model, name, seed=seed)
            digests.append(tensor_digests(model))
        assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(("kind", "offset"), [("llama", 0), ("gemma", 1), ("gpt2", 0), ("t5", 0)])
def test_the_offset_of_gains_is_found(kind: str, offset: float, architecture: Any) -> None:
    assert {norm.offset for norm in norms(architecture(kind))} == {offset}


def test_layouts_of_fused_projections() -> None:
    assert value_positions("contiguous", 2, 1, 2).tolist() == [6, 7]
    assert value_positions("grouped", 2, 2, 1).tolist() == [2, 5]
    assert value_positions("grouped", 4, 2, 1).tolist() == [3, 7]
    gate, up = gate_and_up_positions("gate_first", 4)
    assert (gate.tolist(), up.tolist()) == ([0, 1], [2, 3])
    gate, up = gate_and_up_positions("up_first", 4)
    assert (gate.tolist(), up.tolist()) == ([2, 3], [0, 1])
    gate, up = gate_and_up_positions("interleaved", 4)
    assert (gate.tolist(), up.tolist()) == ([0, 2], [1, 3])
