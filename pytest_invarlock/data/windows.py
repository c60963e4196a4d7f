"""Windows: token spans cut within documents, drawn per arm by a seeded and recorded sampling.

Convention ``document``: windows of ``seq_len`` tokens every ``stride`` within a document, each
token scored once; a last piece that would score fewer than 32 tokens is dropped.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_invarlock.errors import DataError
from pytest_invarlock.evidence.strict_json import canonical
from pytest_invarlock.plan import ARMS, Arm, WindowSelection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_invarlock.data.providers import Document, Provider

MIN_SCORED_TOKENS = 32
ARM_SHARES: Mapping[str, float] = {
    "final": 0.40,
    "preview": 0.30,
    "guard_calibration": 0.15,
    "tuning": 0.15,
}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Window:
    """A span of one document's tokens.

    ``tokens`` int32 (length,) with any begin-of-sequence prefix; ``first_scored`` is the index of
    the first predicted token; ``document`` an ordinal, unique over both arms.
    """

    tokens: NDArray[np.int32]
    first_scored: int
    document: int

    @property
    def n_scored(self) -> int:
        """How many tokens are predicted."""
        return len(self.tokens) - self.first_scored


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WindowSet:
    """The windows of both arms, and what identifies the data they came from.

    ``digest`` covers all tokenised documents and the sampling settings; ``notes`` say what was
    adjusted, such as a seq_len capped at the model's context.
    """

    arms: Mapping[Arm, tuple[Window, ...]]
    digest: str
    seq_len: int
    n_documents: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def preview(self) -> tuple[Window, ...]:
        """The preview arm."""
        return self.arms["preview"]

    @property
    def final(self) -> tuple[Window, ...]:
        """The final arm, on which the verdict rests."""
        return self.arms["final"]

    def content_digest(self) -> str:
        """``sha256:`` over what is measured: every window's tokens, scored span and document."""
        content = hashlib.sha256()
        for arm, windows in sorted(self.arms.items()):
            for window in windows:
                content.update(f"|{arm}|{window.first_scored}|{window.document}|".encode())
                content.update(window.tokens.astype("<i4").tobytes())
        return "sha256:" + content.hexdigest()

    def keyed_hashes(self, salt: bytes) -> dict[str, list[str]]:
        """HMAC-SHA-256 of each window under the run's salt, 32 hex digits, by arm."""
        return {
            arm: [
                hmac.new(salt, w.tokens.tobytes(), hashlib.sha256).hexdigest()[:32] for w in windows
            ]
            for arm, windows in self.arms.items()
        }


def draw_windows(
    provider: Provider,
    tokenizer: Any,
    selection: WindowSelection,
    *,
    draw: int,
    context: int | None = None,
) -> WindowSet:
    """Tokenise, cut and draw the windows of draw ``draw``.

    Args:
        provider: where documents come from.
        tokenizer: a Hugging Face tokenizer; its own begin-of-sequence habit is kept.
        selection: lengths, counts and seed.
        draw: k from 0; a different sample of the same arms.
        context: the model's greatest length in tokens; ``seq_len`` is capped there with a note.

    Raises:
        DataError: where an arm holds fewer windows than asked for, or there is no text.
    """
    seq_len, notes = _capped(selection.seq_len, context)
    documents = provider.documents()
    prefix = _prefix(tokenizer)
    token_lists = [_tokenize(tokenizer, document.text) for document in documents]
    arm_of = _arms(documents, token_lists, selection.seed)
    drawn: dict[Arm, tuple[Window, ...]] = {}
    for arm in ARMS:
        candidates = {
            index: _cut(tokens, index, seq_len, min(selection.stride, seq_len), prefix)
            for index, tokens in enumerate(token_lists)
            if arm_of[index] == arm
        }
        wanted = selection.preview_windows if arm == "preview" else selection.final_windows
        drawn[arm] = _sample(arm, candidates, wanted, selection, draw)
    return WindowSet(
        arms=drawn,
        digest=_digest(token_lists, arm_of, selection, seq_len, prefix, draw),
        seq_len=seq_len,
        n_documents={arm: len({w.document for w in windows}) for arm, windows in drawn.items()},
        notes=notes,
    )


