"""One-sided bounds of the drop in accuracy between two models on the same examples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from pytest_invarlock.errors import ConfigError, DataError
from pytest_invarlock.stats.choices import BoolArray
from pytest_invarlock.stats.clusters import DocumentSums, IntArray, document_sums
from pytest_invarlock.stats.design_effect import design_effect

_BISECTIONS = 80


@dataclass(frozen=True, slots=True)
class PairedAccuracy:
    """Accuracies of two models on the same examples and how far they can lie apart.

    All shares and drops are proportions of examples in [-1, 1]; a drop is baseline − subject.

    Attributes:
        n_examples: examples n.
        n_documents: documents D.
        effective_documents: Kish's number of documents, weighted by their examples.
        baseline_accuracy: share that the baseline gets right.
        subject_accuracy: share that the subject gets right.
        drop: baseline_accuracy − subject_accuracy = (harmful − beneficial) / n.
        harmful: examples that only the baseline gets right.
        beneficial: examples that only the subject gets right.
        mcnemar_p: exact two-sided p of McNemar's test; 1 without discordant examples.
        standard_error: CR2 standard error of the drop over documents.
        design_effect: of the drop; None where no example is discordant.
        upper_t: CR2 t bound with D − 1 degrees of freedom.
        upper_score: Tango's score bound, on counts deflated by a design effect above 1.
        lower_t: mirror of upper_t.
        lower_score: mirror of upper_score.
    """

    n_examples: int
    n_documents: int
    effective_documents: float
    baseline_accuracy: float
    subject_accuracy: float
    drop: float
    harmful: int
    beneficial: int
    mcnemar_p: float
    standard_error: float
    design_effect: float | None
    upper_t: float
    upper_score: float
    lower_t: float
    lower_score: float

    @property
    def drop_upper(self) -> float:
        """The larger upper bound, the one-sided bound a PASS needs."""
        return max(self.upper_t, self.upper_score)

    @property
    def drop_lower(self) -> float:
        """The smaller lower bound, the one-sided bound a FAIL needs."""
        return min(self.lower_t, self.lower_score)


def paired_accuracy(
    baseline_right: BoolArray, subject_right: BoolArray, documents: IntArray, *, alpha: float = 0.05
) -> PairedAccuracy:
    """Bound the drop in accuracy from paired right and wrong answers, document by document.

    The upper bound is the larger of the CR2 t bound over documents and Tango's score bound, which
    stays above 0 without a discordant example (there the t bound is 0). Where documents hold
    several examples the score bound takes counts divided by the design effect; without a
    discordant example that effect cannot be estimated and is taken as 1, so harm confined to
    whole documents that were not drawn stays unseen, as in every interval. Coverage of at least
    .935 is shown for one example a document (`docs/measured/statistics.md`); where harm gathers
    in documents of many examples it falls short, down to .86 at a correlation of .3. Exchanging
    the models negates the drop and exchanges the bounds exactly.

    Args:
        baseline_right: bool (n_examples,).
        subject_right: bool (n_examples,), the same examples.
        documents: int64 (n_examples,), document ordinal of each example.
        alpha: one-sided level of the bounds.

    Returns:
        Accuracies, counts and bounds.

    Raises:
        DataError: ``UNPAIRED_EXAMPLES``, ``NO_WINDOWS`` or ``ONE_DOCUMENT``.
        ConfigError: ``LEVEL`` for a level outside (0, .5).

    Source: Tango, Statistics in Medicine 17 (1998), 891-908; McNemar, Psychometrika 12 (1947),
    153-157, with the exact binomial p; CR2: Bell and McCaffrey, Survey Methodology 28 (2002);
    deflated counts: Rao and Scott, Biometrics 48 (1992), 577-585.
    """
    if not 0 < alpha < 0.5:
        raise ConfigError(f"alpha={alpha}", remedy="choose a level in (0, .5)", code="LEVEL")
    if not baseline_right.shape == subject_right.shape == documents.shape:
        raise DataError(
            f"baseline, subject and documents have shapes {baseline_right.shape}, "
            f"{subject_right.shape} and {documents.shape}",
            remedy="answer the same examples with both models",
            code="UNPAIRED_EXAMPLES",
        )
    harmful = int((baseline_right & ~subject_right).sum())
    beneficial = int((~baseline_right & subject_right).sum())
    n = len(documents)
    sums, effect = _sums(baseline_right, subject_right, documents)
    half_width = float(special.stdtrit(sums.n_documents - 1, 1 - alpha)) * sums.cr2_standard_error
    deflate = max(effect or 1.0, 1.0)
    worse, better, size = harmful / deflate, beneficial / deflate, n / deflate
    return PairedAccuracy(
        n_examples=n,
        n_documents=sums.n_documents,
        effective_documents=sums.effective_documents,
        baseline_accuracy=int(baseline_right.sum()) / n,
        subject_accuracy=int(subject_right.sum()) / n,
        drop=(harmful - beneficial) / n,
        harmful=harmful,
        beneficial=beneficial,
        mcnemar_p=mcnemar_p(harmful, beneficial),
        standard_error=sums.cr2_standard_error,
        design_effect=effect,
        upper_t=sums.delta + half_width,
        upper_score=score_upper(worse, better, size, alpha=alpha),
        lower_t=sums.delta - half_width,
        lower_score=-score_upper(better, worse, size, alpha=alpha),
    )


def mcnemar_p(harmful: int, beneficial: int) -> float:
    """Give the exact two-sided p of equal chances: 2·P(Bin(b + c, ½) ≤ min(b, c)), at most 1.

    Source: McNemar, Psychometrika 12 (1947), 153-157, the exact conditional test.
    """
    discordant = harmful + beneficial
    if not discordant:
        return 1.0
    return min(1.0, 2 * float(special.bdtr(min(harmful, beneficial), discordant, 0.5)))


def score_upper(harmful: float, beneficial: float, n: float, *, alpha: float) -> float:
    """Give Tango's one-sided 1 − alpha upper bound of (harmful − beneficial) / n.

    The bound is the drop λ at which (b − c − nλ) / √(n(2q + λ(1 − λ))) falls to −z, with q the
    share of beneficial examples that is most likely under λ. Counts may be fractions.

    Args:
        harmful: b, examples that only the baseline gets right.
        beneficial: c, examples that only the subject gets right.
        n: all examples.
        alpha: one-sided level.

    Returns:
        A proportion in (drop, 1]; z²/(n + z²) without discordant examples.

    Source: Tango, Statistics in Medicine 17 (1998), 891-908, equations 6 to 8.
    """
    z = float(special.ndtri(1 - alpha))
    low, high = (harmful - beneficial) / n, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _score(harmful, beneficial, n, middle) > -z:
            low = middle
        else:
            high = middle
    return high


def _score(harmful: float, beneficial: float, n: float, drop: float) -> float:
    linear = (2 * n - harmful + beneficial) * drop - harmful - beneficial
    constant = -beneficial * drop * (1 - drop)
    # The stable root: adding where the linear term is negative, dividing where it is not.
    root = math.sqrt(max(linear**2 - 8 * n * constant, 0.0))
    share = (
        (root - linear) / (4 * n) if linear < 0 else -2 * constant / ((root + linear) or math.inf)
    )
    variance = n * (2 * share + drop * (1 - drop))
    distance = harmful - beneficial - n * drop
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _sums(
    baseline_right: BoolArray, subject_right: BoolArray, documents: IntArray
) -> tuple[DocumentSums, float | None]:
    """Drops summed by document, and the design effect of their mean."""
    ones = np.ones(len(documents), dtype=np.int64)
    right = baseline_right.astype(np.float64), subject_right.astype(np.float64)
    # A loss is what is wrong: subject − baseline losses then add up to the drop.
    sums = document_sums(1 - right[0], 1 - right[1], ones, documents)
    each = document_sums(1 - right[0], 1 - right[1], ones, np.arange(len(documents)))
    return sums, design_effect(sums, each)
