"""Text to token ids, and the special tokens that a tokenizer itself puts around a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_invarlock.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Affixes:
    """Ids before and after a text, such as a begin-of-sequence token or ``[CLS]`` and ``[SEP]``."""

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()

    def around(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """``ids``, int32 (n,), with the special tokens."""
        return np.concatenate([as_ids(self.prefix), ids, as_ids(self.suffix)])

    @property
    def length(self) -> int:
        """How many special tokens there are."""
        return len(self.prefix) + len(self.suffix)


def as_ids(values: Any) -> NDArray[np.int32]:
    """Token ids as an int32 array (n,)."""
    return np.asarray(values, dtype=np.int32)


def token_ids(tokenizer: Any, text: str, *, target: bool = False) -> NDArray[np.int32]:
    """The ids of a text without special tokens; ``target``: as a decoder is to say it."""
    return as_ids(_ids(tokenizer, text, special=False, target=target))


def affixes_of(tokenizer: Any, *, target: bool = False) -> Affixes:
    """What the tokenizer itself puts around a text.

    Raises:
        ConfigError: ``TOKENIZER_AFFIXES`` where special tokens change the text's own ids.
    """
    bare = _ids(tokenizer, "a", special=False, target=target)
    full = _ids(tokenizer, "a", special=True, target=target)
    for start in range(len(full) - len(bare) + 1):
        end = start + len(bare)
        if full[start:end] == bare:
            return Affixes(tuple(full[:start]), tuple(full[end:]))
    raise ConfigError(
        "the tokenizer's special tokens change the ids of the text itself",
        remedy="use the tokenizer that the model was published with",
        code="TOKENIZER_AFFIXES",
    )


def _ids(tokenizer: Any, text: str, *, special: bool, target: bool) -> list[int]:
    arguments = {"text_target": text} if target else {"text": text}
    encoded = tokenizer(**arguments, add_special_tokens=special, truncation=False, verbose=False)
    return list(encoded["input_ids"])
