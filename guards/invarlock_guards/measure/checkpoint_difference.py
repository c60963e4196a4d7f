"""Which tensors one of two checkpoints lacks, and which it has beside the other's, by headers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from invarlock_guards.measure.checkpoint_structure import CheckpointSide
    from invarlock_guards.measure.invariants import ModelStructure

MOST_NAMES = 20


@dataclass(frozen=True, slots=True)
class NamedTensors:
    """Tensors by name: how many, and the first `MOST_NAMES` of them."""

    count: int
    names: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        """The tensors of these names, sorted, each counted once."""
        found = sorted(set(names))
        return cls(len(found), tuple(found[:MOST_NAMES]))

    @property
    def text(self) -> str:
        """The names, and how many more there are; empty where there is none."""
        more = self.count - len(self.names)
        return ", ".join(self.names) + (f" and {more} more" if more else "")


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """What a subject ``lost`` of the baseline's tensors, and what it has ``beside`` them."""

    lost: NamedTensors
    beside: NamedTensors

    @property
    def text(self) -> str:
        """Both in words; empty where the subject has the baseline's tensors and no other."""
        told = [
            f"{found.count} {'tensor' if found.count == 1 else 'tensors'} {word}: {found.text}"
            for found, word in ((self.lost, "lost"), (self.beside, "beside"))
            if found.count
        ]
        return "; ".join(told)


def tensor_difference(
    baseline: ModelStructure, subject: ModelStructure, side: CheckpointSide
) -> TensorDifference:
    """What the subject lost, its index's broken promises among it, and what it has beside.

    Args:
        baseline: its structure by headers.
        subject: the same of the subject.
        side: the subject's files and layout.
    """
    missing = set(baseline.tensors) - set(subject.tensors)
    other_names = {name.removeprefix(side.layout.prefix) for name in missing}
    other_names |= {side.layout.renamed.get(name, name) for name in missing}
    promised = side.files.lost - missing - other_names
    beside = set(subject.tensors) - set(baseline.tensors)
    unread = subject.unread - baseline.unread
    return TensorDifference(NamedTensors.of(missing | promised), NamedTensors.of(beside | unread))
