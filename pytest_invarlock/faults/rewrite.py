"""A rewrite of weights that is only described: each tensor is computed when somebody needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pytest_invarlock.edits.writer import TensorWriter

TensorChange = Callable[[torch.Tensor], torch.Tensor]


class Rewrite:
    """Changes of a model's parameters by name, computed in float32 (float64 stays) and not kept.

    So that it can be tried before anything is written, at the cost of no second model.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self._changes: dict[str, list[TensorChange]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters it changes, in the order of their first change."""
        return tuple(self._changes)

    def change(self, name: str, how: TensorChange) -> None:
        """Change the parameter ``name`` by ``how``, after its earlier changes."""
        self._changes.setdefault(name, []).append(how)

    def value(self, name: str) -> torch.Tensor:
        """The parameter ``name`` rewritten, not rounded to the dtype in which it is stored."""
        value = wide(self.model.get_parameter(name).detach())
        for how in self._changes[name]:
            value = how(value)
        return value

    def write(self, journal: TensorWriter) -> None:
        """Write every changed parameter, rounded once."""
        for name in self._changes:
            journal.write(name, self.value(name))


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` in float32, or as it is where that would narrow it or it holds no floats."""
    narrow = tensor.is_floating_point() and tensor.element_size() < 4
    return tensor.float() if narrow else tensor
