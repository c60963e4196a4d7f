"""The setting ``mode``: which part of a suite a session runs, in the original's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_invarlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_invarlock.policy.settings import Settings
    from pytest_invarlock.policy.suite_scenarios import ScenarioEntry

CALIBRATE_ONLY = "calibrate-only"
RUN_ONLY = "run-only"
ERRORS_ONLY = "errors-only"
ERROR = "error"


def of_mode(entries: Sequence[ScenarioEntry], name: str, settings: Settings) -> list[ScenarioEntry]:
    """Those of ``entries``, of the suite ``name``, that belong to the mode asked for.

    ``errors-only`` keeps the scenarios of category error; every other mode keeps all.

    Raises:
        ConfigError: nothing is left.
    """
    # Whether the word is one is for `Settings.check`, before anything is read.
    if settings.text("mode") != ERRORS_ONLY:
        return list(entries)
    errors = [entry for entry in entries if entry.expectation.category == ERROR]
    if not errors:
        raise ConfigError(
            f"{settings.made['mode'].origin}: nothing of {name} that is asked for is of "
            "category error",
            remedy="use full or run-only",
            code="NO_ERRORS",
        )
    return errors


def derives_presets(settings: Settings) -> bool:
    """Whether the mode asked for derives presets, where the suite has a calibration."""
    return settings.text("mode") not in (RUN_ONLY, ERRORS_ONLY)


def calibrates_only(settings: Settings, name: str, *, calibrated: bool) -> bool:
    """Whether nothing but the calibration of the suite ``name`` is asked for.

    Raises:
        ConfigError: it is, and the suite is not ``calibrated``.
    """
    if settings.text("mode") != CALIBRATE_ONLY:
        return False
    if not calibrated:
        raise ConfigError(
            f"{settings.made['mode'].origin}: {name} has no calibration",
            remedy="give it the key calibration and name no preset, or use full, run-only or "
            "errors-only",
            code="NO_CALIBRATION",
        )
    return True


def mode_notes(settings: Settings, *, without_preset: bool) -> tuple[str, ...]:
    """What to tell, and to write into every certificate, of a run that leaves a part out.

    ``without_preset``: the suite would derive its models' limits, and none were given instead.
    """
    mode = settings.text("mode")
    notes = []
    if mode == ERRORS_ONLY:
        notes.append("mode errors-only: of the suite only scenarios of category error are run")
    if without_preset and not derives_presets(settings):
        notes.append(
            f"mode {mode} without a calibrated preset: judged by the tier's limits, not by the "
            "models' own"
        )
    return tuple(notes)
