"""Drawing windows: tokenise, split documents into arms, cut, sample; all of it recorded."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_invarlock.data.choices import ChoiceCutter
from pytest_invarlock.data.conventions import (
    MIN_SCORED_TOKENS,
    Lengths,
    check_convention,
    lengths_of,
)
from pytest_invarlock.data.masking import Masker
from pytest_invarlock.data.pairs import PairCutter
from pytest_invarlock.data.pieces import Cutter, duplicate_fraction, overlap_fraction
from pytest_invarlock.data.sampling import (
    ARM_SHARES,
    CALIBRATION,
    arms_of,
    calibration_pieces,
    numbered,
    sample,
    tuning_arms,
)
from pytest_invarlock.data.text_windows import TextCutter
from pytest_invarlock.data.window_set import Reading, Window, WindowSet
from pytest_invarlock.errors import ConfigError
from pytest_invarlock.evidence.strict_json import canonical
from pytest_invarlock.plan import ARMS, Arm, Metric

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_invarlock.data.documents import Content, Document
    from pytest_invarlock.data.pieces import Piece
    from pytest_invarlock.data.providers import Provider
    from pytest_invarlock.plan import WindowSelection

__all__ = ["ARM_SHARES", "MIN_SCORED_TOKENS", "Window", "WindowSet", "draw_windows"]

READINGS: Mapping[Metric, tuple[Reading, ...]] = {
    "ppl_causal": ("causal",),
    "ppl_mlm": ("masked",),
    "ppl_seq2seq": ("seq2seq",),
    "accuracy": ("causal", "seq2seq"),
}


def draw_windows(
    provider: Provider,
    tokenizer: Any,
    selection: WindowSelection,
    *,
    draw: int,
    context: int | None = None,
    reading: Reading = "causal",
    metric: Metric = "ppl_causal",
    mask_probability: float = 0.15,
) -> WindowSet:
    """Tokenise, cut and draw the windows of draw ``draw``.

    Args:
        provider: where documents come from.
        tokenizer: a Hugging Face tokenizer; the special tokens it adds by itself are kept.
        selection: lengths, counts (of examples, for ``accuracy``), seed and convention.
        draw: k from 0; a different sample of the same arms.
        context: the model's greatest length in tokens; ``seq_len`` is capped there with a note.
        reading: how the model reads.
        metric: what is measured.
        mask_probability: the share of tokens that a masked model predicts.

    Raises:
        DataError: where an arm holds fewer windows than asked for, or there is no text.
        ConfigError: a metric, convention or tokenizer that does not go with the others.
    """
    _check_metric(metric, reading)
    content = _content(provider, metric)
    check_convention(selection.convention, reading, content)
    lengths = lengths_of(selection, context)
    masker = Masker.of(tokenizer, selection.seed, mask_probability) if reading == "masked" else None
    documents = provider.documents(content)
    cutter = _cutter(documents, tokenizer, content, lengths, selection, reading, masker)
    # By what documents say: another tokenizer then draws the same places of the same documents.
    keys = [document.content() for document in documents]
    split = arm_of = arms_of(documents, keys, selection.seed)
    if selection.pool != "certification":
        halves_of = draw if selection.pool == "calibration" else None
        arm_of = tuning_arms(split, keys, selection.seed, halves_of=halves_of)
    cut = {arm: cutter.cut(_members(arm_of, arm)) for arm in ARMS}
    cut_notes = cutter.notes
    if selection.pool != "certification":
        cut, n_shared = _without(cut, _contents_elsewhere(cutter, split))
        if n_shared:
            cut_notes += (f"{n_shared} windows are left out: another arm holds them too",)
    drawn: dict[Arm, list[Piece]] = {}
    for arm, pieces in cut.items():
        noun = "examples" if content == "choices" else "windows"
        # A boilerplate window that both arms could hold would not be new evidence in the second.
        taken = {piece.content() for before in drawn.values() for piece in before}
        drawn[arm] = sample(arm, pieces, keys, selection, draw=draw, noun=noun, taken=taken)
    arms = numbered(drawn)
    calibration = _calibration(cutter, arm_of, keys, selection, drawn, draw)
    settings = {
        "selection": selection.document(),
        "seq_len": lengths.seq_len,
        "stride": lengths.stride,
        "draw": draw,
        "reading": reading,
        "content": content,
        "mask_probability": mask_probability if reading == "masked" else None,
        **cutter.settings,
    }
    return WindowSet(
        arms=arms,
        digest=_digest(settings, arm_of, cutter.contents),
        seq_len=lengths.seq_len,
        n_documents={arm: len({w.document for w in windows}) for arm, windows in arms.items()},
        notes=(*provider.notes, *lengths.notes, *cut_notes, *_pool_notes(selection, arms)),
        reading=reading,
        overlap_fraction=overlap_fraction([p.scored for pieces in drawn.values() for p in pieces]),
        duplicate_fraction=duplicate_fraction([w for windows in arms.values() for w in windows]),
        calibration=calibration,
    )


def _calibration(
    cutter: Cutter,
    arm_of: Sequence[str],
    keys: Sequence[bytes],
    selection: WindowSelection,
    drawn: Mapping[Arm, Sequence[Piece]],
    draw: int,
) -> tuple[Window, ...]:
    """The guards' windows: as many as there are, of what neither arm holds."""
    members = [index for index, name in enumerate(arm_of) if name == CALIBRATION]
    taken = {piece.content() for pieces in drawn.values() for piece in pieces}
    pieces = calibration_pieces(cutter.cut(members), keys, selection, draw=draw, taken=taken)
    return tuple(
        replace(window, example=number if len(piece.windows) > 1 else None)
        for number, piece in enumerate(pieces)
        for window in piece.windows
    )


