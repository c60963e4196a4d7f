"""Limits of the guards, as tiers, suite files and policies state them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from invarlock_guards.judge.rmt import RMTPolicy
from invarlock_guards.judge.spectral_policy import SpectralPolicy
from invarlock_guards.judge.variance_policy import VariancePolicy, flat_keys

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import MeasurementPlan

GuardPolicy = SpectralPolicy | RMTPolicy | VariancePolicy
POLICY_OF: Mapping[str, type[SpectralPolicy | RMTPolicy | VariancePolicy]] = {
    "spectral": SpectralPolicy,
    "rmt": RMTPolicy,
    "variance": VariancePolicy,
}
"""Guards with limits; invariants have none."""


def guard_policy(name: str, values: Mapping[str, Any], *, place: str = "the policy") -> GuardPolicy:
    """The limits of guard ``name``; keys that ``values`` leaves out take the guard's defaults.

    Raises:
        ConfigError: ``GUARD_LIMITS``, naming ``place``, guard and key.
    """
    try:
        return POLICY_OF[name].from_mapping(values)
    except ValueError as error:
        joint = ": " if str(error).startswith("unknown key") else "."
        raise ConfigError(
            f"{place}: guards.{name}{joint}{error}",
            remedy="give a value of that kind, or drop the key",
            code="GUARD_LIMITS",
        ) from error


def overridden(
    name: str, limits: Mapping[str, Any], block: Mapping[str, Any], *, place: str
) -> dict[str, Any]:
    """``limits`` of guard ``name`` with those that ``block`` of a suite file gives.

    Of limits by family or by group of kinds, those that ``block`` names are replaced.

    Raises:
        ConfigError: ``GUARD_LIMITS``: a key is unknown or given twice, or a value out of range.
    """
    given = without_mode(block)
    guard_policy(name, given, place=place)
    if name == "variance":
        given = flat_keys(given)
    result = dict(limits)
    for key, value in given.items():
        before = result.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            result[key] = {**before, **value}
        else:
            result[key] = value
    guard_policy(name, result, place=place)
    return result


def with_outlier_factor(
    plan: MeasurementPlan, guards: Mapping[str, Mapping[str, Any]]
) -> MeasurementPlan:
    """``plan``, counting outliers beyond rmt's margin and deadband in ``guards``, its limits."""
    return replace(
        plan, outlier_factor=RMTPolicy.from_mapping(guards.get("rmt", {})).outlier_factor
    )


def without_mode(block: Mapping[str, Any]) -> dict[str, Any]:
    """The limits in a guard's block: all but its mode."""
    return {key: value for key, value in block.items() if key != "mode"}
