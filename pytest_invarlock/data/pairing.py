"""Pairing: whether two sets of windows are the same windows, and which are not."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from pytest_invarlock.errors import DataError
from pytest_invarlock.plan import ARMS, Arm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_invarlock.data.window_set import Window, WindowSet

_WITH_DOCUMENTS = 5


@dataclass(frozen=True, slots=True)
class Pairing:
    """How far two sets of windows agree.

    ``match_fraction`` is the share of places, over both arms, that hold equal windows;
    ``mismatched`` holds the others: arm, index in the arm, document.
    """

    match_fraction: float
    mismatched: tuple[tuple[Arm, int, int], ...]

    def named(self) -> str:
        """All mismatched windows: ``final[12] (document 7)``; many, as ``final[0-3, 12]``."""
        if len(self.mismatched) <= _WITH_DOCUMENTS:
            return ", ".join(
                f"{arm}[{index}] (document {document})" for arm, index, document in self.mismatched
            )
        by_arm = {arm: [i for at, i, _ in self.mismatched if at == arm] for arm in ARMS}
        return ", ".join(f"{arm}[{_ranges(among)}]" for arm, among in by_arm.items() if among)


def compare_windows(baseline: WindowSet, subject: WindowSet) -> Pairing:
    """Compare what two sets measure, place by place: tokens, scored outputs, targets, document.

    A place that only one set has is a mismatch, and so is every place of sets made for different
    ways of reading. Two sets without windows agree.
    """
    same_reading = baseline.reading == subject.reading
    places = 0
    mismatched: list[tuple[Arm, int, int]] = []
    for arm in ARMS:
        for index, (one, other) in enumerate(zip_longest(baseline.arms[arm], subject.arms[arm])):
            places += 1
            if not (same_reading and one is not None and other is not None and _equal(one, other)):
                mismatched.append((arm, index, (one or other).document))
    fraction = 1.0 if places == 0 else 1.0 - len(mismatched) / places
    return Pairing(fraction, tuple(mismatched))


def require_paired(baseline: WindowSet, subject: WindowSet) -> None:
    """Raise DataError ``PAIRING_MISMATCH`` naming the windows that differ."""
    pairing = compare_windows(baseline, subject)
    if not pairing.mismatched:
        return
    total = sum(max(len(baseline.arms[arm]), len(subject.arms[arm])) for arm in ARMS)
    raise DataError(
        f"{len(pairing.mismatched)} of {total} windows are not the baseline's: {pairing.named()}",
        remedy="give the subject the baseline's tokenizer, or use profile dev",
        code="PAIRING_MISMATCH",
    )


def _ranges(ascending: Sequence[int]) -> str:
    """As in ``0-3, 12``."""
    runs: list[list[int]] = []
    for index in ascending:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _equal(one: Window, other: Window) -> bool:
    return one.content() == other.content() and (
        one.document,
        one.weight,
        one.example,
        one.is_label,
    ) == (other.document, other.weight, other.example, other.is_label)