def _capped(seq_len: int, context: int | None) -> tuple[int, tuple[str, ...]]:
    if context is None or seq_len <= context:
        return seq_len, ()
    return context, (f"seq_len {seq_len} capped at the model's context of {context} tokens",)


def _prefix(tokenizer: Any) -> tuple[int, ...]:
    """What the tokenizer itself puts before a text, such as a begin-of-sequence token."""
    bos = getattr(tokenizer, "bos_token_id", None)
    with_special = tokenizer("a")["input_ids"]
    return (bos,) if bos is not None and len(with_special) > 1 and with_special[0] == bos else ()


def _tokenize(tokenizer: Any, text: str) -> NDArray[np.int32]:
    encoded = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)
    return np.asarray(encoded["input_ids"], dtype=np.int32)


def _arms(
    documents: Sequence[Document], token_lists: Sequence[NDArray[np.int32]], seed: int
) -> list[str]:
    """The arm of every document: the provider's, else an exact split in seeded content order."""
    if all(document.arm is not None for document in documents):
        return [str(document.arm) for document in documents]
    order = sorted(
        range(len(documents)),
        key=lambda i: (_key(seed, "arm", token_lists[i].tobytes()), i),
    )
    names = list(ARM_SHARES)
    edges = np.floor(np.cumsum(list(ARM_SHARES.values())) * len(documents) + 1e-9)
    arms = [""] * len(documents)
    for rank, index in enumerate(order):
        arms[index] = names[min(int(np.searchsorted(edges, rank, side="right")), len(names) - 1)]
    return arms


def _cut(
    tokens: NDArray[np.int32], document: int, seq_len: int, stride: int, prefix: tuple[int, ...]
) -> list[Window]:
    room = seq_len - len(prefix)
    step = min(stride, room)
    windows = []
    scored_until = 0 if prefix else 1
    for start in range(0, max(len(tokens) - 1, 0), step):
        end = min(start + room, len(tokens))
        first = max(scored_until, start if prefix else start + 1)
        last = end == len(tokens)
        if end - first >= (MIN_SCORED_TOKENS if last else 1):
            span = np.concatenate([np.asarray(prefix, dtype=np.int32), tokens[start:end]])
            windows.append(Window(span, first - start + len(prefix), document))
            scored_until = end
    return windows


def _sample(
    arm: Arm,
    candidates: Mapping[int, list[Window]],
    wanted: int,
    selection: WindowSelection,
    draw: int,
) -> tuple[Window, ...]:
    """Round-robin over documents in seeded order: every document once before any twice."""
    seed = selection.seed
    rounds: list[tuple[int, bytes, int, Window]] = []
    for document, windows in candidates.items():
        shuffled = sorted(
            range(len(windows)), key=lambda i: _key(seed, f"{draw}|{arm}|{document}", b"%d" % i)
        )
        order = _key(seed, f"{draw}|{arm}|order", b"%d" % document)
        for turn, i in enumerate(shuffled[: selection.max_windows_per_document]):
            rounds.append((turn, order, document, windows[i]))
    rounds.sort(key=lambda entry: entry[:3])
    unique: dict[bytes, Window] = {}
    for *_, window in rounds:
        unique.setdefault(window.tokens.tobytes(), window)
    if len(unique) < wanted:
        raise DataError(
            f"the {arm} arm holds {len(unique)} windows in {len(candidates)} documents, "
            f"{wanted} were asked for",
            remedy="ask for fewer windows, shorter ones (seq_len), or give more text",
            code="DATA_TOO_SMALL",
        )
    return tuple(list(unique.values())[:wanted])


def _key(seed: int, purpose: str, content: bytes) -> bytes:
    return hashlib.sha256(f"{seed}|{purpose}|".encode() + content).digest()


def _digest(
    token_lists: Sequence[NDArray[np.int32]],
    arm_of: Sequence[str],
    selection: WindowSelection,
    seq_len: int,
    prefix: tuple[int, ...],
    draw: int,
) -> str:
    settings = {
        "selection": selection.document(),
        "seq_len": seq_len,
        "draw": draw,
        "prefix": list(prefix),
    }
    content = hashlib.sha256(canonical(settings))
    for arm, tokens in zip(arm_of, token_lists, strict=True):
        content.update(f"|{arm}|{len(tokens)}|".encode() + tokens.astype("<i4").tobytes())
    return "sha256:" + content.hexdigest()
