"""How many documents would decide, and how small a ratio the documents at hand can see."""

from __future__ import annotations

import math

from scipy import special

from pytest_invarlock.errors import ConfigError, DataError

# Width of the larger-of-two bound over the plain normal bound, from simulation (rule 2).
WIDTH_OF_MAX_RULE = 1.15
# Square root of more documents than can be counted, and log of the largest ratio in a double.
_MOST = 1e100
_LARGEST_EXPONENT = 709.0
_LARGEST_SD = 1e75


def documents_needed(
    *,
    document_sd: float,
    effective_share: float,
    true_delta: float,
    limit_delta: float,
    alpha: float,
    power: float,
) -> int | None:
    """Plan the number of documents whose upper bound meets the limit with the power asked for.

    For a FAIL that is due, negate both deltas: the rule mirrors.

    Args:
        document_sd: standard deviation of document means, nats per token.
        effective_share: effective over actual documents D_eff / D, in (0, 1].
        true_delta: assumed log ratio of the subject, nats per token.
        limit_delta: log of the limit, nats per token.
        alpha: one-sided level of the bound.
        power: wanted probability of meeting the limit, above alpha.

    Returns:
        Documents in all, at least 2; None where the assumed truth is at or beyond the limit, or
        too near for any number that can be counted, so that no number of documents would decide.

    Raises:
        DataError: ``DOCUMENT_SD`` or ``EFFECTIVE_SHARE`` out of range.
        ConfigError: ``LEVEL`` unless 0 < alpha < power < 1.

    Source: the two-quantile sample-size formula (Chow, Shao and Wang, Sample Size Calculations
    in Clinical Research, section 3.1, non-inferiority), on Kish's effective documents, widened
    by 1.15² for the larger-of-two bound (the project's feasibility study, rule 2).
    """
    reach = _quantile_sum(alpha, power) * _checked_sd(document_sd) * WIDTH_OF_MAX_RULE
    if not 0 < effective_share <= 1:
        raise DataError(
            f"effective share {effective_share}",
            remedy="pass effective documents over documents",
            code="EFFECTIVE_SHARE",
        )
    margin = limit_delta - true_delta
    if not margin > 0:
        return None
    if margin * _MOST < reach:
        return None
    effective = (reach / margin) ** 2
    # Rounding must not add a document where the formula gives an integer.
    return max(2, math.ceil(effective / effective_share * (1 - 1e-12)))


def minimum_detectable_ratio(
    *, document_sd: float, effective_documents: float, alpha: float, power: float
) -> float:
    """Give the smallest ratio of limit to truth that these documents decide with the power given.

    An unchanged model (true ratio 1) meets any limit from this value on; a model that is this
    much worse than a limit breaks it.

    Args:
        document_sd: standard deviation of document means, nats per token.
        effective_documents: Kish's effective number of documents, at least 1.
        alpha: one-sided level of the bound.
        power: wanted probability of the decision, above alpha.

    Returns:
        A ratio of perplexities, at least 1.

    Raises:
        DataError: ``DOCUMENT_SD`` or ``EFFECTIVE_DOCUMENTS`` out of range.
        ConfigError: ``LEVEL`` unless 0 < alpha < power < 1.

    Source: the formula of :func:`documents_needed`, solved for the margin.
    """
    reach = _quantile_sum(alpha, power) * _checked_sd(document_sd) * WIDTH_OF_MAX_RULE
    if not effective_documents >= 1:
        raise DataError(
            f"{effective_documents} effective documents",
            remedy="pass Kish's effective number of the sample",
            code="EFFECTIVE_DOCUMENTS",
        )
    exponent = reach / math.sqrt(effective_documents)
    if exponent > _LARGEST_EXPONENT:
        raise DataError(
            f"a document sd of {document_sd} detects no ratio that a double holds",
            remedy="measure more documents, or a model that is not destroyed",
            code="DOCUMENT_SD",
        )
    return math.exp(exponent)


def _quantile_sum(alpha: float, power: float) -> float:
    if not 0 < alpha < power < 1:
        raise ConfigError(
            f"alpha={alpha}, power={power}", remedy="choose 0 < alpha < power < 1", code="LEVEL"
        )
    return float(special.ndtri(1 - alpha) + special.ndtri(power))


def _checked_sd(document_sd: float) -> float:
    if not 0 <= document_sd <= _LARGEST_SD:
        raise DataError(
            f"document sd {document_sd}",
            remedy="pass the finite sd of document means",
            code="DOCUMENT_SD",
        )
    return document_sd
