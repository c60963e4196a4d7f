"""Every edit, fault and control on every architecture: it hits or says why not, and is undone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import tensor_digest, tensor_digests
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.edits.registry import EDITS
from pytest_invarlock.errors import EditError
from pytest_invarlock.faults.structural import VIEW_FAULTS
from pytest_invarlock.plan import EditSpec

ARCHITECTURES = (
    "gpt2", "llama", "mistral", "mixtral", "qwen2", "qwen3", "gpt_neox", "opt", "phi", "gemma",
    "bloom", "bert", "roberta", "t5", "bart",
)  # fmt: skip
# Mistral's modules are Llama's under another name, and RoBERTa's are BERT's.
EDITED = tuple(kind for kind in ARCHITECTURES if kind not in ("mistral", "roberta"))
TIED = {"gpt2", "opt", "gemma", "bloom", "bert", "roberta", "t5", "bart"}
NEEDED: dict[str, dict[str, Any]] = {
    "quant_rtn": {"bitwidth": 4, "group_size": 5},
    "magnitude_prune": {"sparsity": 0.3},
    "lowrank_svd": {"rank": 3},
}
UNGATED = {"gpt2", "gpt_neox", "opt", "phi", "bloom", "bert", "roberta", "t5", "bart"}
WITHOUT = {
    "kill_expert": set(ARCHITECTURES) - {"mixtral"},
    "rescale_gated_pair": UNGATED,
    "drop_bias": {"llama", "mistral", "mixtral", "qwen3", "gemma", "t5"},
}
# A norm after the addition feeds the next addition too: its gain cannot move into projections.
POST_NORM = {"bert", "roberta", "bart"}


def expected_error(kind: str, name: str) -> str | None:
    if kind in WITHOUT.get(name, ()):
        return "EDIT_NO_TARGET"
    if name == "fold_norm_gain" and kind in POST_NORM:
        return "CONTROL_CHANGED_FUNCTION"
    return None


def bits(model: Any) -> dict[str, str]:
    """Digests of parameters and of all buffers, those included that no checkpoint holds."""
    kept = {name: tensor_digest(buffer) for name, buffer in model.named_buffers()}
    return {**kept, **tensor_digests(model)}


def storage(model: Any) -> dict[str, Any]:
    named = {**dict(model.named_buffers()), **model.state_dict(keep_vars=True)}
    return {n: (t.data_ptr(), t.dtype, t.stride(), t.requires_grad) for n, t in named.items()}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_matrix_holds_tied_weights_and_buffers(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    named = model.state_dict(keep_vars=True)
    assert (len({t.data_ptr() for t in named.values()}) < len(named)) is (kind in TIED)
    transient = set(bits(model)) - set(named)
    assert bool(transient) is (kind in ("llama", "mistral", "mixtral", "qwen2", "qwen3", "gpt_neox",
                                        "phi", "gemma", "bert", "roberta"))  # fmt: skip
    assert ("final_logits_bias" in named) is (kind == "bart")


MADE: dict[str, tuple[Any, dict[str, str], dict[str, str]]] = {}


def unedited(kind: str, architecture: Any) -> tuple[Any, dict[str, str], dict[str, str]]:
    """One model of ``kind`` for all edits, with its bits and digests before the first."""
    if kind not in MADE:
        model = architecture(kind)
        MADE[kind] = model, bits(model), tensor_digests(model)
    return MADE[kind]


@pytest.mark.parametrize("kind", EDITED)
@pytest.mark.parametrize("name", EDITS)
def test_it_hits_or_says_why_not_and_is_undone_bit_for_bit(
    name: str, kind: str, architecture: Any
) -> None:
    model, before, digests = unedited(kind, architecture)
    places = storage(model)
    journal = EditJournal(model, digests)
    spec = EditSpec(name, NEEDED.get(name, {}))
    code = expected_error(kind, name)
    if code is not None:
        with pytest.raises(EditError) as caught:
            apply_edit(spec, journal)
        assert caught.value.code == code
        # Not damage: a control that does not fit leaves the model as it was.
        assert bits(model) == before
        return
    coverage = apply_edit(spec, journal)
    after = bits(model)
    assert (after == before) is (name == "noop")
    assert bool(coverage["n_parameters_changed"]) is (name != "noop")
    assert all(isinstance(v, (int, float)) for v in coverage.get("details", {}).values())
    journal.undo()
    assert bits(model) == before
    assert storage(model) == places
    # The same specification makes the same subject.
    assert apply_edit(spec, journal) == coverage
    assert bits(model) == after
    journal.undo()


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
