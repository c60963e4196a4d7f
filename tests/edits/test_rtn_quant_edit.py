"""RTNQuantEdit: the seeds' edit object does what the edit of that name does."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.edits import RTNQuantEdit, apply_edit
from pytest_invarlock.errors import EditError
from pytest_invarlock.plan import EditSpec


@pytest.mark.parametrize(
    "parameters",
    [{"bitwidth": 1}, {"clamp_ratio": 0.7}, {"scope": "mlp"}, {"group_size": 0}],
    ids=str,
)
def test_parameters_out_of_range_are_refused_at_once(parameters: dict[str, Any]) -> None:
    with pytest.raises(EditError) as caught:
        RTNQuantEdit(**parameters)
    assert caught.value.code == "EDIT_PARAMETERS"


def test_an_unknown_override_is_an_error_and_changes_nothing(tiny_model: Any) -> None:
    model = tiny_model("llama")
    before = tensor_digests(model)
    with pytest.raises(EditError) as caught:
        RTNQuantEdit().apply(model, None, {"max_modules": 3})
    assert caught.value.code == "EDIT_PARAMETERS"
    assert tensor_digests(model) == before


def test_changing_nothing_is_an_error(tiny_model: Any) -> None:
    model = tiny_model("llama")
    for parameter in model.parameters():
        parameter.zero_()
    with pytest.raises(EditError) as caught:
        RTNQuantEdit().apply(model)
    assert caught.value.code == "EDIT_CHANGED_NOTHING"


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_seeds_call_changes_what_the_suite_file_would(kind: str, tiny_model: Any) -> None:
    one, other = tiny_model(kind), tiny_model(kind)
    edit = RTNQuantEdit(bitwidth=8, per_channel=True, group_size=128, clamp_ratio=0.005)
    done = edit.apply(one, None, {"bits": 4}, scope="all")
    wanted = RTNQuantEdit(4, True, 128, 0.005, "all").spec
    assert done == apply_edit(wanted, EditJournal(other, tensor_digests(other)))
    assert tensor_digests(one) == tensor_digests(other)


def test_it_declares_its_kind_and_what_it_can_edit() -> None:
    assert (RTNQuantEdit().name, RTNQuantEdit().kind) == ("quant_rtn", "quantize8")
    assert RTNQuantEdit(bitwidth=4).kind == "quantize4"
    assert RTNQuantEdit().can_edit({"n_layer": 2})
    assert not RTNQuantEdit().can_edit({})


def test_its_scope_is_the_originals_and_narrower_than_a_suite_files(tiny_model: Any) -> None:
    touched = {}
    for scope in ("default", "ffn", "all"):
        model = tiny_model("llama")
        before = tensor_digests(model)
        if scope == "default":
            RTNQuantEdit(bitwidth=4).apply(model)
        else:
            parameters = {"bitwidth": 4} if scope == "all" else {"bitwidth": 4, "scope": scope}
            apply_edit(EditSpec("quant_rtn", parameters), EditJournal(model, before))
        after = tensor_digests(model)
        touched[scope] = {name for name in after if after[name] != before[name]}
    assert touched["default"] == touched["ffn"] < touched["all"]
    assert all(".mlp." in name for name in touched["default"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_model_with_non_finite_weights_is_left_whole(bad: float, tiny_model: Any) -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] = bad
    before = tensor_digests(model)
    with pytest.raises(EditError) as caught:
        RTNQuantEdit().apply(model)
    assert caught.value.code == "EDIT_NO_TARGET"
    assert tensor_digests(model) == before
