"""A control proves in float32 that it leaves the function, whatever the model is stored in."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from pytest_invarlock.bench.function_state import function_state
from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.core.determinism import _set_tf32, _tf32
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.errors import EditError
from pytest_invarlock.faults import function_probe, reparametrization
from pytest_invarlock.faults.float32_pass import float32_pass
from pytest_invarlock.faults.function_probe import (
    STORED_LIMIT,
    probe_logits,
    relative_change,
    rewrite_changes,
)
from pytest_invarlock.faults.norm_readers import block_readers
from pytest_invarlock.faults.rewrite import Rewrite
from pytest_invarlock.faults.targets import norms
from pytest_invarlock.plan import EditSpec

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
drawn_or_not = pytest.mark.parametrize("drawn", [False, True], ids=["fresh", "drawn"])


def rewritten(model: Any, name: str, **parameters: Any) -> dict[str, Any]:
    return apply_edit(EditSpec(name, parameters), EditJournal(model, tensor_digests(model)))


def exact_logits(model: Any) -> torch.Tensor:
    """Of what is stored, computed in float32 on a copy, of other tokens than the probe's."""
    wide = copy.deepcopy(model).float()
    ids = torch.randint(8, 60, (3, 9), generator=torch.Generator().manual_seed(1))
    more = {"decoder_input_ids": ids.roll(1, 0)} if model.config.is_encoder_decoder else {}
    found: torch.Tensor = wide(input_ids=ids, **more).logits
    return found


REFUSED = [
    *((kind, "fold_norm_gain", {}) for kind in ("bert", "roberta", "distilbert")),
    ("gpt_oss", "rescale_gated_pair", {}),
    ("gpt_oss", "rescale_gated_pair", {"factor": 1.001}),
    ("codegen", "rotate_value_output_heads", {}),
]


@dtypes
@pytest.mark.parametrize(("kind", "name", "parameters"), REFUSED)
def test_a_rewrite_that_changes_the_function_is_refused_in_every_dtype(
    kind: str, name: str, parameters: Any, dtype: torch.dtype, fresh: Any
) -> None:
    # Gains of exactly one have nothing to fold: those are drawn.
    for drawn in (True,) if name == "fold_norm_gain" else (False, True):
        model = fresh(kind, drawn=drawn).to(dtype)
        before = tensor_digests(model)
        with pytest.raises(EditError) as caught:
            rewritten(model, name, **parameters)
        assert caught.value.code == "CONTROL_CHANGED_FUNCTION"
        assert tensor_digests(model) == before


@dtypes
def test_gains_that_are_nearly_one_are_no_excuse(dtype: torch.dtype, fresh: Any) -> None:
    model = fresh("bert").to(dtype)
    step = {torch.float32: 2e-4, torch.float16: 2**-10, torch.bfloat16: 2**-7}[dtype]
    for name, parameter in model.named_parameters():
        if name.endswith("LayerNorm.weight"):
            parameter[::2] += step
    with pytest.raises(EditError) as caught:
        rewritten(model, "fold_norm_gain")
    assert caught.value.code == "CONTROL_CHANGED_FUNCTION"


@dtypes
@drawn_or_not
@pytest.mark.parametrize("kind", ["gpt_neox", "bloom", "falcon_heads", "falcon", "gpt2", "phi3"])
def test_heads_of_fused_projections_are_rotated_where_they_lie(
    kind: str, drawn: bool, dtype: torch.dtype, fresh: Any
) -> None:
    model = fresh(kind, drawn=drawn).to(dtype)
    before = exact_logits(model)
    found = rewritten(model, "rotate_value_output_heads")["details"]
    assert found["relative_logit_change"] <= 1e-6
    assert found["stored_logit_change"] <= STORED_LIMIT[dtype] / 3
    # What is stored differs from the rewrite by one rounding, and computes the same but for that.
    rounding = {torch.float32: 1e-6, torch.float16: 1.5e-3, torch.bfloat16: 0.012}[dtype]
    assert relative_change(before, exact_logits(model)) <= rounding


@dtypes
@pytest.mark.parametrize("kind", ["llama", "gemma", "gpt2", "t5", "mixtral", "opt", "qwen3"])
def test_controls_that_fit_are_accepted_in_every_dtype(
    kind: str, dtype: torch.dtype, fresh: Any
) -> None:
    names = ["permute_mlp_neurons", "rotate_value_output_heads", "fold_norm_gain"]
    if kind in ("llama", "gemma", "mixtral", "qwen3"):
        names.append("rescale_gated_pair")
    for name in names:
        model = fresh(kind, drawn=True).to(dtype)
        before = exact_logits(model)
        found = rewritten(model, name)["details"]
        assert found["relative_logit_change"] <= 1e-6
        rounding = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 0.015}[dtype]
        assert relative_change(before, exact_logits(model)) <= rounding


