"""What changes bits: made concrete, put in force, and put back however the work ended."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from pytest_invarlock.core.determinism import (
    determinism_in_force,
    device_identity,
    in_force,
    resolve_device,
    resolve_dtype,
    resolve_plan,
)
from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import DataSource, MeasurementPlan, WindowSelection

if TYPE_CHECKING:
    from collections.abc import Iterator


def plan(**change: Any) -> MeasurementPlan:
    return MeasurementPlan(DataSource("pydoc"), WindowSelection(64, 64, 10, 10), **change)


def state() -> dict[str, object]:
    return {
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
    }


@pytest.fixture(params=["defaults", "others", "warn only"])
def before(request: pytest.FixtureRequest) -> Iterator[dict[str, object]]:
    kept = state()
    if request.param != "defaults":
        torch.set_num_threads(2)
        torch.use_deterministic_algorithms(True, warn_only=request.param == "warn only")
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = False
    yield state()
    torch.set_num_threads(int(str(kept["threads"])))
    torch.use_deterministic_algorithms(
        bool(kept["deterministic"]), warn_only=bool(kept["warn_only"])
    )
    torch.backends.cudnn.benchmark = bool(kept["benchmark"])
    torch.backends.cuda.matmul.allow_tf32 = bool(kept["matmul_tf32"])
    torch.backends.cudnn.allow_tf32 = bool(kept["cudnn_tf32"])


@pytest.mark.parametrize("mode", ["strict", "throughput"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_settings_are_put_back_after_an_error(
    mode: Any, error: type[BaseException], before: dict[str, object]
) -> None:
    with pytest.raises(error), in_force(plan(determinism=mode, threads=1)):
        raise error
    assert state() == before


@pytest.mark.parametrize("mode", ["strict", "throughput"])
def test_settings_are_put_back_afterwards(mode: Any, before: dict[str, object]) -> None:
    with in_force(plan(determinism=mode, threads=1)):
        assert torch.get_num_threads() == 1
    assert state() == before


def test_strict_is_strict_and_throughput_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with in_force(plan(determinism="throughput", threads=1)):
        assert not torch.are_deterministic_algorithms_enabled()
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with in_force(plan(determinism="strict", threads=1)):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_device_that_is_not_there_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError) as caught:
        resolve_device("cuda:1")
    assert caught.value.code == "NO_DEVICE"


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_cuda_then_mps_then_cpu(
    cuda: bool, mps: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device("auto") == device


@pytest.mark.parametrize(
    ("dtype", "device", "resolved"),
    [("auto", "cpu", "float32"), ("auto", "cuda", "auto"), ("bfloat16", "cpu", "bfloat16")],
)
def test_auto_dtype_is_float32_on_a_cpu(dtype: str, device: str, resolved: str) -> None:
    assert resolve_dtype(dtype, device) == resolved


@pytest.mark.parametrize(("cores", "workers", "threads"), [(8, 1, 8), (8, 3, 2), (2, 5, 1)])
def test_auto_threads_share_the_cores(
    cores: int, workers: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    resolved = resolve_plan(plan(device="cpu"), workers=workers)
    assert (resolved.threads, resolved.device, resolved.dtype) == (threads, "cpu", "float32")
    assert resolve_plan(plan(device="cpu", threads=3), workers=workers).threads == 3


def test_the_identity_of_a_cpu_is_its_instruction_set() -> None:
    assert device_identity("cpu") == {
        "device": "cpu", "capability": torch.backends.cpu.get_cpu_capability(),
    }  # fmt: skip


def test_the_global_generators_are_seeded_inside_and_untouched_outside() -> None:
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    drawn = []
    for _ in range(2):
        with in_force(plan(draw=3)):
            drawn.append((random.random(), float(torch.rand(1)), float(np.random.rand())))
    assert drawn[0] == drawn[1]
    with in_force(plan(draw=4)):
        assert random.random() != drawn[0][0]
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert np.random.get_state()[1].tolist() == before[2]  # type: ignore[index, union-attr]


@pytest.mark.parametrize("mode", ["strict", "throughput"])
def test_what_is_recorded_is_what_torch_says(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    strict = mode == "strict"
    with in_force(plan(determinism=mode, threads=1, draw=2)):
        found = determinism_in_force(plan(determinism=mode, draw=2))
    assert found == {
        "mode": mode, "seed": 2, "threads": 1, "interop_threads": torch.get_num_interop_threads(),
        "deterministic_algorithms": strict, "cudnn_benchmark": not strict,
        "tf32_matmul": not strict, "tf32_cudnn": not strict,
        "cublas_workspace": ":4096:8" if strict else None,
    }  # fmt: skip
