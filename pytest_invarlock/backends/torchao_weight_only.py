"""torchao's weight-only quantisation: 8-bit per row, 4-bit per group of 32, of linear layers.

Formulas are torchao's own. What is stored is each packed tensor's parts as they lie in memory, in
safetensors: no pickle is written or read, and their headers tell dtypes and sizes to anyone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

if TYPE_CHECKING:
    from pathlib import Path

FILE = "model.safetensors"
GROUP = 32
_COLUMNS = 256


class TorchaoBackend:
    """Int8 on the devices that torchao knows; int4 on a CPU, whose kernels torch itself has."""

    schemes: Mapping[str, int] = {"int8_weight_only": 8, "int4_weight_only": 4}

    def unavailable(self, scheme: str, device: str) -> str | None:
        """What is not installed, or that int4 has no kernels for ``device``."""
        if find_spec("torchao") is None:
            return "torchao is not installed (pip install torchao, or the extra torchao)"
        kind = torch.device(device).type
        if scheme == "int4_weight_only":
            if kind != "cpu":
                return f"int4 weights are packed for a CPU only, not for {kind}"
            if not _packs_int4_on_cpu():
                return "this torchao packs no int4 weights for a CPU (0.18 does)"
        return None

    def pack(self, model: torch.nn.Module, scheme: str) -> Sequence[str]:
        """Pack every linear layer with a weight of its own; tied ones, such as heads, stay."""
        from torchao.quantization import quantize_

        modules = _linear_layers(model, GROUP if scheme == "int4_weight_only" else 1)
        for module in modules.values():
            # One at a time, so that what was packed is freed before the next.
            quantize_(module, _configuration(scheme))
        return [f"{name}.weight" for name in modules]

    def plain(self, model: torch.nn.Module, name: str) -> torch.Tensor:
        """What the kernel multiplies with: its product with the identity, a block at a time."""
        weight = model.get_parameter(name)
        width = weight.shape[1]
        blocks = []
        with torch.no_grad():
            for start in range(0, width, _COLUMNS):
                rows = torch.arange(start, min(start + _COLUMNS, width), device=weight.device)
                identity = torch.nn.functional.one_hot(rows, width).to(weight.dtype)
                blocks.append(torch.nn.functional.linear(identity, weight))
        return torch.cat(blocks).T.contiguous()

    def save(self, model: torch.nn.Module, folder: Path) -> Mapping[str, Sequence[str]]:
        """One file: ``NAME.PART`` for each part of a packed weight, tied tensors once."""
        stored: dict[str, torch.Tensor] = {}
        packed: dict[str, list[str]] = {}
        seen: set[int] = set()
        for name, tensor in model.state_dict().items():
            if is_traceable_wrapper_subclass(tensor):
                parts = _parts(tensor)
                packed[name] = [f"{name}.{part}" for part in parts]
                stored |= {f"{name}.{part}": value for part, value in parts.items()}
            elif tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                stored[name] = tensor
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in stored.items()}
        save_file(contiguous, folder / FILE, metadata={"format": "pt"})
        return packed

    def load(self, model: torch.nn.Module, scheme: str, folder: Path, like: torch.Tensor) -> None:
        """Put the stored parts into packed tensors of the same scheme and shape."""
        from torchao.quantization import quantize_

        stored = load_file(folder / FILE, device=str(like.device))
        state: dict[str, torch.Tensor] = {}
        for name, expected in model.state_dict(keep_vars=True).items():
            if name in stored:
                state[name] = stored[name]
            elif any(key.startswith(f"{name}.") for key in stored):
                shell = torch.nn.Linear(
                    expected.shape[1], expected.shape[0], bias=False, device=like.device,
                    dtype=like.dtype,
                )  # fmt: skip
                quantize_(shell, _configuration(scheme))
                state[name] = _refilled(shell.weight, name, stored)
        model.load_state_dict(state, strict=False, assign=True)


def _packs_int4_on_cpu() -> bool:
    try:
        import torchao.prototype.quantization.int4  # noqa: F401
    except ImportError:
        return False
    return True


def _linear_layers(model: torch.nn.Module, divisor: int) -> dict[str, torch.nn.Linear]:
    """Linear layers whose weight no other name shares, and whose width ``divisor`` divides."""
    shared: dict[int, int] = {}
    for tensor in model.state_dict().values():
        shared[tensor.data_ptr()] = shared.get(tensor.data_ptr(), 0) + 1
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear
        and shared[module.weight.data_ptr()] == 1
        and module.in_features % divisor == 0
    }


def _configuration(scheme: str) -> Any:
    if scheme == "int8_weight_only":
        from torchao.quantization import Int8WeightOnlyConfig

        return Int8WeightOnlyConfig(set_inductor_config=False)
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

    return PrototypeInt4WeightOnlyConfig(group_size=GROUP, set_inductor_config=False)


def _parts(tensor: Any) -> dict[str, torch.Tensor]:
    names, _ = tensor.__tensor_flatten__()
    return {name: getattr(tensor, name) for name in names}


def _refilled(weight: Any, name: str, stored: Mapping[str, torch.Tensor]) -> torch.nn.Parameter:
    """A packed tensor like ``weight`` with the stored parts of ``name``."""
    names, context = weight.__tensor_flatten__()
    parts = {part: stored[f"{name}.{part}"] for part in names}
    packed = type(weight.data).__tensor_unflatten__(parts, context, weight.shape, weight.stride())
    return torch.nn.Parameter(packed, requires_grad=False)
