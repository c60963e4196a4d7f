"""The judges' policies: what holds by default, and the sentence for every value that cannot."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from typing import Any

import pytest
from invarlock_guards.judge import kinds
from invarlock_guards.judge.policy_values import (
    GroupLimits,
    flag,
    not_negative,
    positive,
    read_limits,
    share,
    unknown_keys,
    whole,
)
from invarlock_guards.judge.rmt import FREE_BASIS, RMTPolicy
from invarlock_guards.judge.spectral_policy import SpectralPolicy
from invarlock_guards.judge.variance_policy import VariancePolicy

KINDS = "cast, quantize8, quantize4, prune, finetune, merge, reparametrized, any"
TAPS = (
    "down, mlp.c_proj, transformer.h.*.mlp.c_proj, post mlp.c_proj (pre-residual), o, "
    "attn.c_proj, transformer.h.*.attn.c_proj"
)


def limits(strict: float, compression: float, unlimited: float) -> dict[str, float]:
    return {"strict": strict, "compression": compression, "open": unlimited}


def said(make: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(ValueError) as raised:
        make(*arguments, **named)
    return str(raised.value)


# Kinds.


def test_every_kind_has_its_group() -> None:
    assert kinds.GROUP_OF == {
        "cast": "strict", "quantize8": "strict", "quantize4": "compression",
        "prune": "compression", "finetune": "open", "merge": "open", "reparametrized": "open",
        "any": "open",
    }  # fmt: skip
    assert frozenset({"cast", "quantize8", "quantize4", "prune"}) == kinds.ELEMENTWISE
    for kind, group in kinds.GROUP_OF.items():
        assert kinds.group_of(kind) == group
    assert said(kinds.group_of, "Cast") == f"unknown kind of change 'Cast': one of {KINDS}"


# Values.


@pytest.mark.parametrize("kind", sorted(kinds.GROUP_OF))
def test_limits_are_of_their_group(kind: str) -> None:
    found = GroupLimits(strict=1.0, compression=2.0, open=3.0)
    assert found.of(kind) == limits(1.0, 2.0, 3.0)[kinds.GROUP_OF[kind]]


def test_limits_are_read_from_a_number_or_three() -> None:
    assert read_limits("k", 2) == GroupLimits(2.0, 2.0, 2.0)
    assert read_limits("k", limits(1, 2, 3)) == GroupLimits(1.0, 2.0, 3.0)
    assert read_limits("k", GroupLimits(1, 2, 3)) == GroupLimits(1.0, 2.0, 3.0)
    three = "k: give one number, or strict, compression and open; not {'strict': 1}"
    assert said(read_limits, "k", {"strict": 1}) == three
    assert said(read_limits, "k", limits(1, 2, 3) | {"x": 1}).startswith("k: give one number")
    for name in limits(1, 2, 3):
        wrong = limits(1, 2, 3) | {name: 0}
        expected = f"k.{name}: a number above 0, not 0"
        assert said(read_limits, "k", wrong) == expected
        assert said(read_limits, "k", GroupLimits(**wrong)) == expected


HUGE = 10**400


@pytest.mark.parametrize(
    ("reads", "what", "good", "bad"),
    [
        (positive, "a number above 0", (1e-9, 1, sys.float_info.max), (0, -1, 0.0)),
        (not_negative, "a number of at least 0", (0, 0.5, sys.float_info.max), (-1e-9, -1)),
        (share, "a number from 0 to 1", (0, 0.5, 1), (-1e-9, 1.0000001)),
    ],
)
def test_numbers_are_read_up_to_their_ends(reads: Any, what: str, good: Any, bad: Any) -> None:
    for value in good:
        found = reads("key", value)
        assert found == value
        assert isinstance(found, float)
    for value in (*bad, math.nan, math.inf, -math.inf, HUGE, True, False, "1", None, [1]):
        assert said(reads, "key", value) == f"key: {what}, not {value!r}"


def test_whole_numbers_and_flags_are_nothing_else() -> None:
    assert (whole("k", 0), whole("k", 7)) == (0, 7)
    for value in (-1, 1.0, True, False, "1", None):
        assert said(whole, "k", value) == f"k: a whole number of at least 0, not {value!r}"
    assert (flag("k", True), flag("k", False)) == (True, False)
    for other in (0, 1, "true", None):
        assert said(flag, "k", other) == f"k: true or false, not {other!r}"


def test_unknown_keys_are_named_with_the_known_in_order() -> None:
    assert unknown_keys({"b": 1, "a": 2}, {"a": 0}) is None
    assert said(unknown_keys, {"b": 1, "a": 2}, {"a": 0, "z": 0}) == (
        "unknown key 'z': one of a, b"
    )


# Policies.


def test_what_rmt_demands_by_default() -> None:
    assert asdict(RMTPolicy()) == {
        "error": limits(0.083, 0.20, 0.40), "angle": limits(0.003, 0.016, 0.06),
        "feature_edge_band": 0.08, "newly_dead_share": 0.05, "edge_of_change": 1.20,
        "edge_change_floor": 0.001, "edge_of_change_required": True, "min_parameter_share": 0.95,
        "epsilon_by_family": {"ffn": 0.10, "attn": 0.08, "embed": 0.12, "other": 0.12},
        "epsilon_default": 0.10, "margin": 1.5, "deadband": 0.10,
    }  # fmt: skip
    assert RMTPolicy(margin=2.0, deadband=0.5).outlier_factor == 3.0
    assert FREE_BASIS == ("v", "qkv", "kv", "kv_b")


def test_what_spectral_demands_by_default() -> None:
    assert asdict(SpectralPolicy()) == {
        "ln_sigma": limits(0.01, 0.03, 0.10), "ln_stable_rank": limits(0.015, 0.05, 0.20),
        "ln_frobenius": limits(0.006, 0.02, 0.05), "relative_change": limits(0.08, 0.20, 0.20),
        "outer_change": 0.005, "canon_limit": 0.22, "scope": "all",
        "family_caps": {"ffn": 2.5, "attn": 2.8, "embed": 3.0, "other": 3.0},
        "deadband": dict.fromkeys(("ffn", "attn", "embed", "other"), 0.10), "max_caps": 0,
        "sigma_quantile": 0.95, "max_spectral_norm": None, "min_coverage": 0.95,
        "family_limits": {},
    }  # fmt: skip


def test_what_variance_demands_by_default() -> None:
    assert asdict(VariancePolicy()) == {
        "log_rms": limits(0.015, 0.06, 0.06), "norm_log_rms": 0.03, "min_parameter_share": 0.95,
        "tap": ("down",), "scope": "ffn", "targets": "edited_modules_only", "deadband": 0.02,
        "min_abs_adjust": 0.012, "max_scale_step": 0.03, "clamp": (0.85, 1.12),
        "topk_backstop": 1, "max_adjusted_modules": 1, "min_effect_lognll": 9e-4,
        "predictive_one_sided": True, "alpha": 0.05,
    }  # fmt: skip


ABOVE, SHARE, LEAST = "a number above 0", "a number from 0 to 1", "a number of at least 0"
WHOLE, TRUTH = "a whole number of at least 0", "true or false"


@pytest.mark.parametrize(
    ("policy", "what", "keys"),
    [
        (RMTPolicy, ABOVE, "error angle feature_edge_band edge_of_change margin"),
        (RMTPolicy, SHARE, "newly_dead_share min_parameter_share"),
        (RMTPolicy, LEAST, "edge_change_floor epsilon_default deadband"),
        (RMTPolicy, TRUTH, "edge_of_change_required"),
        (SpectralPolicy, ABOVE, "ln_sigma ln_stable_rank ln_frobenius relative_change"),
        (SpectralPolicy, ABOVE, "outer_change canon_limit max_spectral_norm"),
        (SpectralPolicy, SHARE, "sigma_quantile min_coverage"),
        (SpectralPolicy, WHOLE, "max_caps"),
        (VariancePolicy, ABOVE, "log_rms norm_log_rms max_scale_step alpha"),
        (VariancePolicy, LEAST, "deadband min_abs_adjust min_effect_lognll"),
        (VariancePolicy, WHOLE, "topk_backstop max_adjusted_modules"),
        (VariancePolicy, SHARE, "min_parameter_share"),
        (VariancePolicy, TRUTH, "predictive_one_sided"),
    ],
)
def test_every_key_is_checked_and_named(policy: Any, what: str, keys: str) -> None:
    for key in keys.split():
        for value in ("x", -1):
            expected = f"{key}: {what}, not {value!r}"
            assert said(policy, **{key: value}) == expected
            assert said(policy.from_mapping, {key: value}) == expected
    unknown = said(policy.from_mapping, {"Eror": 1})
    known = sorted({*asdict(policy()), *(["multiple_testing"] if policy is SpectralPolicy else [])})
    assert unknown == f"unknown key 'Eror': one of {', '.join(known)}"


def test_the_ends_of_ranges_are_allowed() -> None:
    assert RMTPolicy(newly_dead_share=0, min_parameter_share=0, edge_change_floor=0, deadband=0)
    assert SpectralPolicy(sigma_quantile=1, min_coverage=1, max_spectral_norm=1e-9)
    assert VariancePolicy(clamp=(1, 1), deadband=0, min_effect_lognll=0, topk_backstop=0)
    assert VariancePolicy(alpha=0.4999)
    for key in ("sigma_quantile", "min_coverage"):
        assert said(SpectralPolicy, **{key: 0}) == f"{key}: {ABOVE}, not 0.0"


def test_epsilons_are_of_known_families() -> None:
    assert said(RMTPolicy, epsilon_by_family=0.1) == (
        "epsilon_by_family: a number for each of ffn, attn, embed, other"
    )
    assert said(RMTPolicy, epsilon_by_family={"mlp": 1}) == (
        "unknown key 'mlp': one of attn, embed, ffn, other"
    )
    assert said(RMTPolicy, epsilon_by_family={"ffn": -1}) == f"epsilon_by_family.ffn: {LEAST}, not -1"  # fmt: skip
    assert RMTPolicy(epsilon_by_family={"ffn": 0}).epsilon_by_family == {"ffn": 0}
    given = {"error": 0.5, "angle": limits(1, 2, 3)}
    assert RMTPolicy.from_mapping(given) == RMTPolicy(
        error=GroupLimits(0.5, 0.5, 0.5), angle=GroupLimits(1.0, 2.0, 3.0)
    )


def test_scopes_and_tables_of_the_spectral_policy() -> None:
    families = {
        "all": ["ffn", "attn", "other"], "ffn": ["ffn"], "attn": ["attn"],
    }  # fmt: skip
    for scope, found in families.items():
        assert SpectralPolicy(scope=scope).families() == found  # type: ignore[arg-type]
    assert said(SpectralPolicy, scope="mlp") == "scope: all, ffn, attn, not 'mlp'"
    for key in ("family_caps", "deadband"):
        nothing_else = f"{key}: ffn, attn, embed, other and nothing else"
        assert said(SpectralPolicy, **{key: {"ffn": 1}}) == nothing_else
        wrong = dict.fromkeys(("ffn", "attn", "embed", "other"), 1.0) | {"attn": 0}
        assert said(SpectralPolicy, **{key: wrong}) == f"{key}.attn: {ABOVE}, not 0"
        assert said(SpectralPolicy.from_mapping, {key: {"mlp": 1}}) == nothing_else
    assert said(SpectralPolicy.from_mapping, {"family_caps": 3}) == "family_caps: a mapping, not 3"


def test_a_spectral_policy_is_read_key_by_key() -> None:
    read = SpectralPolicy.from_mapping(
        {
            "family_caps": {"ffn": {"kappa": 2.0}, "other": 4}, "deadband": {"attn": 0.2},
            "ln_sigma": 0.5, "ln_stable_rank": 0.6, "ln_frobenius": 0.7, "relative_change": 0.8,
            "multiple_testing": {"method": "bh"}, "max_caps": 3, "scope": "attn",
        }
    )  # fmt: skip
    assert read == SpectralPolicy(
        family_caps={"ffn": 2.0, "attn": 2.8, "embed": 3.0, "other": 4},
        deadband={"ffn": 0.1, "attn": 0.2, "embed": 0.1, "other": 0.1},
        ln_sigma=GroupLimits(0.5, 0.5, 0.5), ln_stable_rank=GroupLimits(0.6, 0.6, 0.6),
        ln_frobenius=GroupLimits(0.7, 0.7, 0.7), relative_change=GroupLimits(0.8, 0.8, 0.8),
        max_caps=3, scope="attn",
    )  # fmt: skip
    everywhere = SpectralPolicy.from_mapping({"deadband": 0.05})
    assert everywhere.deadband == dict.fromkeys(("ffn", "attn", "embed", "other"), 0.05)
    assert said(SpectralPolicy.from_mapping, {"family_caps": {"ffn": {}}}) == (
        f"family_caps.ffn: {ABOVE}, not None"
    )


def test_the_deadband_bounds_ln_sigma_alone() -> None:
    policy = SpectralPolicy.from_mapping({"deadband": {"ffn": 0.02, "attn": 0.5}})
    assert policy.limit("ln_sigma", "any", "ffn") == 0.02
    assert policy.limit("ln_sigma", "cast", "ffn") == 0.01
    assert policy.limit("ln_sigma", "any", "attn") == 0.10
    assert policy.limit("ln_frobenius", "any", "ffn") == 0.05
    assert [policy.outer_limit(kind) for kind in ("cast", "quantize8")] == [0.005, 0.005]
    assert [policy.outer_limit(kind) for kind in ("prune", "any", "merge")] == [None] * 3


def test_the_words_of_a_variance_policy() -> None:
    assert said(VariancePolicy, alpha=0.5) == "alpha: a number below 0.5, not 0.5"
    assert said(VariancePolicy, scope="mlp") == "scope: one of ffn, attn, both, not 'mlp'"
    assert said(VariancePolicy, targets="some") == (
        "targets: one of all, edited_modules_only, not 'some'"
    )
    for key, allowed in (("scope", ("ffn", "attn", "both")), ("targets", ("all", "edited_modules_only"))):  # fmt: skip
        for value in allowed:
            assert asdict(VariancePolicy(**{key: value}))[key] == value
    for tap in ((), ("up",), ("down", "up")):
        assert said(VariancePolicy, tap=tap) == f"tap: down, o or both, not {tap!r}"
    for value in ("mlp", [], ["down", "mlp"], 3, ["down", 3]):
        expected = f"tap: one or several of {TAPS}; not {value!r}"
        assert said(VariancePolicy.from_mapping, {"tap": value}) == expected


@pytest.mark.parametrize(
    ("given", "tap"),
    [
        *((name, "down") for name in TAPS.split(", ")[:4]),
        *((name, "o") for name in TAPS.split(", ")[4:]),
    ],
)
def test_every_name_of_a_tap_is_a_role(given: str, tap: str) -> None:
    assert VariancePolicy.from_mapping({"tap": given}).tap == (tap,)
    assert VariancePolicy.from_mapping({"tap": ("o", given, "down")}).tap == (("o", "down"))


@pytest.mark.parametrize("value", [2, "12", [1], [1, 1, 1], None, {0: 1, 1: 1}])
def test_a_clamp_is_two_numbers(value: Any) -> None:
    expected = f"clamp: two numbers, not {value!r}"
    assert said(VariancePolicy, clamp=value) == expected
    assert said(VariancePolicy.from_mapping, {"clamp": value}) == expected


def test_a_clamp_holds_one() -> None:
    for wrong in ((1.1, 1.2), (0.8, 0.9)):
        assert said(VariancePolicy, clamp=wrong) == (
            f"clamp: a number up to 1 and one from 1, not {wrong!r}"
        )
    assert said(VariancePolicy, clamp=(0, 2)) == f"clamp: {ABOVE}, not 0"
    assert said(VariancePolicy, clamp=(1, "x")) == f"clamp: {ABOVE}, not 'x'"
    assert VariancePolicy.from_mapping({"clamp": (1, 2)}).clamp == (1.0, 2.0)


def test_the_seeds_blocks_are_read_as_if_they_were_not_there() -> None:
    read = VariancePolicy.from_mapping
    assert read({"discovery": {"deadband": 0.5}, "gating": {"alpha": 0.2}}) == VariancePolicy(
        deadband=0.5, alpha=0.2
    )
    assert read({"sided": "two-sided"}).predictive_one_sided is False
    assert read({"sided": "one-sided"}).predictive_one_sided is True
    assert read({"sided": "one-sided", "predictive_one_sided": False}).predictive_one_sided is False
    for block in ("discovery", "gating"):
        assert said(read, {block: 3}) == f"{block}: a mapping, not 3"
        assert said(read, {"alpha": 0.1, block: {"alpha": 0.1}}) == f"{block}.alpha: given twice"
    assert said(read, {"gating": {"sided": "both"}}) == (
        "sided: one-sided or two-sided, not 'both'"
    )
    assert said(read, {"discovery": {"a": 1}, "gating": {"a": 1}}) == "gating.a: given twice"
    assert read({"log_rms": limits(1, 2, 3)}).log_rms == GroupLimits(1.0, 2.0, 3.0)


# Limits of a family.


def test_a_limit_of_a_family_holds_where_it_is_the_lower_one() -> None:
    own = {"ffn": {"ln_sigma": {"strict": 0.002, "open": 9.0}}}
    policy = SpectralPolicy.from_mapping({"family_limits": own})
    default = SpectralPolicy()
    assert policy.limit("ln_sigma", "cast", "ffn") == 0.002
    for statistic, kind, family in (
        ("ln_sigma", "cast", "attn"),
        ("ln_sigma", "prune", "ffn"),
        ("ln_sigma", "any", "ffn"),
        ("ln_frobenius", "cast", "ffn"),
    ):
        assert policy.limit(statistic, kind, family) == default.limit(statistic, kind, family)


def test_what_is_no_limit_of_a_family_is_named() -> None:
    cases: tuple[tuple[Any, str], ...] = (
        (3, "family_limits: a mapping, not 3"),
        ({"mlp": {}}, "unknown key 'mlp'"),
        ({"ffn": 3}, "family_limits.ffn: a mapping, not 3"),
        ({"ffn": {"sigma": {}}}, "unknown key 'sigma'"),
        ({"ffn": {"ln_sigma": {"loose": 1}}}, "unknown key 'loose'"),
        ({"ffn": {"ln_sigma": {"open": 0}}}, "family_limits.ffn.ln_sigma.open: a number above 0"),
    )
    for value, text in cases:
        assert said(SpectralPolicy.from_mapping, {"family_limits": value}).startswith(text)
