"""llama.cpp's perplexity statistics: ln-PPL ratio with the paired error of independent tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_invarlock.errors import DataError

if TYPE_CHECKING:
    from pytest_invarlock.stats.clusters import FloatArray

# llama.cpp prints an uncertainty of 0 up to here; a zero would hide that there is none.
_TOO_FEW_TOKENS = 10


@dataclass(frozen=True, slots=True)
class TokenMoments:
    """Sums over the predicted tokens of paired losses; those of several windows add.

    Printed for comparison with published tables, never gated on: the errors take tokens as
    independent, which tokens of one document are not.

    Args:
        n_tokens: predicted tokens n, at least 11.
        baseline_sum: Σ b, nats.
        subject_sum: Σ s, nats.
        baseline_square_sum: Σ b², nats².
        subject_square_sum: Σ s², nats².
        product_sum: Σ b·s, nats².

    Raises:
        DataError: ``TOO_FEW_TOKENS`` or ``NON_FINITE``.

    Source: llama.cpp, perplexity.cpp: mean m = Σ/n, se = √((Σ²/n − m²)/(n − 1)),
    cov = (Σbs/n − m_b·m_s)/(n − 1), both of the means.
    """

    n_tokens: int
    baseline_sum: float
    subject_sum: float
    baseline_square_sum: float
    subject_square_sum: float
    product_sum: float

    def __post_init__(self) -> None:
        if self.n_tokens <= _TOO_FEW_TOKENS:
            raise DataError(
                f"{self.n_tokens} predicted token(s)",
                remedy=f"measure more than {_TOO_FEW_TOKENS}",
                code="TOO_FEW_TOKENS",
            )
        sums = (self.baseline_sum, self.subject_sum, self.baseline_square_sum)
        if not all(map(math.isfinite, (*sums, self.subject_square_sum, self.product_sum))):
            raise DataError(
                "a token sum is not finite",
                remedy="report the window as non-finite before summing its tokens",
                code="NON_FINITE",
            )

    def __add__(self, other: TokenMoments) -> TokenMoments:
        return TokenMoments(
            self.n_tokens + other.n_tokens,
            self.baseline_sum + other.baseline_sum,
            self.subject_sum + other.subject_sum,
            self.baseline_square_sum + other.baseline_square_sum,
            self.subject_square_sum + other.subject_square_sum,
            self.product_sum + other.product_sum,
        )

    @property
    def baseline_ppl(self) -> float:
        """Perplexity exp(m_b) of the baseline."""
        return math.exp(self._baseline_mean)

    @property
    def subject_ppl(self) -> float:
        """Perplexity exp(m_s) of the subject."""
        return math.exp(self._subject_mean)

    @property
    def baseline_ppl_standard_error(self) -> float:
        """PPL · se, the delta method."""
        return self.baseline_ppl * math.sqrt(self._baseline_variance)

    @property
    def subject_ppl_standard_error(self) -> float:
        """PPL · se, the delta method."""
        return self.subject_ppl * math.sqrt(self._subject_variance)

    @property
    def log_ratio(self) -> float:
        """ln(PPL subject / PPL baseline) = m_s − m_b, nats per token."""
        return self._subject_mean - self._baseline_mean

    @property
    def log_ratio_standard_error(self) -> float:
        """√(se_s² + se_b² − 2·cov), nats per token: the paired standard error."""
        variance = self._subject_variance + self._baseline_variance - 2 * self._covariance
        return math.sqrt(max(variance, 0.0))

    @property
    def log_ppl_correlation(self) -> float | None:
        """cov / (se_s · se_b); None where either model's loss does not vary."""
        scale = math.sqrt(self._subject_variance * self._baseline_variance)
        return self._covariance / scale if scale else None

    @property
    def ratio(self) -> float:
        """PPL subject / PPL baseline."""
        return math.exp(self.log_ratio)

    @property
    def ratio_standard_error(self) -> float:
        """Ratio times its log's standard error."""
        return self.ratio * self.log_ratio_standard_error

    @property
    def ppl_difference(self) -> float:
        """PPL subject − PPL baseline."""
        return self.subject_ppl - self.baseline_ppl

    @property
    def ppl_difference_standard_error(self) -> float:
        """√(u_s² + u_b² − 2·PPL_s·PPL_b·cov) with u the perplexities' standard errors."""
        shared = 2 * self.subject_ppl * self.baseline_ppl * self._covariance
        own = self.subject_ppl_standard_error**2 + self.baseline_ppl_standard_error**2
        return math.sqrt(max(own - shared, 0.0))

    @property
    def _baseline_mean(self) -> float:
        return self.baseline_sum / self.n_tokens

    @property
    def _subject_mean(self) -> float:
        return self.subject_sum / self.n_tokens

    @property
    def _baseline_variance(self) -> float:
        square = self.baseline_square_sum / self.n_tokens - self._baseline_mean**2
        return max(square, 0.0) / (self.n_tokens - 1)

    @property
    def _subject_variance(self) -> float:
        square = self.subject_square_sum / self.n_tokens - self._subject_mean**2
        return max(square, 0.0) / (self.n_tokens - 1)

    @property
    def _covariance(self) -> float:
        product = self.product_sum / self.n_tokens - self._baseline_mean * self._subject_mean
        return product / (self.n_tokens - 1)


def token_moments(baseline_nll: FloatArray, subject_nll: FloatArray) -> TokenMoments:
    """Sum paired token losses; correctly rounded, so the order of the tokens leaves no trace.

    Args:
        baseline_nll: float64 (n_tokens,), nats, one for each predicted token.
        subject_nll: float64 (n_tokens,), the same tokens under the changed model.

    Returns:
        The sums, from which llama.cpp's statistics follow.

    Raises:
        DataError: ``UNPAIRED_TOKENS``, ``TOO_FEW_TOKENS`` or ``NON_FINITE``.
    """
    if baseline_nll.ndim != 1 or baseline_nll.shape != subject_nll.shape:
        raise DataError(
            f"token losses of shapes {baseline_nll.shape} and {subject_nll.shape}",
            remedy="measure the same tokens in both arms",
            code="UNPAIRED_TOKENS",
        )
    if not (np.isfinite(baseline_nll).all() and np.isfinite(subject_nll).all()):
        raise DataError(
            "token losses hold non-finite values",
            remedy="report the window as non-finite before summing its tokens",
            code="NON_FINITE",
        )
    return TokenMoments(
        n_tokens=int(baseline_nll.size),
        baseline_sum=math.fsum(baseline_nll),
        subject_sum=math.fsum(subject_nll),
        baseline_square_sum=math.fsum(baseline_nll**2),
        subject_square_sum=math.fsum(subject_nll**2),
        product_sum=math.fsum(baseline_nll * subject_nll),
    )
