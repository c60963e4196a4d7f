"""EditJournal: writes tensors of a resident model in place, and undoes them bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pytest_invarlock.bench.tensor_digest import model_tensors, tensor_digest, tensors_overlap
from pytest_invarlock.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Mapping

_INTEGER_VIEWS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


_Place = tuple[int, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Changes:
    """How much an edit touched, and how much of that came out different (0 and -0 are not)."""

    n_tensors_touched: int
    n_tensors_changed: int
    n_parameters_touched: int
    n_parameters_changed: int


class EditJournal:
    """The only way an edit writes to a model: the first write to a tensor saves its old bits.

    Args:
        model: the resident model.
        digests: the digest of each of its tensors before any edit, as proof for `undo`.
    """

    def __init__(self, model: torch.nn.Module, digests: Mapping[str, str]) -> None:
        self.model = model
        self.digests = digests
        self._tensors = model_tensors(model)
        self._saved: dict[str, torch.Tensor] = {}
        self._places: dict[_Place, str] = {}
        # Names in the order of their first writes, by the storage they lie in.
        self._stored: dict[int, list[str]] = {}

    @property
    def touched(self) -> tuple[str, ...]:
        """Names of the tensors written, in order."""
        return tuple(self._saved)

    def before(self, tensor: torch.Tensor) -> torch.Tensor:
        """What ``tensor``, one of the model's, held before the edit: itself where not written.

        Of one that shares some of its numbers with edited ones, a copy.
        """
        beside = self._stored.get(tensor.untyped_storage().data_ptr(), ())
        over = [name for name in beside if tensors_overlap(tensor, self._tensors[name])]
        if not over:
            return tensor
        if len(over) == 1 and self._places.get(_place(tensor)) == over[0]:
            return self._saved[over[0]]
        return self._undone(tensor, over)

    def _undone(self, tensor: torch.Tensor, names: list[str]) -> torch.Tensor:
        """``tensor`` out of a copy of its storage, in which the writes to ``names`` are undone."""
        whole = torch.empty(0, dtype=torch.uint8, device=tensor.device)
        storage = whole.set_(tensor.untyped_storage()).clone().untyped_storage()
        for name in reversed(names):
            _within(storage, self._tensors[name]).copy_(self._saved[name])
        return _within(storage, tensor).clone()

    def write(self, name: str, value: torch.Tensor) -> None:
        """Overwrite tensor ``name`` in place; tied names change together."""
        tensor = self._tensors[name]
        if tensor.shape != value.shape:
            raise EditError(
                f"{name} has shape {tuple(tensor.shape)}, the edit wrote {tuple(value.shape)}",
                remedy="report this",
                code="EDIT_SHAPE",
            )
        # Tied names share storage: what was saved under one name must not be saved edited. A tensor
        # that overlaps an edited one is saved, and undone before it: `undo` goes backwards.
        place = _place(tensor)
        if place not in self._places:
            # Saved before it counts as saved, should memory run out between the two.
            self._saved[name] = tensor.detach().clone()
            self._places[place] = name
            self._stored.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
        with torch.no_grad():
            tensor.copy_(value)

    def changes(self) -> Changes:
        """Compare every touched tensor with its saved bits; zeros of either sign are the same."""
        differing = [
            _n_different(self._tensors[name], saved) for name, saved in self._saved.items()
        ]
        return Changes(
            n_tensors_touched=len(self._saved),
            n_tensors_changed=sum(count > 0 for count in differing),
            n_parameters_touched=sum(saved.numel() for saved in self._saved.values()),
            n_parameters_changed=sum(differing),
        )

    def undo(self) -> None:
        """Write the saved bits back and prove it by digest; raises EditError where they differ."""
        with torch.no_grad():
            for name, saved in reversed(self._saved.items()):
                self._tensors[name].copy_(saved)
        for name in self._saved:
            if tensor_digest(self._tensors[name]) != self.digests[name]:
                raise EditError(
                    f"{name} could not be restored bit for bit",
                    remedy="the resident model is reloaded; report this",
                    code="UNDO_FAILED",
                )
        self._saved.clear()
        self._places.clear()
        self._stored.clear()


def _n_different(tensor: torch.Tensor, saved: torch.Tensor) -> int:
    different = _bits(tensor) != _bits(saved)
    # No model computes anything else with -0 than with 0: turning the sign of zeros is no change.
    different &= ~(_zeros(tensor) & _zeros(saved))
    return int(different.sum().item())


def _zeros(tensor: torch.Tensor) -> torch.Tensor:
    # The 8-bit types have no comparison of their own.
    return (tensor.detach().float() if tensor.element_size() == 1 else tensor.detach()) == 0


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(_INTEGER_VIEWS[tensor.element_size()])


def _within(storage: torch.UntypedStorage, like: torch.Tensor) -> torch.Tensor:
    """The tensor that lies in ``storage`` as ``like`` does in its own."""
    empty = torch.empty(0, dtype=like.dtype, device=like.device)
    with torch.no_grad():
        return empty.set_(storage, like.storage_offset(), like.shape, like.stride())


def _place(tensor: torch.Tensor) -> _Place:
    """Where a tensor's numbers lie: the same for all names of a tied one."""
    return tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride())
