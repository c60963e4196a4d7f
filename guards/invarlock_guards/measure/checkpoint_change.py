"""Invariants and spectral between two checkpoint directories, tensor by tensor, no model loaded.

The evidence is what `measure_invariants` and `measure_models` say of the loaded models, so that
the same judges judge it. Of the two checkpoints no more than a pair of tensors is held at once.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from invarlock_guards.measure.canonical_change import canonical_changes, unit_tensors
from invarlock_guards.measure.checkpoint_difference import TensorDifference, tensor_difference
from invarlock_guards.measure.checkpoint_files import CheckpointError
from invarlock_guards.measure.checkpoint_layout import (
    layout_by_names,
    layout_of,
    misfit,
    packed,
    renamed_names,
    stored_names,
)
from invarlock_guards.measure.checkpoint_structure import (
    CheckpointSide,
    checkpoint_structure,
    read_as,
)
from invarlock_guards.measure.invariants import count_non_finite, measure_invariants
from invarlock_guards.measure.row_blocks import BLOCK_ELEMENTS, bitwise_equal
from invarlock_guards.measure.spectral import measure_spectral
from invarlock_guards.measure.weight_change import WeightPair

if TYPE_CHECKING:
    from invarlock_guards.contract import GuardEvidence
    from invarlock_guards.measure.checkpoint_files import CheckpointFiles
    from invarlock_guards.measure.invariants import ModelStructure


@dataclass(frozen=True, slots=True)
class CheckpointDescription:
    """What is known of a checkpoint beside its files; None where it is not.

    Attributes:
        model: of its architecture and configuration, on the meta device.
        config: its configuration's values, defaults filled in.
        tokenizer: a fingerprint of its tokenizer.
    """

    model: torch.nn.Module | None = None
    config: Mapping[str, object] | None = None
    tokenizer: str | None = None


@dataclass(frozen=True, slots=True)
class CheckpointEvidence:
    """What two checkpoints show.

    Attributes:
        invariants: for `invarlock_guards.judge.invariants.judge_invariants`.
        spectral: for `invarlock_guards.judge.spectral.judge_spectral`.
        by_names: why roles were read from names, or None where the architecture gave them.
    """

    invariants: GuardEvidence
    spectral: GuardEvidence
    by_names: str | None


def compare_checkpoints(
    baseline: CheckpointFiles,
    subject: CheckpointFiles,
    of_baseline: CheckpointDescription,
    of_subject: CheckpointDescription,
    *,
    dtype: str = "auto",
) -> CheckpointEvidence:
    """Compare two checkpoints by their files.

    Without a model of the baseline, or with one whose parameters are not what it stores, tensors
    are compared under the names they are stored under, roles are read from these, and there is no
    ``canon``. Tensors of integers are compared bit by bit: those that differ have no change, but
    the reason ``dtype``. ``dtype`` is the one that loading would cast floating tensors to: they are
    equal where that makes them so, and to invariants they are all of it.

    Raises:
        CheckpointError: the baseline lacks what its index promises, or data cannot be read.
    """
    one, other, by_names = checkpoint_sides(baseline, subject, of_baseline, of_subject)
    counts = non_finite_counts(baseline)
    other_counts: dict[str, int] = {}
    unchanged: set[str] = set()
    for name, (place, other_place) in _located(one, other).items():
        if _is_equal(baseline, place, subject, other_place, dtype):
            other_counts[other_place] = counts.get(place, 0)
            if not counts.get(place):
                unchanged.add(name)
    other_counts |= non_finite_counts(subject, known=other_counts)
    invariants = measure_invariants(
        read_as(checkpoint_structure(one, counts), dtype),
        read_as(checkpoint_structure(other, other_counts), dtype),
    )
    lost = _lost(one, other, invariants["missing"])
    if lost:
        missing = sorted([*invariants["missing"], *lost], key=lambda entry: str(entry["name"]))
        invariants = {**invariants, "missing": missing}
    with torch.no_grad():
        spectral = _spectral(one, other, unchanged)
    return CheckpointEvidence(invariants, spectral, by_names)


def _lost(
    one: CheckpointSide, other: CheckpointSide, missing: Iterable[Mapping[str, str]]
) -> list[dict[str, str]]:
    """What the subject's index promises and no file of it holds, but what is ``missing`` anyway."""
    known: set[str | None] = set()
    for entry in missing:
        name = entry["name"]
        known |= {name, name.removeprefix(other.layout.prefix), other.layout.renamed.get(name)}
    return [
        {
            "name": name,
            "baseline": "present" if name in one.files.tensors else "absent",
            "subject": "promised by its index, and in no file",
        }
        for name in other.files.lost
        if name not in known
    ]


