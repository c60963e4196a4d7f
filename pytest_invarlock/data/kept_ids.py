"""Token ids of texts, kept in the process: draws, models and suites read one corpus again."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from pytest_invarlock.data.special_tokens import token_ids

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

MAX_TOKENS = 8_000_000
"""How many token ids are kept, 32 MB of them; texts beyond are tokenised each time."""


class _Kept(dict[tuple[str, str], "NDArray[np.int32]"]):
    """Ids by pipeline and text, both as digests; ``tokens`` is how many ids there are in all."""

    tokens = 0


_KEPT = _Kept()


def ids_of(tokenizer: Any) -> Callable[[str], NDArray[np.int32]]:
    """What turns a text into its ids without special tokens, int32 (n,), not to be written to.

    A fast tokenizer's ids are kept under the content of its pipeline and of the text, so that a
    tokenizer that was changed or loaded anew is never answered for by another. Other tokenizers
    are asked each time.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda text: token_ids(tokenizer, text)
    kind = f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}"
    special = getattr(tokenizer, "split_special_tokens", None)
    pipeline = _sha256(f"{kind}|{special}|{backend.to_str()}")

    def ids(text: str) -> NDArray[np.int32]:
        key = (pipeline, _sha256(text))
        kept = _KEPT.get(key)
        if kept is None:
            kept = token_ids(tokenizer, text)
            kept.flags.writeable = False
            if _KEPT.tokens + len(kept) <= MAX_TOKENS:
                _KEPT[key] = kept
                _KEPT.tokens += len(kept)
        return kept

    return ids


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
