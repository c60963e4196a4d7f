"""Tiers and profiles: every shipped file loads, and holds the numbers that were promised."""

from __future__ import annotations

import hashlib
import math
from dataclasses import astuple, replace
from typing import TYPE_CHECKING

import pytest

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.guard_limits import POLICY_OF
from pytest_invarlock.policy.metric_limits import Floors
from pytest_invarlock.policy.plan_settings import build_policy
from pytest_invarlock.policy.resources import names, read_text
from pytest_invarlock.policy.settings import Settings
from pytest_invarlock.policy.tiers import load_profile, load_tier, shipped_differences
from pytest_invarlock.policy.yaml_document import parse_yaml

if TYPE_CHECKING:
    from pathlib import Path

OWN = "name: mine"
LIMITS = {"conservative": 1.05, "balanced": 1.10, "aggressive": 1.20}
DROPS_PP = {"conservative": 0.5, "balanced": 1.0, "aggressive": 2.0}
QUANTILES = {"conservative": 0.12, "balanced": 0.20, "aggressive": 0.30}
CHECKS = (
    "invariants", "spectral", "rmt", "variance", "primary_metric", "drift", "tail",
    "guard_overhead",
)  # fmt: skip
# preview, final, guard calibration, B, documents, effective, share of guard windows, token floor enforced, determinism
PROFILES = {
    "dev": (64, 64, 32, 999, 20, 10.0, 0.5, False, "throughput"),
    "ci_cpu": (120, 120, 48, 1999, 40, 20.0, 0.5, False, "throughput"),
    "ci": (200, 200, 64, 1999, 40, 20.0, 0.5, True, "throughput"),
    "release": (400, 400, 64, 3999, 40, 20.0, 0.5, True, "strict"),
}


