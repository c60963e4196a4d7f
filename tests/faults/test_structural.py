"""Structural faults: what loading and the structure of a damaged checkpoint show, without files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from invarlock_guards.measure.invariants import measure_invariants, read_structure

from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.errors import EditError
from pytest_invarlock.faults.checkpoint_view import (
    CheckpointView,
    load_view,
    view_of,
    view_structure,
)
from pytest_invarlock.faults.structural import VIEW_FAULTS, apply_view_fault, view_coverage
from pytest_invarlock.plan import EditSpec
from pytest_invarlock.policy.resources import read_text
from pytest_invarlock.policy.yaml_document import parse_yaml

ARCHITECTURES = ("gpt2", "llama", "gemma", "mixtral", "t5", "bert", "bart", "gpt_neox")
TIED = {"gpt2", "gemma", "t5", "bert", "bart"}


def struck(view: CheckpointView, name: str, **parameters: Any) -> CheckpointView:
    return apply_view_fault(EditSpec(name, parameters), view)


def kinds(model: Any, view: CheckpointView) -> set[str]:
    loaded, findings = load_view(view, model)
    assert (loaded is None) is bool(findings)
    return {finding.kind for finding in findings}


@pytest.mark.parametrize(
    ("name", "parameters", "code"),
    [
        ("noop", {}, "UNKNOWN_EDIT"),
        ("shape_mismatch", {"rows": 0}, "EDIT_PARAMETERS"),
        ("dtype_change", {"dtype": "float32"}, "EDIT_CHANGED_NOTHING"),
        ("tokenizer_mismatch", {}, "EDIT_NO_TARGET"),
        ("weight_tying_break", {}, "EDIT_NO_TARGET"),
    ],
)
def test_what_cannot_be_done_is_an_error(
    name: str, parameters: dict[str, Any], code: str, architecture: Any
) -> None:
    with pytest.raises(EditError) as caught:
        struck(view_of(architecture("llama")), name, **parameters)
    assert caught.value.code == code


def test_one_block_is_too_few_to_drop_one(architecture: Any) -> None:
    view = view_of(architecture("llama"))
    tensors = {n: t for n, t in view.tensors.items() if "layers.1." not in n}
    with pytest.raises(EditError) as caught:
        struck(replace(view, tensors=tensors), "missing_tensors")
    assert caught.value.code == "EDIT_NO_TARGET"


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("name", VIEW_FAULTS)
def test_invariants_see_each_on_every_architecture(name: str, kind: str, architecture: Any) -> None:
    model = architecture(kind)
    before = tensor_digests(model)
    view = view_of(model, "sha256:00")
    if name == "weight_tying_break" and kind not in TIED:
        with pytest.raises(EditError):
            struck(view, name)
        return
    evidence = measure_invariants(view_structure(view), view_structure(struck(view, name)))
    seen = {
        "shape_mismatch": "shape_changes",
        "missing_tensors": "missing",
        "weight_tying_break": "ties_broken",
        "dtype_change": "dtype_changes",
        "tokenizer_mismatch": "tokenizer_changes",
    }
    assert evidence[seen[name]]
    assert tensor_digests(model) == before


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_view_has_the_structure_of_its_model(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    assert view_structure(view_of(model, "t")) == read_structure(model, "t")


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_sound_view_loads_into_the_same_function(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    loaded, findings = load_view(view_of(model), model)
    assert findings == ()
    assert loaded is not None
    assert tensor_digests(loaded) == tensor_digests(model)
    assert read_structure(loaded, None).ties == read_structure(model, None).ties
    assert torch.equal(logits(loaded), logits(model))
    assert not loaded.training


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 15)[None]
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    found: torch.Tensor = model(input_ids=ids, **more).logits
    return found


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("name", ["shape_mismatch", "missing_tensors"])
def test_with_its_configuration_unchanged_it_does_not_load(
    name: str, kind: str, architecture: Any
) -> None:
    model = architecture(kind)
    found = kinds(model, struck(view_of(model), name, update_config=False))
    assert found == {"shape" if name == "shape_mismatch" else "missing"}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_consistent_resize_loads_and_computes_the_same(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    loaded, findings = load_view(struck(view_of(model), "shape_mismatch", rows=3), model)
    assert findings == ()
    assert loaded is not None
    assert logits(loaded).shape[-1] == 67
    torch.testing.assert_close(logits(loaded)[..., :64], logits(model))


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_dropped_block_with_its_configuration_loads_a_shallower_model(
    kind: str, architecture: Any
) -> None:
    model = architecture(kind)
    loaded, findings = load_view(struck(view_of(model), "missing_tensors"), model)
    assert findings == ()
    assert loaded is not None
    assert not torch.equal(logits(loaded), logits(model))
    gone = set(tensor_digests(model)) - set(tensor_digests(loaded))
    assert gone
    assert all(".1." in name for name in gone)
    if kind in ("t5", "bart"):
        assert all("decoder" in name for name in gone)


# T5 ties whatever its configuration says: there only the checkpoint's structure shows it.
@pytest.mark.parametrize("kind", sorted(TIED - {"t5"}))
def test_untied_weights_load_apart_and_compute_the_same(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    view = struck(view_of(model), "weight_tying_break")
    loaded, findings = load_view(view, model)
    assert findings == ()
    assert loaded is not None
    assert read_structure(loaded, None).ties < read_structure(model, None).ties
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("kind", sorted(set(ARCHITECTURES) - TIED))
def test_where_nothing_is_tied_it_may_be_asked_to_tie(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    view = view_of(model)
    struck_view = struck(view, "weight_tying_break", untied="tie")
    evidence = measure_invariants(view_structure(view), view_structure(struck_view))
    assert len(evidence["ties_added"]) == 1
    loaded, findings = load_view(struck_view, model)
    assert findings == ()
    assert loaded is not None
    any_loaded: Any = loaded
    tied = any_loaded.get_output_embeddings().weight, any_loaded.get_input_embeddings().weight
    assert tied[0].data_ptr() == tied[1].data_ptr()
    assert torch.equal(tied[1], model.get_input_embeddings().weight)
    assert not torch.equal(logits(loaded), logits(model))
    # What is tied is parted all the same.
    parted = struck(struck_view, "weight_tying_break", untied="tie")
    assert parted.config["tie_word_embeddings"] is False


def test_a_head_of_another_shape_cannot_be_tied(architecture: Any) -> None:
    view = view_of(architecture("llama"))
    other = view.tensors["lm_head.weight"][:, 1:]
    with pytest.raises(EditError) as caught:
        struck(replace(view, tensors={**view.tensors, "lm_head.weight": other}),
               "weight_tying_break", untied="tie")  # fmt: skip
    assert caught.value.code == "EDIT_NO_TARGET"


@pytest.mark.parametrize("kind", ["mistral", "mixtral", "llama", "qwen2", "qwen3"])
def test_the_suites_faults_strike_the_architectures_of_their_models(
    kind: str, architecture: Any
) -> None:
    text = read_text("scenarios", "faults.yaml")
    edits = [one["edit"] for one in parse_yaml(text, name="faults").value["scenarios"]]
    view = view_of(architecture(kind))
    structural = [edit for edit in edits if edit["name"] in VIEW_FAULTS]
    assert len(structural) == 3
    for edit in structural:
        spec = EditSpec(edit["name"], edit.get("plan", {}))
        assert view_coverage(spec, view, apply_view_fault(spec, view))["n_tensors_changed"]


def test_tensors_tied_by_configuration_that_differ_are_a_finding(architecture: Any) -> None:
    model = architecture("gpt2")
    view = view_of(model)
    other = view.tensors["lm_head.weight"] + 1
    assert kinds(model, replace(view, tensors={**view.tensors, "lm_head.weight": other})) == {"tie"}


def test_one_of_two_tied_names_is_enough(architecture: Any) -> None:
    model = architecture("gpt2")
    view = view_of(model)
    tensors = {n: t for n, t in view.tensors.items() if n != "lm_head.weight"}
    loaded, findings = load_view(replace(view, tensors=tensors), model)
    assert findings == ()
    assert loaded is not None
    assert tensor_digests(loaded) == tensor_digests(model)


def test_every_misfit_is_listed_by_name(architecture: Any) -> None:
    model = architecture("llama")
    tensors = dict(view_of(model).tensors)
    moved = tensors.pop("model.norm.weight")
    tensors["model.final_norm.weight"] = moved
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:, :8]
    _, findings = load_view(replace(view_of(model), tensors=tensors), model)
    assert [(f.kind, f.name, f.expected, f.found) for f in findings] == [
        ("shape", "lm_head.weight", "(64, 16)", "(64, 8)"),
        ("unexpected", "model.final_norm.weight", "absent", "(16,)"),
        ("missing", "model.norm.weight", "(16,)", "absent"),
    ]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3", "float8_e5m2"])
def test_a_checkpoint_in_another_dtype_loads_as_a_cast(dtype: str, architecture: Any) -> None:
    model = architecture("gpt2")
    view = struck(view_of(model), "dtype_change", dtype=dtype)
    loaded, findings = load_view(view, model)
    assert findings == ()
    assert loaded is not None
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, view.tensors[name].float())


def test_loading_copies_nothing(architecture: Any) -> None:
    model = architecture("llama")
    loaded, _ = load_view(view_of(model), model)
    assert loaded is not None
    resident = model.state_dict()
    for name, tensor in loaded.state_dict().items():
        assert tensor.data_ptr() == resident[name].data_ptr()


@pytest.mark.parametrize(
    ("name", "tensors", "parameters"),
    [
        ("shape_mismatch", 2, 2 * 64 * 16),
        ("missing_tensors", 12, 16 * 48 + 48 + 16 * 16 + 5 * 16 + 2 * 16 * 64 + 64 + 16),
        ("weight_tying_break", 1, 64 * 16),
        ("tokenizer_mismatch", 0, 0),
    ],
)
def test_coverage_counts_what_became_another(
    name: str, tensors: int, parameters: int, architecture: Any
) -> None:
    view = view_of(architecture("gpt2"), "sha256:00")
    found = view_coverage(EditSpec(name), view, struck(view, name))
    assert found["name"] == name
    assert found["n_tensors_touched"] == found["n_tensors_changed"] == tensors
    assert found["n_parameters_touched"] == found["n_parameters_changed"] == parameters


@pytest.mark.parametrize(
    ("kind", "configured", "grown"),
    [
        ("gpt2", {"n_positions": 64}, {"transformer.wte.weight", "lm_head.weight"}),
        ("llama", {"vocab_size": 32}, {"model.embed_tokens.weight", "lm_head.weight"}),
        ("qwen3", {"vocab_size": 32}, {"model.embed_tokens.weight", "lm_head.weight"}),
        (
            "bert",
            {"max_position_embeddings": 64},
            {
                "bert.embeddings.word_embeddings.weight", "cls.predictions.bias",
                "cls.predictions.decoder.weight", "cls.predictions.decoder.bias",
            },
        ),
        (
            "bart",
            {"max_position_embeddings": 62},  # and two more rows: 64
            {
                "final_logits_bias", "lm_head.weight", "model.shared.weight",
                "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight",
            },
        ),
        (
            "roberta",
            {"tie_word_embeddings": False, "max_position_embeddings": 64},
            {
                "roberta.embeddings.word_embeddings.weight", "lm_head.bias",
                "lm_head.decoder.weight", "lm_head.decoder.bias",
            },
        ),
        ("bert_classes", {}, {"bert.embeddings.word_embeddings.weight"}),
    ],
)  # fmt: skip
def test_only_what_counts_tokens_grows_whatever_else_is_as_long(
    kind: str, configured: dict[str, Any], grown: set[str], fresh: Any
) -> None:
    model = fresh(kind, **configured)
    view = view_of(model)
    after = struck(view, "shape_mismatch")
    changed = {n for n in view.tensors if after.tensors[n] is not view.tensors[n]}
    assert changed == grown
    assert kinds(model, after) == set()


def test_a_view_without_tokens_or_a_configured_vocabulary_is_an_error(architecture: Any) -> None:
    view = view_of(architecture("llama"))
    for broken in (replace(view, token_axes={}), replace(view, config={})):
        with pytest.raises(EditError) as caught:
            struck(broken, "shape_mismatch")
        assert caught.value.code == "EDIT_NO_TARGET"