def _members(arm_of: Sequence[str], arm: str) -> list[int]:
    return [index for index, name in enumerate(arm_of) if name == arm]


def _contents_elsewhere(cutter: Cutter, split: Sequence[str]) -> set[bytes]:
    """What every window says that can be cut from the arms beside the tuning arm.

    Each arm is cut by itself, as a certification cuts it: a stream runs over its arm's documents.
    """
    return {
        piece.content()
        for arm in sorted({*split} - {"tuning"})
        for pieces in cutter.cut(_members(split, arm)).values()
        for piece in pieces
    }


def _without(
    cut: Mapping[Arm, Mapping[int, Sequence[Piece]]], contents: set[bytes]
) -> tuple[dict[Arm, dict[int, list[Piece]]], int]:
    """The pieces of every arm but for those with one of ``contents``, and how many these were."""
    kept = {
        arm: {d: [p for p in of if p.content() not in contents] for d, of in pieces.items()}
        for arm, pieces in cut.items()
    }
    before, after = (
        sum(len(of) for pieces in arms.values() for of in pieces.values()) for arms in (cut, kept)
    )
    return kept, before - after


def _pool_notes(
    selection: WindowSelection, arms: Mapping[Arm, Sequence[Window]]
) -> tuple[str, ...]:
    """What was taken of the tuning arm, where windows come from it."""
    if selection.pool == "certification":
        return ()
    taken = (
        f"{len(windows)} {arm} windows of {len({w.document for w in windows})} documents"
        for arm, windows in arms.items()
    )
    return (f"measured on the tuning arm, which no verdict rests on: {', '.join(taken)}",)


def _check_metric(metric: Metric, reading: Reading) -> None:
    if reading not in READINGS[metric]:
        raise ConfigError(
            f"metric {metric} is not one of a {reading} language model",
            remedy="name the metric of the model's kind: "
            + ", ".join(name for name, readings in READINGS.items() if reading in readings),
            code="METRIC_OF_OTHER_KIND",
        )


def _content(provider: Provider, metric: Metric) -> Content:
    content = provider.content_for(metric)
    if content not in provider.contents:
        raise ConfigError(
            f"metric {metric} reads {content}, provider {provider.kind} gives "
            f"{' or '.join(provider.contents)}",
            remedy="name data that holds it in dataset.provider, or another eval.metric.kind",
            code="METRIC_OF_OTHER_DATA",
        )
    return content


def _cutter(
    documents: Sequence[Document],
    tokenizer: Any,
    content: Content,
    lengths: Lengths,
    selection: WindowSelection,
    reading: Reading,
    masker: Masker | None,
) -> Cutter:
    if content == "pairs":
        return PairCutter(documents, tokenizer, lengths.seq_len)
    if content == "choices":
        return ChoiceCutter(documents, tokenizer, lengths.seq_len, reading)
    return TextCutter(documents, tokenizer, selection.convention, lengths, reading, masker)


def _digest(settings: Mapping[str, Any], arm_of: Sequence[str], contents: Sequence[bytes]) -> str:
    digest = hashlib.sha256(canonical(dict(settings)))
    for arm, content in zip(arm_of, contents, strict=True):
        digest.update(f"|{arm}|{len(content)}|".encode() + content)
    return "sha256:" + digest.hexdigest()
