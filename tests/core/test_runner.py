"""CoreRunner: an edit of a model in memory is measured by the engine, kept or rolled back."""

from __future__ import annotations

import pytest
import torch
from invarlock_guards import InvariantsGuard

from pytest_invarlock.adapters import HF_Causal_Adapter
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.core.api import RunConfig
from pytest_invarlock.core.runner import CoreRunner
from pytest_invarlock.data import get_provider
from pytest_invarlock.errors import ConfigError, DataError
from pytest_invarlock.plan import EditSpec

INT8 = EditSpec("quant_rtn", {"bitwidth": 8, "group_size": 32})
PRUNE = EditSpec("magnitude_prune", {"sparsity": 0.7})


@pytest.fixture(scope="module")
def adapter():
    return HF_Causal_Adapter()


@pytest.fixture(scope="module")
def batches(adapter):
    tokenizer = adapter.load("builtin:llama", device="cpu", dtype="float32").tokenizer
    windows = get_provider("pydoc").windows(
        tokenizer, preview_n=24, final_n=24, seq_len=64, stride=64
    )
    return [{"input_ids": [w.tokens.tolist()]} for w in (*windows.preview, *windows.final)]


@pytest.fixture
def model(adapter):
    return adapter.load_model("builtin:llama", device="cpu")


def execute(model, adapter, edit, batches, **config):
    return CoreRunner().execute(
        model, adapter, edit, [InvariantsGuard()], RunConfig(**config), calibration_data=batches
    )


def test_a_degrading_edit_is_rolled_back_bit_for_bit(model, adapter, batches):
    before = tensor_digests(model)
    report = execute(model, adapter, PRUNE, batches)
    assert report.status == "rollback"
    assert report.metrics["verdict"] == "FAIL"
    assert report.meta["rollback_reason"]
    assert tensor_digests(model) == before


def test_a_harmless_edit_stays_applied(model, adapter, batches):
    before = tensor_digests(model)
    report = execute(model, adapter, INT8, batches)
    assert (report.status, report.metrics["verdict"]) == ("success", "PASS")
    assert tensor_digests(model) != before
    assert report.guards["invariants"]["outcome"] == "PASS"
    assert report.edit["n_tensors_changed"] == 28
    assert len(report.evaluation_windows["final"]["tokens"]) == 24


def test_a_limit_of_the_config_overrides_the_tiers(model, adapter, batches):
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


def test_a_model_in_training_mode_and_an_unknown_guard_are_refused(model, adapter, batches):
    class Stranger(InvariantsGuard):
        name = "stranger"

    with pytest.raises(ConfigError, match="stranger"):
        CoreRunner().execute(
            model, adapter, INT8, [Stranger()], RunConfig(), calibration_data=batches
        )
    with pytest.raises(ConfigError) as caught:
        execute(model.train(), adapter, INT8, batches)
    assert caught.value.code == "TRAINING_MODE"
