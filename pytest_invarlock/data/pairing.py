"""Pairing: whether two sets of windows are the same windows, and which are not."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from pytest_invarlock.errors import DataError
from pytest_invarlock.plan import ARMS

if TYPE_CHECKING:
    from pytest_invarlock.data.window_set import Window, WindowSet

_NAMED = 5


@dataclass(frozen=True, slots=True)
class Pairing:
    """How far two sets of windows agree.

    ``match_fraction`` is the share of places, over both arms, that hold equal windows;
    ``mismatched`` names the others, as in ``final[12] (document 7)``.
    """

    match_fraction: float
    mismatched: tuple[str, ...]


def compare_windows(baseline: WindowSet, subject: WindowSet) -> Pairing:
    """Compare what two sets measure, place by place: tokens, scored outputs, targets, document.

    A place that only one set has is a mismatch, and so is every place of sets made for different
    ways of reading. Two sets without windows agree.
    """
    same_reading = baseline.reading == subject.reading
    places = 0
    mismatched: list[str] = []
    for arm in ARMS:
        for index, (one, other) in enumerate(zip_longest(baseline.arms[arm], subject.arms[arm])):
            places += 1
            if not (same_reading and one is not None and other is not None and _equal(one, other)):
                mismatched.append(f"{arm}[{index}] (document {(one or other).document})")
    fraction = 1.0 if places == 0 else 1.0 - len(mismatched) / places
    return Pairing(fraction, tuple(mismatched))


def require_paired(baseline: WindowSet, subject: WindowSet) -> None:
    """Raise DataError ``PAIRING_MISMATCH`` naming the first windows that differ, and how many."""
    pairing = compare_windows(baseline, subject)
    if not pairing.mismatched:
        return
    total = sum(max(len(baseline.arms[arm]), len(subject.arms[arm])) for arm in ARMS)
    first = ", ".join(pairing.mismatched[:_NAMED])
    rest = ", …" if len(pairing.mismatched) > _NAMED else ""
    raise DataError(
        f"{len(pairing.mismatched)} of {total} windows are not the baseline's: {first}{rest}",
        remedy="give the subject the baseline's tokenizer, or use profile dev",
        code="PAIRING_MISMATCH",
    )


def _equal(one: Window, other: Window) -> bool:
    return one.content() == other.content() and (
        one.document,
        one.weight,
        one.example,
        one.is_label,
    ) == (other.document, other.weight, other.example, other.is_label)
