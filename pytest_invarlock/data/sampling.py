"""Sampling: documents to arms, and pieces from an arm's documents, by seeded content.

Nothing hangs on the order in which a provider gives its documents: keys are hashes of what they
hold.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_invarlock.errors import DataError
from pytest_invarlock.plan import Arm

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pytest_invarlock.data.documents import Document
    from pytest_invarlock.data.pieces import Piece
    from pytest_invarlock.data.window_set import Window
    from pytest_invarlock.plan import WindowSelection

CALIBRATION = "guard_calibration"
"""The documents on which guards look at activations."""
ARM_SHARES: Mapping[str, float] = {
    "final": 0.40,
    "preview": 0.30,
    CALIBRATION: 0.15,
    "tuning": 0.15,
}
TUNING_PREVIEW_SHARE = 1 / 11
"""Of the tuning arm's documents, those that only show drift; the floors are of the others."""
LEAST_DOCUMENTS = 2
"""No spread can be estimated from fewer."""


def arms_of(documents: Sequence[Document], contents: Sequence[bytes], seed: int) -> list[str]:
    """The arm of every document: the provider's, else an exact split in seeded content order."""
    if all(document.arm is not None for document in documents):
        return [str(document.arm) for document in documents]
    order = sorted(range(len(documents)), key=lambda i: (_key(seed, "arm", contents[i]), i))
    names = list(ARM_SHARES)
    edges = np.floor(np.cumsum(list(ARM_SHARES.values())) * len(documents) + 1e-9)
    arms = [""] * len(documents)
    for rank, index in enumerate(order):
        arms[index] = names[min(int(np.searchsorted(edges, rank, side="right")), len(names) - 1)]
    return arms


def tuning_arms(
    arms: Sequence[str], contents: Sequence[bytes], seed: int, *, halves_of: int | None = None
) -> list[str]:
    """The arms of a measurement on the tuning arm alone: ``preview``, ``final``, else ``unused``.

    Args:
        arms: of every document, as `arms_of` gives them.
        contents: of every document; one that another arm holds too is not used.
        seed: the data seed; documents are split in seeded content order.
        halves_of: the draw of a calibration, which splits in halves of its own; None tunes.

    Raises:
        DataError: ``DATA_TOO_SMALL`` where the tuning arm cannot give both arms two documents.
    """
    elsewhere = {content for arm, content in zip(arms, contents, strict=True) if arm != "tuning"}
    own = [i for i, arm in enumerate(arms) if arm == "tuning" and contents[i] not in elsewhere]
    share, purpose = TUNING_PREVIEW_SHARE, "tuning"
    if halves_of is not None:
        share, purpose = 0.5, f"calibration|{halves_of}"
    n_preview = max(LEAST_DOCUMENTS, math.ceil(len(own) * share))
    if len(own) < n_preview + LEAST_DOCUMENTS:
        raise DataError(
            f"the tuning arm holds {len(own)} of {len(arms)} documents",
            remedy="name data of more documents with --invarlock-dataset",
            code="DATA_TOO_SMALL",
        )
    order = sorted(own, key=lambda i: (_key(seed, purpose, contents[i]), i))
    split = ["unused"] * len(arms)
    for rank, index in enumerate(order):
        split[index] = "preview" if rank < n_preview else "final"
    return split


def sample(
    arm: Arm,
    candidates: Mapping[int, Sequence[Piece]],
    contents: Sequence[bytes],
    selection: WindowSelection,
    *,
    draw: int,
    noun: str = "windows",
    taken: Collection[bytes] = (),
) -> list[Piece]:
    """Draw an arm's pieces: round-robin over documents in seeded order, each piece once.

    Every document gives one before any gives two, and none gives more than
    ``max_windows_per_document``. Pieces of equal content count once, and those whose content is
    ``taken``, by the other arm, not at all.

    From the other pools as many are drawn as they hold, at most those asked for, but not none.

    Raises:
        DataError: ``DATA_TOO_SMALL`` naming arm and counts; ``noun`` is what is counted.
    """
    wanted = selection.preview_windows if arm == "preview" else selection.final_windows
    unique = _in_turn(arm, candidates, contents, selection, draw, taken, wanted)
    if selection.pool != "certification":
        if not unique:
            raise DataError(
                f"the tuning arm holds no {noun} for the {arm} arm that no other arm holds too, in "
                f"{len(candidates)} documents",
                remedy="name data of other documents with --invarlock-dataset, or drop those that "
                "repeat another",
                code="DATA_TOO_SMALL",
            )
    elif len(unique) < wanted:
        raise DataError(
            f"the {arm} arm holds {len(unique)} {noun} in {len(candidates)} documents, "
            f"{wanted} were asked for",
            remedy="ask for fewer windows, shorter ones (seq_len), or give more text",
            code="DATA_TOO_SMALL",
        )
    return unique


def calibration_pieces(
    candidates: Mapping[int, Sequence[Piece]],
    contents: Sequence[bytes],
    selection: WindowSelection,
    *,
    draw: int,
    taken: Collection[bytes],
) -> list[Piece]:
    """The pieces on which guards look at activations: as `sample`, and as many as there are."""
    most = selection.guard_windows
    return _in_turn(CALIBRATION, candidates, contents, selection, draw, taken, most)


def _in_turn(
    arm: str,
    candidates: Mapping[int, Sequence[Piece]],
    contents: Sequence[bytes],
    selection: WindowSelection,
    draw: int,
    taken: Collection[bytes],
    most: int,
) -> list[Piece]:
    """The first ``most`` pieces that differ, round-robin over documents in seeded order."""
    turns: list[tuple[int, bytes, int, Piece]] = []
    for document, pieces in candidates.items():
        content = hashlib.sha256(contents[document]).digest()
        shuffled = sorted(
            range(len(pieces)),
            key=lambda i: _key(selection.seed, f"{draw}|{arm}|{i}", content),
        )
        order = _key(selection.seed, f"{draw}|{arm}|order", content)
        for turn, i in enumerate(shuffled[: selection.max_windows_per_document]):
            turns.append((turn, order, document, pieces[i]))
    turns.sort(key=lambda entry: entry[:3])
    unique: dict[bytes, Piece] = {}
    for *_, piece in turns:
        if len(unique) == most:
            break
        said = piece.content()
        if said not in taken:
            unique.setdefault(said, piece)
    return list(unique.values())


def numbered(arms: Mapping[Arm, Sequence[Piece]]) -> dict[Arm, tuple[Window, ...]]:
    """The windows of all arms; documents and examples are numbered as they first appear.

    Numbers are unique over the arms, so within an arm they rise in the order of drawing.
    """
    documents: dict[int, int] = {}
    example = 0
    windows: dict[Arm, tuple[Window, ...]] = {}
    for arm, pieces in arms.items():
        drawn: list[Window] = []
        for piece in pieces:
            document = documents.setdefault(piece.windows[0].document, len(documents))
            has_choices = len(piece.windows) > 1
            number = example if has_choices else None
            drawn += [replace(w, document=document, example=number) for w in piece.windows]
            example += has_choices
        windows[arm] = tuple(drawn)
    return windows


def _key(seed: int, purpose: str, content: bytes) -> bytes:
    return hashlib.sha256(f"{seed}|{purpose}|".encode() + content).digest()
