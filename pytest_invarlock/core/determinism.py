"""What changes bits, made concrete and put in force: device, dtype, threads, determinism mode."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pytest_invarlock.errors import ConfigError

if TYPE_CHECKING:
    from pytest_invarlock.plan import MeasurementPlan

CUBLAS_WORKSPACE = ":4096:8"
CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"


def resolve_device(device: str) -> str:
    """A concrete torch device; ``auto`` is CUDA, then MPS, then CPU."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return next(name for name, is_there in available.items() if is_there)
    if not available.get(device.split(":")[0], True):
        raise ConfigError(
            f"device {device} is not available to torch here",
            remedy="give --invarlock-device=auto or cpu",
            code="NO_DEVICE",
        )
    return device


def resolve_dtype(dtype: str, device: str) -> str:
    """A concrete dtype name; ``auto`` is float32 on a CPU and the checkpoint's own elsewhere."""
    return ("float32" if device == "cpu" else "auto") if dtype == "auto" else dtype


def resolve_plan(plan: MeasurementPlan, *, workers: int = 1) -> MeasurementPlan:
    """``plan`` with device, dtype and threads made concrete for one of ``workers`` workers."""
    device = resolve_device(plan.device)
    threads = plan.threads
    if threads == "auto" and plan.determinism == "strict":
        # The number of threads changes the order of sums, and so the bits.
        threads = 1
    elif threads == "auto":
        threads = max(1, (os.cpu_count() or 1) // max(1, workers))
    return replace(plan, device=device, dtype=resolve_dtype(plan.dtype, device), threads=threads)


@contextmanager
def in_force(plan: MeasurementPlan) -> Iterator[None]:
    """Run with the plan's threads and determinism mode; put back what was there before."""
    threads = torch.get_num_threads()
    # Unlike use_deterministic_algorithms, this does not import the compiler (seconds).
    deterministic = torch.get_deterministic_debug_mode()
    benchmark = torch.backends.cudnn.benchmark
    tf32 = _tf32()
    workspace = os.environ.get(CUBLAS_VARIABLE)
    strict = plan.determinism == "strict"
    if strict:
        # cuBLAS reads this once, when CUDA starts.
        os.environ.setdefault(CUBLAS_VARIABLE, CUBLAS_WORKSPACE)
    try:
        if isinstance(plan.threads, int):
            torch.set_num_threads(plan.threads)
        torch.set_deterministic_debug_mode("error" if strict else "default")
        torch.backends.cudnn.benchmark = not strict
        _set_tf32(*(("ieee",) * 2 if strict else ("tf32",) * 2))
        with seeded(plan):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(deterministic)
        torch.backends.cudnn.benchmark = benchmark
        _set_tf32(*tf32)
        if workspace is None:
            os.environ.pop(CUBLAS_VARIABLE, None)


@contextmanager
def seeded(plan: MeasurementPlan) -> Iterator[None]:
    """Run with the plan's seed in the global generators; put back what was there before.

    Others' code, edits and guards among it, draws from them.
    """
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    seed = random_seed(plan)
    try:
        with torch.random.fork_rng(devices=devices):
            random.seed(seed)
            np.random.seed(seed)
            if torch.accelerator.is_available():
                torch.manual_seed(seed)
            else:
                # The former writes the whole stack down for each kind of device that is not there.
                torch.default_generator.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _tf32() -> tuple[str, str]:
    """Float32 precision of matrix products and of cuDNN, in the words of torch's newer setting.

    The older one, ``allow_tf32``, may not be read once a user has made the newer.
    """
    backends: Any = torch.backends
    if hasattr(backends.cuda.matmul, "fp32_precision"):
        return backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    return "tf32" if allowed[0] else "ieee", "tf32" if allowed[1] else "ieee"


def _set_tf32(matmul: str, cudnn: str) -> None:
    backends: Any = torch.backends
    if hasattr(backends.cuda.matmul, "fp32_precision"):
        backends.cuda.matmul.fp32_precision = matmul
        backends.cudnn.conv.fp32_precision = cudnn
        backends.cudnn.rnn.fp32_precision = cudnn
        return
    torch.backends.cuda.matmul.allow_tf32 = matmul == "tf32"
    torch.backends.cudnn.allow_tf32 = cudnn == "tf32"


@contextmanager
def ieee_float32() -> Iterator[None]:
    """Run with float32 products in full float32, as no mode but strict guarantees on CUDA."""
    before = _tf32()
    _set_tf32("ieee", "ieee")
    try:
        yield
    finally:
        _set_tf32(*before)


def random_seed(plan: MeasurementPlan) -> int:
    """What the global generators are seeded with, for edits and guards that draw from them."""
    return plan.windows.seed + plan.draw


def determinism_in_force(plan: MeasurementPlan) -> dict[str, Any]:
    """The flags, thread counts and seed that are in force, as torch itself reports them."""
    return {
        "mode": plan.determinism,
        "seed": random_seed(plan),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "tf32_matmul": _tf32()[0] == "tf32",
        "tf32_cudnn": _tf32()[1] == "tf32",
        "cublas_workspace": os.environ.get(CUBLAS_VARIABLE),
    }


def device_identity(device: str) -> dict[str, str]:
    """What of the device changes bits: its name, and for a CPU its instruction set in use."""
    if device.startswith("cuda"):
        return {"device": device, "name": torch.cuda.get_device_name(device)}
    return {"device": device, "capability": torch.backends.cpu.get_cpu_capability()}
