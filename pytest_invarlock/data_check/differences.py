"""Where a record and windows drawn again disagree: names of its parts, never what stands there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_invarlock.bench.draws import by_document
from pytest_invarlock.plan import ARMS

if TYPE_CHECKING:
    from pytest_invarlock.data.window_set import Window, WindowSet
    from pytest_invarlock.data_check.drawn_again import Drawn
    from pytest_invarlock.plan import Arm
    from pytest_invarlock.records import ArmLosses, Facts, Record

DIGEST = "data.digest"
HASHES = "observations.window_hmacs"
_COLUMNS: dict[str, Callable[[Window], int | None]] = {
    "documents": lambda window: window.document,
    "tokens": lambda window: window.weight,
    "examples": lambda window: window.example,
    "labels": lambda window: None if window.example is None else int(window.is_label),
}


class Hashes(Enum):
    """How a record's keyed hashes of windows compare; ``FOREIGN``: not one of them agrees."""

    NONE = "none"
    AGREE = "agree"
    DIFFER = "differ"
    FOREIGN = "foreign"


def differing_parts(facts: Facts, drawn: Drawn) -> list[str]:
    """The names of what a record states otherwise than the windows drawn again, hashes aside."""
    windows = drawn.windows
    measured = {arm: _measured(facts, arm, windows.arms[arm]) for arm in ARMS}
    n_documents = {arm: len({one.document for one in ones}) for arm, ones in measured.items()}
    planned = dict(windows.n_documents)
    data: dict[str, Any] = {
        "digest": windows.digest,
        "seq_len": windows.seq_len,
        "n_documents": n_documents,
        "n_documents_planned": planned,
        "overlap_fraction": windows.overlap_fraction,
        "duplicate_fraction": windows.duplicate_fraction,
    }
    found = [f"data.{name}" for name, value in data.items() if facts.data.get(name) != value]
    if facts.plan["data_digest"] != windows.digest:
        found.append("plan.data_digest")
    if facts.plan["source"] != drawn.source:
        found.append("plan.source")
    for arm, losses in facts.arms.items():
        found += [f"arms.{arm}.{name}" for name in _other_columns(losses, measured[arm])]
    return found


def compared_hashes(record: Record, windows: WindowSet, salts: Sequence[bytes]) -> Hashes:
    """How a record's keyed hashes compare with those under the salt that fits best."""
    stated = record.observations.get("window_hmacs")
    if stated is None:
        return Hashes.NONE
    made = [windows.keyed_hashes(salt) for salt in salts]
    if stated in made:
        return Hashes.AGREE
    known = {one for hashes in made for arm in hashes.values() for one in arm}
    return (
        Hashes.DIFFER if known & {one for arm in stated.values() for one in arm} else Hashes.FOREIGN
    )


def _measured(facts: Facts, arm: Arm, windows: Sequence[Window]) -> Sequence[Window]:
    """The windows of an arm that a record must hold.

    All of them, but for a run that stopped early: then those of the first documents, in the arm's
    order, as many as it holds.
    """
    losses = facts.arms.get(arm)
    if facts.plan["sequential"] is None or losses is None:
        return windows
    places = np.sort(by_document(windows)[: len(losses.tokens)])
    return [windows[place] for place in places]


def _other_columns(losses: ArmLosses, windows: Sequence[Window]) -> list[str]:
    found = []
    for name, value_of in _COLUMNS.items():
        stated = getattr(losses, name)
        expected = [value for window in windows if (value := value_of(window)) is not None]
        if (stated.tolist() if stated is not None else []) != expected:
            found.append(name)
    return found
