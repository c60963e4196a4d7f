"""What settings ask of a session by themselves: a suite by name, a comparison, a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.suite import compare_suite, load_suite

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_invarlock.policy.settings import Settings
    from pytest_invarlock.policy.suite import Suite


@dataclass(frozen=True, slots=True)
class NamedSuites:
    """The suite that a setting names, and the comparison of a baseline with subjects."""

    suite: Suite | None = None
    comparison: Suite | None = None


def named_suites(settings: Settings, root: Path) -> NamedSuites:
    """The suites that ``settings`` name; no session starts with settings that this refuses.

    Args:
        settings: as checked by `Settings.check`.
        root: where relative names start.

    Raises:
        ConfigError: settings that contradict each other or stand alone, and whatever is wrong with
            a suite that they name.
    """
    _check_tunes_alone(settings)
    reference = settings.text("suite")
    suite = None if reference is None else load_suite(reference, settings, root)
    compares = settings.text("baseline") or settings.texts("subject")
    return NamedSuites(suite, compare_suite(settings, root) if compares else None)


def _check_tunes_alone(settings: Settings) -> None:
    """Raise ConfigError where something is asked for that tuning would leave out in silence."""
    if not settings.flag("tune"):
        return
    for other in ("tuned", "sweep"):
        if other in settings.made:
            raise ConfigError(
                f"{settings.made['tune'].origin} searches parameters, and "
                f"{settings.made[other].origin} gives some",
                remedy="drop one of the two",
                code="TUNE_AND_GIVEN",
            )
