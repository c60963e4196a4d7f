"""Which matrices an edit reaches: scopes, blocks, and embeddings and head only where asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.edits.targets import as_rows, as_stored, edit_targets, limited_scope
from pytest_invarlock.errors import EditError
from pytest_invarlock.plan import EditSpec


def names(model: Any, *args: Any, **kwargs: Any) -> list[str]:
    return [matrix.name for matrix in edit_targets(model, *args, **kwargs)]


@pytest.mark.parametrize("scope", ["ffn@layers=7", "mlp", "ffn@layers=2-1"])
def test_a_scope_the_model_cannot_meet_is_an_error(scope: str, architecture: Any) -> None:
    with pytest.raises(EditError) as caught:
        names(architecture("llama"), scope)
    assert caught.value.code == "EDIT_PARAMETERS"


def test_a_model_without_blocks_is_an_error() -> None:
    with pytest.raises(EditError) as caught:
        names(torch.nn.Linear(2, 2))
    assert caught.value.code == "EDIT_NO_TARGET"


def test_a_head_asked_for_that_is_not_there_is_an_error(architecture: Any) -> None:
    with pytest.raises(EditError) as caught:
        names(architecture("llama").model, include=["head"])
    assert caught.value.code == "EDIT_NO_TARGET"


@pytest.mark.parametrize(
    "kind", ["gpt2", "llama", "gemma", "mixtral", "t5", "bert", "bart", "gpt_neox"]
)
def test_embeddings_and_head_only_where_asked_for(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    vocabulary = {n for n, p in model.named_parameters() if p.ndim > 1 and 64 in p.shape[:1]}
    if kind == "gpt2":  # its inner width is 64 too
        vocabulary = {"transformer.wte.weight"}
    assert not vocabulary & set(names(model, "all"))
    both = set(names(model, "all", include=["embed", "head"]))
    assert both - set(names(model, "all")) == vocabulary
    assert len(both) == len(names(model, "all", include=["embed", "head"]))


def test_a_tied_head_is_the_embedding_and_is_edited_once(architecture: Any) -> None:
    model = architecture("gpt2")
    assert names(model, "ffn", include=["head"])[-1] == "transformer.wte.weight"
    old = model.lm_head.weight.clone()
    spec = EditSpec("magnitude_prune", {"sparsity": 0.5, "include": ["head", "embed"]})
    apply_edit(spec, EditJournal(model, tensor_digests(model)))
    assert int((model.lm_head.weight == 0).sum()) == old.numel() // 2


@pytest.mark.parametrize(
    ("scope", "layers"),
    [("ffn@layers=1", None), ("ffn", "1"), ("ffn", [1]), ("ffn", (1,)), ("ffn@layers=1-1", None)],
)
def test_blocks_can_be_named_in_either_place(scope: str, layers: Any, architecture: Any) -> None:
    assert names(architecture("llama"), scope, layers) == [
        f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up", "down")
    ]


def test_blocks_named_twice_are_an_error() -> None:
    with pytest.raises(EditError):
        limited_scope("ffn@layers=1", [1])


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mixtral"])
def test_rows_are_outputs_in_every_layout(kind: str, architecture: Any) -> None:
    for matrix in edit_targets(architecture(kind)):
        rows = as_rows(matrix)
        assert rows.shape[matrix.weight.ndim - 1] == matrix.weight.shape[matrix.input_axis]
        assert torch.equal(as_stored(matrix, rows), matrix.weight)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "spec",
    [
        EditSpec("quant_rtn", {"bitwidth": 8}),
        EditSpec("quant_rtn", {"bitwidth": 4, "group_size": 4, "clamp_ratio": 0.1}),
        EditSpec("fp8_quant", {"scaled": True}),
        EditSpec("fp8_quant", {"format": "e5m2"}),
        EditSpec("lowrank_svd", {"rank": 3}),
        EditSpec("lowrank_svd", {"energy": 0.99}),
        EditSpec("lowrank_svd", {"rank": 3, "method": "randomized"}),
    ],
    ids=str,
)
def test_non_finite_weights_are_not_edited(spec: EditSpec, bad: float, architecture: Any) -> None:
    model = architecture("llama")
    model.model.layers[1].mlp.up_proj.weight[2, 3] = bad
    before = tensor_digests(model)
    with pytest.raises(EditError) as caught:
        apply_edit(spec, EditJournal(model, before))
    assert caught.value.code == "EDIT_NO_TARGET"
    assert "model.layers.1.mlp.up_proj.weight" in str(caught.value)
    # Nothing is written before everything is looked at: an edit object has no undo.
    assert tensor_digests(model) == before
    elsewhere = EditSpec(spec.name, {**spec.parameters, "scope": "all@layers=0"})
    apply_edit(elsewhere, EditJournal(model, before))


def test_what_float32_cannot_hold_counts_as_infinite(architecture: Any) -> None:
    model = architecture("llama").double()
    model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e39
    with pytest.raises(EditError) as caught:
        apply_edit(
            EditSpec("quant_rtn", {"bitwidth": 8}), EditJournal(model, tensor_digests(model))
        )
    assert caught.value.code == "EDIT_NO_TARGET"
