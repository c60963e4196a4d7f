"""What an edit needs of whoever applies it: the model, and one way to write its tensors."""

from __future__ import annotations

from typing import Protocol

import torch


class TensorWriter(Protocol):
    """The model under edit and the only way to change it; `bench.journal.EditJournal` is one."""

    model: torch.nn.Module

    def write(self, name: str, value: torch.Tensor) -> None:
        """Overwrite the tensor ``name`` in place with ``value`` of the same shape, cast to it."""


class InPlaceWriter:
    """A `TensorWriter` that keeps no undo: it changes the caller's model for good.

    Counts what `EditJournal.changes` counts; an element changed where its value did.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.n_tensors_touched = 0
        self.n_tensors_changed = 0
        self.n_parameters_touched = 0
        self.n_parameters_changed = 0
        self._tensors = model.state_dict(keep_vars=True)

    def write(self, name: str, value: torch.Tensor) -> None:
        """Overwrite tensor ``name`` in place; tied names change together."""
        tensor = self._tensors[name]
        written = value.detach().to(tensor.dtype)
        n_changed = int((tensor.detach() != written).sum().item())
        self.n_tensors_touched += 1
        self.n_tensors_changed += n_changed > 0
        self.n_parameters_touched += tensor.numel()
        self.n_parameters_changed += n_changed
        with torch.no_grad():
            tensor.copy_(written)


class UndoableWriter(TensorWriter, Protocol):
    """A writer that can take back all it wrote, bit for bit, and go on."""

    def undo(self) -> None:
        """Restore every tensor written so far."""
