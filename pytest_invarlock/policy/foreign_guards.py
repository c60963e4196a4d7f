"""Other packages' guards as suite files and tiers demand them: names, order, modes, parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import ConfigError, EvidenceError
from pytest_invarlock.evidence.strict_json import canonical
from pytest_invarlock.plan import ForeignGuard
from pytest_invarlock.policy.decision_policy import GUARD_OVERHEAD, KNOWN_GUARDS
from pytest_invarlock.policy.guard_limits import without_mode
from pytest_invarlock.policy.guard_names import registered_guard

if TYPE_CHECKING:
    from pytest_invarlock.policy.metric_limits import Mode
    from pytest_invarlock.policy.tiers import Tier

ORDER = "order"
OWN = (*KNOWN_GUARDS, GUARD_OVERHEAD)
"""What stands in a ``guards`` block and is no other package's."""


def guard_blocks(given: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The blocks of a ``guards`` block by guard: all but the order."""
    return {name: block for name, block in given.items() if name != ORDER}


def demanded_guards(tier: Tier, given: Mapping[str, Any]) -> tuple[ForeignGuard, ...]:
    """Other packages' guards that a tier, or the ``guards`` block of a suite file, demands.

    A block's parameters stand over the tier's. Nothing of a guard is imported.

    Raises:
        ConfigError: a guard is not installed (UNKNOWN_GUARD), is registered twice (GUARD_TWICE),
            has parameters that JSON cannot carry (GUARD_PARAMETERS), or a block without being
            demanded (GUARD_NOT_IN_ORDER).
    """
    order = [name for name in given.get(ORDER, ()) if name not in OWN]
    places = dict.fromkeys(order, "guards.order")
    names = list(dict.fromkeys([*tier.foreign, *order]))
    for name in guard_blocks(given):
        if name not in (*OWN, *names):
            _check_installed(name, f"guards.{name}")
            raise ConfigError(
                f"guards.{name}: the guard is not in guards.order, so that nothing would ask it",
                remedy=f"add {name} to guards.order",
                code="GUARD_NOT_IN_ORDER",
            )
    for name in names:
        _check_installed(name, places.get(name, f"tier {tier.name}"))
    return tuple(
        ForeignGuard(
            name,
            _parameters(name, tier.foreign.get(name, {}), given.get(name, {})),
            gates=_mode(name, tier, given) == "gate",
        )
        for name in names
    )


def foreign_modes(
    guards: tuple[ForeignGuard, ...], tier: Tier, given: Mapping[str, Any]
) -> dict[str, Mode]:
    """The mode of each: the block's, else the tier's, else ``monitor``.

    How often such a guard fires on an honest change was not measured, so none gates unasked.
    """
    return {guard.name: _mode(guard.name, tier, given) for guard in guards}


def _mode(name: str, tier: Tier, given: Mapping[str, Any]) -> Mode:
    mode: Mode = given.get(name, {}).get("mode", tier.modes.get(name, "monitor"))
    return mode


def ordered_checks(
    tier: Tier, guards: tuple[ForeignGuard, ...], given: Mapping[str, Any]
) -> tuple[str, ...]:
    """The checks: guards in the order given, then what else the tier demands, in its own order.

    A built-in guard that the order names and the tier does not demand stays undemanded.
    """
    demanded = (*tier.checks, *(g.name for g in guards if g.name not in tier.checks))
    first = [name for name in given.get(ORDER, ()) if name in demanded]
    return tuple(dict.fromkeys([*first, *demanded]))


def _check_installed(name: str, where: str) -> None:
    try:
        registered_guard(name)
    except ConfigError as error:
        raise ConfigError(
            f"{where}: {error.cause}", remedy=error.remedy, code=error.code
        ) from error


def _parameters(name: str, *layers: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {key: v for layer in layers for key, v in without_mode(layer).items()}
    try:
        canonical(parameters)
    except EvidenceError as error:
        raise ConfigError(
            f"guards.{name}: its parameters cannot be recorded: {error.cause}",
            remedy="use finite numbers, texts, lists and mappings",
            code="GUARD_PARAMETERS",
        ) from error
    return parameters
