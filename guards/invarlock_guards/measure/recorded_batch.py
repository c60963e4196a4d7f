"""What one batch's pass of the baseline gave: kept as it is seen, handed out call by call."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from invarlock_guards.measure.watched_forward import BranchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from invarlock_guards.measure.feature_edge import WindowEdge


@dataclass(slots=True)
class RecordedBatch:
    """What one batch's pass of the baseline gave.

    ``tensors`` are copies on the CPU in the model's dtype, each kept once; ``entries`` and
    ``outputs`` give, by module and call, places in it; ``edges`` is by site and window, and
    ``edge_of_bits`` by a digest of the outputs that have it.
    """

    fingerprint: str
    tensors: list[torch.Tensor] = field(default_factory=list)
    entries: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    outputs: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    edges: dict[tuple[str, int], list[WindowEdge]] = field(
        default_factory=lambda: defaultdict(list)
    )
    edge_of_bits: dict[bytes, WindowEdge] = field(default_factory=dict)


class Keeper:
    """Copies tensors to the CPU, each once however often it is seen in one pass."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        self._tensors = tensors
        self._seen: dict[tuple[int, int], int] = {}
        # An object that is freed could come back as another of the same identity.
        self._alive: list[torch.Tensor] = []

    def into(self, places: list[int]) -> Callable[[torch.Tensor], None]:
        """A look at tensors that notes in ``places`` where each is kept."""

        def see(value: torch.Tensor) -> None:
            # An inference tensor counts no versions: each is kept as seen.
            version = len(self._alive) if value.is_inference() else value._version  # noqa: SLF001
            key = (id(value), version)
            if key not in self._seen:
                self._seen[key] = len(self._tensors)
                self._tensors.append(value.detach().to("cpu", copy=True))
                self._alive.append(value)
            places.append(self._seen[key])

        return see


class Replay:
    """Hands out what was recorded, call by call."""

    def __init__(self, recorded: RecordedBatch) -> None:
        self._recorded = recorded
        self._entered: dict[str, int] = defaultdict(int)
        self._left: dict[str, int] = defaultdict(int)

    def force(self, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """A look at what enters module ``name`` that puts what was recorded in its place."""

        def other(value: torch.Tensor) -> torch.Tensor:
            return self._next(name, self._recorded.entries, self._entered, value).to(value.dtype)

        return other

    def output(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """What was recorded of module ``name`` in place of ``value``.

        Raises:
            BranchError: it was called less often, or its output had another shape.
        """
        return self._next(name, self._recorded.outputs, self._left, value)

    def _next(
        self,
        name: str,
        places: dict[str, list[int]],
        calls: dict[str, int],
        value: torch.Tensor,
    ) -> torch.Tensor:
        call = calls[name]
        calls[name] += 1
        if call >= len(places[name]):
            raise BranchError(f"{name} is called more often in the subject than in the baseline")
        kept = self._recorded.tensors[places[name][call]]
        if kept.shape != value.shape:
            raise BranchError(
                f"{name} has shape {tuple(value.shape)} in the subject and {tuple(kept.shape)} in "
                "the baseline: compare models of one shape"
            )
        return kept.to(value.device)

    def check_calls(self) -> None:
        """Raise BranchError where a module was called less often than it was recorded."""
        for places, calls in (
            (self._recorded.entries, self._entered),
            (self._recorded.outputs, self._left),
        ):
            for name, kept in places.items():
                if calls[name] != len(kept):
                    raise BranchError(f"{name} is called less often in the subject")
