"""Divergence statistics, against the formulas written out."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_invarlock.metrics.divergence import divergence_statistics


def made(n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    baseline = generator.gamma(2.0, 1.0, n)
    subject = np.abs(baseline + generator.normal(0, 0.1, n))
    return generator.gamma(1.0, 0.01, n), baseline, subject, generator.random(n) < 0.9


def test_means_and_errors_are_llama_cpps() -> None:
    kl, baseline, subject, same = made()
    found = divergence_statistics(kl, baseline, subject, same)
    n = len(kl)
    dp = np.exp(-subject) - np.exp(-baseline)
    assert found["kl_nats_mean"] == pytest.approx(kl.mean(), rel=1e-12)
    assert found["kl_nats_standard_error"] == pytest.approx(kl.std() / (n - 1) ** 0.5, rel=1e-9)
    assert found["delta_p_mean"] == pytest.approx(dp.mean(), rel=1e-12)
    rms = (dp**2).mean() ** 0.5
    assert found["delta_p_rms"] == pytest.approx(rms, rel=1e-12)
    assert found["delta_p_rms_standard_error"] == pytest.approx(
        0.5 / rms * (dp**2).std() / (n - 1) ** 0.5, rel=1e-9
    )
    share = same.mean()
    assert found["top1_same_share"] == share
    assert found["top1_same_standard_error"] == pytest.approx(
        (share * (1 - share) / (n - 1)) ** 0.5, rel=1e-12
    )
    assert found["log_ratio"] == pytest.approx((subject - baseline).mean(), rel=1e-9)
    assert found["log_ratio_standard_error"] == pytest.approx(
        (subject - baseline).std() / (n - 1) ** 0.5, rel=1e-6
    )
    assert found["log_perplexity_correlation"] == pytest.approx(
        np.corrcoef(subject, baseline)[0, 1], rel=1e-9
    )


@pytest.mark.parametrize(("percent", "name"), [(99.9, "p99.9"), (50, "p50"), (1, "p1")])
def test_percentiles_interpolate_between_ranks(percent: float, name: str) -> None:
    kl, baseline, subject, same = made(101)
    rank = percent / 100 * 100
    low, ordered = int(rank), np.sort(kl)
    high = min(low + 1, 100)
    expected = ordered[low] + (rank - low) * (ordered[high] - ordered[low])
    found = divergence_statistics(kl, baseline, subject, same)
    assert found[f"kl_nats_{name}"] == pytest.approx(expected, rel=1e-9)


def test_equal_models_have_no_spread() -> None:
    _, baseline, _, _ = made()
    found = divergence_statistics(np.zeros(400), baseline, baseline, np.ones(400, dtype=bool))
    assert found["kl_nats_max"] == 0
    assert found["delta_p_rms"] == 0
    assert found["delta_p_rms_standard_error"] == 0
    assert found["top1_same_share"] == 1
    assert found["log_ratio"] == 0


def test_without_kl_nothing_is_said_of_it() -> None:
    _, baseline, subject, same = made()
    found = divergence_statistics(None, baseline, subject, same)
    assert not any(name.startswith("kl") for name in found)
    assert found["delta_p_mean"] is not None


def test_a_broken_subject_has_no_numbers_rather_than_wrong_ones() -> None:
    kl, baseline, subject, same = made()
    subject[3] = kl[3] = np.nan
    found = divergence_statistics(kl, baseline, subject, same)
    assert found["kl_nats_mean"] is None
    assert found["delta_p_mean"] is None
    assert "log_ratio" not in found
    assert found["top1_same_share"] is not None


def test_too_few_tokens_have_no_standard_error() -> None:
    kl, baseline, subject, same = made(10)
    found = divergence_statistics(kl, baseline, subject, same)
    assert found["kl_nats_standard_error"] is None
    assert found["kl_nats_mean"] is not None
