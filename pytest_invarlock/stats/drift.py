"""Preview against final ratio: the arms share no documents, so drift is a check on sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from scipy import special

from pytest_invarlock.errors import ConfigError

if TYPE_CHECKING:
    from pytest_invarlock.stats.clusters import DocumentSums

DriftClassification = Literal["fail", "warn", "pass"]


@dataclass(frozen=True, slots=True)
class DriftStatistics:
    """How far the two arms' log ratios lie apart, and whether sampling alone explains it.

    Attributes:
        delta: x = ln(preview ratio) − ln(final ratio), nats per token.
        standard_error: √(v_preview + v_final) of the arms' CR2 variances, nats per token.
        degrees_of_freedom: Satterthwaite's; infinite where neither arm varies.
        band_delta: half width of the tolerated band around 0, nats per token.
        excess_fail: |x| − t·se − band at ``fail_alpha``, nats per token; "fail" where positive.
        excess_warn: the same at ``warn_alpha``; never below ``excess_fail``.
        classification: "fail", "warn" (positive at the warn level only) or "pass".
        equivalence_shown: whether |x| + t·se ≤ band at ``warn_alpha`` (two one-sided tests).
            Printed, never required: clean runs of usual size often cannot show it.
    """

    delta: float
    standard_error: float
    degrees_of_freedom: float
    band_delta: float
    excess_fail: float
    excess_warn: float
    classification: DriftClassification
    equivalence_shown: bool

    @property
    def p_value(self) -> float:
        """One-sided p of "within the band": P(t > (|x| − band)/se); "fail" is p < fail_alpha."""
        excess = abs(self.delta) - self.band_delta
        if not self.standard_error:
            return 0.0 if excess > 0 else 1.0
        return float(special.stdtr(self.degrees_of_freedom, -excess / self.standard_error))


def drift(
    preview: DocumentSums,
    final: DocumentSums,
    *,
    band_delta: float = math.log(1.05),
    fail_alpha: float = 0.01,
    warn_alpha: float = 0.05,
) -> DriftStatistics:
    """Test whether the arms' ratios differ by more than a band, sampling error included.

    With arms of equal size the degrees of freedom are those of the rule,
    (v₁ + v₂)² / (v₁² + v₂²) · (D − 1). Unequal arms keep their own: the general form
    (v₁ + v₂)² / (v₁²/(D₁ − 1) + v₂²/(D₂ − 1)), which is the rule's wherever D₁ = D₂. An arm
    without spread adds neither variance nor degrees of freedom.

    Args:
        preview: document sums of the preview arm.
        final: document sums of the final arm; no document in common with preview.
        band_delta: tolerated difference of the log ratios, nats per token, either way.
        fail_alpha: one-sided level of "fail".
        warn_alpha: one-sided level of "warn" and of the equivalence, at least ``fail_alpha``.

    Returns:
        The difference, its error, and the classification.

    Raises:
        ConfigError: ``BAND`` unless the band is finite and not negative, ``LEVEL`` unless
            0 < fail_alpha ≤ warn_alpha < .5.

    Source: rule 5 of the project's feasibility study; degrees of freedom: Satterthwaite,
    Biometrics Bulletin 2 (1946), 110-114; equivalence: Schuirmann, J. Pharmacokinetics and
    Biopharmaceutics 15 (1987), 657-680.
    """
    if not 0 <= band_delta < math.inf:
        raise ConfigError(
            f"drift band of {band_delta} nats per token",
            remedy="choose a finite band that is not negative",
            code="BAND",
        )
    if not 0 < fail_alpha <= warn_alpha < 0.5:
        raise ConfigError(
            f"fail_alpha={fail_alpha}, warn_alpha={warn_alpha}",
            remedy="choose 0 < fail_alpha <= warn_alpha < .5",
            code="LEVEL",
        )
    delta = preview.delta - final.delta
    standard_error = math.hypot(preview.cr2_standard_error, final.cr2_standard_error)
    degrees = _degrees_of_freedom(preview, final)
    fail_width = _half_width(standard_error, degrees, fail_alpha)
    warn_width = _half_width(standard_error, degrees, warn_alpha)
    excess_fail = abs(delta) - fail_width - band_delta
    excess_warn = abs(delta) - warn_width - band_delta
    classification: DriftClassification = "pass"
    if excess_warn > 0:
        classification = "fail" if excess_fail > 0 else "warn"
    return DriftStatistics(
        delta=delta,
        standard_error=standard_error,
        degrees_of_freedom=degrees,
        band_delta=band_delta,
        excess_fail=excess_fail,
        excess_warn=excess_warn,
        classification=classification,
        equivalence_shown=abs(delta) + warn_width <= band_delta,
    )


def _degrees_of_freedom(preview: DocumentSums, final: DocumentSums) -> float:
    larger = max(preview.cr2_standard_error, final.cr2_standard_error)
    if not larger:
        return math.inf
    # Variances relative to the larger one: their squares cannot underflow.
    first = (preview.cr2_standard_error / larger) ** 2
    second = (final.cr2_standard_error / larger) ** 2
    spread = first**2 / (preview.n_documents - 1) + second**2 / (final.n_documents - 1)
    return (first + second) ** 2 / spread


def _half_width(standard_error: float, degrees: float, alpha: float) -> float:
    if not standard_error:
        return 0.0
    return float(special.stdtrit(degrees, 1 - alpha)) * standard_error
