"""CoreRunner: an edit of a model in memory is measured by the engine, kept or rolled back."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from invarlock_guards import InvariantsGuard

from pytest_invarlock.adapters import HF_Causal_Adapter
from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import model_tensors, tensor_digests
from pytest_invarlock.core.api import RunConfig
from pytest_invarlock.core.engine import measure
from pytest_invarlock.core.runner import CoreRunner
from pytest_invarlock.data import get_provider
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.errors import ConfigError, DataError, EditError
from pytest_invarlock.plan import EditSpec

INT8 = EditSpec("quant_rtn", {"bitwidth": 8, "group_size": 32})
PRUNE = EditSpec("magnitude_prune", {"sparsity": 0.7})


@pytest.fixture(scope="module")
def adapter():
    return HF_Causal_Adapter()


def batches_of(adapter, model):
    tokenizer = adapter.load(model, device="cpu", dtype="float32").tokenizer
    windows = get_provider("pydoc").windows(
        tokenizer, preview_n=24, final_n=24, seq_len=64, stride=64
    )
    return [{"input_ids": [w.tokens.tolist()]} for w in (*windows.preview, *windows.final)]


@pytest.fixture(scope="module")
def batches(adapter, thin):
    return batches_of(adapter, thin)


@pytest.fixture(scope="module")
def unedited(adapter, thin):
    loaded = adapter.load_model(thin, device="cpu")
    before = tensor_digests(loaded)
    yield loaded
    assert tensor_digests(loaded) == before


@pytest.fixture
def model(unedited):
    return copy.deepcopy(unedited)


@pytest.fixture(scope="module")
def shipped(adapter):
    """A trained model, which damage harms, and windows of it."""
    return adapter.load_model("builtin:llama", device="cpu"), batches_of(adapter, "builtin:llama")


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


def execute(model, adapter, edit, batches, **config):
    return CoreRunner().execute(
        model, adapter, edit, [InvariantsGuard()], RunConfig(**config), calibration_data=batches
    )


def test_a_degrading_edit_is_rolled_back_bit_for_bit(shipped, adapter):
    model, batches = shipped
    before = tensor_digests(model)
    report = execute(model, adapter, PRUNE, batches)
    assert report.status == "rollback"
    assert report.metrics["verdict"] == "FAIL"
    assert report.meta["rollback_reason"]
    assert tensor_digests(model) == before


def test_a_harmless_edit_stays_applied(shipped, adapter):
    model, batches = copy.deepcopy(shipped[0]), shipped[1]
    before = tensor_digests(model)
    report = execute(model, adapter, INT8, batches)
    assert (report.status, report.metrics["verdict"]) == ("success", "PASS")
    assert tensor_digests(model) != before
    assert report.guards["invariants"]["outcome"] == "PASS"
    assert report.edit["n_tensors_changed"] == 28
    assert len(report.evaluation_windows["final"]["tokens"]) == 24


def test_a_limit_of_the_config_overrides_the_tiers(shipped, adapter):
    model, batches = copy.deepcopy(shipped[0]), shipped[1]
    report = execute(model, adapter, PRUNE, batches, max_pm_ratio=50.0, spike_threshold=60.0)
    assert report.status == "success"
    strict = execute(model, adapter, INT8, batches, tier="conservative")
    assert strict.metrics["primary_metric"]["numbers"]["limit"] == 1.05


def test_nan_fails_by_the_guard(model, adapter, batches):
    report = execute(model, adapter, EditSpec("nan_injection"), batches)
    assert report.status == "failed"
    assert "invariants" in report.guards
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_without_data_there_are_no_numbers(model, adapter):
    with pytest.raises(DataError) as caught:
        execute(model, adapter, INT8, None)
    assert caught.value.code == "NO_CALIBRATION_DATA"


def test_a_model_in_training_mode_is_refused(model, adapter, batches):
    with pytest.raises(ConfigError) as caught:
        execute(model.train(), adapter, INT8, batches)
    assert caught.value.code == "TRAINING_MODE"


class ScaledNorm:
    """An edit of one's own that changes one tensor."""

    name = "scaled_norm"

    def apply(self, model, adapter=None):
        model.model.norm.weight.mul_(1.001)


