"""What besides tensors and configuration decides what a model computes."""

from __future__ import annotations

import torch

from pytest_invarlock.bench.tensor_digest import tensor_digest
from pytest_invarlock.evidence.strict_json import digest

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def function_state(model: torch.nn.Module) -> str:
    """A digest of modes, hooks, replaced methods and buffers that no checkpoint holds.

    Equal before and after means that nobody switched a part to training, hung a hook on it, put
    another ``forward`` in its place, or wrote to a buffer outside its state (rotary frequencies).
    """
    kept = set(model.state_dict(keep_vars=True))
    return digest(
        {
            "modules": [
                [name, type(module).__name__, module.training, "forward" in vars(module)]
                + [len(getattr(module, hooks)) for hooks in _HOOKS]
                for name, module in model.named_modules()
            ],
            "buffers": {
                name: tensor_digest(buffer)
                for name, buffer in model.named_buffers()
                if name not in kept
            },
        }
    )
