"""How much edges grew by family: what is reported of them, and what is not known."""

from __future__ import annotations

import math
from typing import Any

import pytest
from invarlock_guards.judge.rmt import FamilyGrowth, RMTPolicy, edge_growth, outlier_metrics

BANDS = {"ffn": 0.2, "attn": 0.3}
POLICY = RMTPolicy(epsilon_by_family=BANDS, epsilon_default=0.1)


def site(module: str, fedge: float | None, family: str = "ffn", **changes: Any) -> dict[str, Any]:
    return {"module": module, "family": family, "fedge": fedge, "finite": True} | changes


def growth(*sites: Any, policy: RMTPolicy = POLICY) -> list[FamilyGrowth]:
    return edge_growth({"sites": list(sites)}, policy)


def test_each_family_is_told_by_name_with_its_own_band() -> None:
    found = growth(
        site("z", math.log(1.15), "other"), site("b", math.log(1.15)),
        site("q", math.log(1.25), "attn"), site("k", math.log(1.35), "attn"),
    )  # fmt: skip
    assert found == [
        FamilyGrowth("attn", "k", 2, pytest.approx(0.35), 0.3, unstable=True),
        FamilyGrowth("ffn", "b", 1, pytest.approx(0.15), 0.2, unstable=False),
        FamilyGrowth("other", "z", 1, pytest.approx(0.15), 0.1, unstable=True),
    ]
    assert growth() == []


def test_the_module_that_grew_most_stands_for_its_family() -> None:
    sites = [site("shrunk", -0.9), site("least", -0.1), site("most", 0.02), site("some", 0.01)]
    assert growth(*sites) == [FamilyGrowth("ffn", "most", 4, math.expm1(0.02), 0.2, unstable=False)]
    # Growth alone counts here: the judge bands both sides.
    assert growth(*sites[:2]) == [
        FamilyGrowth("ffn", "least", 2, math.expm1(-0.1), 0.2, unstable=False)
    ]


def test_growth_of_the_band_is_stable_and_any_more_is_not() -> None:
    none_allowed = RMTPolicy(epsilon_by_family={"ffn": 0.0})
    for fedge, unstable in ((0.0, False), (1e-9, True)):
        (found,) = growth(site("a", fedge), policy=none_allowed)
        assert (found.unstable, found.epsilon) == (unstable, 0.0)


def test_growth_is_written_as_a_number_however_large_it_is() -> None:
    assert growth(site("a", 1e6)) == [FamilyGrowth("ffn", "a", 1, math.expm1(200), 0.2, True)]
    assert growth(site("a", 150.0)) == [FamilyGrowth("ffn", "a", 1, math.expm1(150), 0.2, True)]


def test_without_any_edge_nothing_is_known() -> None:
    assert growth(site("a", None), site("b", None)) == [
        FamilyGrowth("ffn", "a", 2, None, 0.2, None, "no_edge")
    ]
    assert growth(site("a", None)) == [FamilyGrowth("ffn", "a", 1, None, 0.2, None, "no_edge")]


def test_a_module_without_an_edge_may_have_grown_more() -> None:
    stable, unstable = site("b", 0.01), site("b", 0.5)
    assert growth(site("a", None), stable) == [
        FamilyGrowth("ffn", "b", 2, math.expm1(0.01), 0.2, None, "no_edge_of_some")
    ]
    assert growth(site("a", None), unstable) == [
        FamilyGrowth("ffn", "b", 2, math.expm1(0.5), 0.2, True, "no_edge_of_some")
    ]


def test_outputs_that_are_not_finite_are_unstable() -> None:
    sites = [site("a", 0.5), site("b", None, finite=False), site("c", 0.01, finite=False)]
    assert growth(*sites) == [FamilyGrowth("ffn", "b", 3, None, 0.2, True, "non_finite")]
    assert growth(site("a", None), site("b", None, finite=False)) == [
        FamilyGrowth("ffn", "b", 2, None, 0.2, True, "non_finite")
    ]
    # Another family's are its own.
    broken, sound = growth(site("q", None, "attn", finite=False), site("a", 0.01))
    assert (broken.reason, sound.unstable) == ("non_finite", False)


def test_without_an_edge_no_outlier_is_counted() -> None:
    factor = RMTPolicy().outlier_factor
    assert outlier_metrics({"outlier_factor": factor, "sites": []}, RMTPolicy()) == {
        "outliers": "not_measured", "outliers_reason": "no edge", "stable": None,
    }  # fmt: skip


def test_the_largest_margin_is_one() -> None:
    assert RMTPolicy(margin=1e100, deadband=0.0).outlier_factor == 1e100
    with pytest.raises(ValueError, match=r"margin: with deadband at most 1e\+100 edges"):
        RMTPolicy(margin=1.001e100, deadband=0.0)