EDITS = pytest.mark.parametrize("edit", [INT8, ScaledNorm()], ids=["named", "own"])


@EDITS
def test_an_adapter_that_cannot_describe_leaves_nothing_behind(edit, model, batches):
    class Mute(HF_Causal_Adapter):
        def describe(self, model):
            raise RuntimeError("nothing to say")

    before = tensor_digests(model)
    with pytest.raises(RuntimeError, match="nothing to say"):
        execute(model, Mute(), edit, batches)
    assert tensor_digests(model) == before


@EDITS
def test_a_context_that_no_report_can_hold_leaves_nothing_behind(edit, model, adapter, batches):
    before = tensor_digests(model)
    with pytest.raises(TypeError):
        execute(model, adapter, edit, batches, context=7)
    assert tensor_digests(model) == before


class Interrupted:
    """Runs ``method`` of the journal, and breaks off after its call number ``calls``."""

    def __init__(self, monkeypatch, method, *calls):
        self.method, self.calls, self.n = getattr(EditJournal, method), calls, 0
        monkeypatch.setattr(EditJournal, method, lambda *given: self(*given))

    def __call__(self, *given):
        self.n += 1
        if self.n in self.calls:
            raise KeyboardInterrupt
        self.method(*given)


@EDITS
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no memory")])
def test_an_apply_for_good_that_breaks_off_is_undone(
    edit, error, model, adapter, batches, monkeypatch
):
    written = []

    def write(journal, name, value):
        written.append(name)
        EDIT_JOURNAL_WRITE(journal, name, value)
        raise error

    def measured(*arguments, **options):
        record = measure(*arguments, **options)
        # Only the apply for good is still to come.
        monkeypatch.setattr(EditJournal, "write", write)
        return record

    monkeypatch.setattr("pytest_invarlock.core.runner.measure", measured)
    before = tensor_digests(model)
    with pytest.raises(type(error)):
        execute(model, adapter, edit, batches)
    assert len(written) == 1
    assert tensor_digests(model) == before


EDIT_JOURNAL_WRITE = EditJournal.write


def test_an_edit_that_comes_out_otherwise_is_not_kept(model, adapter, batches, monkeypatch):
    def otherwise(spec, journal):
        apply_edit(spec, journal)
        weight = model_tensors(journal.model)["model.norm.weight"]
        journal.write("model.norm.weight", weight * 1.001)

    monkeypatch.setattr("pytest_invarlock.core.runner.apply_edit", otherwise)
    before = tensor_digests(model)
    with pytest.raises(EditError, match="other than it was measured") as caught:
        execute(model, adapter, INT8, batches)
    assert caught.value.code == "EDIT_NOT_AS_MEASURED"
    assert tensor_digests(model) == before


def test_the_edit_is_kept_under_the_threads_it_was_measured_with(
    model, adapter, batches, monkeypatch
):
    threads = []

    def counted(spec, journal):
        threads.append(torch.get_num_threads())
        return apply_edit(spec, journal)

    for module in ("bench.resident", "core.runner"):
        monkeypatch.setattr(f"pytest_invarlock.{module}.apply_edit", counted)
    before = torch.get_num_threads()
    threads_of_the_plan = 2
    monkeypatch.setattr(os, "cpu_count", lambda: threads_of_the_plan)
    torch.set_num_threads(threads_of_the_plan + 1)
    try:
        execute(model, adapter, INT8, batches)
    finally:
        torch.set_num_threads(before)
    assert threads == [threads_of_the_plan] * 2


def test_an_interrupted_undo_is_finished(model, adapter, batches, monkeypatch):
    before = tensor_digests(model)
    interrupted = Interrupted(monkeypatch, "undo", 1)
    with pytest.raises(KeyboardInterrupt):
        execute(model, adapter, PRUNE, batches)
    assert interrupted.n > 1
    assert tensor_digests(model) == before