def compare_headers(
    baseline: CheckpointFiles,
    subject: CheckpointFiles,
    of_baseline: CheckpointDescription,
    of_subject: CheckpointDescription,
) -> tuple[ModelStructure, ModelStructure, TensorDifference]:
    """The structures of both by their headers, and which tensors only one has.

    Nothing is said of finiteness.

    Raises:
        CheckpointError: the baseline lacks what its index promises, or a file cannot be read.
    """
    one, other, _ = checkpoint_sides(baseline, subject, of_baseline, of_subject)
    structures = checkpoint_structure(one), checkpoint_structure(other)
    return *structures, tensor_difference(*structures, other)


def checkpoint_sides(
    baseline: CheckpointFiles,
    subject: CheckpointFiles,
    of_baseline: CheckpointDescription,
    of_subject: CheckpointDescription,
) -> tuple[CheckpointSide, CheckpointSide, str | None]:
    """Both checkpoints with a layout each, and why these are of names, or None if they are not."""
    if baseline.lost:
        first, *others = sorted(baseline.lost)
        more = f" and {len(others)} more tensors" if others else ""
        raise CheckpointError(
            baseline.directory, f"its index promises {first}{more}, which no file holds",
            "give a complete baseline",
        )  # fmt: skip
    layout, reason = None, "unknown architecture"
    if of_baseline.model is not None:
        layout = layout_of(of_baseline.model)
        layout = replace(layout, renamed=renamed_names(layout, baseline))
        misfitting = misfit(layout, baseline) or packed(layout, baseline)
        if misfitting is not None:
            layout, reason = None, misfitting
    if layout is None:
        layouts = layout_by_names(baseline, reason), layout_by_names(subject, reason)
    else:
        own = layout if of_subject.model is None else layout_of(of_subject.model)
        layouts = layout, replace(own, renamed=layout.renamed)
    one = CheckpointSide(baseline, layouts[0], of_baseline.config, of_baseline.tokenizer)
    other = CheckpointSide(subject, layouts[1], of_subject.config, of_subject.tokenizer)
    return one, other, None if layout is not None else reason


def _located(one: CheckpointSide, other: CheckpointSide) -> dict[str, tuple[str, str]]:
    """Where each parameter of the baseline that both store is stored in either."""
    places = stored_names(one.layout, one.files)
    others = stored_names(other.layout, other.files)
    return {
        name: (places[name], others[name])
        for name in one.layout.roles
        if name in places and name in others
    }


def _is_equal(
    baseline: CheckpointFiles, place: str, subject: CheckpointFiles, other: str, dtype: str
) -> bool:
    """Whether two tensors have the same bits, as they are stored or once loading has cast them."""
    one, two = baseline.tensors[place], subject.tensors[other]
    if one.shape != two.shape:
        return False
    if one.dtype == two.dtype:
        return bitwise_equal(baseline.tensor(place), subject.tensor(other))
    if dtype == "auto" or not (one.is_floating and two.is_floating):
        return False
    cast = getattr(torch, dtype)
    return bitwise_equal(baseline.tensor(place).to(cast), subject.tensor(other).to(cast))


def non_finite_counts(files: CheckpointFiles, known: Container[str] = ()) -> dict[str, int]:
    """How many elements are NaN or infinite of each stored tensor that is not ``known``."""
    return {
        name: _count_non_finite(files.tensor(name))
        for name, stored in files.tensors.items()
        if name not in known and stored.is_floating
    }


def _count_non_finite(tensor: torch.Tensor) -> int:
    if not tensor.is_complex():
        return count_non_finite(tensor)
    blocks = torch.split(tensor.reshape(-1), BLOCK_ELEMENTS)
    return sum(block.numel() - int(torch.isfinite(block).sum()) for block in blocks)


def _spectral(one: CheckpointSide, other: CheckpointSide, unchanged: set[str]) -> GuardEvidence:
    units = one.layout.units
    if isinstance(units, str):
        return measure_spectral(_pairs(one, other, unchanged), units)
    moved = [unit for unit in units if not unit_tensors(unit) <= unchanged]
    changes = canonical_changes(moved, _Stored(one), _Stored(other), hold=False)
    return measure_spectral(_pairs(one, other, unchanged), changes)


def _pairs(one: CheckpointSide, other: CheckpointSide, unchanged: set[str]) -> Iterator[WeightPair]:
    """Every parameter of the baseline with both tensors; those that are ``unchanged`` not read."""
    before, after = _Stored(one), _Stored(other)
    for name, (role, family) in one.layout.roles.items():
        if name in unchanged:
            shape = torch.empty(one.layout.shapes[name], device="meta")
            yield WeightPair(name, role, family, shape, shape, unchanged=True)
        else:
            yield WeightPair(name, role, family, before.get(name), after.get(name))


class _Stored(Mapping[str, torch.Tensor]):
    """The tensors of one side by their names in its layout, each mapped when it is asked for."""

    def __init__(self, side: CheckpointSide) -> None:
        self._files = side.files
        self._places = stored_names(side.layout, side.files)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._files.tensor(self._places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
