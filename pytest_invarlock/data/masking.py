"""Masked windows: which tokens are hidden, and what stands in their place, decided by a hash.

A token is chosen where the hash of (seed, window, position) is below the probability; 80 % of the
chosen are replaced by the mask token, 10 % by a random one of the vocabulary, 10 % stay. The
hash is SplitMix64 of the window's SHA-256 and the position, so the masks of a window depend on no
other window.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_invarlock.data.special_tokens import as_ids
from pytest_invarlock.data.window_set import Window
from pytest_invarlock.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Masker:
    """A seed, a probability, and what a tokenizer offers for hiding tokens.

    ``special`` and ``vocabulary`` are int32: ids that are never hidden, and ids that may replace
    a token.
    """

    seed: int
    probability: float
    mask_id: int
    special: NDArray[np.int32]
    vocabulary: NDArray[np.int32]

    @classmethod
    def of(cls, tokenizer: Any, seed: int, probability: float) -> Masker:
        """The masker of a tokenizer.

        Raises:
            ConfigError: ``NO_MASK_TOKEN`` where it has none, ``BAD_VALUE`` for a probability
                that is not above 0 and at most 1.
        """
        mask_id = getattr(tokenizer, "mask_token_id", None)
        if mask_id is None:
            raise ConfigError(
                "the tokenizer has no mask token, which metric ppl_mlm needs",
                remedy="name the metric of the model's kind in eval.metric.kind",
                code="NO_MASK_TOKEN",
            )
        if not 0 < probability <= 1:
            raise ConfigError(
                f"mask_probability is {probability}",
                remedy="give a share above 0, at most 1",
                code="BAD_VALUE",
            )
        special = as_ids(sorted(tokenizer.all_special_ids))
        vocabulary = np.setdiff1d(np.arange(tokenizer.vocab_size, dtype=np.int32), special)
        return cls(seed, probability, mask_id, special, vocabulary)

    def window(
        self,
        tokens: NDArray[np.int32],
        candidates: NDArray[np.int64],
        document: int,
        span: tuple[int, int],
    ) -> Window:
        """``tokens``, int32 (n,), with some of the ``candidates`` (positions) hidden and scored.

        Raises:
            DataError: ``NOTHING_TO_MASK`` where only special tokens could be hidden.
        """
        candidates = candidates[~np.isin(tokens[candidates], self.special)]
        if not len(candidates):
            raise DataError(
                "a window holds nothing but special tokens, so none can be masked",
                remedy="remove special tokens from the text",
                code="NOTHING_TO_MASK",
            )
        key = hashlib.sha256(f"{self.seed}|mask|".encode() + tokens.astype("<i4").tobytes())
        keys = [int.from_bytes(key.digest()[8 * i : 8 * i + 8], "little") for i in range(3)]
        chance = _uniform(keys[0], candidates)
        chosen = chance < self.probability
        # Every window is scored: the likeliest position, where none is below the probability.
        chosen[np.argmin(chance)] = True
        positions = candidates[chosen]
        return Window(
            self._hidden(tokens, positions, keys[1], keys[2]),
            positions.astype(np.int32),
            tokens[positions],
            document,
            span,
        )

    def _hidden(
        self, tokens: NDArray[np.int32], positions: NDArray[np.int64], way_key: int, id_key: int
    ) -> NDArray[np.int32]:
        way = _uniform(way_key, positions)
        drawn = (_uniform(id_key, positions) * len(self.vocabulary)).astype(np.int64)
        hidden = tokens.copy()
        at_random = (way >= MASKED_SHARE) & (way < MASKED_SHARE + RANDOM_SHARE)
        hidden[positions[way < MASKED_SHARE]] = self.mask_id
        hidden[positions[at_random]] = self.vocabulary[drawn[at_random]]
        return hidden


def _uniform(key: int, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """A number in [0, 1) for each position: SplitMix64's output for it, its upper 53 bits."""
    state = np.uint64(key) + (positions.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