def test_a_model_that_cannot_be_put_back_is_said_to_be_changed(
    model, adapter, batches, monkeypatch
):
    before = tensor_digests(model)
    Interrupted(monkeypatch, "undo", *range(1, 9))
    with pytest.raises(EditError, match="left changed") as caught:
        execute(model, adapter, PRUNE, batches)
    assert caught.value.code == "MODEL_LEFT_CHANGED"
    assert tensor_digests(model) != before


def test_memory_that_runs_out_with_an_edit_left_in_measures_no_other_model(
    model, adapter, batches, monkeypatch
):
    def out_of_memory(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("pytest_invarlock.core.engine._facts", out_of_memory)
    monkeypatch.setattr(EditJournal, "undo", out_of_memory)
    with pytest.raises(EditError) as caught:
        execute(model, adapter, PRUNE, batches)
    assert caught.value.code == "MODEL_LEFT_CHANGED"


def test_a_model_changed_while_it_was_measured_is_said_to_be(model, adapter, batches, monkeypatch):
    def measured(*arguments, **options):
        record = measure(*arguments, **options)
        model.model.norm.weight.mul_(2.0)
        return record

    monkeypatch.setattr("pytest_invarlock.core.runner.measure", measured)
    with pytest.raises(EditError) as caught:
        execute(model, adapter, INT8, batches)
    assert caught.value.code == "MODEL_LEFT_CHANGED"


class Own:
    """A caller's guard: its answer, and what it may do to the model."""

    def __init__(self, name="own", writes=False, **answer):
        self.name, self.writes = name, writes
        self.answer = {"passed": True, "action": "continue", "message": "told so"} | answer

    def prepare(self, model, adapter, calib, policy):
        self.before = tensor_digests(model)
        return {"ready": len(calib) > 0}

    def validate(self, model, adapter, context):
        self.saw_a_change = tensor_digests(model) != self.before
        if self.writes:
            model.lm_head.weight.data[0, 0] += 1
        return self.answer


def guarded(model, adapter, batches, *guards):
    return CoreRunner().execute(
        model, adapter, INT8, [InvariantsGuard(), *guards], RunConfig(), calibration_data=batches
    )


@pytest.mark.parametrize(
    ("answer", "status", "outcome"),
    [
        ({"passed": False, "action": "rollback"}, "rollback", "FAIL"),
        ({"passed": False, "action": "abort"}, "failed", "FAIL"),
        ({"passed": False, "action": "warn"}, "success", "WARN"),
        ({}, "success", "PASS"),
        ({"passed": "yes"}, "failed", "ERROR"),
    ],
)
def test_a_callers_own_guard_decides_as_it_says(model, adapter, batches, answer, status, outcome):
    before = tensor_digests(model)
    guard, behind = Own(**answer), Own("behind")
    report = guarded(model, adapter, batches, guard, behind)
    assert guard.saw_a_change
    # An abort ends the run, and nothing else does.
    aborted = answer.get("action") == "abort"
    assert hasattr(behind, "saw_a_change") != aborted
    assert report.guards["behind"]["outcome"] == ("ERROR" if aborted else "PASS")
    told = report.error or report.meta["rollback_reason"] or ""
    if outcome == "FAIL":
        assert told.startswith(f"{answer['action']}: told so")
    assert (report.status, report.guards["own"]["outcome"]) == (status, outcome)
    assert (tensor_digests(model) == before) == (status != "success")


def test_a_callers_guard_that_writes_to_the_model_is_an_error(model, adapter, batches):
    with pytest.raises(EditError, match="the model is left changed") as caught:
        guarded(model, adapter, batches, Own(writes=True))
    assert caught.value.__context__.code == "GUARD_ALTERED_MODEL"


class Nameless:
    def validate(self, model, adapter, context): ...


@pytest.mark.parametrize(
    ("guard", "told"),
    [
        (Own("tail"), "which is taken"),
        (Own("a::b"), "no name of letters"),
        (Nameless(), "no name of letters"),
        (type("Mute", (), {"name": "mute"})(), r"has no validate\(\)"),
    ],
)
def test_what_is_no_guard_is_refused(model, adapter, batches, guard, told):
    with pytest.raises(ConfigError, match=told) as caught:
        guarded(model, adapter, batches, guard)
    assert caught.value.code == "GUARD_UNUSABLE"