@pytest.mark.parametrize(
    ("load", "wrong", "close"),
    [(load_tier, "ballanced", "balanced"), (load_profile, "ci-cpu", "ci_cpu")],
)
def test_an_unknown_name_is_refused_with_the_nearest(load: object, wrong: str, close: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(wrong)  # type: ignore[operator]
    assert caught.value.code in ("UNKNOWN_TIER", "UNKNOWN_PROFILE")
    assert caught.value.remedy == f"did you mean {close!r}?"


def test_a_tier_file_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(read_text("tiers", "balanced.yaml") + "ratio: 1.5\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.yaml:\d+: unknown key 'ratio'"):
        load_tier(str(path))


def test_a_tier_file_that_demands_a_guard_gives_it_a_mode(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = read_text("tiers", "balanced.yaml").replace(
        "guards:\n  invariants: {mode: gate}", "guards: {}"
    )
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_tier(str(path))


def test_the_shipped_names_are_the_promised_ones() -> None:
    assert names("tiers", ".yaml") == sorted(LIMITS)
    assert names("profiles", ".yaml") == sorted(PROFILES)


@pytest.mark.parametrize("name", LIMITS)
def test_limits_of_the_shipped_tiers(name: str) -> None:
    tier = load_tier(name)
    assert tier.name == name
    assert tier.ratio_limit == LIMITS[name]
    assert tier.catastrophic_ratio == 2.0
    assert (tier.alpha, tier.bootstrap_alpha) == (0.05, 0.04)
    assert tier.checks == CHECKS
    assert tier.direction == "non_inferiority"
    assert tier.accuracy == {"drop_limit_pp": DROPS_PP[name], "min_examples": 200}
    assert tier.tail == {
        "threshold_nats": math.log(2), "benign_rate": 0.001, "false_alarm": 0.02,
        "harm_rate": 0.05, "alpha": 0.05, "min_windows": 100, "min_documents": 59,
        "quantile_max": QUANTILES[name], "mode": "gate",
    }  # fmt: skip
    assert tier.drift == {"band": 1.05, "fail_alpha": 0.01, "warn_alpha": 0.05, "mode": "gate"}
    assert tier.modes == dict.fromkeys(("invariants", *POLICY_OF, "guard_overhead"), "gate")
    assert "primary_metric.ratio_limit" in tier.provenance


@pytest.mark.parametrize("name", LIMITS)
def test_every_threshold_of_a_shipped_tier_says_where_it_comes_from(name: str) -> None:
    value = parse_yaml(read_text("tiers", f"{name}.yaml"), name=name).value
    stated = {
        f"{block}.{key}"
        for block in ("primary_metric", "accuracy", "tail", "drift", "deployable")
        for key in value[block]
        if key != "mode"
    } | {
        f"guards.{guard}.{key}"
        for guard, limits in value["guards"].items()
        for key in limits
        if key != "mode"
    }
    others = {"token_floor", "guards.guard_overhead.mode"}
    assert stated | others == set(value["provenance"])


@pytest.mark.parametrize("block", ["accuracy", "tail", "drift"])
def test_a_tier_states_every_block(tmp_path: Path, block: str) -> None:
    path = tmp_path / "mine.yaml"
    text = read_text("tiers", "balanced.yaml").replace(f"\n{block}:\n", f"\n{block}s:\n")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"mine\.yaml.*{block}"):
        load_tier(str(path))


def test_the_token_floor_of_balanced_is_the_seeds() -> None:
    assert load_tier("balanced").token_floor == 50_000


@pytest.mark.parametrize("name", PROFILES)
def test_counts_and_floors_of_the_shipped_profiles(name: str) -> None:
    assert astuple(load_profile(name)) == (name, *PROFILES[name])


def test_an_own_tier_file_is_read_anew_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = read_text("tiers", "balanced.yaml").replace("name: balanced", OWN)
    path.write_text(text)
    first = load_tier(str(path))
    first.guards["rmt"]["error"]["open"] = 9.0  # type: ignore[index]
    assert load_tier(str(path)).guards["rmt"]["error"]["open"] == 0.40
    path.write_text(text.replace("open: 0.40}", "open: 0.30}"))
    again = load_tier(str(path))
    assert again.guards["rmt"]["error"]["open"] == 0.30
    assert again.file_digest != first.file_digest


def test_an_own_tier_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = read_text("tiers", "balanced.yaml")
    text = text.replace("ratio_limit: 1.10", "ratio_limit: 1.02").replace("name: balanced", OWN)
    path.write_text(text, encoding="utf-8")
    tier = load_tier(str(path))
    assert tier.ratio_limit == 1.02
    assert tier.file_digest == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert load_tier("balanced").file_digest is None


@pytest.mark.parametrize("name", LIMITS)
def test_an_own_file_cannot_pose_as_a_shipped_tier(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(read_text("tiers", f"{name}.yaml"), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_tier(str(path))
    assert caught.value.code == "TIER_NAME"


@pytest.mark.parametrize("check", ["primary_metric", "invariants"])
def test_no_tier_leaves_out_what_every_verdict_rests_on(tmp_path: Path, check: str) -> None:
    path = tmp_path / "mine.yaml"
    text = read_text("tiers", "balanced.yaml").replace("name: balanced", OWN)
    path.write_text(
        text.replace(f"{check}, ", "", 1) if f"{check}, " in text else text, encoding="utf-8"
    )
    with pytest.raises(ConfigError) as caught:
        load_tier(str(path))
    assert caught.value.code == "BAD_VALUE"


def test_differences_from_the_shipped_tier_are_all_told() -> None:
    plain = build_policy({"profile": "ci"}, Settings({}), {})
    assert shipped_differences(plain) == []
    lax = replace(
        plain, checks=("invariants", "primary_metric"),
        modes={**plain.modes, "invariants": "monitor"},
        guards={**plain.guards, "rmt": {**plain.guards["rmt"], "edge_of_change": 9.0}},
        primary_metric=replace(plain.primary_metric, ratio_limit=1.9, bootstrap_replicates=199),
        drift=replace(plain.drift, band=1.9), floors=Floors(2, 1.0, None),
    )  # fmt: skip
    told = shipped_differences(lax)
    assert told is not None
    assert [line.split()[0] for line in told] == [
        "bootstrap_replicates", "checks", "drift.band", "floors.documents",
        "floors.effective_documents", "floors.tokens", "guards.invariants.mode",
        "guards.rmt.edge_of_change", "primary_metric.ratio_limit",
    ]  # fmt: skip
    assert "primary_metric.ratio_limit 1.9 (shipped: 1.1)" in told
    assert shipped_differences(replace(plain, tier="mine")) is None


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ({"ratio_limit": 2.5}, "ratio_limit 2.5 is above catastrophic_ratio 2 of the tier"),
        ({"catastrophic_ratio": 1.05}, "ratio_limit 1.1 of the tier is above catastrophic_ratio"),
        (
            {"ratio_limit": 4, "catastrophic_ratio": 3},
            "ratio_limit 4 is above catastrophic_ratio 3",
        ),
    ],
)
def test_a_limit_that_accepts_what_is_catastrophic_is_refused(metric, told) -> None:
    with pytest.raises(ConfigError) as caught:
        build_policy({"primary_metric": metric}, Settings({}), {})
    assert caught.value.code == "CATASTROPHIC_BELOW_LIMIT"
    assert told in caught.value.cause
    both = {"ratio_limit": 3, "catastrophic_ratio": 3}
    assert build_policy({"primary_metric": both}, Settings({}), {}).primary_metric.ratio_limit == 3


def test_a_policy_says_that_its_tier_came_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = read_text("tiers", "balanced.yaml").replace("name: balanced", OWN)
    path.write_text(text, encoding="utf-8")
    policy = build_policy({"tier": "mine.yaml"}, Settings({}), {}, tmp_path)
    assert policy.tier == "mine"
    assert policy.provenance["tier_file"] == load_tier(str(path)).file_digest
    assert "tier_file" not in build_policy({}, Settings({}), {}).provenance
