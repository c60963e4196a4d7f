"""Every edit, fault and control on every architecture: it hits or says why not, and is undone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.edits.registry import EDITS
from pytest_invarlock.errors import EditError
from pytest_invarlock.faults.structural import VIEW_FAULTS
from pytest_invarlock.plan import EditSpec

ARCHITECTURES = ("gpt2", "llama", "gemma", "mixtral", "t5", "bert", "bart", "gpt_neox")
NEEDED: dict[str, dict[str, Any]] = {
    "quant_rtn": {"bitwidth": 4, "group_size": 5},
    "magnitude_prune": {"sparsity": 0.3},
    "lowrank_svd": {"rank": 3},
}
UNGATED = {"gpt2", "t5", "bert", "bart", "gpt_neox"}
WITHOUT = {
    "kill_expert": set(ARCHITECTURES) - {"mixtral"},
    "rescale_gated_pair": UNGATED,
    "drop_bias": {"llama", "gemma", "mixtral", "t5"},
}
# A norm after the addition feeds the next addition too: its gain cannot move into projections.
POST_NORM = {"bert", "bart"}


def expected_error(kind: str, name: str) -> str | None:
    if kind in WITHOUT.get(name, ()):
        return "EDIT_NO_TARGET"
    if name == "fold_norm_gain" and kind in POST_NORM:
        return "CONTROL_CHANGED_FUNCTION"
    return None


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("name", EDITS)
def test_it_hits_or_says_why_not_and_is_undone_bit_for_bit(
    name: str, kind: str, architecture: Any
) -> None:
    model = architecture(kind)
    before = tensor_digests(model)
    ties = {n: t.data_ptr() for n, t in model.state_dict(keep_vars=True).items()}
    journal = EditJournal(model, before)
    spec = EditSpec(name, NEEDED.get(name, {}))
    code = expected_error(kind, name)
    if code is not None:
        with pytest.raises(EditError) as caught:
            apply_edit(spec, journal)
        assert caught.value.code == code
        # Not damage: a control that does not fit leaves the model as it was.
        assert tensor_digests(model) == before
        return
    coverage = apply_edit(spec, journal)
    after = tensor_digests(model)
    assert (after == before) is (name == "noop")
    assert bool(coverage["n_parameters_changed"]) is (name != "noop")
    assert all(isinstance(v, (int, float)) for v in coverage.get("details", {}).values())
    journal.undo()
    assert tensor_digests(model) == before
    assert {n: t.data_ptr() for n, t in model.state_dict(keep_vars=True).items()} == ties
    # The same specification makes the same subject.
    assert apply_edit(spec, journal) == coverage
    assert tensor_digests(model) == after


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["gpt2", "mixtral", "t5"])
def test_half_types_too(kind: str, dtype: torch.dtype, architecture: Any) -> None:
    model = architecture(kind).to(dtype)
    before = tensor_digests(model)
    for name in EDITS:
        if expected_error(kind, name) or name == "dtype_round_trip":
            continue
        journal = EditJournal(model, before)
        coverage = apply_edit(EditSpec(name, NEEDED.get(name, {})), journal)
        assert bool(coverage["n_parameters_changed"]) is (name != "noop")
        journal.undo()
        assert tensor_digests(model) == before


@pytest.mark.parametrize("name", VIEW_FAULTS)
def test_a_structural_fault_is_not_applied_to_a_resident_model(
    name: str, architecture: Any
) -> None:
    model = architecture("gpt2")
    before = tensor_digests(model)
    with pytest.raises(EditError) as caught:
        apply_edit(EditSpec(name), EditJournal(model, before))
    assert caught.value.code == "EDIT_STRUCTURAL"
    assert tensor_digests(model) == before


@pytest.mark.parametrize("scope", ["ffn", "attn", "all"])
def test_routers_alone_are_never_what_an_edit_of_experts_changes(
    scope: str, architecture: Any
) -> None:
    model = architecture("mixtral")
    journal = EditJournal(model, tensor_digests(model))
    apply_edit(EditSpec("quant_rtn", {"bitwidth": 4, "scope": scope}), journal)
    experts = [name for name in journal.touched if ".experts." in name]
    assert len(experts) == (0 if scope == "attn" else 4)
    assert not [name for name in journal.touched if name.endswith("mlp.gate.weight")]
