"""Cluster-bootstrap counts from raw generator words, the same in every numpy release."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from pytest_invarlock.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# Part of every seed: a changed mapping must change this name, so old evidence stays explicable.
_DOMAIN = b"pytest-invarlock/resampling/1\0"
# 2^19 words are 4 MiB, and the arrays made of them a few times that.
_WORDS_PER_CHUNK = 1 << 19
_HALF_BITS = 32


def resampling_counts(seed: bytes, replicates: int, n: int) -> NDArray[np.int64]:
    """Count how often each of ``n`` documents is drawn in each bootstrap replicate.

    The mapping, to be repeated by anyone: the generator is PCG64 seeded with the big-endian
    integer SHA-256(``b"pytest-invarlock/resampling/1\\0"`` + seed). A replicate takes the next
    ⌈n/2⌉ raw 64-bit words; each gives two draws, low half first; a half u draws document
    ⌊u·n / 2^32⌋. With odd n the last high half is unused.

    Bias: a document's probability differs from 1/n by less than 2^-32, relative n/2^32 (2.4e-8
    for 100 documents), far below the 1/replicates that a quantile can resolve.

    Only raw words are used: numpy guarantees them for PCG64, but not ``Generator.integers`` or
    ``Generator.multinomial`` between releases.

    Args:
        seed: bytes of any length but zero; a digest of the facts.
        replicates: number of replicates B, at least 1.
        n: number of documents D, at least 1 and below 2^31.

    Returns:
        int64 (replicates, n); each row sums to n. Fewer replicates are a prefix of more.

    Raises:
        ConfigError: ``EMPTY_SEED`` or ``NO_REPLICATES``.
        DataError: ``DOCUMENT_COUNT`` where n is out of range.

    Source: multiply-shift as in Lemire, ACM TOMACS 29 (2019), article 3, without its rejection;
    PCG64 as in O'Neill, HMC-CS-2014-0905.
    """
    return np.concatenate(list(counts_in_chunks(seed, replicates, n)))


def counts_in_chunks(seed: bytes, replicates: int, n: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of :func:`resampling_counts` in order, in blocks of bounded memory.

    Args:
        seed: as there.
        replicates: as there.
        n: as there.

    Yields:
        int64 (rows, n) blocks, of at least one row each.

    Raises:
        ConfigError: as there.
        DataError: as there.
    """
    if not seed:
        raise ConfigError("empty seed", remedy="pass a digest", code="EMPTY_SEED")
    if replicates < 1:
        raise ConfigError(
            f"{replicates} bootstrap replicates", remedy="ask for at least 1", code="NO_REPLICATES"
        )
    if not 1 <= n < 1 << 31:
        raise DataError(
            f"{n} documents to resample", remedy="pass 1 to 2^31 - 1", code="DOCUMENT_COUNT"
        )
    entropy = int.from_bytes(hashlib.sha256(_DOMAIN + seed).digest(), "big")
    generator = np.random.PCG64(entropy)
    words_per_row = (n + 1) // 2
    rows_per_chunk = max(1, _WORDS_PER_CHUNK // words_per_row)
    for start in range(0, replicates, rows_per_chunk):
        rows = min(rows_per_chunk, replicates - start)
        yield _counts(generator.random_raw(rows * words_per_row).reshape(rows, -1), n)


def _counts(words: NDArray[np.uint64], n: int) -> NDArray[np.int64]:
    rows = words.shape[0]
    # Low half first, on any machine. A half is below 2^32 and n below 2^31: the product fits.
    drawn = words.astype("<u8", copy=False).view("<u4")[:, :n].astype(np.int64)
    drawn *= n
    drawn >>= _HALF_BITS
    drawn += n * np.arange(rows, dtype=np.int64)[:, None]
    found = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
    return found.astype(np.int64, copy=False)
