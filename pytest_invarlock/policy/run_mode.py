"""The setting ``mode``: which part of a suite a session runs, in the original's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_invarlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_invarlock.policy.settings import Settings
    from pytest_invarlock.policy.suite_scenarios import ScenarioEntry

CALIBRATE_ONLY = "calibrate-only"
ERRORS_ONLY = "errors-only"
ERROR = "error"


def of_mode(entries: Sequence[ScenarioEntry], name: str, settings: Settings) -> list[ScenarioEntry]:
    """Those of ``entries``, of the suite ``name``, that belong to the mode asked for.

    ``errors-only`` keeps the scenarios of category error; ``full`` and ``run-only`` keep all.

    Raises:
        ConfigError: ``calibrate-only``, since no suite has a calibration; or nothing is left.
    """
    # Whether the word is one is for `Settings.check`, before anything is read.
    mode = settings.text("mode")
    if mode == CALIBRATE_ONLY:
        raise ConfigError(
            f"{settings.made['mode'].origin}: {name} has no calibration",
            remedy="use full, run-only or errors-only",
            code="NO_CALIBRATION",
        )
    if mode != ERRORS_ONLY:
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


def mode_notes(settings: Settings) -> tuple[str, ...]:
    """What to tell, and to write into every certificate, of a run that leaves a part out."""
    if settings.text("mode") != ERRORS_ONLY:
        return ()
    return ("mode errors-only: of the suite only scenarios of category error are run",)
