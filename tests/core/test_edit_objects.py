"""Edits and adapters that come as objects: who lacks a method is refused, the others are run."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from invarlock_guards import InvariantsGuard

from pytest_invarlock.adapters import HF_Auto_Adapter
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.core.api import (
    EditLike,
    Guard,
    GuardWithPrepare,
    ModelAdapter,
    ModelEdit,
    RunConfig,
)
from pytest_invarlock.core.engine import measure
from pytest_invarlock.core.model_state import ModelStructure
from pytest_invarlock.core.runner import CoreRunner
from pytest_invarlock.data import get_provider
from pytest_invarlock.edits import RTNQuantEdit
from pytest_invarlock.errors import AdapterError, EditError
from pytest_invarlock.plan import EditSpec


class Scaled:
    """An edit that no file of ours knows: every down projection times ``factor``."""

    name = "scaled"

    def __init__(self, factor=1.001):
        self.factor = factor

    def apply(self, model, adapter=None):
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.mul_(self.factor)
        return {"factor": self.factor}


class OwnAdapter(ModelAdapter):
    """As the original's skeleton of an adapter, snapshots and all."""

    name = "custom_format"

    def load_model(self, model_id, device="auto", **kwargs):
        return HF_Auto_Adapter().load_model(model_id, device)

    def describe(self, model):
        return {"model_type": "custom", "n_layer": len(model.model.layers)}

    def snapshot(self, model):
        raise AssertionError("never asked for")


def batches_of(model):
    tokenizer = HF_Auto_Adapter().load(model, device="cpu", dtype="float32").tokenizer
    windows = get_provider("pydoc").windows(
        tokenizer, preview_n=24, final_n=24, seq_len=64, stride=64
    )
    return [{"input_ids": [w.tokens.tolist()]} for w in (*windows.preview, *windows.final)]


@pytest.fixture(scope="module")
def batches(thin):
    return batches_of(thin)


@pytest.fixture(scope="module")
def unedited(thin):
    loaded = HF_Auto_Adapter().load_model(thin, device="cpu")
    before, structure = tensor_digests(loaded), ModelStructure.of(loaded)
    yield loaded
    assert tensor_digests(loaded) == before
    assert ModelStructure.of(loaded) == structure


@pytest.fixture
def model(unedited):
    return copy.deepcopy(unedited)


@pytest.fixture(scope="module")
def shipped():
    """A trained model, which damage harms, and windows of it."""
    loaded = HF_Auto_Adapter().load_model("builtin:llama", device="cpu")
    return loaded, batches_of("builtin:llama")


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


def execute(model, adapter, edit, batches, **config):
    return CoreRunner().execute(
        model, adapter, edit, [InvariantsGuard()], RunConfig(**config), calibration_data=batches
    )


def test_an_edit_without_apply_is_refused_by_name(model, batches):
    class Nameless:
        def apply(self, model, adapter=None):
            raise AssertionError("never called")

    for edit, missing in ((object(), r"apply\(\)"), (Nameless(), "name"), ("rtn", r"apply\(\)")):
        with pytest.raises(EditError, match=f"no edit: it has no {missing}") as caught:
            execute(model, None, edit, batches)
        assert caught.value.code == "EDIT_UNUSABLE"


@pytest.mark.parametrize("missing", ["load_model", "describe", "name"])
def test_an_adapter_without_a_method_is_refused_by_name(missing, model, batches):
    members = {
        "name": "half",
        "load_model": lambda self, model_id, device="auto": None,
        "describe": lambda self, model: {},
    }
    del members[missing]
    with pytest.raises(
        AdapterError, match=f"Half is no ModelAdapter: it has no {missing}"
    ) as caught:
        execute(model, type("Half", (), members)(), EditSpec("noop"), batches)
    assert caught.value.code == "ADAPTER_UNUSABLE"


def test_an_edit_that_says_it_cannot_is_refused(model, batches):
    class Shallow(OwnAdapter):
        def describe(self, model):
            return {"n_layer": 0}

    before = tensor_digests(model)
    with pytest.raises(EditError, match="cannot edit this LlamaForCausalLM") as caught:
        execute(model, Shallow(), RTNQuantEdit(), batches)
    assert caught.value.code == "EDIT_UNFIT"
    assert tensor_digests(model) == before


def test_the_protocols_tell_what_is_what():
    assert isinstance(RTNQuantEdit(), ModelEdit)
    assert isinstance(RTNQuantEdit(), EditLike)
    assert isinstance(Scaled(), EditLike)
    assert not isinstance(Scaled(), ModelEdit)
    assert not isinstance(EditSpec("noop"), EditLike)
    assert isinstance(HF_Auto_Adapter(), ModelAdapter)
    assert not isinstance(Scaled(), ModelAdapter)
    assert isinstance(InvariantsGuard(), GuardWithPrepare)

    class Late:
        name = "late"

        def validate(self, model, adapter, context):
            return {"passed": True}

    assert not isinstance(Late(), GuardWithPrepare)
    assert not isinstance(Late(), Guard)


