"""Bootstrap counts: the same numbers for ever, and fair."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from scipy import stats

from pytest_invarlock.errors import ConfigError, DataError, InvarlockError
from pytest_invarlock.stats import resampling, resampling_counts

SEED = bytes(range(32))


@pytest.mark.parametrize(
    ("seed", "replicates", "n", "error", "code"),
    [
        (b"", 9, 5, ConfigError, "EMPTY_SEED"),
        (SEED, 0, 5, ConfigError, "NO_REPLICATES"),
        (SEED, 9, 0, DataError, "DOCUMENT_COUNT"),
        (SEED, 9, 1 << 31, DataError, "DOCUMENT_COUNT"),
    ],
)
def test_what_cannot_be_resampled_is_an_error(
    seed: bytes, replicates: int, n: int, error: type[InvarlockError], code: str
) -> None:
    with pytest.raises(error) as caught:
        resampling_counts(seed, replicates, n)
    assert caught.value.code == code


def test_golden_counts() -> None:
    """Published evidence depends on these numbers: never update them, add a new mapping."""
    assert resampling_counts(SEED, 3, 7).tolist() == [
        [0, 1, 1, 1, 1, 1, 2],
        [0, 2, 0, 0, 0, 3, 2],
        [0, 2, 1, 2, 1, 0, 1],
    ]
    assert resampling_counts(b"invarlock", 2, 8).tolist() == [
        [4, 1, 0, 0, 0, 1, 1, 1],
        [2, 1, 1, 0, 1, 1, 0, 2],
    ]
    digest = hashlib.sha256(resampling_counts(SEED, 1999, 64).astype("<i8").tobytes()).hexdigest()
    assert digest == "81bd71db09d222e554f8d7c88da1ac010d7b2ca98f667f526895f7468730f063"


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_mapping_is_the_documented_one(n: int) -> None:
    entropy = hashlib.sha256(b"pytest-invarlock/resampling/1\0" + SEED).digest()
    generator = np.random.PCG64(int.from_bytes(entropy, "big"))
    expected = []
    for _ in range(5):
        halves = []
        for _ in range((n + 1) // 2):
            word = int(generator.random_raw())
            halves += [word % 2**32, word // 2**32]
        row = [0] * n
        for half in halves[:n]:
            row[half * n // 2**32] += 1
        expected.append(row)
    assert resampling_counts(SEED, 5, n).tolist() == expected


def test_chunks_and_prefixes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = resampling_counts(SEED, 50, 9)
    np.testing.assert_array_equal(resampling_counts(SEED, 20, 9), whole[:20])
    monkeypatch.setattr(resampling, "_WORDS_PER_CHUNK", 12)
    np.testing.assert_array_equal(resampling_counts(SEED, 50, 9), whole)
    monkeypatch.setattr(resampling, "_WORDS_PER_CHUNK", 1)
    assert [len(rows) for rows in resampling.counts_in_chunks(SEED, 3, 9)] == [1, 1, 1]


def test_rows_are_whole_samples() -> None:
    counts = resampling_counts(SEED, 200, 33)
    assert counts.shape == (200, 33)
    assert counts.dtype == np.int64
    assert (counts.sum(axis=1) == 33).all()
    assert (counts >= 0).all()


def test_draws_are_uniform_and_pairs_independent() -> None:
    counts = resampling_counts(SEED, 4000, 25)
    assert stats.chisquare(counts.sum(axis=0)).pvalue > 1e-3
    # Multinomial moments: variance 1 - 1/n within a document, covariance -1/n between two.
    assert counts.var(axis=0).mean() == pytest.approx(1 - 1 / 25, rel=0.02)
    covariance = np.cov(counts, rowvar=False)
    between = covariance[~np.eye(25, dtype=bool)]
    assert between.mean() == pytest.approx(-1 / 25, rel=0.03)
    assert np.abs(between + 1 / 25).max() < 5 / np.sqrt(4000)


def test_seeds_differ() -> None:
    one, other = resampling_counts(b"\0\1", 50, 30), resampling_counts(b"\1", 50, 30)
    assert (one != other).any()
