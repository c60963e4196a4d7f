"""What a backend does: pack a model's weights, store them packed, and load them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    import torch


class Backend(Protocol):
    """Packs weights for deployment.

    Another package registers a class without arguments under the entry-point group
    ``invarlock.backends``. Making one must not need the library that it rests on: whether that is
    there, `unavailable` says. Names of weights are those of the model's parameters before packing.

    Attributes:
        schemes: bits of each weight, scales aside, by the names of the schemes.
    """

    schemes: Mapping[str, int]

    def unavailable(self, scheme: str, device: str) -> str | None:
        """Why ``scheme`` cannot be run on ``device`` here, in a phrase; None where it can."""

    def pack(self, model: torch.nn.Module, scheme: str) -> Sequence[str]:
        """Replace weights of ``model`` by packed ones, in place; their names."""

    def plain(self, model: torch.nn.Module, name: str) -> torch.Tensor:
        """The packed weight ``name`` as numbers, in the shape that it had before packing."""

    def save(self, model: torch.nn.Module, folder: Path) -> Mapping[str, Sequence[str]]:
        """Write a packed model's tensors to ``folder`` as ``*.safetensors``.

        Tensors that are not packed keep their names.

        Returns:
            The names of the stored tensors that hold each packed weight.
        """

    def load(self, model: torch.nn.Module, scheme: str, folder: Path, like: torch.Tensor) -> None:
        """Fill ``model``, whose parameters are on the meta device, with what `save` wrote.

        Args:
            model: as the class makes it, unpacked and without numbers.
            scheme: the scheme of what is stored.
            folder: where `save` wrote.
            like: of the dtype and device of the weights before packing.
        """
