"""Reading a scope: what is refused, with the reason, and what is held."""

from __future__ import annotations

from typing import Any

import pytest
from invarlock_guards.families import Scope, parse_scope, weight_matrices


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "unknown scope"),
        ("router", "unknown scope 'router'"),
        ("FFN", "unknown scope"),
        (" ffn", "unknown scope"),
        ("@layers=1", "starts with ''"),
        ("ffn@", "after '@' comes 'layers='"),
        ("ffn@layer=1", "after '@' comes 'layers='"),
        ("ffn@layers", "after '@' comes 'layers='"),
        ("ffn@layers=", "'' is neither"),
        ("ffn@layers=1,", "'' is neither"),
        ("ffn@layers=a", "'a' is neither"),
        ("ffn@layers=-1", "'-1' is neither"),
        ("ffn@layers=1-", "'1-' is neither"),
        ("ffn@layers=1 ", "'1 ' is neither"),
        ("ffn@layers=1\n", "is neither"),
        ("ffn@layers=²", "is neither"),
        ("ffn@layers=9999999", "is neither"),
        ("ffn@layers=4-2", "runs backwards"),
    ],
)
def test_a_scope_that_cannot_be_read_is_an_error_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_scope(text)


@pytest.mark.parametrize(
    ("text", "layers"),
    [("ffn", None), ("attn@layers=0", {0}), ("all@layers=0,2-4", {0, 2, 3, 4})],
)
def test_a_scope_holds_its_family_in_its_layers(text: str, layers: set[int] | None) -> None:
    scope = parse_scope(text)
    assert str(scope) == text
    families = {"ffn", "attn"} if scope.family == "all" else {scope.family}
    for family in ("ffn", "attn", "embed", "other"):
        held = {block for block in range(8) if scope.holds(family, block)}
        wanted = set(range(8)) if layers is None else layers
        assert held == (wanted if family in families else set())


def test_a_layer_the_model_does_not_have_is_an_error_at_once(architecture: Any) -> None:
    with pytest.raises(ValueError, match="layer 2 is out of range: the model has 2 blocks, 0 to 1"):
        weight_matrices(architecture("llama"), "ffn@layers=1-2")


def test_an_unknown_scope_is_an_error_at_once(architecture: Any) -> None:
    with pytest.raises(ValueError, match="unknown scope 'embedding'"):
        weight_matrices(architecture("llama"), "embedding")


@pytest.mark.parametrize("scope", ["ffn@layers=1", Scope("ffn", (range(1, 2),))])
def test_layers_choose_blocks(scope: str | Scope, architecture: Any) -> None:
    names = [matrix.name for matrix in weight_matrices(architecture("gpt2"), scope)]
    assert names == ["transformer.h.1.mlp.c_fc.weight", "transformer.h.1.mlp.c_proj.weight"]


def test_layers_of_a_decoder_come_after_the_encoders(architecture: Any) -> None:
    matrices = list(weight_matrices(architecture("t5"), "all@layers=3"))
    assert {matrix.stack for matrix in matrices} == {"decoder"}
    assert all(matrix.name.startswith("decoder.block.0.") for matrix in matrices)
