"""The journal: what an edit wrote is undone bit for bit, however the edit ended."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from invarlock_guards.measure.spectral import measure_models

from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.bench.tensor_digest import edited_digests, tensor_digests
from pytest_invarlock.edits import apply_edit, registry
from pytest_invarlock.errors import EditError
from pytest_invarlock.plan import DataSource, EditSpec, MeasurementPlan, Pair, WindowSelection

if TYPE_CHECKING:
    from pathlib import Path

GATE = "model.layers.0.mlp.gate_proj.weight"
PRUNE = EditSpec("magnitude_prune", {"sparsity": 0.5})


@pytest.fixture
def bench(checkpoints: dict[str, Path], texts: Path) -> Bench:
    plan = MeasurementPlan(
        source=DataSource("local_jsonl", str(texts)),
        windows=WindowSelection(48, 48, 10, 10),
        device="cpu", dtype="float32", threads=1,
    )  # fmt: skip
    return Bench(Pair("tiny", str(checkpoints["llama"])), plan)


def journal(model: torch.nn.Module) -> EditJournal:
    return EditJournal(model, tensor_digests(model))


def test_a_failed_undo_drops_the_resident_model(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tensor_digests(bench.baseline.model)
    broken = bench.baseline

    def forgetful(self: EditJournal, name: str, value: torch.Tensor) -> None:
        self._saved.setdefault(name, value.clone())
        self._tensors[name].data.copy_(value)

    monkeypatch.setattr(EditJournal, "write", forgetful)

    def spoils(j: EditJournal, **_: object) -> None:
        j.write(GATE, torch.zeros(48, 32))
        j._saved[GATE].fill_(1.0)

    monkeypatch.setitem(registry.EDITS, "magnitude_prune", spoils)
    with pytest.raises(EditError) as caught, bench.edited(PRUNE):
        pass
    assert caught.value.code == "UNDO_FAILED"
    assert bench._loaded is None
    assert bench.baseline is not broken
    assert tensor_digests(bench.baseline.model) == original
    assert bench.counters.baseline_loads == 2


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        (EditSpec("scale_explosion", {"factor": 1.0}), "EDIT_PARAMETERS"),
        (EditSpec("magnitude_prune", {"sparsity": 1e-9}), "EDIT_CHANGED_NOTHING"),
        (EditSpec("quant_rtn", {"bitwidth": 8, "scope": "none"}), "EDIT_PARAMETERS"),
        (EditSpec("unheard_of"), "UNKNOWN_EDIT"),
    ],
)
def test_an_edit_that_does_nothing_is_an_error(spec: EditSpec, code: str, tiny_model: Any) -> None:
    with pytest.raises(EditError) as caught:
        apply_edit(spec, journal(tiny_model("llama")))
    assert caught.value.code == code


def test_a_noop_that_changes_something_is_an_error(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.EDITS, "noop", lambda j: j.write(GATE, torch.zeros(48, 32)))
    with pytest.raises(EditError) as caught:
        apply_edit(EditSpec("noop"), journal(tiny_model("llama")))
    assert caught.value.code == "NOOP_CHANGED"


def test_a_write_of_another_shape_is_an_error_and_writes_nothing(tiny_model: Any) -> None:
    model = tiny_model("llama")
    before = tensor_digests(model)
    written = journal(model)
    with pytest.raises(EditError) as caught:
        written.write(GATE, torch.zeros(32, 48))
    assert caught.value.code == "EDIT_SHAPE"
    assert tensor_digests(model) == before
    assert written.touched == ()


NEEDED = {
    "quant_rtn": {"bitwidth": 4, "group_size": 8},
    "magnitude_prune": {"sparsity": 0.5},
    "lowrank_svd": {"rank": 3},
}
# Tied weights and biases in one; gates, and no biases, in the other. Experts are in tests/faults.
WITHOUT = {
    ("gpt2", "kill_expert"), ("llama", "kill_expert"), ("gpt2", "rescale_gated_pair"),
    ("llama", "drop_bias"),
}  # fmt: skip


MADE: dict[tuple[str, torch.dtype], tuple[Any, dict[str, str]]] = {}


def unedited(kind: str, dtype: torch.dtype, tiny_model: Any) -> tuple[Any, dict[str, str]]:
    """One model for all edits, with its digests before the first: each edit is undone."""
    if (kind, dtype) not in MADE:
        model = tiny_model(kind)
        for parameter in model.parameters():
            if parameter.ndim == 1:  # a fresh bias is zero and a fresh gain one
                parameter += 0.2 * torch.rand(
                    len(parameter), generator=torch.Generator().manual_seed(1)
                )
        model = model.to(dtype)
        MADE[kind, dtype] = model, tensor_digests(model)
    return MADE[kind, dtype]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", registry.EDITS)
def test_every_edit_is_undone_bit_for_bit(
    kind: str, dtype: torch.dtype, name: str, tiny_model: Any
) -> None:
    model, before = unedited(kind, dtype, tiny_model)
    written = EditJournal(model, before)
    # A cast to the dtype that the model has changes nothing.
    same = {"dtype": "bfloat16"} if dtype == torch.float16 else {}
    parameters = same if name == "dtype_round_trip" else NEEDED.get(name, {})
    if (kind, name) in WITHOUT:
        with pytest.raises(EditError):
            apply_edit(EditSpec(name, parameters), written)
        assert tensor_digests(model) == before
        return
    apply_edit(EditSpec(name, parameters), written)
    assert (tensor_digests(model) != before) is (name != "noop")
    written.undo()
    assert tensor_digests(model) == before
    assert written.touched == ()


def test_bits_that_floats_cannot_tell_are_restored(tiny_model: Any) -> None:
    model = tiny_model("llama")
    weight = model.get_parameter(GATE)
    weight.data[0, :4] = torch.tensor([-0.0, math.nan, -math.nan, math.inf])
    before = tensor_digests(model)
    written = EditJournal(model, before)
    written.write(GATE, torch.zeros_like(weight))
    # -0 became 0: other bits, and no change.
    assert written.changes().n_parameters_changed == weight.numel() - 1
    written.undo()
    assert tensor_digests(model) == before


@pytest.mark.parametrize(
    "names",
    [
        ["lm_head.weight"],
        ["transformer.wte.weight"],
        ["transformer.wte.weight", "lm_head.weight"],
        ["lm_head.weight", "transformer.wte.weight"],
    ],
)
def test_tied_weights_change_and_return_together(names: list[str], tiny_model: Any) -> None:
    model = tiny_model("gpt2")
    before = tensor_digests(model)
    written = EditJournal(model, before)
    for factor, name in enumerate(names, start=2):
        written.write(name, model.get_parameter("transformer.wte.weight") * factor)
    after = tensor_digests(model)
    assert after["lm_head.weight"] == after["transformer.wte.weight"] != before["lm_head.weight"]
    written.undo()
    assert tensor_digests(model) == before
    assert model.lm_head.weight.data_ptr() == model.transformer.wte.weight.data_ptr()


@pytest.mark.parametrize(
    "names", [["whole", "part"], ["part", "whole"], ["whole", "part", "whole"]]
)
def test_tensors_that_overlap_return_too(names: list[str]) -> None:
    model = torch.nn.Module()
    model.register_buffer("whole", torch.arange(12.0).reshape(4, 3))
    model.register_buffer("part", model.get_buffer("whole")[:2])
    before = tensor_digests(model)
    written = EditJournal(model, before)
    for factor, name in enumerate(names, start=2):
        written.write(name, model.get_buffer(name) * factor)
    written.undo()
    assert tensor_digests(model) == before


def overlapping() -> torch.nn.Module:
    """A matrix, a part of it, some of its columns, and a matrix apart."""
    model = torch.nn.Module()
    whole = torch.arange(12.0).reshape(4, 3)
    for name, tensor in {
        "whole": whole, "part": whole[:2], "columns": whole[:, 1:], "other": torch.ones(2, 2)
    }.items():  # fmt: skip
        model.register_parameter(name, torch.nn.Parameter(tensor, requires_grad=False))
    return model


@pytest.mark.parametrize(
    "names",
    [
        ["whole"], ["part"], ["columns"], ["whole", "part"], ["part", "whole"],
        ["columns", "part", "whole", "columns"],
    ],
)  # fmt: skip
def test_what_overlaps_an_edited_tensor_is_told_as_it_was(names: list[str]) -> None:
    model = overlapping()
    was = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    before = tensor_digests(model)
    written = EditJournal(model, before)
    for factor, name in enumerate(names, start=2):
        written.write(name, model.get_parameter(name) * factor + 1)
    after = tensor_digests(model)
    for name, tensor in model.named_parameters():
        assert torch.equal(written.before(tensor), was[name]), name
    assert edited_digests(model, written.touched, before) == after
    assert written.before(model.other) is model.other
    assert tensor_digests(model) == after
    written.undo()
    assert tensor_digests(model) == before


def test_an_edit_of_the_whole_is_seen_in_its_part() -> None:
    model = overlapping()
    written = EditJournal(model, tensor_digests(model))
    written.write("whole", torch.zeros(4, 3))
    now = dict(model.named_parameters())
    before = {name: written.before(tensor) for name, tensor in now.items()}
    found = {c["name"] for c in measure_models(model, before, now)["changes"]}
    assert found == {"whole", "part", "columns"}


def test_parts_of_one_storage_that_do_not_overlap_are_not_copied() -> None:
    model = torch.nn.Module()
    flat = torch.arange(12.0)
    for name, part in {"a": flat[:6], "b": flat[6:], "empty": flat[3:3]}.items():
        model.register_buffer(name, part)
    before = tensor_digests(model)
    written = EditJournal(model, before)
    written.write("a", torch.zeros(6))
    assert written.before(model.b) is model.b
    assert written.before(model.empty) is model.empty
    assert edited_digests(model, written.touched, before)["b"] == before["b"]


def test_buffers_and_stacked_experts_return(bench: Bench) -> None:
    model = torch.nn.BatchNorm1d(4)
    model.experts = torch.nn.Parameter(torch.randn(3, 4, 5).transpose(1, 2))
    before = tensor_digests(model)
    written = EditJournal(model, before)
    written.write("running_mean", torch.ones(4))
    written.write("num_batches_tracked", torch.tensor(7))
    written.write("experts", torch.zeros(3, 5, 4))
    changes = written.changes()
    assert (changes.n_tensors_changed, changes.n_parameters_changed) == (3, 4 + 1 + 60)
    written.undo()
    assert tensor_digests(model) == before


@pytest.mark.parametrize("n_writes", [0, 1, 5, 13])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize(
    "spec",
    [PRUNE, EditSpec("fp8_quant"), EditSpec("permute_mlp_neurons"), EditSpec("swap_layers")],
    ids=lambda spec: spec.name,
)
def test_an_edit_interrupted_between_its_writes_is_undone(
    spec: EditSpec, error: type[BaseException], n_writes: int, bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    resident, write, done = bench.baseline, EditJournal.write, []

    def interrupted(self: EditJournal, name: str, value: torch.Tensor) -> None:
        write(self, name, value)
        done.append(name)
        if len(done) > n_writes:
            raise error

    if spec.name == "permute_mlp_neurons":
        n_writes = min(n_writes, 5)
    monkeypatch.setattr(EditJournal, "write", interrupted)
    with pytest.raises(error), bench.edited(spec):
        pytest.fail("the edit broke off")
    assert len(done) == n_writes + 1
    assert bench.unchanged()
    assert bench.baseline is resident


def test_an_undo_that_is_interrupted_drops_the_resident_model(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tensor_digests(bench.baseline.model)

    def interrupted(_self: EditJournal) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(EditJournal, "undo", interrupted)
    with pytest.raises(KeyboardInterrupt), bench.edited(PRUNE):
        pass
    assert bench._loaded is None
    assert tensor_digests(bench.baseline.model) == original


def test_writing_twice_keeps_the_first_bits(tiny_model: Any) -> None:
    model = tiny_model("llama")
    before = tensor_digests(model)
    written = EditJournal(model, before)
    for value in (1.0, 2.0):
        written.write(GATE, torch.full((48, 32), value))
    assert written.changes().n_tensors_touched == 1
    written.undo()
    assert tensor_digests(model) == before


def test_changes_are_counted_in_bits(tiny_model: Any) -> None:
    model = tiny_model("llama")
    written = journal(model)
    value = model.get_parameter(GATE).clone()
    value[0, 0] += 1
    written.write(GATE, value)
    written.write("model.norm.weight", model.get_parameter("model.norm.weight").clone())
    changes = written.changes()
    assert (changes.n_tensors_touched, changes.n_tensors_changed) == (2, 1)
    assert (changes.n_parameters_touched, changes.n_parameters_changed) == (48 * 32 + 32, 1)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
def test_what_is_raised_inside_leaves_the_resident_model_whole(
    bench: Bench, error: type[BaseException]
) -> None:
    resident = bench.baseline

    def fails() -> None:
        with bench.edited(PRUNE):
            assert not bench.unchanged()
            raise error

    with pytest.raises(error):
        fails()
    assert bench.unchanged()
    assert bench.baseline is resident


def test_an_edit_that_breaks_off_half_way_is_undone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(j: EditJournal, **_: object) -> None:
        j.write(GATE, torch.zeros(48, 32))
        raise KeyboardInterrupt

    monkeypatch.setitem(registry.EDITS, "magnitude_prune", breaks)
    assert bench.unchanged()
    with pytest.raises(KeyboardInterrupt), bench.edited(PRUNE):
        pytest.fail("the edit broke off")
    assert bench.unchanged()


def test_the_subject_of_an_edit_is_told_with_its_own_digests(bench: Bench) -> None:
    with bench.edited(PRUNE) as subject:
        assert dict(subject.digests) == tensor_digests(subject.loaded.model)
        assert subject.digests != bench.digests
        assert subject.edit is not None
        assert subject.edit["n_tensors_touched"] == 14
    with bench.edited(EditSpec("noop")) as subject:
        assert subject.digests == bench.digests
