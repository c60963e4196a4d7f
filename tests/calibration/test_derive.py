"""derive: numbers of benign runs in, limits out; none loosens the tier's, none vanishes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pytest_invarlock.calibration.benign_run import NOOP, BenignRun
from pytest_invarlock.calibration.derive import (
    ALPHA,
    FLOOR_SHARE,
    MARGIN,
    DerivedLimit,
    derive,
    prediction_bound,
)

from .made import TIER


def run(draw: int, subject: str = "rtn", group: str = "strict", **values: Any) -> BenignRun:
    return BenignRun(draw=draw, subject=subject, group=group, **values)


def found(runs: list[BenignRun]) -> dict[str, DerivedLimit]:
    return {".".join(limit.key): limit for limit in derive(runs, TIER)}


def test_wider_than_the_tier_keeps_the_tiers_and_says_so() -> None:
    runs = [
        run(draw, drift=0.2 * draw, error=0.5, spectral={"ffn": {"ln_sigma": 1.0}}, gain=0.0)
        for draw in range(3)
    ]
    limits = found(runs)
    for key in (
        "drift.band",
        "guards.rmt.error.strict",
        "guards.spectral.family_limits.ffn.ln_sigma.strict",
        "guards.variance.min_effect_lognll",
    ):
        limit = limits[key]
        assert (limit.source, limit.used) == ("tier", limit.tier), key
        assert limit.document()["reason"] == "derived is wider"
    assert limits["drift.band"].derived > 1.05
    ruined = [run(draw, drift=1e6 * draw) for draw in range(3)]
    assert found(ruined)["drift.band"].used == 1.05


def test_nothing_to_derive_from_keeps_every_limit_of_the_tier() -> None:
    for runs in ([], [run(draw, NOOP, drift=0.0, error=0.0, angle=0.0) for draw in range(5)]):
        limits = found(runs)
        assert {limit.source for limit in limits.values()} == {"tier"}
        assert all(limit.derived is None and limit.reason for limit in limits.values())
        assert all(limit.used == limit.tier for limit in limits.values())


def test_one_draw_has_no_spread() -> None:
    limit = found([run(0, drift=0.001, error=0.001)])["drift.band"]
    assert (limit.source, limit.n, limit.reason) == ("tier", 1, "1 draws, 2 are needed")
    # Every subject must have its draws: a bound over the others would leave it out.
    runs = [run(0, drift=0.001), run(1, drift=0.001), run(0, "cast", drift=0.04)]
    assert found(runs)["drift.band"].source == "tier"


def test_without_any_spread_a_limit_does_not_vanish() -> None:
    limits = found([run(draw, drift=0.0, error=0.0, growth={"ffn": 0.0}) for draw in range(5)])
    band = limits["drift.band"]
    assert math.log(band.used) == pytest.approx(FLOOR_SHARE * math.log(1.05))
    assert (band.source, band.reason) == ("derived", "floor: a tenth of the tier's")
    assert limits["guards.rmt.error.strict"].used == pytest.approx(0.0083)
    assert limits["guards.rmt.epsilon_by_family.ffn"].used == pytest.approx(0.01)
    weights = found([run(0, spectral={"ffn": {"ln_sigma": 0.0}})])
    assert weights["guards.spectral.family_limits.ffn.ln_sigma.strict"].used == pytest.approx(0.001)


def test_the_band_is_of_the_widest_subject_and_of_both_signs() -> None:
    one = [run(draw, drift=sign * 0.004) for draw, sign in enumerate((1, -1, 1))]
    two = [run(draw, "cast", drift=value) for draw, value in enumerate((0.01, 0.011, 0.012))]
    limit = found(one + two)["drift.band"]
    bound = prediction_bound([0.01, 0.011, 0.012])
    assert bound is not None
    assert limit.used == pytest.approx(math.exp(bound))
    assert (limit.source, limit.n, limit.subjects, limit.margin) == ("derived", 3, 2, ALPHA)


def test_the_bound_is_students_and_never_below_the_largest() -> None:
    # t(.99, 1) = 31.8205; s = .01·√2/2; √(1 + 1/2).
    bound = prediction_bound([0.0, 0.01])
    assert bound == pytest.approx(0.005 + 31.8205 * 0.01 / math.sqrt(2) * math.sqrt(1.5), rel=1e-4)
    assert prediction_bound([0.3] * 4) == pytest.approx(0.3)
    assert prediction_bound([0.3]) is None


def test_weights_are_the_same_in_every_draw_and_count_once() -> None:
    runs = [
        run(draw, subject, spectral={"ffn": {"ln_sigma": value}})
        for draw in range(5)
        for subject, value in (("rtn", 0.002), ("cast", 0.0015))
    ]
    limits = found(runs)
    limit = limits["guards.spectral.family_limits.ffn.ln_sigma.strict"]
    assert limit.used == pytest.approx((1 + MARGIN) * 0.002)
    assert (limit.n, limit.subjects, limit.rule) == (2, 2, "largest_and_margin")
    # Another family, statistic or group of kinds was not measured.
    for other in ("attn.ln_sigma.strict", "ffn.ln_frobenius.strict", "ffn.ln_sigma.compression"):
        assert limits[f"guards.spectral.family_limits.{other}"].source == "tier"


def test_limits_of_a_group_are_derived_from_its_own_edits_alone() -> None:
    runs = [run(d, error=0.001) for d in range(3)]
    runs += [run(d, "prune", "compression", error=0.05) for d in range(3)]
    limits = found(runs)
    assert limits["guards.rmt.error.strict"].used == pytest.approx(0.0083)  # the floor
    assert limits["guards.rmt.error.compression"].used == pytest.approx(0.05)
    assert limits["guards.rmt.error.open"].source == "tier"


def test_the_least_effect_is_a_floor_and_only_rises() -> None:
    key = "guards.variance.min_effect_lognll"
    assert found([run(0, gain=0.01)])[key].used == pytest.approx(0.015)
    assert found([run(0, gain=1e-4)])[key].used == TIER.min_effect
    assert found([run(0, gain=-1.0)])[key].used == TIER.min_effect


def test_a_document_holds_plain_numbers_and_where_they_come_from() -> None:
    documents = [
        limit.document() for limit in derive([run(d, drift=1e-3 * d) for d in (0, 1)], TIER)
    ]
    assert {d["source"] for d in documents} <= {"tier", "derived"}
    assert len({d["key"] for d in documents}) == len(documents)
    assert all(d["n"] >= 0 and d["rule"] and d["used"] > 0 for d in documents)
