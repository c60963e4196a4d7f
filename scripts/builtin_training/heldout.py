"""Which documents are held out, which arm each serves, and the files that carry them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .corpus import Document

# Mid-sized documents only: the long ones are worth more for training, and would outweigh the rest.
HELDOUT_CHARS = range(500, 4001)
ARM_DOCUMENTS = {"final": 88, "preview": 68, "guard_calibration": 46, "tuning": 44}


@dataclass(frozen=True)
class HeldOut:
    """A held-out document and the one arm of the measurement it belongs to."""

    id: str
    arm: str
    text: str


@dataclass(frozen=True)
class Split:
    """The corpus in two parts that share no document and no paragraph of substance."""

    train: tuple[Document, ...]
    heldout: tuple[HeldOut, ...]

    def arm_counts(self) -> dict[str, int]:
        """Documents in each arm."""
        return dict(Counter(document.arm for document in self.heldout))


def split(documents: Sequence[Document]) -> Split:
    """Hold out mid-sized documents and deal them to the arms, both by the hash of the name.

    Documents of compiled modules are trained on only, since which of them exist depends on how
    the interpreter was built.

    Raises:
        ValueError: if there are too few eligible documents to fill the arms.
    """
    arms = [arm for arm, count in ARM_DOCUMENTS.items() for _ in range(count)]
    eligible = sorted(filter(_is_eligible, documents), key=_name_hash)
    if len(eligible) < len(arms):
        raise ValueError(f"{len(eligible)} documents can be held out, {len(arms)} are needed")
    heldout = [
        HeldOut(document.id, arm, document.text)
        for document, arm in zip(eligible, arms, strict=False)
    ]
    chosen = {document.id for document in heldout}
    train = tuple(document for document in documents if document.id not in chosen)
    return Split(train, tuple(sorted(heldout, key=lambda document: document.id)))


def _is_eligible(document: Document) -> bool:
    return len(document.text) in HELDOUT_CHARS and not document.id.startswith("builtin:")


def _name_hash(document: Document) -> str:
    return hashlib.sha256(document.id.encode()).hexdigest()


def write(heldout: Sequence[HeldOut], folder: Path) -> str:
    """Write ``heldout.jsonl.gz`` and ``heldout.sha256`` into ``folder``.

    Returns:
        The SHA-256 of the uncompressed lines, in hexadecimal.
    """
    lines = [
        json.dumps({"id": document.id, "arm": document.arm, "text": document.text})
        for document in heldout
    ]
    plain = ("\n".join(lines) + "\n").encode("ascii")
    packed = io.BytesIO()
    # A fixed time and no file name in the header: the same text gives the same bytes.
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as stream:
        stream.write(plain)
    digest = hashlib.sha256(plain).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "heldout.jsonl.gz").write_bytes(packed.getvalue())
    (folder / "heldout.sha256").write_text(f"{digest}  heldout.jsonl\n", encoding="ascii")
    return digest


def read(folder: Path) -> tuple[HeldOut, ...]:
    """The held-out documents as :func:`write` left them in ``folder``."""
    plain = gzip.decompress((folder / "heldout.jsonl.gz").read_bytes())
    return tuple(HeldOut(**json.loads(line)) for line in plain.splitlines())