def test_the_layout_that_moves_logits_least_is_taken(
    fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh("bloom")
    written = []
    write = Rewrite.write
    monkeypatch.setattr(
        Rewrite, "write", lambda self, journal: (written.append(self), write(self, journal))
    )
    pairs = reparametrization.attention_pairs(model, None)
    heads = [reparametrization.heads_of(model, pair) for pair in pairs]
    right = reparametrization.value_rotation(model, heads, "grouped", 0)  # type: ignore[arg-type]
    wrong = reparametrization.value_rotation(model, heads, "contiguous", 0)  # type: ignore[arg-type]
    # Both under the limit: the better one is written, wherever it stands.
    monkeypatch.setattr(function_probe, "LIMIT", 10.0)
    monkeypatch.setitem(STORED_LIMIT, torch.float32, 10.0)
    for rewrites in ([wrong, right], [right, wrong]):
        journal = EditJournal(model, tensor_digests(model))
        function_probe.write_preserving(journal, rewrites)
        journal.undo()
    assert written == [right, right]


@pytest.mark.parametrize("kind", ["llama", "bloom", "t5", "bart", "bert", "gpt_oss", "opt"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_float32_pass_computes_what_a_float32_copy_does_and_leaves_no_trace(
    kind: str, dtype: torch.dtype, fresh: Any
) -> None:
    model = fresh(kind, drawn=True).to(dtype)
    before, state = tensor_digests(model), function_state(model)
    places = {n: p.data_ptr() for n, p in model.named_parameters(remove_duplicate=False)}
    expected = probe_logits(copy.deepcopy(model).float())
    with float32_pass(model):
        found = probe_logits(model)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert relative_change(expected, probe_logits(model)) > 1e-4
    assert (tensor_digests(model), function_state(model)) == (before, state)
    assert {n: p.data_ptr() for n, p in model.named_parameters(remove_duplicate=False)} == places


def test_products_are_in_full_float32_whatever_was_allowed(fresh: Any) -> None:
    before = _tf32()
    seen = []
    model = fresh("llama")
    hook = model.model.layers[0].register_forward_hook(lambda *_: seen.append(_tf32()))
    _set_tf32("tf32", "tf32")
    try:
        rewritten(model, "permute_mlp_neurons")
        after = _tf32()
    finally:
        _set_tf32(*before)
        hook.remove()
    # Without and with the rewrite in full float32, then without and with it as the run computes.
    assert seen == [("ieee", "ieee")] * 2 + [("tf32", "tf32")] * 2
    assert after == ("tf32", "tf32")


def test_readers_of_a_norm_are_the_same_in_every_dtype(fresh: Any) -> None:
    # Its router reads a widened copy where the model is in half precision.
    found = []
    for dtype in DTYPES:
        model = fresh("switch").to(dtype)
        found.append({n.name: [m.name for m in ms] for n, ms in block_readers(model, norms(model))})
    assert found[0] == found[1] == found[2]
    assert any("router" in name for names in found[0].values() for name in names)


def test_one_block_at_a_time_is_wide(fresh: Any) -> None:
    model = fresh("llama", num_hidden_layers=3).to(torch.bfloat16)
    wide = []

    def look(*_: Any) -> None:
        kept = [p.dtype == torch.float32 for p in model.model.layers.parameters()]
        wide.append(sum(kept) / len(kept))

    hooks = [layer.mlp.register_forward_hook(look) for layer in model.model.layers]
    with float32_pass(model):
        probe_logits(model)
    for hook in hooks:
        hook.remove()
    assert wide == [1 / 3] * 3


def test_an_exception_inside_leaves_the_stored_weights(fresh: Any) -> None:
    model = fresh("llama").to(torch.bfloat16)
    before, state = tensor_digests(model), function_state(model)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    hook = model.model.layers[1].mlp.register_forward_hook(interrupted)
    with pytest.raises(KeyboardInterrupt), float32_pass(model):
        probe_logits(model)
    hook.remove()
    assert (tensor_digests(model), function_state(model)) == (before, state)


def test_a_rewrite_that_the_pass_did_not_meet_proves_nothing(fresh: Any) -> None:
    model = fresh("llama")
    rewrite = Rewrite(model)
    rewrite.change("model.layers.1.mlp.up_proj.weight", lambda x: x * 0)
    model.model.layers[1].forward = lambda hidden, *_, **__: hidden  # runs, but reads nothing
    assert rewrite_changes(model, [rewrite]) == [0.0]
    # A block that is not run at all is never widened, and its rewrite never tried.
    model.model.layers = torch.nn.ModuleList(
        [model.model.layers[0], Skipped(model.model.layers[1])]
    )
    rewrite = Rewrite(model)
    rewrite.change("model.layers.1.inner.mlp.up_proj.weight", lambda x: x * 0)
    with pytest.raises(EditError) as caught:
        rewrite_changes(model, [rewrite])
    assert caught.value.code == "CONTROL_NOT_RUN"


class Skipped(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __call__(self, hidden: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return hidden


def test_a_rewrite_that_rounding_spoils_is_refused_and_undone(fresh: Any) -> None:
    model = fresh("llama").half()
    before = tensor_digests(model)
    with pytest.raises(EditError) as caught:
        # Harmless in float32; in float16 the down projections vanish.
        rewritten(model, "rescale_gated_pair", factor=1e7)
    assert caught.value.code == "CONTROL_ROUNDED_AWAY"
    assert tensor_digests(model) == before


def test_a_model_whose_logits_are_not_finite_proves_nothing(fresh: Any) -> None:
    model = fresh("llama")
    model.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(EditError) as caught:
        rewritten(model, "permute_mlp_neurons")
    assert caught.value.code == "EDIT_NO_TARGET"