def test_the_seeds_quick_start_runs(shipped):
    model, batches = copy.deepcopy(shipped[0]), shipped[1]
    adapter = HF_Auto_Adapter()
    edit = RTNQuantEdit(bitwidth=8, per_channel=True, group_size=128, clamp_ratio=0.005)
    other = copy.deepcopy(model)
    report = execute(model, adapter, edit, batches)
    assert (report.status, report.metrics["verdict"]) == ("success", "PASS")
    assert report.edit["name"] == "quant_rtn"
    assert report.edit["parameters"] == edit.spec.parameters
    edit.apply(other)
    assert tensor_digests(model) == tensor_digests(other)


def test_an_edit_of_ones_own_stays_applied_on_success(shipped):
    model, batches = copy.deepcopy(shipped[0]), shipped[1]
    before = tensor_digests(model)
    seen = tensor_digests(model)
    report = execute(model, OwnAdapter(), Scaled(), batches)
    assert (report.status, report.edit) == ("success", {"name": "scaled", "factor": 1.001})
    assert 0.9 < report.metrics["primary_metric"]["numbers"]["ratio"] < 1.1
    changed = {name for name, digest in tensor_digests(model).items() if digest != before[name]}
    assert changed == {name for name in seen if name.endswith("mlp.down_proj.weight")}


def test_a_damaging_edit_of_ones_own_is_rolled_back(shipped):
    model, batches = copy.deepcopy(shipped[0]), shipped[1]
    before = tensor_digests(model)
    report = execute(model, None, Scaled(30.0), batches)
    assert report.status == "rollback"
    assert report.meta["rollback_reason"]
    assert tensor_digests(model) == before


def test_nan_of_an_edit_of_ones_own_fails_by_the_guard(model, batches):
    report = execute(model, None, Scaled(float("nan")), batches)
    assert report.status == "failed"
    assert all(torch.isfinite(p).all() for p in model.parameters())


def scale_attention(model):
    """A number that a module computes with, and that is no tensor."""
    for layer in model.model.layers:
        layer.self_attn.scaling *= 1.05


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda model: None, "EDIT_CHANGED_NOTHING"),
        (lambda model: model.double(), "EDIT_STRUCTURAL"),
        (lambda model: model.model.layers[0].mlp.half(), "EDIT_STRUCTURAL"),
        (lambda model: model.train(), "EDIT_STRUCTURAL"),
        (lambda model: model.model.layers.__delitem__(0), "EDIT_STRUCTURAL"),
        (lambda model: scale_attention(model), "EDIT_STRUCTURAL"),
        (lambda model: setattr(model.config, "rms_norm_eps", 0.1), "EDIT_STRUCTURAL"),
        (lambda model: setattr(model.config, "_attn_implementation", "eager"), "EDIT_STRUCTURAL"),
        (lambda model: setattr(model.model.norm, "variance_epsilon", 1.0), "EDIT_STRUCTURAL"),
        (lambda model: setattr(model.model.norm, "shift", torch.ones(1)), "EDIT_STRUCTURAL"),
    ],
)
def test_what_cannot_be_carried_over_is_refused(change, code, model, batches):
    class Other(Scaled):
        def apply(self, model, adapter=None):
            change(model)
            if code == "EDIT_STRUCTURAL":
                super().apply(model)

    before = tensor_digests(model)
    with pytest.raises(EditError) as caught:
        execute(model, None, Other(), batches)
    assert caught.value.code == code
    assert tensor_digests(model) == before
    assert not model.training


def test_an_edit_that_unties_is_refused(batches, checkpoints):
    class Untied(Scaled):
        def apply(self, model, adapter=None):
            head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
            assert head.weight is embedding.weight
            head.weight = torch.nn.Parameter(head.weight.detach() * 1.001)

    model = HF_Auto_Adapter().load_model(str(checkpoints["gpt2"]), device="cpu")
    before = tensor_digests(model)
    with pytest.raises(EditError, match="ties") as caught:
        execute(model, None, Untied(), batches)
    assert caught.value.code == "EDIT_STRUCTURAL"
    assert tensor_digests(model) == before


def zero_down(model):
    model.model.layers[0].mlp.down_proj.weight.data.mul_(0.0)


