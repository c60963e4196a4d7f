"""What the variance guard demands, and how its proposals are made; needs no numpy to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

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

LOG_RMS = GroupLimits(strict=0.015, compression=0.06, open=0.06)
TapRole = Literal["down", "o"]
TAPS: Mapping[str, TapRole] = {
    "down": "down",
    "mlp.c_proj": "down",
    "transformer.h.*.mlp.c_proj": "down",
    "post mlp.c_proj (pre-residual)": "down",
    "o": "o",
    "attn.c_proj": "o",
    "transformer.h.*.attn.c_proj": "o",
}
"""What a tap may be called: a role, or the seeds' names for it; any architecture's is meant."""
SCOPES = ("ffn", "attn", "both")
TARGETS = ("all", "edited_modules_only")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalRules:
    """How rescalings are proposed: what is tried, and so measured, follows from these alone.

    Attributes:
        tap: whose output is rescaled: the feed-forward's (``down``) or the attention's (``o``)
            output projection, by role or by the seeds' names; one or several.
        scope: ``ffn``, ``attn`` or ``both``: which families are eligible.
        targets: ``edited_modules_only`` leaves out branches that came out unchanged.
        deadband: |scale - 1| below it is left alone.
        min_abs_adjust: a proposal below it is dropped.
        max_scale_step: a proposal is moved no further than this from 1.
        clamp: a scale is kept between these before the step is limited.
        topk_backstop: how many proposals half as large are admitted where there is none.
        max_adjusted_modules: how many proposals are kept, the largest; 0 keeps all.
    """

    tap: tuple[TapRole, ...] = ("down",)
    scope: str = "ffn"
    targets: str = "edited_modules_only"
    deadband: float = 0.02
    min_abs_adjust: float = 0.012
    max_scale_step: float = 0.03
    clamp: tuple[float, float] = (0.85, 1.12)
    topk_backstop: int = 1
    max_adjusted_modules: int = 1

    def __post_init__(self) -> None:
        positive("max_scale_step", self.max_scale_step)
        for key in ("deadband", "min_abs_adjust"):
            not_negative(key, getattr(self, key))
        for key in ("topk_backstop", "max_adjusted_modules"):
            whole(key, getattr(self, key))
        for key, allowed in (("scope", SCOPES), ("targets", TARGETS)):
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key}: one of {', '.join(allowed)}, not {getattr(self, key)!r}")
        if not self.tap or not set(self.tap) <= {"down", "o"}:
            raise ValueError(f"tap: down, o or both, not {self.tap!r}")
        low, high = _clamp(self.clamp)
        if not low <= 1 <= high:
            raise ValueError(f"clamp: a number up to 1 and one from 1, not {self.clamp!r}")

    def proposal_rules(self) -> dict[str, Any]:
        """The rules as plain JSON values, by key."""
        values = {each.name: getattr(self, each.name) for each in fields(ProposalRules)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def of(cls, rules: Mapping[str, Any]) -> Self:
        """The rules of `proposal_rules`; keys of anything else are left out."""
        known = {each.name for each in fields(ProposalRules)}
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in rules.items()
            if key in known
        }
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class VariancePolicy(ProposalRules):
    """What the variance guard demands, beside the rules by which its proposals are made.

    Attributes:
        log_rms: greatest |ln(rms y' / rms y)| of a forced branch's output.
        norm_log_rms: the same for a norm that is no sub-layer's, such as the last.
        min_parameter_share: least share of the blocks' parameters in branches.
        min_effect_lognll: least gain in nats per token that counts as an effect.
        predictive_one_sided: whether the interval of the gain is one-sided.
        alpha: of that interval.
    """

    log_rms: GroupLimits = LOG_RMS
    norm_log_rms: float = 0.03
    min_parameter_share: float = 0.95
    min_effect_lognll: float = 9e-4
    predictive_one_sided: bool = True
    alpha: float = 0.05

    def __post_init__(self) -> None:
        # By name: a class with slots is made anew, and super() would look for the first one.
        ProposalRules.__post_init__(self)
        read_limits("log_rms", self.log_rms)
        positive("norm_log_rms", self.norm_log_rms)
        not_negative("min_effect_lognll", self.min_effect_lognll)
        share("min_parameter_share", self.min_parameter_share)
        flag("predictive_one_sided", self.predictive_one_sided)
        positive("alpha", self.alpha)
        if self.alpha >= 0.5:
            raise ValueError(f"alpha: a number below 0.5, not {self.alpha!r}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """The policy of a file's block; ValueError names the key and what it may be.

        The seeds' blocks ``discovery`` and ``gating`` (with ``sided``: one-sided or two-sided) are
        read as if their keys stood beside them.
        """
        given = flat_keys(values)
        unknown_keys(dict.fromkeys(each.name for each in fields(cls)), given)
        if "log_rms" in given:
            given["log_rms"] = read_limits("log_rms", given["log_rms"])
        if "tap" in given:
            given["tap"] = _taps(given["tap"])
        if "clamp" in given:
            given["clamp"] = _clamp(given["clamp"])
        return cls(**given)


def flat_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with the keys of ``discovery`` and ``gating`` beside the others.

    Raises:
        ValueError: a block is no mapping, a key stands twice, or ``sided`` is neither.
    """
    given = {key: value for key, value in values.items() if key not in ("discovery", "gating")}
    for block in ("discovery", "gating"):
        inner = values.get(block, {})
        if not isinstance(inner, Mapping):
            raise ValueError(f"{block}: a mapping, not {inner!r}")
        for key, value in inner.items():
            if key in given:
                raise ValueError(f"{block}.{key}: given twice")
            given[key] = value
    if "sided" in given:
        sided = given.pop("sided")
        if sided not in ("one-sided", "two-sided"):
            raise ValueError(f"sided: one-sided or two-sided, not {sided!r}")
        given.setdefault("predictive_one_sided", sided == "one-sided")
    return given


def _taps(value: Any) -> tuple[TapRole, ...]:
    names = list(value) if isinstance(value, list | tuple) else [value]
    unknown = [name for name in names if not isinstance(name, str) or name not in TAPS]
    if unknown or not names:
        raise ValueError(f"tap: one or several of {', '.join(TAPS)}; not {value!r}")
    return tuple(dict.fromkeys(TAPS[name] for name in names))


def _clamp(value: Any) -> tuple[float, float]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise ValueError(f"clamp: two numbers, not {value!r}")
    return positive("clamp", value[0]), positive("clamp", value[1])