ESCAPES = {
    "numbers": zero_down,
    "storage": lambda model: setattr(model.lm_head.weight, "data", torch.zeros(3)),
    "dtype": lambda model: model.half(),
    "meta": lambda model: model.to("meta"),
    "replaced": lambda model: setattr(
        model.lm_head, "weight", torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
    ),
    "buffer": lambda model: model.model.rotary_emb.inv_freq.mul_(2.0),
    "removed": lambda model: model.model.layers.__delitem__(0),
    "mode": lambda model: model.train(),
    "attribute": scale_attention,
    "config": lambda model: setattr(model.config, "rms_norm_eps", 0.1),
    "hook": lambda model: model.lm_head.register_forward_hook(lambda *_: None),
}


@pytest.mark.parametrize("escape", ESCAPES)
def test_an_edit_that_changes_the_model_it_holds_is_refused_and_undone(escape, model, batches):
    class Holder(Scaled):
        def apply(self, changed, adapter=None):
            super().apply(changed)
            ESCAPES[escape](model)

    digests, structure = tensor_digests(model), ModelStructure.of(model)
    with pytest.raises(EditError, match=r"scaled changed .* as it was") as caught:
        execute(model, None, Holder(), batches)
    assert caught.value.code == "EDIT_NOT_CONFINED"
    assert tensor_digests(model) == digests
    assert ModelStructure.of(model) == structure


@pytest.mark.parametrize("error", [RuntimeError("half way"), KeyboardInterrupt()])
def test_an_edit_that_breaks_off_after_changing_the_model_is_undone(error, model, batches):
    class Broken(Scaled):
        def apply(self, changed, adapter=None):
            zero_down(model)
            raise error

    before = tensor_digests(model)
    with pytest.raises(EditError, match="as it was") as caught:
        execute(model, None, Broken(), batches)
    assert caught.value.code == "EDIT_NOT_CONFINED"
    assert caught.value.__context__ is error
    assert tensor_digests(model) == before


def test_an_edit_that_breaks_off_alone_is_told_as_it_is(model, batches):
    class Broken(Scaled):
        def apply(self, changed, adapter=None):
            super().apply(changed)
            raise RuntimeError("half way")

    before = tensor_digests(model)
    with pytest.raises(RuntimeError, match="half way"):
        execute(model, None, Broken(), batches)
    assert tensor_digests(model) == before


def test_can_edit_and_describe_may_not_change_the_model_either(model, batches):
    class Asked(Scaled):
        def can_edit(self, description):
            zero_down(model)
            return True

    class Describing(OwnAdapter):
        def describe(self, model):
            zero_down(model)
            return {}

    before = tensor_digests(model)
    for adapter, edit in ((OwnAdapter(), Asked()), (Describing(), Scaled())):
        with pytest.raises(EditError, match="as it was") as caught:
            execute(model, adapter, edit, batches)
        assert caught.value.code == "EDIT_NOT_CONFINED"
        assert tensor_digests(model) == before
    # A named edit takes no second copy: what cannot be put back is told.
    with pytest.raises(
        EditError, match=r"custom_format .* left changed .*load the model"
    ) as caught:
        execute(model, Describing(), EditSpec("noop"), batches)
    assert caught.value.code == "EDIT_NOT_CONFINED"
    assert tensor_digests(model) != before


@pytest.mark.parametrize("given", [7, "figures", [1], torch.nn.Linear(1, 1)])
def test_an_edit_that_gives_back_no_mapping_is_refused(given, model, batches):
    class Talkative(Scaled):
        def apply(self, changed, adapter=None):
            super().apply(changed)
            return given

    with pytest.raises(EditError, match=r"apply\(\) of scaled gave") as caught:
        execute(model, None, Talkative(), batches)
    assert caught.value.code == "EDIT_UNUSABLE"


def test_a_description_that_is_no_mapping_is_refused(model, batches):
    class Silent(OwnAdapter):
        def describe(self, model):
            return None

    with pytest.raises(AdapterError, match=r"describe\(\) of custom_format gave") as caught:
        execute(model, Silent(), EditSpec("noop"), batches)
    assert caught.value.code == "ADAPTER_UNUSABLE"


def test_a_copy_that_changes_after_it_was_measured_is_not_kept(model, batches, monkeypatch):
    class Leaking(Scaled):
        def apply(self, changed, adapter=None):
            self.changed = changed
            return super().apply(changed)

    edit, before = Leaking(), tensor_digests(model)

    def measured(*arguments, **options):
        record = measure(*arguments, **options)
        edit.changed.model.norm.weight.mul_(1.001)
        return record

    monkeypatch.setattr("pytest_invarlock.core.runner.measure", measured)
    with pytest.raises(EditError) as caught:
        execute(model, None, edit, batches)
    assert caught.value.code == "EDIT_NOT_AS_MEASURED"
    assert tensor_digests(model) == before
